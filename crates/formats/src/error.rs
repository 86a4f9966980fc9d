//! The errors of this crate: each says what, where, found, expected and what to do.

use std::path::PathBuf;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong when a foreign file is read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not what the format allows: cut short, lying lengths, bad checksums.
    #[error("{format}: {problem}")]
    Damaged {
        /// The format that was being read: "PyTorch", "HDF5", "ONNX" …
        format: &'static str,
        /// What is wrong, at which byte, entry or tensor; found and expected.
        problem: String,
    },
    /// The file is well formed but uses what is not read here, or asks for what is refused (a
    /// pickle that wants to call a function).
    #[error("{format}: {problem}")]
    Refused {
        /// The format.
        format: &'static str,
        /// What it asked for, by name, and what to do.
        problem: String,
    },
    /// The file holds another network.
    #[error("this is not a MobileNet v1: {0}")]
    OtherNetwork(
        /// What it seems to be and why.
        String,
    ),
    /// Tensors are missing, unexpected, or of another shape.
    #[error("{0}")]
    Tensors(
        /// Each by name, with shape found and expected.
        String,
    ),
    /// What was asked for cannot be expressed in the format, or settings contradict each other.
    #[error("{0}")]
    Unsupported(
        /// What, why, and what to do.
        String,
    ),
    /// A file cannot be used; what is wrong is in the source.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<Error>,
    },
    /// The operating system refused a file operation.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// "read", "write" …
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The Hugging Face hub does not have what was asked for, or cannot be reached.
    #[error("{name}: {problem}")]
    Hub {
        /// The model's name on the hub.
        name: String,
        /// What happened, and what to do.
        problem: String,
    },
    /// From the network's own crate.
    #[error(transparent)]
    Model(#[from] mobilenet::Error),
}

impl Error {
    /// A [`Error::Damaged`].
    pub fn damaged(format: &'static str, problem: impl Into<String>) -> Self {
        Self::Damaged { format, problem: problem.into() }
    }

    /// A [`Error::Refused`].
    pub fn refused(format: &'static str, problem: impl Into<String>) -> Self {
        Self::Refused { format, problem: problem.into() }
    }

    /// For `map_err`: wraps an I/O error with the path and the action that failed.
    pub fn io(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, action, source }
    }
}
