//! Full 3×3 convolution by rows, straight from input rows: the sum over the taps runs in the registers of the
//! product's tile, so that no patch is written but at the edges, nor a padded copy of a row.

use std::ops::Range;

use half::{bf16, f16};

use crate::depthwise::Present;
use crate::element::Element;
use crate::extent::{covers, extent};
use crate::gemm::{Across, Epilogue, MatrixMut, PackedB, Panels, Tile, panel_width};
use crate::isa::Isa;
use crate::simd::{Kernel, Simd, TILE_VECTORS, VALUE, dispatch};

/// How a row of output pixels reads a padded input row without gaps between its pixels: output x,
/// tap k reads pixel `x * stride + k * dilation`. (Of a row that has no padding of its own, see [`Unpadded`].)
#[derive(Clone, Copy, Debug)]
pub struct ConvGeometry {
    /// Pixels of an output row.
    pub outputs: usize,
    /// Channels of an input pixel.
    pub channels: usize,
    /// Pixels between neighbouring outputs.
    pub stride: usize,
    /// Pixels between neighbouring taps.
    pub dilation: usize,
}

impl ConvGeometry {
    /// Values that a padded input row must have.
    pub fn input_len(&self) -> usize {
        let pixels = extent(self.outputs, self.dilation.saturating_mul(2).saturating_add(1), self.stride);
        extent(pixels, self.channels, self.channels)
    }

    /// The outputs all of whose pixels are `present`.
    pub(crate) fn whole(&self, Present { left, count }: Present) -> Range<usize> {
        let first = left.div_ceil(self.stride).min(self.outputs);
        let end =
            match left.saturating_add(count).checked_sub(self.dilation.saturating_mul(2).saturating_add(1)) {
                Some(last) => (last / self.stride + 1).clamp(first, self.outputs),
                None => first,
            };
        first..end
    }
}

/// Input rows that have no padding of their own.
#[derive(Clone, Copy, Debug)]
pub struct Unpadded<'a> {
    /// Which of the pixels that the outputs read are there.
    pub present: Present,
    /// What each of the others is: zeros, one a channel.
    pub beyond: &'a [f32],
    /// Values of the same image that are read next: they are asked for meanwhile.
    pub ahead: &'a [f32],
}

/// Rows of output pixels, each from three input rows, which are padded, or `unpadded`. Row y·outputs + x of `output` is
/// `epilogue(Σ inputs[y][ky][x·stride + kx·dilation][c] · filter[[ky][kx][c]])`, for the columns
/// `first_column..first_column + output.columns` of the filter. The bits are the same for either kind of rows.
///
/// # Panics
/// If a length does not fit, or `first_column` is not a multiple of [`crate::gemm::column_step`].
pub fn convolve_rows<C: Element>(
    (geometry, unpadded): (ConvGeometry, Option<Unpadded>),
    inputs: &[[&[f32]; 3]],
    filter: &PackedB,
    first_column: usize,
    output: MatrixMut<C>,
    epilogue: Epilogue,
) {
    assert_eq!(
        filter.k(),
        extent(9, geometry.channels, geometry.channels),
        "rows of the filter: [3][3][channels]"
    );
    let channels = geometry.channels;
    let padded = Present { left: 0, count: geometry.input_len() / channels.max(1) };
    let is_padded = unpadded.is_none();
    let unpadded = unpadded.unwrap_or(Unpadded { present: padded, beyond: &[], ahead: &[] });
    let needed = extent(unpadded.present.count, channels, channels);
    for row in inputs.as_flattened() {
        assert!(row.len() >= needed, "row of {} values, {needed} needed", row.len());
    }
    assert!(is_padded || unpadded.beyond.len() >= channels, "a pixel of zeros");
    let pixels = extent(inputs.len(), geometry.outputs, geometry.outputs);
    assert_eq!(output.rows, pixels, "rows of pixels of the output");
    check_columns(filter.isa, filter.n(), first_column, output.columns, epilogue);
    // SAFETY: the rows have the pixels that are present, and so has what is beyond, if any are not; the filter's
    // panels from `first_column` on cover the output's columns, and so do the epilogue's values.
    unsafe {
        ConvolveRows { geometry, unpadded, inputs, filter, first_column, output, epilogue }.compute();
    }
}

