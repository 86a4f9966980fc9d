//! Which format a file has, from its first bytes and never from its name.

use crate::{pytorch, safetensors_file, tensorflow, tflite};

/// A format that is read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// safetensors, this project's own model files among them.
    Safetensors,
    /// What `torch.save` writes, zipped or in the legacy form.
    PyTorch,
    /// A GraphDef; a SavedModel, which is refused.
    TensorFlowGraph,
    /// A version 1 checkpoint, or the index of a version 2 one.
    TensorFlowCheckpoint,
    /// TensorFlow Lite.
    Tflite,
}

impl Format {
    /// The name for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::PyTorch => "PyTorch",
            Self::TensorFlowGraph => "TensorFlow graph",
            Self::TensorFlowCheckpoint => "TensorFlow checkpoint",
            Self::Tflite => "TFLite",
        }
    }
}

/// The format of a file with these bytes; if none is read here, what the file seems to be.
pub fn sniff(bytes: &[u8]) -> Result<Format, &'static str> {
    if safetensors_file::could_be(bytes) {
        return Ok(Format::Safetensors);
    }
    if pytorch::recognises(bytes) {
        return Ok(Format::PyTorch);
    }
    if tflite::looks_like(bytes) {
        return Ok(Format::Tflite);
    }
    if tensorflow::looks_like_checkpoint(bytes) {
        return Ok(Format::TensorFlowCheckpoint);
    }
    if tensorflow::looks_like_graph(bytes) || tensorflow::looks_like_saved_model(bytes) {
        return Ok(Format::TensorFlowGraph);
    }
    Err(stranger(bytes))
}

/// What a file that is not read here seems to be.
fn stranger(bytes: &[u8]) -> &'static str {
    let begins = |magic: &[u8]| bytes.starts_with(magic);
    match () {
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
        () => "not a model of any format that is read",
    }
}
