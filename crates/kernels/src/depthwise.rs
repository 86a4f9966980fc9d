//! Depthwise 3×3 convolution by rows, forward ([`crate::depthwise_backward`] has the gradients).
//!
//! Whoever calls hands over the three rows that a filter touches; a row above or below the image is
//! a row of zeros. A row is padded, its zero columns part of the slice ([`crate::batch_norm`] fills
//! such rows), or it holds the image's pixels only ([`RowGeometry::present`]). Stride, dilation and
//! every padding convention are then only a matter of which rows and where.

#![allow(clippy::needless_range_loop)] // taps are indices into several arrays at once

mod groups;
mod lanes;
mod slide;

#[cfg(target_arch = "x86_64")]
use half::{bf16, f16};

use crate::activation::Clamp;
use crate::element::Element;
use crate::extent::extent;
use crate::isa::Isa;
use crate::simd::{Kernel, Simd, dispatch};
use lanes::{Floats, Lanes};

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
    /// Which of the pixels that the outputs read are there, the others being zero; `None`: all.
    /// ([`convolve_row`] only.)
    pub present: Option<Present>,
}

/// The pixels of a row that has no padding of its own.
#[derive(Clone, Copy, Debug)]
pub struct Present {
    /// Zero pixels before the first one.
    pub left: usize,
    /// Number of pixels.
    pub count: usize,
}

impl RowGeometry {
    /// Values that an input row must have.
    pub fn input_len(&self) -> usize {
        let pixels = match (self.present, self.outputs) {
            (Some(Present { count, .. }), _) => count,
            (None, 0) => 0,
            (None, outputs) => {
                extent(outputs, self.dilation.saturating_mul(2).saturating_add(1), self.stride)
            }
        };
        extent(pixels, self.channels, self.pixel_stride)
    }

    /// Values of an output row, with what lies behind its last pixel.
    fn output_row(&self) -> usize {
        extent(self.outputs, self.output_stride, self.output_stride)
    }

    fn check(&self, rows: &[&[impl Element]; 3], weights: usize, outputs: usize) {
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
        assert_eq!(
            weights,
            extent(TAPS, self.channels, self.channels),
            "depthwise weights are [9][channels]"
        );
        assert_eq!(outputs, self.output_row(), "output row is [outputs][output stride]");
    }
}

/// What happens to a finished output pixel before it is stored.
#[derive(Clone, Copy, Debug)]
pub struct RowEpilogue<'a> {
    /// What every pixel's sum begins with, one value a channel.
    pub bias: &'a [f32],
    /// Applied after the bias.
    pub clamp: Clamp,
    /// Where input or output are kept less a value a channel.
    pub centring: Centring<'a>,
    /// Whether sums of f16 values to be stored as bf16 may be taken in half precision (where there is
    /// AVX512-FP16): filter, bias and bounds are rounded to f16, and no sum of products may leave its range. Outputs
    /// that are less than 2, in absolute value, are stored faster there: of two equally near values of bf16 it is the
    /// larger one then, and what is below 2⁻¹⁴ is exact to 2⁻¹⁵ only.
    pub half_sums: bool,
}

/// Of rows that are kept less a value a channel: so more of what varies is left when they are rounded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Centring<'a> {
    /// What a column of pixels that are not there ([`RowGeometry::present`]) adds to a sum, `[3][channels]` by
    /// its place under the filter; `None`: nothing, as they are zero.
    pub outside: Option<&'a [f32]>,
    /// How much lower the bounds lie, one value a channel; the bias has them taken off already.
    pub lowered: Option<&'a [f32]>,
}

/// One output row: `output[x][c] = Σ rows[ky][x·stride + kx·dilation][c] · weights[3·ky + kx][c]`.
///
/// What lies between output pixels (see [`RowGeometry::output_stride`]) stays as it is.
///
/// # Panics
/// If a length does not fit `geometry`.
pub fn convolve_row<E: Element, O: Element>(
    isa: Isa,
    geometry: RowGeometry,
    rows: [&[E]; 3],
    weights: &[f32],
    epilogue: Option<RowEpilogue>,
    output: &mut [O],
) {
    convolve_rows(isa, geometry, &[rows], weights, epilogue, output, &[]);
}

/// How many output rows [`convolve_rows`] likes best at a time.
pub fn rows_together(stride: usize) -> usize {
    if stride == 1 { 4 } else { 2 }
}

