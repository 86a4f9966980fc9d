//! The backward pass of a depthwise 3×3 convolution, by rows of its input: one walk over a row gives
//! the gradient of the input, the share of the filter's gradient, and the sums that the batch
//! normalisation of the layer before needs.
//!
//! With p = x + left counted from the padding on, tap k of input x belongs to output
//! (p − k·dilation) / stride, where that is whole. All taps of an input pixel are therefore read
//! from the gradient of the output; of the input itself only the pixel is needed, so that it is
//! normalised and activated on the way and no padded copy of it exists.

#![allow(clippy::needless_range_loop)] // taps are indices into several arrays at once

use crate::batch_norm::{GradientSums, Normalisation};
use crate::depthwise::TAPS;
use crate::element::Element;
use crate::extent::extent;
use crate::isa::Isa;
use crate::simd::{self, Kernel, Simd, dispatch, for_channel_blocks};

/// Zero pixels that stand before the first one of a row of gradients.
pub const ZEROS: usize = 2;

/// How a row of input pixels lies to the rows of output gradients.
#[derive(Clone, Copy, Debug)]
pub struct BackwardGeometry {
    /// Pixels of an input row.
    pub inputs: usize,
    /// Pixels of an output row.
    pub outputs: usize,
    /// Channels of every pixel.
    pub channels: usize,
    /// Values from one pixel of a row of gradients to the next, at least `channels`.
    pub pixel_stride: usize,
    /// Columns of padding before an input row.
    pub left: usize,
    /// Pixels between neighbouring outputs.
    pub stride: usize,
    /// Pixels between neighbouring taps.
    pub dilation: usize,
}

impl BackwardGeometry {
    /// Values of a row of gradients: [`ZEROS`] pixels of zeros, the outputs, and zeros as far as an
    /// input may look.
    pub fn gradient_row_len(&self) -> usize {
        let behind = self.inputs.saturating_add(self.left).div_ceil(self.stride);
        extent(self.outputs.max(behind).saturating_add(ZEROS), self.pixel_stride, self.pixel_stride)
    }
}

/// What a walk over a row adds to.
#[derive(Debug)]
pub struct RowGradients<'a> {
    /// The filter's gradient, `[9][channels]`.
    pub filter: &'a mut [f32],
    /// The sums of the layer before; after the last row, [`GradientSums::flush`] makes them whole.
    pub sums: &'a mut GradientSums,
}

/// One row of the input, `z` its raw values and `before` how they are normalised and activated:
///
/// - `d_input[x][c] = Σ d_rows[ky][(x + left − kx·dilation) / stride][c] · weights[3·ky + kx][c]`;
/// - the filter's gradient grows by the activated input times the same values of `d_rows`;
/// - the sums grow by `d_input` (before it is rounded to be stored), as [`GradientSums::add_rows`] does.
///
/// `d_rows[ky]` is the row of output gradients that tap row ky of this input row belongs to (see
/// [`BackwardGeometry::gradient_row_len`]), if there is one. `ahead`, two rows of so many channels as well, is asked for
/// meanwhile, as is what follows `z` and `d_input`.
///
/// # Panics
/// If a length does not fit `geometry`.
#[allow(clippy::too_many_arguments)]
pub fn backward_row<E: Element>(
    isa: Isa,
    geometry: BackwardGeometry,
    d_rows: [Option<&[f32]>; 3],
    weights: &[f32],
    before: Normalisation,
    z: &[E],
    d_input: &mut [E],
    gradients: RowGradients,
    ahead: [&[E]; 2],
) {
    let BackwardGeometry { inputs, channels, pixel_stride, .. } = geometry;
    assert!(pixel_stride >= channels && channels > 0 && geometry.stride > 0, "pixel stride");
    for row in d_rows.iter().flatten() {
        assert!(row.len() >= geometry.gradient_row_len(), "row of {} gradients", row.len());
    }
    assert!(weights.len() == TAPS * channels && gradients.filter.len() == TAPS * channels, "[9][channels]");
    before.check(channels, d_input, z);
    assert_eq!(z.len(), inputs * channels, "input row");
    let (sum, deviation) = gradients.sums.lanes(channels);
    let work = BackwardRow {
        geometry,
        d_rows,
        weights,
        before,
        z,
        d_input,
        filter: gradients.filter,
        sum,
        deviation,
        ahead: ahead.map(<[E]>::as_ptr),
        ahead_pixels: ahead[0].len().min(ahead[1].len()) / channels,
    };
    // SAFETY: the lengths are as `geometry` needs them; `lanes` gives one value a channel.
    unsafe { dispatch(isa, work) }
    gradients.sums.count(inputs);
}

