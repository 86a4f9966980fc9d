//! Where a model can come from: `--model`, `--init` and the arguments of import and export take the
//! same.

use std::path::Path;

use mobilenet::Model;
use mobilenet_formats::Overrides;
use mobilenet_formats::source::{self, Loaded};

use crate::failure::{Outcome, note};

/// The name of the ImageNet model that is part of the program; a file of that name is `./imagenet`.
pub const EMBEDDED: &str = "imagenet";

/// The model at `path`: a model file of this project or of any other that is read (see
/// `docs/formats.md`), a run folder, a folder of Hugging Face's or timm's. What had to be assumed
/// goes to standard error.
pub fn open(path: &Path) -> Outcome<Model> {
    if path == Path::new(EMBEDDED) {
        return Ok(mobilenet_imagenet::model()?);
    }
    let labels = mobilenet_imagenet::labels().map(str::to_owned).collect();
    let loaded = load(path, &Overrides { usual_labels: labels, ..Overrides::default() })?;
    for remark in &loaded.imported.notes {
        note(format!("{}: {remark}", loaded.path.display()));
    }
    Ok(loaded.imported.model)
}

/// The model at `path`, or the embedded one if none is given.
pub fn open_or_embedded(path: Option<&Path>) -> Outcome<Model> {
    open(path.unwrap_or(Path::new(EMBEDDED)))
}

/// The same with settings of the user's, and with what is known of where it came from.
pub fn load(path: &Path, overrides: &Overrides) -> Outcome<Loaded> {
    Ok(source::load(path, overrides)?)
}
