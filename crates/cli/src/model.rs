//! `--model`: a model file, or the folder of a run.

use std::path::{Path, PathBuf};

use mobilenet::Model;

use crate::failure::Outcome;

/// What a run folder holds before its first evaluation.
const LAST: &str = "last.safetensors";
const BEST: &str = "best.safetensors";

/// The file that `--model` means: of a run folder its best model, or its last while there is no best.
pub fn file(path: &Path) -> PathBuf {
    let (best, last) = (path.join(BEST), path.join(LAST));
    if path.is_dir() && !best.exists() && last.exists() { last } else { path.to_owned() }
}

/// Loads what `--model` means.
pub fn load(path: &Path) -> Outcome<Model> {
    Ok(Model::load(file(path))?)
}
