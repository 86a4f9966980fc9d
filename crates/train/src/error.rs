//! The errors of training: each says what, where, found, expected and what to do.

use std::path::PathBuf;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong while a network is trained or evaluated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// From the network itself: an architecture, a model file, an image, an I/O call.
    #[error(transparent)]
    Network(#[from] mobilenet::Error),
    /// A setting is outside what is allowed.
    #[error("{setting}: found {found}, expected {expected}")]
    Setting {
        /// The setting, by its name in the recipe.
        setting: &'static str,
        /// What was given.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// A recipe file cannot be used.
    #[error("{}: {problem}", path.display())]
    Recipe {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line and the nearest known key.
        problem: String,
    },
    /// A data set cannot be used, or an image of it cannot be read.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// A run folder cannot be made, opened or written.
    #[error("{}: {problem}", path.display())]
    Run {
        /// The folder, or the file in it.
        path: PathBuf,
        /// What is wrong, and what to do about it.
        problem: String,
    },
    /// The loss or a gradient is no longer a finite number.
    #[error("{what} is {found} at step {step} (epoch {epoch}); {advice}")]
    Diverged {
        /// "the loss", "the gradient of pointwise_3.weight" …
        what: String,
        /// `NaN` or `inf`.
        found: f64,
        /// Optimizer steps taken before this one.
        step: u64,
        /// The epoch, counted from 1.
        epoch: usize,
        /// What to change.
        advice: String,
    },
    /// Optimizer state does not belong to the network or to the optimizer.
    #[error("optimizer state: {0}")]
    OptimizerState(String),
    /// Numbers of images, labels or logits do not fit together.
    #[error("{what}: expected {expected}, found {found}")]
    Batch {
        /// What does not fit.
        what: &'static str,
        /// What would.
        expected: String,
        /// What there is.
        found: String,
    },
    /// The stop flag was raised while something without a state of its own was under way.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// For `map_err`: wraps an I/O error with the path and the action that failed.
    pub fn io(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let wrap = mobilenet::Error::io(path, action);
        move |source| Self::Network(wrap(source))
    }
}
