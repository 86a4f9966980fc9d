//! Decoded images, kept in memory up to a limit.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use mobilenet::conventions::{Preprocessing, ResizeMode};
use mobilenet::image::Image;
use mobilenet::preprocess::shrink;

use super::loader::LoaderOptions;
use super::{Dataset, Result};

/// Images are kept no larger than so many times the resolution where a random crop follows.
///
/// A crop of a quarter of the area still has the network's resolution then; a photo of 12
/// megapixels takes 1 MB instead of 36.
const ROOM_FOR_CROPS: usize = 2;

/// Prepares images (the part of the pipeline without chance) and remembers the first ones that
/// fit. An image is the same whether it was remembered or not.
pub(super) struct Cache {
    dataset: Arc<dyn Dataset>,
    kept: Vec<OnceLock<Arc<Image>>>,
    used: AtomicU64,
    limit: u64,
    resolution: usize,
    channels: usize,
    preprocessing: Preprocessing,
    cropped_later: bool,
}

impl Cache {
    pub(super) fn new(dataset: Arc<dyn Dataset>, options: &LoaderOptions) -> Self {
        Self {
            kept: (0..dataset.len()).map(|_| OnceLock::new()).collect(),
            dataset,
            used: AtomicU64::new(0),
            limit: options.cache_bytes,
            resolution: options.resolution,
            channels: options.channels,
            preprocessing: options.preprocessing.clone(),
            cropped_later: options.augmentation.random_resized_crop.is_some(),
        }
    }

    pub(super) fn dataset(&self) -> &Arc<dyn Dataset> {
        &self.dataset
    }

    /// Image `index`: at the resolution, or, where a random crop follows, of any size.
    pub(super) fn prepared(&self, index: usize) -> Result<Arc<Image>> {
        if let Some(image) = self.kept.get(index).and_then(OnceLock::get) {
            return Ok(Arc::clone(image));
        }
        let decoded = self.dataset.image(index, self.channels)?;
        let Some(prepared) = self.prepare(&decoded)? else {
            // The data set may hold it in memory itself; then there is nothing to gain.
            if Arc::strong_count(&decoded) == 1 {
                self.keep(index, &decoded);
            }
            return Ok(decoded);
        };
        let prepared = Arc::new(prepared);
        self.keep(index, &prepared);
        Ok(prepared)
    }

    /// `None`: it is as it must be.
    fn prepare(&self, image: &Image) -> Result<Option<Image>> {
        let p = &self.preprocessing;
        if self.cropped_later {
            return Ok(shrink(image, ROOM_FOR_CROPS * self.resolution, p.interpolation)?);
        }
        let fits = (image.width(), image.height()) == (self.resolution, self.resolution);
        if fits && (p.crop_fraction == 1.0 || p.resize == ResizeMode::Squash) {
            return Ok(None);
        }
        Ok(Some(p.resized(image, self.resolution)?))
    }

    fn keep(&self, index: usize, image: &Arc<Image>) {
        let bytes = image.data().len() as u64;
        let room = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|&total| total <= self.limit)
        });
        if room.is_ok()
            && let Some(slot) = self.kept.get(index)
            && slot.set(Arc::clone(image)).is_err()
        {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}
