//! One stage of inference on one thread: rows of a feature map in, rows of the next one out.
//!
//! The pixels of a map that a depthwise convolution reads are [`Number::pixel_stride`] apart, those
//! of any other map follow one another.

use std::ops::Range;

use mobilenet_kernels::conv::{ConvGeometry, Unpadded};
use mobilenet_kernels::depthwise::{self, Centring, Present, RowEpilogue, RowGeometry};
use mobilenet_kernels::gemm::{Epilogue, MatrixMut, MatrixRef};
use mobilenet_kernels::{Buffer, Isa, element};

use super::forward::ring_rows;
use super::images::Images;
use super::inference::has_few_pixels;
use super::plan::{Depthwise, Filter, Outside, Plan, Stage};
use super::precision::{Next, Number};
use super::rows::row_geometry;
use crate::architecture::Shape;

/// Rows of the feature map that a stage reads.
pub(super) trait Rows<E> {
    /// Has the rows before `end` made, as far as they are not yet.
    fn make(&mut self, end: usize);

    /// A row that has been made and is not further back than the next stage reaches.
    fn row(&self, y: usize) -> &[E];

    /// Those of the rows that are there without being made, if they follow one another.
    fn there(&self, _: Range<usize>) -> &[E] {
        &[]
    }
}

/// What a stage reads: the image, or the rows of the stage before.
pub(super) enum Input<'a, E: Number> {
    Image(Images<'a>),
    Rows(&'a mut dyn Rows<E::Map>),
}

impl<E: Number> Input<'_, E> {
    /// The same once more.
    pub fn again(&mut self) -> Input<'_, E> {
        match self {
            Self::Image(image) => Input::Image(*image),
            Self::Rows(rows) => Input::Rows(&mut **rows),
        }
    }

    /// Has a row made and copies it in f32.
    fn copy(&mut self, isa: Isa, y: usize, to: &mut [f32]) {
        match self {
            Self::Image(image) => image.row(isa, y, to),
            Self::Rows(rows) => {
                rows.make(y + 1);
                element::convert(isa, &rows.row(y)[..to.len()], to);
            }
        }
    }
}

/// A feature map that is there as a whole.
#[derive(Clone, Copy)]
pub(super) struct Map<'a, E> {
    pub values: &'a [E],
    pub row_len: usize,
}

impl<E> Rows<E> for Map<'_, E> {
    fn make(&mut self, _: usize) {}

    fn row(&self, y: usize) -> &[E] {
        &self.values[y * self.row_len..][..self.row_len]
    }

    fn there(&self, rows: Range<usize>) -> &[E] {
        &self.values[rows.start * self.row_len..rows.end * self.row_len]
    }
}

/// What is read when some output rows are done: it is asked for while their product is at work, as by then most
/// of a map has left the second-level cache.
pub(super) enum Later<'a, T> {
    /// What these output rows of the same stage are made from.
    Rows(Range<usize>),
    /// Something else.
    Values(&'a [T]),
}

/// The input rows of a full convolution that are needed at a time, in f32, and behind them a row of
/// zeros. (Stages share the memory, so nothing in it stays zero by itself.) Rows of an image that is f32 already are
/// read where they lie.
#[derive(Debug)]
pub(super) struct Copied<E> {
    rows: Buffer,
    loaded: usize,
    scratch: Buffer<E>,
}

impl<E> Default for Copied<E> {
    fn default() -> Self {
        Self { rows: Buffer::default(), loaded: 0, scratch: Buffer::default() }
    }
}

impl<E: Number> Copied<E> {
    /// Starts at input row `first`.
    pub fn start(&mut self, first: usize) {
        self.loaded = first;
    }

    /// Takes the memory that `stage` needs, whatever it reads.
    pub fn reserve(&mut self, stage: &Stage<E>) {
        let Filter::Full(filter) = &stage.filter else { return };
        let Shape { width, channels, .. } = stage.layer.input;
        self.rows.at_least((stage.copied_rows() + 1) * width * channels);
        self.scratch.at_least(E::conv_scratch_len(filter, MOST_ROWS, stage.layer.output.width, width));
    }
}

