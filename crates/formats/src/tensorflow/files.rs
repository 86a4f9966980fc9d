//! Which files a checkpoint is made of, whichever of them somebody names.

use std::path::{Path, PathBuf};

use super::checkpoint::read_checkpoint_v2;
use crate::Content;
use crate::error::{Error, Result};

/// The `.index` file of the version 2 checkpoint that `path` means: the index itself, one of its
/// `.data-…-of-…` files (or `.meta`), the prefix that TensorFlow's own functions take, or a folder with
/// a file `checkpoint`. None if there is no such checkpoint.
pub fn find_checkpoint_index(path: &Path) -> Option<PathBuf> {
    let beside =
        |name: &str| Some(path.with_file_name(format!("{name}.index"))).filter(|path| path.is_file());
    if path.is_dir() {
        let state = std::fs::read_to_string(path.join("checkpoint")).ok()?;
        let line = state.lines().find_map(|line| line.trim().strip_prefix("model_checkpoint_path:"))?;
        let prefix = Path::new(line.trim().trim_matches('"'));
        // Folders are moved and copied; then only the name in an absolute path still holds.
        let index = |prefix: PathBuf| {
            let mut name = prefix.file_name()?.to_owned();
            name.push(".index");
            Some(prefix.with_file_name(name)).filter(|path| path.is_file())
        };
        return index(path.join(prefix)).or_else(|| index(path.join(prefix.file_name()?)));
    }
    let name = path.file_name()?.to_str()?;
    if name.ends_with(".index") {
        return path.is_file().then(|| path.to_owned());
    }
    let stem = name.split_once(".data-").map(|(stem, _)| stem).or_else(|| name.strip_suffix(".meta"));
    beside(name).or_else(|| beside(stem?))
}

/// Reads the version 2 checkpoint with this `.index` file, and the data files beside it.
///
/// # Errors
/// [`Error::Io`] when a file cannot be read (a data file that is missing is named), else as
/// [`read_checkpoint_v2`].
pub fn load_checkpoint(index: &Path) -> Result<Content> {
    let bytes = std::fs::read(index).map_err(Error::io(index, "read"))?;
    let prefix = index.with_extension("");
    let content = read_checkpoint_v2(&bytes, &mut |shard, count| {
        let mut name = prefix.file_name().unwrap_or_default().to_owned();
        name.push(format!(".data-{shard:05}-of-{count:05}"));
        let path = prefix.with_file_name(name);
        std::fs::read(&path).map_err(Error::io(&path, "read"))
    });
    content.map_err(|error| match error {
        error @ Error::Io { .. } => error,
        error => Error::File { path: index.to_owned(), source: Box::new(error) },
    })
}
