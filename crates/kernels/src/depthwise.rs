//! Depthwise 3×3 convolution by rows: forward, and the gradients of input and filter.
//!
//! A row here is padded: its zero columns are part of the slice, so no loop asks whether it is at
//! an edge. Whoever calls keeps a few such rows in the cache ([`crate::batch_norm`] fills them) and
//! hands over the three that a filter touches; a row above or below the image is a row of zeros.
//! Stride, dilation and every padding convention are then only a matter of which rows and where.

#![allow(clippy::needless_range_loop)] // taps are indices into several arrays at once

use crate::activation::Clamp;
use crate::isa::Isa;
use crate::simd::{self, Kernel, Simd, dispatch, for_channel_blocks};

/// Taps of the filter.
pub const TAPS: usize = 9;

/// A pixel stride that is odd in cache lines: with 512 channels and no gap, all the pixels that a
/// filter touches would compete for two of the cache's sets.
pub fn pixel_stride(channels: usize) -> usize {
    const LINE: usize = 16;
    if channels < 8 * LINE { channels } else { (channels.div_ceil(LINE) | 1) * LINE }
}

/// How a row of output pixels reads a padded row: output x, tap k reads pixel
/// `x * stride + k * dilation`.
#[derive(Clone, Copy, Debug)]
pub struct RowGeometry {
    /// Number of output pixels.
    pub outputs: usize,
    /// Channels of every pixel.
    pub channels: usize,
    /// Values from one pixel of an input row to the next, at least `channels`: see
    /// [`pixel_stride`].
    pub pixel_stride: usize,
    /// Values from one output pixel to the next, at least `channels`.
    pub output_stride: usize,
    /// Pixels between neighbouring outputs.
    pub stride: usize,
    /// Pixels between neighbouring taps.
    pub dilation: usize,
}

impl RowGeometry {
    /// Values that a padded input row must have.
    pub fn input_len(&self) -> usize {
        if self.outputs == 0 {
            return 0;
        }
        ((self.outputs - 1) * self.stride + 2 * self.dilation) * self.pixel_stride + self.channels
    }

    fn check(&self, rows: &[&[f32]; 3], weights: usize, outputs: usize) {
        assert!(self.pixel_stride >= self.channels && self.channels > 0, "pixel stride");
        assert!(self.output_stride >= self.channels, "output stride");
        for row in rows {
            assert!(
                row.len() >= self.input_len(),
                "padded row of {} values, {} needed",
                row.len(),
                self.input_len()
            );
        }
        assert_eq!(weights, TAPS * self.channels, "depthwise weights are [9][channels]");
        assert_eq!(outputs, self.outputs * self.output_stride, "output row is [outputs][output stride]");
    }
}

/// What happens to a finished output pixel before it is stored.
#[derive(Clone, Copy, Debug)]
pub struct RowEpilogue<'a> {
    /// Added to every pixel, one value a channel.
    pub bias: &'a [f32],
    /// Applied after the bias.
    pub clamp: Clamp,
}

/// One output row: `output[x][c] = Σ rows[ky][x·stride + kx·dilation][c] · weights[3·ky + kx][c]`.
///
/// What lies between output pixels (see [`RowGeometry::output_stride`]) stays as it is.
/// With the filter turned by 180° and rows of output gradients this is also the gradient of the
/// input (see [`turned`]).
///
/// # Panics
/// If a length does not fit `geometry`.
pub fn convolve_row(
    isa: Isa,
    geometry: RowGeometry,
    rows: [&[f32]; 3],
    weights: &[f32],
    epilogue: Option<RowEpilogue>,
    output: &mut [f32],
) {
    geometry.check(&rows, weights.len(), output.len());
    if let Some(epilogue) = epilogue {
        assert_eq!(epilogue.bias.len(), geometry.channels, "one bias a channel");
    }
    // SAFETY: the lengths are as `geometry` needs them.
    unsafe { dispatch(isa, ConvolveRow { geometry, rows, weights, epilogue, output }) }
}

struct ConvolveRow<'a> {
    geometry: RowGeometry,
    rows: [&'a [f32]; 3],
    weights: &'a [f32],
    epilogue: Option<RowEpilogue<'a>>,
    output: &'a mut [f32],
}

impl Kernel for ConvolveRow<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self, s: S) {
        let RowGeometry { stride, dilation, .. } = self.geometry;
        // SAFETY: `convolve_row` checked every length.
        unsafe {
            match (stride, dilation) {
                (1, 1) => self.row::<S, 4, 1>(s),
                (2, 1) => self.row::<S, 2, 2>(s),
                _ => self.row::<S, 0, 0>(s),
            }
        }
    }
}

/// A block of channels of all nine taps, which are `channels` apart.
#[inline(always)]
unsafe fn taps<S: Simd, const PARTIAL: bool>(
    s: S,
    from: *const f32,
    channels: usize,
    n: usize,
) -> [[S::V; 3]; 3] {
    // SAFETY: the callers checked that nine rows of `channels` are there.
    unsafe {
        let mut taps = [[s.splat(0.0); 3]; 3];
        for ky in 0..3 {
            for kx in 0..3 {
                taps[ky][kx] = simd::load::<S, PARTIAL>(s, from.wrapping_add((3 * ky + kx) * channels), n);
            }
        }
        taps
    }
}

