//! What training and evaluation take their batches from.

use mobilenet::Tensor;

use crate::data::{Batch, Loader};
use crate::error::{Error, Result};

/// Gives the batches of any epoch, from any batch on, and always the same ones.
pub trait BatchSource {
    /// Number of images in the data set.
    fn images(&self) -> usize;

    /// Number of batches in an epoch.
    fn batches(&self) -> usize;

    /// The batches of `epoch`, from number `first_batch` on.
    fn epoch<'a>(&'a self, epoch: u64, first_batch: usize) -> Box<dyn Iterator<Item = Result<Batch>> + 'a>;

    /// What `batch.images` would be if each image were mirrored left to right.
    ///
    /// # Errors
    /// When the batch is not of this source.
    fn mirrored(&self, batch: &Batch) -> Result<Tensor>;

    /// Gives the memory of a batch back.
    fn recycle(&self, batch: Batch);
}

impl BatchSource for Loader {
    fn images(&self) -> usize {
        self.dataset().len()
    }

    fn batches(&self) -> usize {
        self.batches()
    }

    fn epoch<'a>(&'a self, epoch: u64, first_batch: usize) -> Box<dyn Iterator<Item = Result<Batch>> + 'a> {
        Box::new(self.epoch(epoch, first_batch).map(|batch| Ok(batch?)))
    }

    fn mirrored(&self, batch: &Batch) -> Result<Tensor> {
        mirror(&batch.images)
    }

    fn recycle(&self, batch: Batch) {
        self.recycle(batch);
    }
}

/// Each image of `[N, H, W, C]` mirrored left to right.
///
/// # Errors
/// When `images` has another number of axes.
pub fn mirror(images: &Tensor) -> Result<Tensor> {
    let &[_, _, width, channels] = images.shape() else {
        return Err(Error::Batch {
            what: "images of a batch",
            expected: "shape [N, H, W, C]".into(),
            found: format!("shape {:?}", images.shape()),
        });
    };
    let mut data = Vec::with_capacity(images.data().len());
    for row in images.data().chunks_exact((width * channels).max(1)) {
        row.chunks_exact(channels.max(1)).rev().for_each(|pixel| data.extend_from_slice(pixel));
    }
    Ok(Tensor::new(images.shape(), data)?)
}
