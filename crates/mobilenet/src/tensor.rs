//! A dense f32 tensor: a shape and its values in row-major order.

use crate::error::{Error, Result};

/// A dense, row-major f32 tensor.
///
/// Image batches are `[N, H, W, C]`, logits `[N, classes]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Vec<f32>,
}

impl Tensor {
    /// A tensor of `shape` over `data`; an error if the number of values differs, or if extents are so
    /// large that steps between values cannot be counted (beside an extent of 0 they may be).
    pub fn new(shape: &[usize], data: Vec<f32>) -> Result<Self> {
        let countable = shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent.max(1)));
        let expected = countable.map(|_| shape.iter().product::<usize>());
        if expected != Some(data.len()) {
            return Err(Error::Input {
                what: format!("values for a tensor of shape {shape:?}"),
                expected: expected
                    .map_or_else(|| "extents whose product can be counted".to_owned(), |n| n.to_string()),
                found: data.len().to_string(),
            });
        }
        Ok(Self { shape: shape.to_vec(), data })
    }

    /// A tensor of `shape` filled with zeros.
    pub fn zeros(shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), data: vec![0.0; shape.iter().product()] }
    }

    /// The extent of each dimension, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values, row-major.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The values, row-major, to write.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// The values alone.
    pub fn into_data(self) -> Vec<f32> {
        self.data
    }

    /// The rows of a two-dimensional view: the first dimension against all the others.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        let width = self.data.len() / self.shape.first().copied().unwrap_or(1).max(1);
        self.data.chunks_exact(width.max(1))
    }
}