/// That the filter's `outputs` cover the columns from `first_column` on, and the epilogue too.
pub(crate) fn check_columns(
    isa: Isa,
    outputs: usize,
    first_column: usize,
    columns: usize,
    epilogue: Epilogue,
) {
    assert!(
        first_column.is_multiple_of(panel_width(isa)) && covers(outputs, first_column, columns),
        "columns of the output against the filter's"
    );
    epilogue.check(outputs);
}

struct ConvolveRows<'a, C> {
    geometry: ConvGeometry,
    unpadded: Unpadded<'a>,
    inputs: &'a [[&'a [f32]; 3]],
    filter: &'a PackedB,
    first_column: usize,
    output: MatrixMut<'a, C>,
    epilogue: Epilogue<'a>,
}

impl<'a, C: Element> ConvolveRows<'a, C> {
    /// Computes them, by a function that is not generic: such are compiled in this crate once, generic ones in every
    /// crate that calls them.
    ///
    /// # Safety
    /// The lengths must fit.
    unsafe fn compute(self) {
        // SAFETY: the caller's promise; C is the type that it says it is.
        unsafe {
            match (C::BF16, C::F16) {
                (true, _) => to_bf16(self.of_type()),
                (_, true) => to_f16(self.of_type()),
                _ => to_f32(self.of_type()),
            }
        }
    }

    /// The same with the type of its outputs by name.
    ///
    /// # Safety
    /// C must be `O`.
    unsafe fn of_type<O>(self) -> ConvolveRows<'a, O> {
        let Self { geometry, unpadded, inputs, filter, first_column, output, epilogue } = self;
        // SAFETY: the caller's promise.
        let output = unsafe { output.of_type() };
        ConvolveRows { geometry, unpadded, inputs, filter, first_column, output, epilogue }
    }

    /// Where the taps of outputs from the one at padded pixel `x` on lie in the rows: in one run a row that all
    /// outputs of a tile have; one by one for a single output of which some are not there.
    #[inline(always)]
    fn segments(&self, rows: &[&[f32]; 3], x: usize, is_edge: bool) -> ([*const f32; 9], usize) {
        let ConvGeometry { channels, dilation, .. } = self.geometry;
        let Unpadded { present: Present { left, count }, beyond, .. } = self.unpadded;
        // Neighbouring taps are one run of values, those of a dilated filter three.
        let runs = if dilation == 1 && !is_edge { 1 } else { 3 };
        let mut segments = [rows[0].as_ptr(); 9];
        for (ky, row) in rows.iter().enumerate() {
            for run in 0..runs {
                let pixel = (x + run * dilation).wrapping_sub(left);
                segments[ky * runs + run] = match pixel < count {
                    true => row.as_ptr().wrapping_add(pixel * channels),
                    false => beyond.as_ptr(),
                };
            }
        }
        (segments, 3 * runs)
    }

    /// Copies the taps of an output from the one at padded pixel `x`, for each of some rows.
    #[inline(always)]
    fn gather(&self, rows: &[[&[f32]; 3]], x: usize, patches: &mut [[f32; PATCH]; TOGETHER]) {
        let ConvGeometry { channels, dilation, .. } = self.geometry;
        let Unpadded { present: Present { left, count }, .. } = self.unpadded;
        for (rows, patch) in rows.iter().zip(patches) {
            let taps = (0..9).map(|tap| (rows[tap / 3], (x + tap % 3 * dilation).wrapping_sub(left)));
            for ((row, pixel), to) in taps.zip(patch.chunks_exact_mut(channels)) {
                match pixel < count {
                    true => to.copy_from_slice(&row[pixel * channels..][..channels]),
                    false => to.fill(0.0),
                }
            }
        }
    }
}