/// Most rows of a full convolution at a time.
const MOST_ROWS: usize = 16;

/// Most rows of a depthwise convolution at a time ([`depthwise::rows_together`]).
const ROWS: usize = 4;

impl<E: Number> Stage<E> {
    /// The shape that the stage reads.
    pub fn input(&self) -> Shape {
        self.depthwise.as_ref().map_or(self.layer.input, |depthwise| depthwise.layer.input)
    }

    /// Values from one pixel that the stage reads to the next.
    pub fn input_stride(&self) -> usize {
        match &self.depthwise {
            Some(depthwise) => E::pixel_stride(depthwise.layer.input.channels),
            None => self.layer.input.channels,
        }
    }

    /// The whole map that the stage reads.
    pub fn map<'a, T>(&self, values: &'a [T]) -> Map<'a, T> {
        let Shape { height, width, .. } = self.input();
        let row_len = width * self.input_stride();
        Map { values: &values[..height * row_len], row_len }
    }

    /// The first input row that output row `y` reads, and the one behind the last.
    pub fn reach(&self, y: usize) -> Range<usize> {
        let layer = self.depthwise.as_ref().map_or(&self.layer, |depthwise| &depthwise.layer);
        let [first, _, last] = ring_rows(layer, y);
        let inside = |row: isize| row.clamp(0, layer.input.height as isize) as usize;
        inside(first)..inside(last + 1)
    }

    /// Input rows that are read at a time.
    pub fn reaches_over(&self) -> usize {
        match &self.depthwise {
            Some(depthwise) => {
                let layer = &depthwise.layer;
                (depthwise.rows_together() - 1) * layer.stride + 2 * layer.dilation + 1
            }
            // (Each is copied as soon as it is made.)
            None => 1,
        }
    }

    /// Values from one row of the product's left side to the next.
    pub fn patch_stride(&self, isa: Isa) -> usize {
        E::padded_stride(isa, self.layer.input.channels)
    }

    /// Output rows whose patches are computed at a time, before the product reads them.
    fn together(&self, isa: Isa) -> usize {
        let Shape { width, channels, .. } = self.layer.output;
        let rows = E::PATCHES / (width * self.patch_stride(isa).max(channels));
        match &self.depthwise {
            Some(_) if self.is_small() => self.layer.output.height,
            Some(_) => rows.max(1),
            None => rows.clamp(1, MOST_ROWS),
        }
    }

    /// Rows that a full convolution reads at a time, if they have to be copied.
    fn copied_rows(&self) -> usize {
        (MOST_ROWS - 1) * self.layer.stride + 2 * self.layer.dilation + 1
    }

    /// Most values of patches that are computed at a time, on any thread.
    pub fn most_patches(&self, isa: Isa) -> usize {
        let Shape { height, width, .. } = self.layer.output;
        let rows = if has_few_pixels(self) { height } else { self.together(isa).min(height) };
        if self.depthwise.is_some() { rows * width * self.patch_stride(isa) } else { 0 }
    }

    /// Whether its weights are many beside its pixels, so that they should be read once for all of these.
    pub fn is_small(&self) -> bool {
        self.layer.output.pixels() <= E::FEW_PIXELS
    }

    /// Makes the output rows `rows`; their pixels are `stride` apart in `output`.
    pub fn rows(
        &self,
        plan: &Plan<E>,
        mut input: Input<E>,
        rows: Range<usize>,
        (output, stride): (&mut [E::Map], usize),
        (patches, copied): (&mut Buffer<E>, &mut Copied<E>),
    ) {
        let Shape { width, channels, .. } = self.layer.output;
        let together = self.together(plan.isa);
        for y in rows.clone().step_by(together) {
            let group = y..rows.end.min(y + together);
            let pixels = group.len() * width;
            let (done, output) = output.split_at_mut((y - rows.start) * width * stride);
            let output = MatrixMut::new(&mut output[..pixels * stride], pixels, channels, stride);
            let later = match group.end {
                end if end < rows.end => Later::Rows(end..rows.end.min(end + together)),
                // The next stage begins with these.
                _ => Later::Values(&done[..done.len().min(2 * E::PATCHES)]),
            };
            self.product(plan, input.again(), (group, later), (0, output), (&mut *patches, &mut *copied));
        }
    }

    /// The output rows `rows` at once, for the channels from `first_column` on that `output` has.
    pub fn product(
        &self,
        plan: &Plan<E>,
        input: Input<E>,
        (rows, later): (Range<usize>, Later<E::Map>),
        (first_column, output): (usize, MatrixMut<E::Map>),
        (patches, copied): (&mut Buffer<E>, &mut Copied<E>),
    ) {
        let input = match (&self.depthwise, input) {
            (Some(depthwise), Input::Rows(input)) => {
                let pixels = rows.len() * self.layer.output.width;
                let read = self.reach(rows.end - 1).end;
                let patches = self.make_patches(plan, depthwise, input, rows, first_column, patches);
                let map = match later {
                    Later::Rows(rows) => input.there(read..self.reach(rows.end - 1).end),
                    Later::Values(values) => values,
                };
                let next = Next { map, ..Next::default() };
                return self.multiply(plan, patches, pixels, (first_column, output), next);
            }
            (_, input) => input,
        };
        self.convolve(plan, input, rows, (first_column, output), copied);
    }

    /// Makes what the product reads for the output rows `rows`. Meanwhile what it reads of the filter from
    /// `first_column` on is asked for.
    pub fn make_patches<'a>(
        &self,
        plan: &Plan<E>,
        depthwise: &Depthwise<E>,
        input: &mut dyn Rows<E::Map>,
        rows: Range<usize>,
        first_column: usize,
        patches: &'a mut Buffer<E>,
    ) -> &'a [E] {
        let pixels = rows.len() * self.layer.output.width;
        let stride = self.patch_stride(plan.isa);
        let patches = patches.at_least(pixels * stride);
        let ahead = match &self.filter {
            Filter::Pointwise(filter) => E::panels(filter, first_column),
            Filter::Full(_) => &[],
        };
        element::prefetch(plan.isa, self.centre.as_deref().unwrap_or_default());
        let values = pixels * self.layer.input.channels;
        let most = E::OUTPUTS_AHEAD.map_or(0, |outputs| values / outputs);
        let ahead = &ahead[..ahead.len().min(most)];
        depthwise.rows(plan, input, rows, (&mut *patches, stride), ahead);
        patches
    }

    /// The product with the pointwise filter of so many rows of `patches`. Meanwhile `next` is asked for.
    pub fn multiply(
        &self,
        plan: &Plan<E>,
        patches: &[E],
        pixels: usize,
        (first_column, output): (usize, MatrixMut<E::Map>),
        next: Next<E>,
    ) {
        let Filter::Pointwise(filter) = &self.filter else { unreachable!("a pointwise layer") };
        let a = MatrixRef::new(patches, pixels, self.layer.input.channels, self.patch_stride(plan.isa));
        E::multiply_to_map(a, filter, first_column, output, self.epilogue(), next);
    }

    fn epilogue(&self) -> Epilogue<'_> {
        Epilogue { bias: Some(&self.bias), clamp: Some(self.clamp), lowered: self.centre.as_deref() }
    }

    /// A full convolution's output rows.
    fn convolve(
        &self,
        plan: &Plan<E>,
        mut input: Input<E>,
        rows: Range<usize>,
        (first_column, output): (usize, MatrixMut<E::Map>),
        copied: &mut Copied<E>,
    ) {
        let Filter::Full(filter) = &self.filter else { unreachable!("a full convolution") };
        let layer = &self.layer;
        let Shape { height, width, channels } = layer.input;
        let Copied { rows: memory, loaded, scratch } = copied;
        let image = match &input {
            Input::Image(images) => images.values(),
            Input::Rows(_) => None,
        };
        let row_len = width * channels;
        let slots = match image {
            Some(_) => 0,
            None => self.copied_rows(),
        };
        let memory = memory.at_least((slots + 1) * row_len);
        memory[slots * row_len..][..row_len].fill(0.0);
        let end = rows.clone().next_back().map_or(0, |last| self.reach(last).end);
        let behind = height.min(end + rows.len() * layer.stride);
        let ahead = image.map_or(&[][..], |image| &image[end * row_len..behind * row_len]);
        if slots > 0 {
            for y in *loaded..end {
                input.copy(plan.isa, y, &mut memory[y % slots * row_len..][..row_len]);
            }
            *loaded = end.max(*loaded);
        }
        let beyond = &memory[slots * row_len..][..row_len];
        let row = |y: isize| match (image, usize::try_from(y)) {
            (Some(image), Ok(y)) if y < height => &image[y * row_len..][..row_len],
            (None, Ok(y)) if y < height => &memory[y % slots * row_len..][..row_len],
            _ => beyond,
        };
        let mut inputs: [[&[f32]; 3]; MOST_ROWS] = [[&[]; 3]; MOST_ROWS];
        let count = rows.len();
        for (input, y) in inputs.iter_mut().zip(rows) {
            *input = ring_rows(layer, y).map(row);
        }
        let geometry = ConvGeometry {
            outputs: layer.output.width,
            channels,
            stride: layer.stride,
            dilation: layer.dilation,
        };
        let epilogue = self.epilogue();
        let present = Present { left: layer.pads.left, count: width };
        E::convolve_rows(
            (geometry, Some(Unpadded { present, beyond, ahead })),
            &inputs[..count],
            filter,
            first_column,
            output,
            epilogue,
            scratch,
        );
    }
}

