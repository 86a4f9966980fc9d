//! Images at the engine's door: normalised values, or 8-bit pixels that the first convolution normalises
//! as it reads them.

use std::ops::Range;

use mobilenet_kernels::{Isa, element};

use crate::preprocess::Normalisation;

/// Images `[N, H, W, C]` that follow one another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Images<'a> {
    values: Values<'a>,
    /// Values of an image.
    image_len: usize,
}

#[derive(Clone, Copy, Debug)]
enum Values<'a> {
    Normalised(&'a [f32]),
    Pixels(&'a [u8], &'a Normalisation),
}

impl<'a> Images<'a> {
    /// Images that are normalised.
    pub fn normalised(values: &'a [f32], image_len: usize) -> Self {
        Self { values: Values::Normalised(values), image_len }
    }

    /// Images of 8 bits a value.
    pub fn pixels(values: &'a [u8], normalisation: &'a Normalisation, image_len: usize) -> Self {
        Self { values: Values::Pixels(values, normalisation), image_len }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        let len = match self.values {
            Values::Normalised(values) => values.len(),
            Values::Pixels(values, _) => values.len(),
        };
        len / self.image_len
    }

    /// Some of them.
    pub fn some(&self, images: Range<usize>) -> Self {
        let range = images.start * self.image_len..images.end * self.image_len;
        let values = match self.values {
            Values::Normalised(values) => Values::Normalised(&values[range]),
            Values::Pixels(values, normalisation) => Values::Pixels(&values[range], normalisation),
        };
        Self { values, ..*self }
    }

    /// One of them.
    pub fn one(&self, image: usize) -> Self {
        self.some(image..image + 1)
    }

    /// The values of the first one, if they are normalised.
    pub fn values(&self) -> Option<&'a [f32]> {
        match self.values {
            Values::Normalised(values) => Some(&values[..self.image_len]),
            Values::Pixels(..) => None,
        }
    }

    /// Writes row `y` of the first one, normalised.
    pub fn row(&self, isa: Isa, y: usize, to: &mut [f32]) {
        let range = y * to.len()..(y + 1) * to.len();
        match self.values {
            Values::Normalised(values) => to.copy_from_slice(&values[range]),
            Values::Pixels(values, Normalisation { scale, offset }) => {
                element::normalise(isa, &values[range], (scale, offset), to);
            }
        }
    }
}
