//! Which format a file has, from its bytes and never from its name.

use crate::{keras, onnx, pytorch, safetensors_file, tensorflow, tflite};

/// A format that is read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// safetensors, this project's own model files among them.
    Safetensors,
    /// HDF5 (`.h5`, `.weights.h5`) or the archive `.keras`.
    Keras,
    /// What `torch.save` writes, zipped or in the legacy form.
    PyTorch,
    /// A TFLite model.
    TfLite,
    /// A TensorFlow checkpoint: version 1, or the index of version 2.
    TfCheckpoint,
    /// An ONNX model.
    Onnx,
    /// A TensorFlow graph or SavedModel.
    TfGraph,
}

impl Format {
    /// The name for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Keras => "Keras",
            Self::PyTorch => "PyTorch",
            Self::TfLite => "TFLite",
            Self::TfCheckpoint => "TensorFlow checkpoint",
            Self::Onnx => "ONNX",
            Self::TfGraph => "TensorFlow graph",
        }
    }
}

/// The format of a file with these bytes; if none is read here, what the file seems to be.
pub fn sniff(bytes: &[u8]) -> Result<Format, &'static str> {
    // The clearest marks first; protobuf has none, so that ONNX and graphs come last.
    let format = match () {
        () if safetensors_file::could_be(bytes) => Format::Safetensors,
        () if tflite::looks_like(bytes) => Format::TfLite,
        () if keras::could_be(bytes) => Format::Keras,
        () if tensorflow::looks_like_checkpoint(bytes) => Format::TfCheckpoint,
        () => match stranger(bytes) {
            Some(seems) => return Err(seems),
            None if pytorch::recognises(bytes) => Format::PyTorch,
            None if tensorflow::looks_like_graph(bytes) || tensorflow::looks_like_saved_model(bytes) => {
                Format::TfGraph
            }
            None if onnx::could_be(bytes) => Format::Onnx,
            None => return Err("not a model of any format that is read"),
        },
    };
    Ok(format)
}

/// What a file seems to be that people take for a model.
fn stranger(bytes: &[u8]) -> Option<&'static str> {
    let begins = |magic: &[u8]| bytes.starts_with(magic);
    Some(match () {
        () if bytes.is_empty() => "an empty file",
        () if begins(b"\xff\xd8\xff") || begins(b"\x89PNG") || begins(b"GIF8") => "an image",
        () if begins(b"version https://git-lfs") => {
            "a Git LFS pointer, not the file itself: fetch it with `git lfs pull`"
        }
        () if begins(b"GGUF") => "a GGUF file",
        () if begins(b"\x1f\x8b") => "a gzip archive: unpack it first",
        () if bytes.get(257..262) == Some(b"ustar") => "a tar archive: unpack it first",
        () if begins(b"\x7fELF") => "a program",
        () if begins(b"\x93NUMPY") => "a NumPy array",
        () if begins(b"<!DOCTYPE") || begins(b"<html") => "a web page, perhaps a failed download",
        () if begins(b"{") => "a JSON text",
        () => return None,
    })
}