/// Output rows that follow one another, each from three input rows (see [`convolve_row`]). Together
/// they are faster: an input row that several of them read comes into the first-level cache once.
///
/// `ahead` is asked for into the second-level cache meanwhile: the arithmetic leaves the memory idle.
///
/// # Panics
/// If a length does not fit `geometry`.
pub fn convolve_rows<E: Element, O: Element>(
    isa: Isa,
    geometry: RowGeometry,
    inputs: &[[&[E]; 3]],
    weights: &[f32],
    epilogue: Option<RowEpilogue>,
    output: &mut [O],
    ahead: &[O],
) {
    let row = geometry.output_row();
    assert_eq!(output.len(), extent(inputs.len(), row, row), "one output row for each three input rows");
    for rows in inputs {
        geometry.check(rows, weights.len(), row);
    }
    if let Some(epilogue) = epilogue {
        let Centring { outside, lowered } = epilogue.centring;
        for values in [Some(epilogue.bias), lowered].into_iter().flatten() {
            assert_eq!(values.len(), geometry.channels, "one value a channel");
        }
        assert!(outside.is_none_or(|outside| outside.len() == 3 * geometry.channels), "one value a column");
    }
    let work = ConvolveRows { geometry, inputs, weights, epilogue, output, ahead };
    #[cfg(target_arch = "x86_64")]
    if E::F16
        && O::BF16
        && isa.has_half_arithmetic()
        && slide::can(geometry)
        && epilogue.is_some_and(|epilogue| epilogue.half_sums)
    {
        // SAFETY: the types are what they are, the lengths as `geometry` needs them, and the instructions there.
        return unsafe { lanes::run_in_halves(work.of_halves()) };
    }
    // SAFETY: the lengths are as `geometry` needs them.
    unsafe { dispatch(isa, work) }
}

struct ConvolveRows<'a, E, O> {
    geometry: RowGeometry,
    inputs: &'a [[&'a [E]; 3]],
    weights: &'a [f32],
    epilogue: Option<RowEpilogue<'a>>,
    output: &'a mut [O],
    ahead: &'a [O],
}

#[cfg(target_arch = "x86_64")]
impl<'a, E: Element, O: Element> ConvolveRows<'a, E, O> {
    /// The same with its types by name.
    ///
    /// # Safety
    /// `E` must be f16, and `O` bf16.
    unsafe fn of_halves(self) -> ConvolveRows<'a, f16, bf16> {
        let Self { geometry, inputs, weights, epilogue, output, ahead } = self;
        // SAFETY: the caller's promise.
        unsafe {
            ConvolveRows {
                geometry,
                inputs: &*(std::ptr::from_ref(inputs) as *const [[&[f16]; 3]]),
                weights,
                epilogue,
                output: &mut *(std::ptr::from_mut(output) as *mut [bf16]),
                ahead: &*(std::ptr::from_ref(ahead) as *const [bf16]),
            }
        }
    }
}

impl<E: Element, O: Element> Kernel for ConvolveRows<'_, E, O> {
    type Output = ();
    const BF16: bool = E::BF16 || O::BF16;

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        if self.geometry.outputs == 0 {
            return;
        }
        if S::REGISTERS >= 32 && slide::can(self.geometry) {
            // SAFETY: `convolve_rows` checked every length.
            return unsafe { slide::run(Floats(s), self) };
        }
        // SAFETY: `convolve_rows` checked every length.
        unsafe { groups::run(s, self) };
    }
}

/// A block of channels of all nine taps, which are `channels` apart.
#[inline(always)]
unsafe fn taps<L: Lanes, const PARTIAL: bool>(
    s: L,
    from: *const f32,
    channels: usize,
    n: usize,
) -> [[L::V; 3]; 3] {
    // SAFETY: the callers checked that nine rows of `channels` are there.
    unsafe {
        let mut taps = [[s.splat(0.0); 3]; 3];
        for ky in 0..3 {
            for kx in 0..3 {
                taps[ky][kx] = s.parameters::<PARTIAL>(from.wrapping_add((3 * ky + kx) * channels), n);
            }
        }
        taps
    }
}

/// The bounds of a vector of channels. Without an epilogue: such as keep everything (and NaN) as it is.
#[inline(always)]
unsafe fn bounds<L: Lanes, const PARTIAL: bool>(
    s: L,
    epilogue: Option<RowEpilogue>,
    c: usize,
    n: usize,
) -> (L::V, L::V) {
    let Clamp { low, high } = epilogue.map_or(Clamp::IDENTITY, |epilogue| epilogue.clamp);
    // SAFETY: the callers checked that bounds are lowered by a value a channel.
    unsafe {
        let (low, high) = (s.splat(low), s.splat(high));
        match epilogue.and_then(|epilogue| epilogue.centring.lowered) {
            Some(lowered) => {
                let by = s.parameters::<PARTIAL>(lowered.as_ptr().add(c), n);
                (s.sub(low, by), s.sub(high, by))
            }
            None => (low, high),
        }
    }
}

/// What a column of pixels that are not there adds to the sums of a vector of channels.
#[inline(always)]
unsafe fn outside<L: Lanes, const PARTIAL: bool>(
    s: L,
    epilogue: Option<RowEpilogue>,
    (column, channels): (usize, usize),
    c: usize,
    n: usize,
) -> Option<L::V> {
    let outside = epilogue.and_then(|epilogue| epilogue.centring.outside)?;
    // SAFETY: the callers checked that there are three rows of `channels`.
    Some(unsafe { s.parameters::<PARTIAL>(outside.as_ptr().add(column * channels + c), n) })
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
