//! Patches of a padded image as rows of a matrix, so that a full convolution is a product.
//!
//! A patch holds the values under the filter in the order `[ky][kx][channel]`.

use crate::element::Element;
use crate::extent::extent;

/// A padded image `[height][width][channels]` and the 3×3 windows over it.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// Rows of the padded image.
    pub height: usize,
    /// Columns of the padded image.
    pub width: usize,
    /// Channels.
    pub channels: usize,
    /// Pixels between windows.
    pub stride: usize,
    /// Pixels between taps.
    pub dilation: usize,
}

impl Windows {
    /// Values of the padded image.
    pub fn image_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Values of a patch.
    pub fn patch_len(&self) -> usize {
        9 * self.channels
    }

    fn outputs(size: usize, stride: usize, dilation: usize) -> usize {
        (size - (2 * dilation + 1)) / stride + 1
    }

    /// Windows in a row, which must be wide enough for one.
    pub fn outputs_wide(&self) -> usize {
        Self::outputs(self.width, self.stride, self.dilation)
    }

    /// Windows in a column, which must be high enough for one.
    pub fn outputs_high(&self) -> usize {
        Self::outputs(self.height, self.stride, self.dilation)
    }

    /// Calls `f(offset in the image, offset in the patch, length)` for the contiguous runs of the
    /// window at output row `y`, column `x`: three where taps are neighbours, else nine.
    #[inline(always)]
    fn runs(&self, y: usize, x: usize, mut f: impl FnMut(usize, usize, usize)) {
        let (taps, length) = if self.dilation == 1 { (1, 3 * self.channels) } else { (3, self.channels) };
        for ky in 0..3 {
            let row = (y * self.stride + ky * self.dilation) * self.width + x * self.stride;
            for kx in 0..taps {
                f((row + kx * self.dilation) * self.channels, (3 * ky + kx) * self.channels, length);
            }
        }
    }
}

/// Copies the patches of the windows `first..first + count` (row-major over the outputs) into rows
/// of `patches` that are `stride` apart.
///
/// # Panics
/// If a length does not fit.
pub fn gather<E: Element>(
    windows: Windows,
    image: &[E],
    first: usize,
    count: usize,
    patches: &mut [E],
    stride: usize,
) {
    assert_eq!(image.len(), windows.image_len(), "padded image");
    assert!(patches.len() >= extent(count, windows.patch_len(), stride), "{count} patches");
    let wide = windows.outputs_wide();
    for (index, patch) in (first..first + count).zip(patches.chunks_mut(stride)) {
        windows.runs(index / wide, index % wide, |from, to, length| {
            patch[to..to + length].copy_from_slice(&image[from..from + length]);
        });
    }
}

/// Adds patches back to where [`gather`] took them from.
///
/// # Panics
/// If a length does not fit.
pub fn scatter_add<E: Element>(
    windows: Windows,
    patches: &[E],
    stride: usize,
    first: usize,
    count: usize,
    image: &mut [f32],
) {
    assert_eq!(image.len(), windows.image_len(), "padded image");
    assert!(patches.len() >= extent(count, windows.patch_len(), stride), "{count} patches");
    let wide = windows.outputs_wide();
    for (index, patch) in (first..first + count).zip(patches.chunks(stride)) {
        windows.runs(index / wide, index % wide, |to, from, length| {
            for (sum, value) in image[to..to + length].iter_mut().zip(&patch[from..from + length]) {
                *sum += value.to_f32();
            }
        });
    }
}