impl ConvolveRow<'_> {
    /// The row, `GROUP` outputs at a time, which share what they load; what is left, and everything
    /// when `GROUP` is 0 (stride and dilation known at run time only), one at a time.
    #[inline(always)]
    unsafe fn row<S: Simd, const GROUP: usize, const STRIDE: usize>(&mut self, s: S) {
        let RowGeometry { outputs, channels, .. } = self.geometry;
        let mut x = 0;
        // SAFETY: see `run`.
        unsafe {
            while GROUP > 0 && x + GROUP <= outputs {
                for_channel_blocks!(S, channels, |c, n, PARTIAL| {
                    let weights = self.filter::<S, PARTIAL>(s, c, n);
                    self.group::<S, PARTIAL, GROUP, STRIDE>(s, c, n, x, &weights);
                });
                x += GROUP;
            }
            while GROUP > 2 && x + 2 <= outputs {
                for_channel_blocks!(S, channels, |c, n, PARTIAL| {
                    let weights = self.filter::<S, PARTIAL>(s, c, n);
                    self.group::<S, PARTIAL, 2, STRIDE>(s, c, n, x, &weights);
                });
                x += 2;
            }
            while x < outputs {
                for_channel_blocks!(S, channels, |c, n, PARTIAL| {
                    let weights = self.filter::<S, PARTIAL>(s, c, n);
                    self.single::<S, PARTIAL>(s, c, n, x, &weights);
                });
                x += 1;
            }
        }
    }

    #[inline(always)]
    unsafe fn filter<S: Simd, const PARTIAL: bool>(&self, s: S, c: usize, n: usize) -> [[S::V; 3]; 3] {
        // SAFETY: see `run`.
        unsafe { taps::<S, PARTIAL>(s, self.weights.as_ptr().wrapping_add(c), self.geometry.channels, n) }
    }

    #[inline(always)]
    unsafe fn group<S: Simd, const PARTIAL: bool, const GROUP: usize, const STRIDE: usize>(
        &mut self,
        s: S,
        c: usize,
        n: usize,
        x: usize,
        weights: &[[S::V; 3]; 3],
    ) {
        // SAFETY: see `run`; the last column that is read belongs to the group's last output.
        unsafe {
            let pixel = self.geometry.pixel_stride;
            let mut sums = [s.splat(0.0); GROUP];
            for ky in 0..3 {
                let row = self.rows[ky].as_ptr().add(x * STRIDE * pixel + c);
                for column in 0..(GROUP - 1) * STRIDE + 3 {
                    let value = simd::load::<S, PARTIAL>(s, row.add(column * pixel), n);
                    for (output, sum) in sums.iter_mut().enumerate() {
                        if column >= output * STRIDE && column < output * STRIDE + 3 {
                            *sum = s.mul_add(value, weights[ky][column - output * STRIDE], *sum);
                        }
                    }
                }
            }
            for (output, sum) in sums.into_iter().enumerate() {
                self.finish::<S, PARTIAL>(s, c, n, x + output, sum);
            }
        }
    }

    #[inline(always)]
    unsafe fn single<S: Simd, const PARTIAL: bool>(
        &mut self,
        s: S,
        c: usize,
        n: usize,
        x: usize,
        weights: &[[S::V; 3]; 3],
    ) {
        // SAFETY: see `run`.
        unsafe {
            let RowGeometry { pixel_stride, stride, dilation, .. } = self.geometry;
            let mut sum = s.splat(0.0);
            for ky in 0..3 {
                let row = self.rows[ky].as_ptr().add(x * stride * pixel_stride + c);
                for kx in 0..3 {
                    let value = simd::load::<S, PARTIAL>(s, row.add(kx * dilation * pixel_stride), n);
                    sum = s.mul_add(value, weights[ky][kx], sum);
                }
            }
            self.finish::<S, PARTIAL>(s, c, n, x, sum);
        }
    }

    #[inline(always)]
    unsafe fn finish<S: Simd, const PARTIAL: bool>(&mut self, s: S, c: usize, n: usize, x: usize, sum: S::V) {
        // SAFETY: see `run`; the bias has a value a channel.
        unsafe {
            let mut sum = sum;
            if let Some(RowEpilogue { bias, clamp }) = self.epilogue {
                sum = s.add(sum, simd::load::<S, PARTIAL>(s, bias.as_ptr().add(c), n));
                sum = s.clamp(sum, s.splat(clamp.low), s.splat(clamp.high));
            }
            let to = self.output.as_mut_ptr().add(x * self.geometry.output_stride + c);
            simd::store::<S, PARTIAL>(s, to, sum, n);
        }
    }
}

