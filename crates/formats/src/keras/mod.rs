//! Keras' files: `.h5` (whole models and weights, of Keras 1 to 3), `.weights.h5` and `.keras`.
//!
//! Whatever the file calls its layers, the tensors come out under the names that
//! `keras.applications.MobileNet` gives them: `conv1/kernel`, `conv1_bn/gamma`,
//! `conv_dw_1/depthwise_kernel`, `conv_pw_1/kernel`, … `conv_preds/kernel`, `conv_preds/bias`, in
//! Keras' layouts (`[3, 3, in, out]`, `[3, 3, channels, 1]`, `[1, 1, in, out]`; a Dense head is
//! `[features, classes]`).

mod config;
mod hdf5_tree;
mod head;
mod naming;
mod write;

use std::io::Read;

use crate::error::{Error, Result};
use crate::{Content, StateDict, hdf5};

pub use write::{Classifier, write_h5, write_weights_h5};

/// The name of the format in errors.
const FORMAT: &str = "Keras";
/// Bytes that an entry of a `.keras` file may unpack to for each of the file's.
const MAX_EXPANSION: u64 = 16;
/// The entries of a `.keras` file.
const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.weights.h5";

/// Whether these bytes may be Keras': an HDF5 file, or a zip archive with Keras' entries.
pub fn could_be(bytes: &[u8]) -> bool {
    hdf5::is_hdf5(bytes) || is_keras_zip(bytes)
}

/// Whether these bytes are a `.keras` archive.
pub fn is_keras_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
        && zip::ZipArchive::new(std::io::Cursor::new(bytes))
            .is_ok_and(|archive| archive.index_for_name(CONFIG).is_some() && has_weights(&archive))
}

fn has_weights(archive: &zip::ZipArchive<std::io::Cursor<&[u8]>>) -> bool {
    archive.file_names().any(|name| name.starts_with("model.weights."))
}

/// Reads a `.h5`, `.weights.h5` or `.keras` file; which it is, is told by its content.
///
/// # Errors
/// [`Error::Damaged`] and [`Error::Refused`] for what is not a readable file;
/// [`Error::OtherNetwork`] for another network's; [`Error::Tensors`] and [`Error::Unsupported`] for
/// a MobileNet v1 that was changed in a way that cannot be taken over.
pub fn read(bytes: &[u8]) -> Result<Content> {
    if !bytes.starts_with(b"PK") {
        return read_hdf5(bytes, None);
    }
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes))
        .map_err(|error| Error::damaged(FORMAT, format!("not a readable zip archive: {error}")))?;
    let config = entry(&mut archive, bytes.len(), CONFIG)?;
    if archive.index_for_name(WEIGHTS).is_none() && has_weights(&archive) {
        return Err(Error::refused(
            FORMAT,
            "the weights are in several shards; save the model without `max_shard_size`",
        ));
    }
    let weights = entry(&mut archive, bytes.len(), WEIGHTS)?;
    let config = String::from_utf8(config)
        .map_err(|_| Error::damaged(FORMAT, format!("{CONFIG} in the archive is not UTF-8")))?;
    read_hdf5(&weights, Some(config))
}

/// Unpacks an entry of an archive of `length` bytes.
fn entry(
    archive: &mut zip::ZipArchive<std::io::Cursor<&[u8]>>,
    length: usize,
    name: &str,
) -> Result<Vec<u8>> {
    let wrong = |problem: String| Error::damaged(FORMAT, format!("{name} in the archive: {problem}"));
    let entry = archive.by_name(name).map_err(|error| wrong(error.to_string()))?;
    let most = (length as u64).saturating_mul(MAX_EXPANSION);
    let mut bytes = Vec::new();
    entry.take(most + 1).read_to_end(&mut bytes).map_err(|error| wrong(error.to_string()))?;
    if bytes.len() as u64 > most {
        return Err(wrong(format!(
            "unpacks to more than {MAX_EXPANSION} times the archive's {length} bytes"
        )));
    }
    Ok(bytes)
}

/// `config` is that of a `.keras` file; whole models in HDF5 have their own.
fn read_hdf5(bytes: &[u8], config: Option<String>) -> Result<Content> {
    let file = hdf5::File::open(bytes)?;
    let root = file.root()?;
    let config = match config {
        Some(config) => Some(config),
        None => root.attribute("model_config")?.map(|attribute| attribute.string()).transpose()?,
    };
    let config = config.map(|config| config::Config::parse(&config)).transpose()?;
    let mut layers = hdf5_tree::layers(&root)?;
    naming::name_layers(&mut layers, config.as_ref())?;
    let hints = config.map(|config| config.hints()).transpose()?.unwrap_or_default();
    let tensors = head::tensors(layers)?;
    Ok(Content::StateDict(StateDict { tensors, hints }))
}

#[cfg(test)]
mod tests;