struct BackwardRow<'a, E> {
    geometry: BackwardGeometry,
    d_rows: [Option<&'a [f32]>; 3],
    weights: &'a [f32],
    before: Normalisation<'a>,
    z: &'a [E],
    d_input: &'a mut [E],
    filter: &'a mut [f32],
    sum: &'a mut [f32],
    deviation: &'a mut [f32],
    ahead: [*const E; 2],
    ahead_pixels: usize,
}

impl<E: Element> Kernel for BackwardRow<'_, E> {
    type Output = ();
    const BF16: bool = E::BF16;

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self, s: S) {
        // The tap rows that there are, and their rows of gradients from the zeros' end on.
        let mut rows = [(0, std::ptr::null()); 3];
        let mut count = 0;
        for (ky, row) in self.d_rows.iter().enumerate() {
            if let Some(row) = row {
                rows[count] = (ky, row.as_ptr().wrapping_add(ZEROS * self.geometry.pixel_stride));
                count += 1;
            }
        }
        // SAFETY: `backward_row` checked every length.
        unsafe {
            match count {
                0 => self.walk::<S, 0>(s, []),
                1 => self.walk::<S, 1>(s, [rows[0]]),
                2 => self.walk::<S, 2>(s, [rows[0], rows[1]]),
                _ => self.walk::<S, 3>(s, rows),
            }
        }
    }
}

/// Inputs whose lines stay in the L1 cache while all channels of them are walked; even, so that a
/// segment of stride 2 begins with the same tap as the row.
const SEGMENT: usize = 32;

/// A tap row and its row of gradients.
type TapRow = (usize, *const f32);

/// What stays in registers while the pixels of a block of channels go by.
struct Lanes<S: Simd, const ROWS: usize> {
    weights: [[S::V; 3]; ROWS],
    filter: [[S::V; 3]; ROWS],
    sum: S::V,
    deviation: S::V,
    scale: S::V,
    shift: S::V,
    mean: S::V,
    low: S::V,
    high: S::V,
}

