//! Data sets, augmentation and the loader that feeds a trainer.
//!
//! [`open()`] finds out what a path holds (a folder of images, IDX files, a CSV list) and gives the
//! training and the held-out part as [`Splits`]; a [`Loader`] decodes, augments and normalises
//! them ahead of the trainer, in an order and with a randomness that depend on the seed alone.

use std::path::PathBuf;
use std::sync::Arc;

use mobilenet::image::{DecodeLimits, Image};

mod augment;
mod cache;
mod colour;
mod embedded;
mod error;
mod files;
mod idx;
mod list;
mod loader;
mod open;
mod statistics;
mod subset;

pub use augment::{Augmentation, PadMode, RandomResizedCrop};
pub use colour::ColourJitter;
pub use error::{DataError, Result};
pub use files::list_images;
pub use idx::from_idx_bytes;
pub use loader::{Batch, Epoch, Loader, LoaderOptions, Throughput};
pub use open::{Opened, open, open_for_evaluation};
pub use statistics::{Statistics, class_counts, statistics, typical_size};

/// Labelled images, addressed by index.
pub trait Dataset: Send + Sync {
    /// The classes' names; labels index into them.
    fn classes(&self) -> &[String];

    /// Number of images.
    fn len(&self) -> usize;

    /// Whether there is no image.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The class of image `index`, below `classes().len()`.
    ///
    /// # Panics
    /// If `index` is not below `len()`.
    fn label(&self, index: usize) -> usize;

    /// What to call image `index` in a report: its path, or file and number.
    fn name(&self, index: usize) -> String;

    /// Decodes image `index` with 1 (grey) or 3 (RGB) channels.
    fn image(&self, index: usize, channels: usize) -> Result<Arc<Image>>;

    /// Width and height of image `index` as its header states them.
    fn size(&self, index: usize) -> (usize, usize);

    /// Whether every image is grey, so that one channel holds all there is.
    fn is_grey(&self) -> bool;
}

/// What to open, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct DataOptions {
    /// A folder (one sub-folder a class; or `train/` and `val/` with those; or IDX files), an IDX
    /// file of images, or a CSV/TSV list. `None`: the embedded sample of Fashion-MNIST.
    pub data: Option<PathBuf>,
    /// The held-out data, of the same kinds, if it is elsewhere.
    pub val: Option<PathBuf>,
    /// The share of each class that is held out when the data has no held-out part of its own.
    pub hold_out: f64,
    /// Decides which images are held out.
    pub seed: u64,
    /// Whether an unreadable image is an error; otherwise it is skipped and listed.
    pub strict: bool,
    /// Bounds on what is decoded.
    pub limits: DecodeLimits,
}

impl Default for DataOptions {
    fn default() -> Self {
        Self { data: None, val: None, hold_out: 0.2, seed: 0, strict: false, limits: DecodeLimits::default() }
    }
}

/// A file that was left out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

/// A data set in its two parts.
pub struct Splits {
    /// What is trained on.
    pub train: Arc<dyn Dataset>,
    /// What is evaluated on, of the same classes.
    pub held_out: Arc<dyn Dataset>,
    /// Unreadable files of both parts, in order of path.
    pub skipped: Vec<Skipped>,
    /// One sentence for people: what was opened and where the held-out part comes from.
    pub description: String,
}
