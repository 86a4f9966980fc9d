//! What a layer reads: the activated rows of the layer before, with zeros around where it needs.

use mobilenet_kernels::batch_norm::{self, Affine};
use mobilenet_kernels::depthwise::{self, RowGeometry};
use mobilenet_kernels::im2col::Windows;
use mobilenet_kernels::{Clamp, Element, Isa, element};

use super::precision::Number;
use crate::architecture::{Layer, Shape};

/// A batch of feature maps: raw outputs with what normalises and activates them, or finished ones.
#[derive(Clone, Copy)]
pub(super) struct Source<'a, E> {
    pub isa: Isa,
    /// `[N, H, W, C]`
    pub values: &'a [E],
    pub shape: Shape,
    pub affine: Option<Affine<'a>>,
    pub clamp: Clamp,
}

impl<'a, E: Element> Source<'a, E> {
    /// One image of the batch.
    pub fn image(&self, index: usize) -> Self {
        let len = self.shape.len();
        Self { values: &self.values[index * len..][..len], ..*self }
    }

    /// The raw values of `pixels`, counted over the whole batch.
    pub fn raw(&self, pixels: std::ops::Range<usize>) -> &'a [E] {
        let channels = self.shape.channels;
        &self.values[pixels.start * channels..pixels.end * channels]
    }

    /// Writes the activated `pixels` to rows of `output` that are `stride` apart.
    pub fn load<O: Element>(&self, pixels: std::ops::Range<usize>, output: &mut [O], stride: usize) {
        let values = self.raw(pixels);
        match self.affine {
            Some(affine) => batch_norm::activate(self.isa, affine, self.clamp, values, output, stride),
            None => {
                let channels = self.shape.channels;
                if stride == channels {
                    element::convert(self.isa, values, &mut output[..values.len()]);
                } else {
                    for (to, from) in output.chunks_mut(stride).zip(values.chunks_exact(channels)) {
                        element::convert(self.isa, from, &mut to[..channels]);
                    }
                }
            }
        }
    }

    /// Writes one activated image into a zeroed padded one (see [`windows`]).
    pub fn load_padded<O: Element>(&self, layer: &Layer, windows: Windows, output: &mut [O]) {
        output.fill(O::default());
        let Shape { height, width, channels } = self.shape;
        let row_len = windows.width * channels;
        for y in 0..height {
            let at = (y + layer.pads.top) * row_len + layer.pads.left * channels;
            self.load(y * width..(y + 1) * width, &mut output[at..at + width * channels], channels);
        }
    }
}

/// The padded image of a full convolution's input and the windows over it.
pub(super) fn windows(layer: &Layer) -> Windows {
    Windows {
        height: layer.input.height + layer.pads.top + layer.pads.bottom,
        width: layer.input.width + layer.pads.left + layer.pads.right,
        channels: layer.input.channels,
        stride: layer.stride,
        dilation: layer.dilation,
    }
}

/// How a depthwise layer's rows lie in a [`Ring`].
pub(super) fn row_geometry(layer: &Layer) -> RowGeometry {
    RowGeometry {
        outputs: layer.output.width,
        channels: layer.input.channels,
        pixel_stride: depthwise::pixel_stride(layer.input.channels),
        output_stride: layer.input.channels,
        stride: layer.stride,
        dilation: layer.dilation,
        present: None,
    }
}

/// A few padded rows of one image in the cache, of which a filter touches three at a time, or some more for several
/// output rows.
///
/// Rows must be asked for in ascending order; each is loaded once. What is loaded must leave the
/// same values untouched in every row, since the zeros there are written once only.
pub(super) struct Ring<'a> {
    rows: &'a mut [f32],
    row_len: usize,
    /// Where the first pixel stands in a row.
    left: usize,
    slots: usize,
    loaded: usize,
    height: usize,
}

impl<'a> Ring<'a> {
    /// Values of memory that a ring of so many `slots` needs for rows of `row_len`.
    pub fn memory(row_len: usize, slots: usize) -> usize {
        // One more: the row of zeros.
        (slots + 1) * row_len
    }

    /// A ring over `memory` for the rows of images of `height`, of which `slots` are there at a time; pixels start
    /// `left` values in.
    pub fn new(memory: &'a mut [f32], row_len: usize, left: usize, slots: usize, height: usize) -> Self {
        memory.fill(0.0);
        Self { rows: memory, row_len, left, slots, loaded: 0, height }
    }

    /// Starts again at the first row, for the next image.
    pub fn rewind(&mut self) {
        self.loaded = 0;
    }

    /// Loads the rows up to `last` (those that exist) with `load(row, pixels)`.
    pub fn advance(&mut self, last: isize, mut load: impl FnMut(usize, &mut [f32])) {
        while self.loaded < self.height && self.loaded as isize <= last {
            let start = self.loaded % self.slots * self.row_len;
            load(self.loaded, &mut self.rows[start + self.left..start + self.row_len]);
            self.loaded += 1;
        }
    }

    /// The padded row; zeros where the image has none.
    pub fn row(&self, row: isize) -> &[f32] {
        let inside = row >= 0 && (row as usize) < self.height;
        let slot = if inside { row as usize % self.slots } else { self.slots };
        &self.rows[slot * self.row_len..][..self.row_len]
    }
}

/// Groups that the images of a batch are cut into for depthwise layers: enough for many threads, and
/// few enough that merging their sums costs little. The same for every number of threads.
pub(super) fn images_per_item(batch: usize) -> usize {
    const MOST_ITEMS: usize = 32;
    batch.div_ceil(MOST_ITEMS)
}

/// Whether a product with `weights` values leaves room in the L2 cache for what the next chunk reads.
/// Where it does not, asking for that ahead costs more than it saves.
pub(super) fn room_ahead(weights: usize) -> bool {
    weights <= 64 * 1024
}

/// Pixels of a chunk whose rows of `width` values stay in the L2 cache beside what else is there.
pub(super) fn chunk_pixels<E: Number>(width: usize) -> usize {
    /// Bytes: an eighth of a megabyte.
    const CHUNK: usize = 128 * 1024;
    let step = E::CHUNK_STEP;
    (CHUNK / size_of::<E>() / width.max(1) / step * step).clamp(step, 8 * step)
}
