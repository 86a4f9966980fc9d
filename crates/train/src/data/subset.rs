//! Some images of a data set, and classes under other numbers.

use std::sync::Arc;

use mobilenet::image::Image;
use mobilenet::rng::Rng;

use super::{DataError, Dataset, Result};

/// "hold": what the generator that chooses the held-out images is for.
const HOLD: u64 = 0x686f_6c64;

/// Images of another data set, chosen by index.
pub(super) struct Subset {
    base: Arc<dyn Dataset>,
    indices: Vec<usize>,
    classes: Vec<String>,
    /// From the base's labels to ours.
    labels: Vec<usize>,
}

impl Subset {
    fn new(base: &Arc<dyn Dataset>, indices: Vec<usize>) -> Self {
        let classes = base.classes().to_vec();
        Self { base: Arc::clone(base), indices, labels: (0..classes.len()).collect(), classes }
    }

    /// All of `base`, with its class `i` as class `labels[i]` of `classes`.
    pub(super) fn relabelled(base: Arc<dyn Dataset>, classes: Vec<String>, labels: Vec<usize>) -> Self {
        Self { indices: (0..base.len()).collect(), base, classes, labels }
    }
}

/// Splits into what is trained on and what is held out: of each class the share `hold_out`, at
/// least one image, but never a class's only one.
pub(super) fn hold_out(base: &Arc<dyn Dataset>, share: f64, seed: u64) -> (Subset, Subset) {
    let mut of_class = vec![Vec::new(); base.classes().len()];
    for index in 0..base.len() {
        of_class[base.label(index)].push(index);
    }
    let (mut train, mut held) = (Vec::new(), Vec::new());
    for (class, mut indices) in of_class.into_iter().enumerate() {
        Rng::keyed(seed, &[HOLD, class as u64]).shuffle(&mut indices);
        let most = indices.len().saturating_sub(1);
        let count = ((indices.len() as f64 * share).round() as usize).max(1).min(most);
        held.extend_from_slice(&indices[..count]);
        train.extend_from_slice(&indices[count..]);
    }
    train.sort_unstable();
    held.sort_unstable();
    (Subset::new(base, train), Subset::new(base, held))
}

impl Dataset for Subset {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn len(&self) -> usize {
        self.indices.len()
    }

    fn label(&self, index: usize) -> usize {
        self.labels[self.base.label(self.indices[index])]
    }

    fn name(&self, index: usize) -> String {
        self.indices.get(index).map(|&i| self.base.name(i)).unwrap_or_default()
    }

    fn image(&self, index: usize, channels: usize) -> Result<Arc<Image>> {
        let &base = self.indices.get(index).ok_or(DataError::Index { index, len: self.len() })?;
        self.base.image(base, channels)
    }

    fn size(&self, index: usize) -> (usize, usize) {
        self.base.size(self.indices[index])
    }

    fn is_grey(&self) -> bool {
        self.base.is_grey()
    }
}
