//! The features of a data set under a body that does not learn, computed once and kept in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mobilenet::rng::Rng;
use mobilenet::{Executor, Tensor};

use crate::batch_source::{BatchSource, mirror};
use crate::data::{Batch, Dataset, Loader, Skipped};
use crate::error::{Error, Result};

/// How batches are made of features.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FeatureOptions {
    /// Images in a batch; the last one of an epoch may be smaller.
    pub batch_size: usize,
    /// Whether each epoch has an order of its own, drawn from the seed; else the data set's order.
    pub shuffle: bool,
    /// Whether a last batch with fewer images is left out.
    pub drop_last: bool,
    /// Whether the features of the mirrored images are kept too.
    pub mirrored: bool,
    /// Whether half of an epoch's images, others every epoch, are given mirrored.
    pub flip: bool,
    /// Decides the orders and which images are mirrored.
    pub seed: u64,
}

/// The pooled features of every image, and of its mirror image if that was wanted.
///
/// They take the place of images: a batch has `[N, features]` instead of `[N, H, W, C]`.
pub struct Features {
    dataset: Arc<dyn Dataset>,
    options: FeatureOptions,
    width: usize,
    /// `[images, width]`; zeros for an image that cannot be decoded.
    plain: Vec<f32>,
    /// The same for the mirrored images; empty when not wanted.
    mirrored: Vec<f32>,
    readable: Vec<bool>,
    /// Images that cannot be decoded.
    pub skipped: Vec<Skipped>,
}

impl Features {
    /// Runs every image of `loader` through the body. The loader must give images in the data set's
    /// order and without augmentation; it decodes in its own threads while the network computes.
    /// `progress` is told the numbers of images done and in all.
    ///
    /// # Errors
    /// When a file vanished, no image of a batch can be decoded, or the stop flag was raised
    /// ([`Error::Interrupted`]).
    pub fn compute(
        executor: &mut dyn Executor,
        loader: &Loader,
        options: FeatureOptions,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let dataset = Arc::clone(loader.dataset());
        let images = dataset.len();
        let (mut width, mut plain, mut mirrored) = (0, Vec::new(), Vec::new());
        let (mut readable, mut skipped) = (vec![false; images], Vec::new());
        let mut done = 0;
        for batch in loader.epoch(0, 0) {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let batch = batch?;
            done += batch.indices.len() + batch.skipped.len();
            skipped.extend_from_slice(&batch.skipped);
            if !batch.indices.is_empty() {
                let features = executor.features(&batch.images)?;
                width = features.shape().last().copied().unwrap_or(0);
                place(&features, &batch.indices, images, &mut plain);
                if options.mirrored {
                    let features = executor.features(&mirror(&batch.images)?)?;
                    place(&features, &batch.indices, images, &mut mirrored);
                }
                batch.indices.iter().for_each(|&index| readable[index] = true);
            }
            progress(done, images);
            loader.recycle(batch);
        }
        Ok(Self { dataset, options, width, plain, mirrored, readable, skipped })
    }

    /// Number of values an image.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The features of an image; `None` if it cannot be decoded.
    pub fn of(&self, index: usize) -> Option<&[f32]> {
        self.row(&self.plain, index)
    }

    fn row<'a>(&self, view: &'a [f32], index: usize) -> Option<&'a [f32]> {
        let readable = self.readable.get(index).copied().unwrap_or(false);
        readable.then(|| view.get(index * self.width..(index + 1) * self.width)).flatten()
    }

    fn batch(&self, epoch: u64, wanted: &[usize]) -> Result<Batch> {
        let (mut data, mut labels, mut indices) = (Vec::new(), Vec::new(), Vec::new());
        for &index in wanted {
            let flip =
                self.options.flip && Rng::keyed(self.options.seed, &[epoch, index as u64]).uniform() < 0.5;
            let view = if flip { &self.mirrored } else { &self.plain };
            if let Some(row) = self.row(view, index) {
                data.extend_from_slice(row);
                labels.push(self.dataset.label(index));
                indices.push(index);
            }
        }
        let images = Tensor::new(&[indices.len(), self.width], data)?;
        Ok(Batch { images, labels, indices, skipped: Vec::new() })
    }
}

/// Puts rows of features where their images' indices say.
fn place(features: &Tensor, indices: &[usize], images: usize, into: &mut Vec<f32>) {
    let width = features.data().len() / indices.len().max(1);
    into.resize(images * width, 0.0);
    for (row, &index) in features.rows().zip(indices) {
        into[index * width..(index + 1) * width].copy_from_slice(row);
    }
}

impl BatchSource for Features {
    fn images(&self) -> usize {
        self.dataset.len()
    }

    fn batches(&self) -> usize {
        let (images, size) = (self.dataset.len(), self.options.batch_size.max(1));
        if self.options.drop_last { images / size } else { images.div_ceil(size) }
    }

    fn epoch<'a>(&'a self, epoch: u64, first_batch: usize) -> Box<dyn Iterator<Item = Result<Batch>> + 'a> {
        let mut order: Vec<usize> = (0..self.dataset.len()).collect();
        if self.options.shuffle {
            Rng::keyed(self.options.seed, &[epoch]).shuffle(&mut order);
        }
        let size = self.options.batch_size.max(1);
        Box::new((first_batch..self.batches()).map(move |number| {
            let first = number * size;
            self.batch(epoch, &order[first..(first + size).min(order.len())])
        }))
    }

    fn mirrored(&self, batch: &Batch) -> Result<Tensor> {
        let mut data = Vec::with_capacity(batch.images.data().len());
        for &index in &batch.indices {
            let row = self.row(&self.mirrored, index).ok_or_else(|| Error::Batch {
                what: "features of mirrored images",
                expected: "to have been computed".into(),
                found: format!("none of image {index}"),
            })?;
            data.extend_from_slice(row);
        }
        Ok(Tensor::new(batch.images.shape(), data)?)
    }

    fn recycle(&self, _: Batch) {}
}