impl<E: Element> BackwardRow<'_, E> {
    #[inline(always)]
    unsafe fn walk<S: Simd, const ROWS: usize>(&mut self, s: S, rows: [TapRow; ROWS]) {
        let BackwardGeometry { inputs, channels, stride, dilation, .. } = self.geometry;
        // SAFETY: see `run`.
        unsafe {
            for first in (0..inputs).step_by(SEGMENT) {
                let end = inputs.min(first + SEGMENT);
                for_channel_blocks!(S, channels, |c, n, PARTIAL| {
                    // (Each with lanes of its own: those of a loop that is not unrolled stay in memory.)
                    match (stride, dilation) {
                        (1, 1) => {
                            let mut lanes = self.load::<S, PARTIAL, ROWS>(s, rows, c, n);
                            for x in first..end {
                                let at = (x + self.geometry.left) as isize;
                                self.pixel::<S, PARTIAL, ROWS, 0, 1>(s, rows, c, n, x, at, &mut lanes);
                            }
                            self.store::<S, PARTIAL, ROWS>(s, rows, c, n, &lanes);
                        }
                        (2, 1) => {
                            let mut lanes = self.load::<S, PARTIAL, ROWS>(s, rows, c, n);
                            for x in first..end {
                                let at = x + self.geometry.left;
                                let output = (at / 2) as isize;
                                if at.is_multiple_of(2) {
                                    self.pixel::<S, PARTIAL, ROWS, 0, 2>(
                                        s, rows, c, n, x, output, &mut lanes,
                                    );
                                } else {
                                    self.pixel::<S, PARTIAL, ROWS, 1, 2>(
                                        s, rows, c, n, x, output, &mut lanes,
                                    );
                                }
                            }
                            self.store::<S, PARTIAL, ROWS>(s, rows, c, n, &lanes);
                        }
                        _ => {
                            let mut lanes = self.load::<S, PARTIAL, ROWS>(s, rows, c, n);
                            for x in first..end {
                                self.any_pixel::<S, PARTIAL, ROWS>(s, rows, c, n, x, &mut lanes);
                            }
                            self.store::<S, PARTIAL, ROWS>(s, rows, c, n, &lanes);
                        }
                    }
                });
            }
        }
    }

    #[inline(always)]
    unsafe fn load<S: Simd, const PARTIAL: bool, const ROWS: usize>(
        &self,
        s: S,
        rows: [TapRow; ROWS],
        c: usize,
        n: usize,
    ) -> Lanes<S, ROWS> {
        // SAFETY: see `run`: there is a value a channel of everything, nine of the filters.
        unsafe {
            let channels = self.geometry.channels;
            let Normalisation { affine, mean, clamp } = self.before;
            let mut lanes = Lanes {
                weights: [[s.splat(0.0); 3]; ROWS],
                filter: [[s.splat(0.0); 3]; ROWS],
                sum: simd::load::<S, PARTIAL>(s, self.sum.as_ptr().add(c), n),
                deviation: simd::load::<S, PARTIAL>(s, self.deviation.as_ptr().add(c), n),
                scale: simd::load::<S, PARTIAL>(s, affine.scale.as_ptr().add(c), n),
                shift: simd::load::<S, PARTIAL>(s, affine.shift.as_ptr().add(c), n),
                mean: simd::load::<S, PARTIAL>(s, mean.as_ptr().add(c), n),
                low: s.splat(clamp.low),
                high: s.splat(clamp.high),
            };
            for row in 0..ROWS {
                for kx in 0..3 {
                    let at = (3 * rows[row].0 + kx) * channels + c;
                    lanes.weights[row][kx] = simd::load::<S, PARTIAL>(s, self.weights.as_ptr().add(at), n);
                    lanes.filter[row][kx] = simd::load::<S, PARTIAL>(s, self.filter.as_ptr().add(at), n);
                }
            }
            lanes
        }
    }

    #[inline(always)]
    unsafe fn store<S: Simd, const PARTIAL: bool, const ROWS: usize>(
        &mut self,
        s: S,
        rows: [TapRow; ROWS],
        c: usize,
        n: usize,
        lanes: &Lanes<S, ROWS>,
    ) {
        // SAFETY: as in `load`.
        unsafe {
            for row in 0..ROWS {
                for kx in 0..3 {
                    let at = (3 * rows[row].0 + kx) * self.geometry.channels + c;
                    simd::store::<S, PARTIAL>(s, self.filter.as_mut_ptr().add(at), lanes.filter[row][kx], n);
                }
            }
            simd::store::<S, PARTIAL>(s, self.sum.as_mut_ptr().add(c), lanes.sum, n);
            simd::store::<S, PARTIAL>(s, self.deviation.as_mut_ptr().add(c), lanes.deviation, n);
        }
    }

    /// One pixel of which the taps `FIRST`, `FIRST + STEP`, … read outputs `output`, `output − 1`, …
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    unsafe fn pixel<
        S: Simd,
        const PARTIAL: bool,
        const ROWS: usize,
        const FIRST: usize,
        const STEP: usize,
    >(
        &mut self,
        s: S,
        rows: [TapRow; ROWS],
        c: usize,
        n: usize,
        x: usize,
        output: isize,
        lanes: &mut Lanes<S, ROWS>,
    ) {
        // SAFETY: see `run`; the outputs lie within −ZEROS and what `gradient_row_len` counts.
        unsafe {
            let pixel = self.geometry.pixel_stride as isize;
            let at = x * self.geometry.channels + c;
            let z = simd::load::<S, PARTIAL>(s, self.z.as_ptr().add(at), n);
            // A row lies behind this one, and the walk over channels hides it from the prefetchers.
            s.prefetch(self.z.as_ptr().wrapping_add(self.z.len() + at).cast());
            s.prefetch(self.d_input.as_ptr().wrapping_add(self.z.len() + at).cast());
            if x < self.ahead_pixels {
                s.prefetch(self.ahead[0].wrapping_add(at).cast());
                s.prefetch(self.ahead[1].wrapping_add(at).cast());
            }
            let raw = s.mul_add(z, lanes.scale, lanes.shift);
            let input = s.clamp(raw, lanes.low, lanes.high);
            let mut d_input = s.splat(0.0);
            for row in 0..ROWS {
                let mut from = rows[row].1.offset(output * pixel + c as isize);
                let mut kx = FIRST;
                while kx < 3 {
                    let d = simd::load::<S, PARTIAL>(s, from, n);
                    d_input = s.mul_add(d, lanes.weights[row][kx], d_input);
                    lanes.filter[row][kx] = s.mul_add(input, d, lanes.filter[row][kx]);
                    from = from.wrapping_offset(-pixel);
                    kx += STEP;
                }
            }
            self.finish::<S, PARTIAL, ROWS>(s, c, n, x, (z, raw, d_input), lanes);
        }
    }

    /// One pixel of any stride and dilation.
    #[inline(always)]
    unsafe fn any_pixel<S: Simd, const PARTIAL: bool, const ROWS: usize>(
        &mut self,
        s: S,
        rows: [TapRow; ROWS],
        c: usize,
        n: usize,
        x: usize,
        lanes: &mut Lanes<S, ROWS>,
    ) {
        // SAFETY: see `run`; only outputs that there are are read.
        unsafe {
            let BackwardGeometry { outputs, channels, pixel_stride, left, stride, dilation, .. } =
                self.geometry;
            let z = simd::load::<S, PARTIAL>(s, self.z.as_ptr().add(x * channels + c), n);
            let raw = s.mul_add(z, lanes.scale, lanes.shift);
            let input = s.clamp(raw, lanes.low, lanes.high);
            let mut d_input = s.splat(0.0);
            for kx in 0..3 {
                let Some(at) = (x + left).checked_sub(kx * dilation) else { continue };
                if !at.is_multiple_of(stride) || at / stride >= outputs {
                    continue;
                }
                for row in 0..ROWS {
                    let from = rows[row].1.add(at / stride * pixel_stride + c);
                    let d = simd::load::<S, PARTIAL>(s, from, n);
                    d_input = s.mul_add(d, lanes.weights[row][kx], d_input);
                    lanes.filter[row][kx] = s.mul_add(input, d, lanes.filter[row][kx]);
                }
            }
            self.finish::<S, PARTIAL, ROWS>(s, c, n, x, (z, raw, d_input), lanes);
        }
    }

    /// Stores a pixel's gradient and adds it to the sums.
    #[inline(always)]
    unsafe fn finish<S: Simd, const PARTIAL: bool, const ROWS: usize>(
        &mut self,
        s: S,
        c: usize,
        n: usize,
        x: usize,
        (z, raw, d_input): (S::V, S::V, S::V),
        lanes: &mut Lanes<S, ROWS>,
    ) {
        // SAFETY: see `run`.
        unsafe {
            let to = self.d_input.as_mut_ptr().add(x * self.geometry.channels + c);
            simd::store::<S, PARTIAL>(s, to, d_input, n);
            let d = s.keep_inside(d_input, raw, lanes.low, lanes.high);
            lanes.sum = s.add(lanes.sum, d);
            lanes.deviation = s.mul_add(d, s.sub(z, lanes.mean), lanes.deviation);
        }
    }
}