impl<E: Number> Depthwise<E> {
    /// Output rows that are made at a time.
    fn rows_together(&self) -> usize {
        depthwise::rows_together(self.layer.stride).min(ROWS)
    }

    /// Makes the output rows `rows`; their pixels are `stride` apart in `output`. Meanwhile `ahead` is asked
    /// for: the arithmetic leaves the memory idle.
    pub fn rows(
        &self,
        plan: &Plan<E>,
        input: &mut dyn Rows<E::Map>,
        rows: Range<usize>,
        (output, stride): (&mut [E], usize),
        ahead: &[E],
    ) {
        let Self { layer, taps, bias, clamp, centre, outside, half_sums, .. } = self;
        let Shape { height, width, channels } = layer.input;
        let present = Some(Present { left: layer.pads.left, count: width });
        let pixel_stride = E::pixel_stride(channels);
        let geometry = RowGeometry { pixel_stride, output_stride: stride, present, ..row_geometry(layer) };
        let row_len = width * pixel_stride;
        let (columns, beyond) = match outside {
            Some(Outside { columns, row }) => {
                element::prefetch(plan.isa, columns);
                element::prefetch(plan.isa, row);
                (Some(&columns[..]), &row[..row_len])
            }
            None => (None, &plan.zeros[..row_len]),
        };
        element::prefetch(plan.isa, centre.as_deref().unwrap_or_default());
        let centring = Centring { outside: columns, lowered: centre.as_deref() };
        let epilogue = RowEpilogue { bias, clamp: *clamp, centring, half_sums: *half_sums };
        let together = self.rows_together();
        let mut ahead = ahead.chunks(ahead.len().div_ceil(rows.len().div_ceil(together)).max(1));
        let outputs = output.chunks_mut(together * layer.output.width * stride);
        for (y, output) in rows.clone().step_by(together).zip(outputs) {
            let count = together.min(rows.end - y);
            let last = ring_rows(layer, y + count - 1)[2];
            input.make((last + 1).clamp(0, height as isize) as usize);
            let mut inputs: [[&[E::Map]; 3]; ROWS] = [[&[]; 3]; ROWS];
            for (index, rows) in inputs[..count].iter_mut().enumerate() {
                *rows = ring_rows(layer, y + index).map(|y| match usize::try_from(y) {
                    Ok(y) if y < height => input.row(y),
                    _ => beyond,
                });
            }
            let ahead = ahead.next().unwrap_or_default();
            depthwise::convolve_rows(
                plan.isa,
                geometry,
                &inputs[..count],
                taps,
                Some(epilogue),
                output,
                ahead,
            );
        }
    }
}
