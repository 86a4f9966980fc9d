//! Where a model can come from: `--model`, `--init` and the arguments of import and export take the
//! same.

use std::path::Path;

use mobilenet::Model;
use mobilenet_formats::source::{self, Loaded};
use mobilenet_formats::{Overrides, hub};

use crate::failure::{Outcome, note};

/// The name of the ImageNet model that is part of the program; a file of that name is `./imagenet`.
pub const EMBEDDED: &str = "imagenet";

/// Before the name of a repository on the Hugging Face hub: `hf:timm/mobilenetv1_100.ra4_e3600_r224_in1k`.
const HUB: &str = "hf:";

/// The model at `path`: a model file of this project or of any other that is read (see
/// `docs/formats.md`), a run folder, a folder of Hugging Face's or timm's, a checkpoint's prefix, `imagenet`, or
/// `hf:OWNER/NAME`. What had to be assumed
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
    match path.to_str().and_then(|path| path.strip_prefix(HUB)) {
        Some(name) => Ok(source::load(&hub::fetch(name)?, overrides)?),
        None => Ok(source::load(path, overrides)?),
    }
}
