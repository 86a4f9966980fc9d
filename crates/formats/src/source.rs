//! Opens a model wherever it comes from: a file of any format that is read here, a run folder, a
//! folder of Hugging Face's or timm's, a TensorFlow checkpoint.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use mobilenet::Model;

use crate::assemble::{Imported, Overrides, assemble, override_model};
use crate::error::{Error, Result};
use crate::sniff::{Format, sniff};
use crate::state_dict::Hints;
use crate::{Content, hub_config, keras, onnx, pytorch, safetensors_file, tensorflow, tflite};

/// The largest file that is read, in bytes: a MobileNet v1 of width 2 with optimizer state has
/// some hundred million.
const LARGEST: u64 = 2 << 30;

/// A model and where it came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The model with its notes.
    pub imported: Imported,
    /// The file that was read.
    pub path: PathBuf,
    /// Its format: "PyTorch", "ONNX", "mobilenet" …
    pub format: &'static str,
}

/// Loads a model from `path`.
///
/// # Errors
/// [`Error::File`] that names the file and what is wrong: of no known format, damaged, another
/// network, tensors that do not fit; [`Error::Io`] when it cannot be read.
pub fn load(path: &Path, overrides: &Overrides) -> Result<Loaded> {
    let file = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => within_folder(path)?,
        // A checkpoint goes by its prefix, which need not be a file, or by any of its files.
        found => match tensorflow::find_checkpoint_index(path) {
            Some(index) => index,
            None => found.map(|_| path.to_owned()).map_err(Error::io(path, "read"))?,
        },
    };
    load_file(&file, overrides)
        .map_err(|error| match error {
            // These name the file themselves.
            Error::File { .. }
            | Error::Io { .. }
            | Error::Model(mobilenet::Error::ModelFile { .. } | mobilenet::Error::Io { .. }) => error,
            error => Error::File { path: file.clone(), source: Box::new(error) },
        })
        .map(|(imported, format)| Loaded { imported, path: file, format })
}

/// What a folder holds that can be loaded.
fn within_folder(folder: &Path) -> Result<PathBuf> {
    const FILES: [&str; 3] = ["best.safetensors", "model.safetensors", "pytorch_model.bin"];
    let found = FILES.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    let checkpoint = || {
        // A folder with TensorFlow's `checkpoint`, or a SavedModel.
        let saved_model = folder.join("variables/variables");
        tensorflow::find_checkpoint_index(folder).or_else(|| tensorflow::find_checkpoint_index(&saved_model))
    };
    found.or_else(checkpoint).ok_or_else(|| Error::File {
        path: folder.to_owned(),
        source: Box::new(Error::Unsupported(format!(
            "a folder that has none of {}; expected a run folder, a folder of Hugging Face's or timm's, a \
             TensorFlow checkpoint's, or the model file itself",
            FILES.join(", ")
        ))),
    })
}

fn load_file(path: &Path, overrides: &Overrides) -> Result<(Imported, &'static str)> {
    let bytes = read_whole(path)?;
    let format = sniff(&bytes).map_err(|seems| {
        Error::Unsupported(format!("{seems}; expected weights of a MobileNet v1 ({READ})"))
    })?;
    // Our own files say so themselves, and their errors are the more telling ones.
    if format == Format::Safetensors && is_native(&bytes) {
        let model = Model::from_bytes(&bytes, path)?;
        let model = override_model(model, overrides)?;
        return Ok((Imported { model, family: None, notes: Vec::new() }, "mobilenet"));
    }
    let mut content = match format {
        Format::Safetensors => safetensors_file::read(&bytes)?,
        Format::PyTorch => pytorch::read(&bytes)?,
        Format::Keras => keras::read(&bytes)?,
        Format::Onnx => onnx::read(&bytes)?,
        Format::TfLite => tflite::read(&bytes)?,
        Format::TfGraph => tensorflow::read_graph(&bytes)?,
        Format::TfCheckpoint if tensorflow::looks_like_checkpoint_index(&bytes) => {
            tensorflow::load_checkpoint(path)?
        }
        Format::TfCheckpoint => tensorflow::read_checkpoint_v1(&bytes)?,
    };
    drop(bytes);
    add_configuration(path, hints(&mut content))?;
    Ok((assemble(content, overrides)?, format.name()))
}

/// What can be read, for messages.
const READ: &str = "safetensors, PyTorch, TensorFlow graph or checkpoint, Keras, ONNX, TFLite";

fn hints(content: &mut Content) -> &mut Hints {
    match content {
        Content::StateDict(state_dict) => &mut state_dict.hints,
        Content::Chain(chain) => &mut chain.hints,
    }
}

fn read_whole(path: &Path) -> Result<Vec<u8>> {
    let read = Error::io(path, "read");
    let inner = || {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let mut bytes = Vec::new();
        if !metadata.is_file() {
            return Err(std::io::Error::other("not a regular file"));
        }
        if metadata.len() > LARGEST {
            return Err(std::io::Error::other(format!(
                "{} bytes, which is more than the largest model ({LARGEST})",
                metadata.len()
            )));
        }
        bytes.reserve_exact(metadata.len() as usize + 1);
        file.take(LARGEST).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    inner().map_err(read)
}

/// Whether a safetensors file, perhaps cut short, has this project's metadata.
fn is_native(bytes: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Header {
        __metadata__: Option<Metadata>,
    }
    #[derive(serde::Deserialize)]
    struct Metadata {
        format: Option<String>,
    }
    let Some((length, rest)) = bytes.split_first_chunk() else { return false };
    let header = usize::try_from(u64::from_le_bytes(*length)).ok().and_then(|length| rest.get(..length));
    let header = header.and_then(|json| serde_json::from_slice::<Header>(json).ok());
    header.and_then(|header| header.__metadata__?.format).is_some_and(|format| format == "mobilenet")
}

/// Takes in the `config.json` that lies beside weights in folders of Hugging Face's and timm's.
fn add_configuration(path: &Path, hints: &mut Hints) -> Result<()> {
    let named_so = ["model.safetensors", "pytorch_model.bin"].iter().any(|name| path.ends_with(name));
    let beside = |name: &str| std::fs::read(path.with_file_name(name)).ok();
    match beside("config.json") {
        Some(config) if named_so => {
            hub_config::read(&config, beside("preprocessor_config.json").as_deref(), hints)
        }
        _ => Ok(()),
    }
}