/// Adds one output row's part of the filter's gradient:
/// `grad[3·ky + kx][c] += Σₓ rows[ky][x·stride + kx·dilation][c] · d_output[x][c]`.
///
/// # Panics
/// If a length does not fit `geometry`.
pub fn accumulate_filter_gradient(
    isa: Isa,
    geometry: RowGeometry,
    rows: [&[f32]; 3],
    d_output: &[f32],
    grad: &mut [f32],
) {
    geometry.check(&rows, grad.len(), d_output.len());
    // SAFETY: the lengths are as `geometry` needs them.
    unsafe { dispatch(isa, FilterGradient { geometry, rows, d_output, grad }) }
}

struct FilterGradient<'a> {
    geometry: RowGeometry,
    rows: [&'a [f32]; 3],
    d_output: &'a [f32],
    grad: &'a mut [f32],
}

impl Kernel for FilterGradient<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self, s: S) {
        let RowGeometry { outputs, channels, stride, dilation, .. } = self.geometry;
        // SAFETY: `accumulate_filter_gradient` checked every length.
        unsafe {
            for first in (0..outputs).step_by(SEGMENT) {
                let end = outputs.min(first + SEGMENT);
                for_channel_blocks!(S, channels, |c, n, PARTIAL| {
                    match (stride, dilation) {
                        (1, 1) => self.segment::<S, PARTIAL, 2, 1>(s, c, n, first, end),
                        (2, 1) => self.segment::<S, PARTIAL, 2, 2>(s, c, n, first, end),
                        _ => self.segment::<S, PARTIAL, 0, 0>(s, c, n, first, end),
                    }
                });
            }
        }
    }
}

/// Outputs whose inputs stay in the L1 cache while all channels of them are walked.
const SEGMENT: usize = 16;

impl FilterGradient<'_> {
    /// The outputs `first..end` of one block of channels, `GROUP` at a time as in
    /// [`ConvolveRow::row`]; the nine sums stay in registers.
    #[inline(always)]
    unsafe fn segment<S: Simd, const PARTIAL: bool, const GROUP: usize, const STRIDE: usize>(
        &mut self,
        s: S,
        c: usize,
        n: usize,
        first: usize,
        end: usize,
    ) {
        // SAFETY: see `run`; the last column that is read belongs to the last output.
        unsafe {
            let RowGeometry { channels, pixel_stride, output_stride, stride, dilation, .. } = self.geometry;
            let grad = self.grad.as_mut_ptr().add(c);
            let d_output = self.d_output.as_ptr().add(c);
            let mut sums = taps::<S, PARTIAL>(s, grad, channels, n);
            let mut x = first;
            while GROUP > 0 && x + GROUP <= end {
                let mut d = [s.splat(0.0); GROUP];
                for (output, d) in d.iter_mut().enumerate() {
                    *d = simd::load::<S, PARTIAL>(s, d_output.add((x + output) * output_stride), n);
                }
                for ky in 0..3 {
                    let row = self.rows[ky].as_ptr().add(x * STRIDE * pixel_stride + c);
                    for column in 0..(GROUP.max(1) - 1) * STRIDE + 3 {
                        let value = simd::load::<S, PARTIAL>(s, row.add(column * pixel_stride), n);
                        for (output, &d) in d.iter().enumerate() {
                            if column >= output * STRIDE && column < output * STRIDE + 3 {
                                let kx = column - output * STRIDE;
                                sums[ky][kx] = s.mul_add(value, d, sums[ky][kx]);
                            }
                        }
                    }
                }
                x += GROUP;
            }
            while x < end {
                let d = simd::load::<S, PARTIAL>(s, d_output.add(x * output_stride), n);
                for ky in 0..3 {
                    let row = self.rows[ky].as_ptr().add(x * stride * pixel_stride + c);
                    for kx in 0..3 {
                        let value = simd::load::<S, PARTIAL>(s, row.add(kx * dilation * pixel_stride), n);
                        sums[ky][kx] = s.mul_add(value, d, sums[ky][kx]);
                    }
                }
                x += 1;
            }
            for (ky, sums) in sums.into_iter().enumerate() {
                for (kx, sum) in sums.into_iter().enumerate() {
                    simd::store::<S, PARTIAL>(s, grad.add((3 * ky + kx) * channels), sum, n);
                }
            }
        }
    }
}

/// Rearranges a filter from `[channels][9]` (as weights are stored) to `[9][channels]`.
///
/// # Panics
/// If a length is not 9 · `channels`.
pub fn by_tap(filter: &[f32], channels: usize, out: &mut [f32]) {
    assert!(filter.len() == TAPS * channels && out.len() == TAPS * channels);
    for (channel, taps) in filter.chunks_exact(TAPS).enumerate() {
        for (tap, &weight) in taps.iter().enumerate() {
            out[tap * channels + channel] = weight;
        }
    }
}

/// Turns a filter `[9][channels]` by 180°: what [`convolve_row`] needs to carry gradients back.
///
/// # Panics
/// If the lengths differ or are not 9 · `channels`.
pub fn turned(filter: &[f32], channels: usize, out: &mut [f32]) {
    assert!(filter.len() == TAPS * channels && out.len() == TAPS * channels);
    for tap in 0..TAPS {
        let from = (TAPS - 1 - tap) * channels;
        out[tap * channels..][..channels].copy_from_slice(&filter[from..][..channels]);
    }
}