/// # Safety
/// As [`ConvolveRows::compute`].
#[inline(never)]
unsafe fn to_f32(rows: ConvolveRows<f32>) {
    // SAFETY: the caller's promise.
    unsafe { dispatch(rows.filter.isa, rows) }
}

/// # Safety
/// As [`ConvolveRows::compute`].
#[inline(never)]
unsafe fn to_bf16(rows: ConvolveRows<bf16>) {
    // SAFETY: the caller's promise.
    unsafe { dispatch(rows.filter.isa, rows) }
}

/// # Safety
/// As [`ConvolveRows::compute`].
#[inline(never)]
unsafe fn to_f16(rows: ConvolveRows<f16>) {
    // SAFETY: the caller's promise.
    unsafe { dispatch(rows.filter.isa, rows) }
}

/// Most values of a patch that is copied: outputs at the edges, several rows of them in one tile.
const PATCH: usize = 64;

/// Most of these rows.
const TOGETHER: usize = 8;

impl<C: Element> Kernel for ConvolveRows<'_, C> {
    type Output = ();
    const BF16: bool = C::BF16;

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        let Self { geometry, unpadded, inputs, filter, first_column, ref output, epilogue } = self;
        let Unpadded { present, ahead, .. } = unpadded;
        let ConvGeometry { outputs, channels, stride, .. } = geometry;
        let width = S::LANES * TILE_VECTORS;
        let whole = geometry.whole(present);
        let edges = (0..whole.start).chain(whole.end..outputs);
        let mut ahead = ahead.chunks(ahead.len().div_ceil(inputs.len().max(1)).max(1));
        let mut patches = [[0.0; PATCH]; TOGETHER];
        // Those in the middle together, those at the edges one by one, or below one another.
        let parts = std::iter::once((whole.clone(), false)).chain(edges.map(|x| (x..x + 1, true)));
        for (part, is_edge) in parts.filter(|(part, _)| !part.is_empty()) {
            let gathered = is_edge && 9 * channels <= PATCH;
            let across = Across::new::<S>(part.len(), output.columns);
            for index in 0..across.tiles() {
                let place = across.place(index);
                let column = first_column + place.column;
                let mut tile = Tile {
                    steps: 0,
                    half_step: false,
                    a_row: if gathered { PATCH } else { stride * channels } * VALUE,
                    a_step: VALUE,
                    b_step: width * VALUE,
                    b_others: place.panels_away::<S>(filter.k() * width) * VALUE as isize,
                    c_row: if gathered { outputs } else { 1 } * output.stride,
                    columns: place.columns,
                    others: place.others,
                    accumulate: false,
                    bias: epilogue.bias.map(|bias| bias.as_ptr().wrapping_add(column)),
                    clamp: epilogue.clamp,
                    lowered: epilogue.lowered.map(|lowered| lowered.as_ptr().wrapping_add(column)),
                    ahead: Panels::one(filter.data.as_ptr(), 0),
                    next: filter.data.as_ptr(),
                    next_len: 0,
                };
                let together = if gathered { TOGETHER } else { 1 };
                for (group, rows) in inputs.chunks(together).enumerate() {
                    // (At the first panel; what is asked for then is there.)
                    let next = ahead.next().unwrap_or_default();
                    (tile.next, tile.next_len) = (next.as_ptr(), next.len());
                    let x = part.start * stride;
                    let (segments, count) = match gathered {
                        true => {
                            self.gather(rows, x, &mut patches);
                            ([patches.as_ptr().cast(); 9], 1)
                        }
                        false => self.segments(&rows[0], x, is_edge),
                    };
                    tile.steps = 9 * channels / count;
                    let tall = if gathered { rows.len() } else { part.len() };
                    let pixel = group * together * outputs + part.start;
                    let to = output.data.wrapping_add(pixel * output.stride + place.column);
                    // SAFETY: `convolve_rows` checked inputs, panels and bias, and that the output has
                    // so many rows of its stride.
                    unsafe {
                        let b = filter.data.as_ptr().add(column * filter.k());
                        tile.down::<S, _>(s, tall, &segments[..count], b, to);
                    }
                }
            }
        }
    }
}
