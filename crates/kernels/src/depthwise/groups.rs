//! Depthwise rows where registers are few, or the filter's steps unusual: the filter of a vector of channels stays
//! in them, and groups of neighbouring outputs share the columns of pixels that they load, which come from the
//! first-level cache up to three times.
//!
//! So that they do, a stretch of the rows is finished, all channels of it, before the next one begins.
//!
//! A sum is taken column by column and, in a column, row by row, from its bias on, as in [`super::slide`].

use std::ops::Range;

use super::lanes::{Floats, Lanes};
use super::{ConvolveRows, RowEpilogue, RowGeometry, bounds, outside, taps};
use crate::element::Element;
use crate::simd::{self, Simd, WINDOWS, for_channel_blocks};

/// What the outputs of a vector of channels share.
struct Channels<S: Simd> {
    first: usize,
    /// How many, less than a vector's only if partial.
    n: usize,
    /// What a sum begins with.
    start: S::V,
    weights: [[S::V; 3]; 3],
    low: S::V,
    high: S::V,
}

/// One output row.
struct Row<'a, E, O> {
    geometry: RowGeometry,
    /// Pixels that are there, and pixels before them that are not.
    count: usize,
    left: usize,
    inputs: [*const E; 3],
    epilogue: Option<RowEpilogue<'a>>,
    output: *mut O,
}

/// All rows of `work`.
///
/// # Safety
/// `work`'s lengths must have been checked.
#[inline(always)]
pub(super) unsafe fn run<S: Simd, E: Element, O: Element>(s: S, work: ConvolveRows<'_, E, O>) {
    let ConvolveRows { geometry, inputs, weights, epilogue, output, ahead } = work;
    let RowGeometry { outputs, channels, output_stride, stride, dilation, .. } = geometry;
    let (count, left) = match geometry.present {
        Some(present) => (present.count, present.left),
        None => ((outputs - 1) * stride + 2 * dilation + 1, 0),
    };
    let output = output.as_mut_ptr();
    let stretch = (Floats::<S>::STRETCH / stride).max(1).next_multiple_of(WINDOWS);
    // Asked for evenly.
    let turns = outputs.div_ceil(stretch) * channels.div_ceil(S::LANES);
    let mut ahead = ahead.chunks(ahead.len().div_ceil(turns.max(1)).max(1));
    for first in (0..outputs).step_by(stretch) {
        let stretch = first..outputs.min(first + stretch);
        // SAFETY: the caller's promise; the filter has nine values a channel, the bias one.
        unsafe {
            for_channel_blocks!(S, channels, |c, n, PARTIAL| {
                simd::prefetch_all(s, ahead.next().unwrap_or_default());
                let start = match epilogue {
                    Some(RowEpilogue { bias, .. }) => simd::load::<S, PARTIAL>(s, bias.as_ptr().add(c), n),
                    None => s.splat(0.0),
                };
                let (low, high) = bounds::<_, PARTIAL>(Floats(s), epilogue, c, n);
                let weights = taps::<_, PARTIAL>(Floats(s), weights.as_ptr().add(c), channels, n);
                let vector = Channels::<S> { first: c, n, start, weights, low, high };
                for (index, rows) in inputs.iter().enumerate() {
                    let row = Row {
                        geometry,
                        count,
                        left,
                        inputs: rows.map(|row| row.as_ptr()),
                        epilogue,
                        output: output.wrapping_add(index * outputs * output_stride),
                    };
                    let stretch = stretch.clone();
                    match (stride, dilation) {
                        (1, 1) if const { S::REGISTERS < 32 } => {
                            row.grouped::<S, PARTIAL, 1>(s, &vector, stretch)
                        }
                        (2, 1) if const { S::REGISTERS < 32 } => {
                            row.grouped::<S, PARTIAL, 2>(s, &vector, stretch)
                        }
                        _ => {
                            for x in stretch {
                                row.single::<S, PARTIAL>(s, &vector, x);
                            }
                        }
                    }
                }
            });
        }
    }
}

impl<E: Element, O: Element> Row<'_, E, O> {
    /// The outputs `range`, at a stride of `STRIDE` without dilation.
    #[inline(always)]
    unsafe fn grouped<S: Simd, const PARTIAL: bool, const STRIDE: usize>(
        &self,
        s: S,
        vector: &Channels<S>,
        range: Range<usize>,
    ) {
        let RowGeometry { outputs, pixel_stride, output_stride, .. } = self.geometry;
        let columns = const { (WINDOWS - 1) * STRIDE + 3 };
        let there = |x: usize, column: usize| (x * STRIDE + column).wrapping_sub(self.left) < self.count;
        // SAFETY: the caller's promise.
        unsafe {
            let mut x = range.start;
            while x < range.end {
                // Where what is left is too narrow for a group, some outputs are computed twice.
                let first = x.min(outputs.saturating_sub(WINDOWS));
                if PARTIAL || outputs < WINDOWS || !there(first, 1) || !there(first, columns - 2) {
                    self.single::<S, PARTIAL>(s, vector, x);
                    x += 1;
                    continue;
                }
                let pixel = (first * STRIDE).wrapping_sub(self.left);
                let at = pixel.wrapping_mul(pixel_stride).wrapping_add(vector.first);
                let mut rows = self.inputs.map(|row| row.wrapping_add(at));
                let mut to = self.output.wrapping_add(first * output_stride + vector.first);
                match (there(first, 0), there(first, columns - 1)) {
                    (true, true) => {
                        // Groups without an edge, one after the other.
                        let end = (self.left + self.count - columns) / STRIDE;
                        x = first;
                        loop {
                            self.group::<S, STRIDE, true, true>(s, vector, rows, to);
                            x += WINDOWS;
                            if x > end || x + WINDOWS > range.end {
                                break;
                            }
                            rows = rows.map(|row| row.wrapping_add(WINDOWS * STRIDE * pixel_stride));
                            to = to.wrapping_add(WINDOWS * output_stride);
                        }
                        continue;
                    }
                    (true, false) => self.group::<S, STRIDE, true, false>(s, vector, rows, to),
                    (false, true) => self.group::<S, STRIDE, false, true>(s, vector, rows, to),
                    (false, false) => self.group::<S, STRIDE, false, false>(s, vector, rows, to),
                }
                x = first + WINDOWS;
            }
        }
    }

    /// [`WINDOWS`] outputs, of which the `FIRST` and the `LAST` column of pixels may be missing.
    #[inline(always)]
    unsafe fn group<S: Simd, const STRIDE: usize, const FIRST: bool, const LAST: bool>(
        &self,
        s: S,
        vector: &Channels<S>,
        rows: [*const E; 3],
        to: *mut O,
    ) {
        let RowGeometry { pixel_stride, output_stride, channels, .. } = self.geometry;
        let &Channels { first, n, ref weights, start, .. } = vector;
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [start; WINDOWS];
            if !FIRST
                && let Some(outside) = outside::<_, false>(Floats(s), self.epilogue, (0, channels), first, n)
            {
                sums[0] = s.add(sums[0], outside);
            }
            sums = s.windows::<E, STRIDE, FIRST, LAST>(rows, pixel_stride, weights, sums);
            if !LAST
                && let Some(outside) = outside::<_, false>(Floats(s), self.epilogue, (2, channels), first, n)
            {
                sums[WINDOWS - 1] = s.add(sums[WINDOWS - 1], outside);
            }
            for (output, sum) in sums.into_iter().enumerate() {
                self.finish::<S, false>(s, vector, to.wrapping_add(output * output_stride), sum);
            }
        }
    }

    /// One output, whatever the geometry.
    #[inline(always)]
    unsafe fn single<S: Simd, const PARTIAL: bool>(&self, s: S, vector: &Channels<S>, x: usize) {
        let RowGeometry { pixel_stride, channels, stride, dilation, .. } = self.geometry;
        let &Channels { first, n, ref weights, start: mut sum, .. } = vector;
        // SAFETY: the caller's promise; only pixels that are there are read.
        unsafe {
            for column in 0..3 {
                let pixel = (x * stride + column * dilation).wrapping_sub(self.left);
                if pixel < self.count {
                    let at = pixel * pixel_stride + first;
                    for (row, weights) in self.inputs.iter().zip(weights) {
                        let value = simd::load::<S, PARTIAL>(s, row.wrapping_add(at), n);
                        sum = s.mul_add(value, weights[column], sum);
                    }
                } else if let Some(outside) =
                    outside::<_, PARTIAL>(Floats(s), self.epilogue, (column, channels), first, n)
                {
                    sum = s.add(sum, outside);
                }
            }
            let to = self.output.wrapping_add(x * self.geometry.output_stride + first);
            self.finish::<S, PARTIAL>(s, vector, to, sum);
        }
    }

    /// Bounds and stores an output.
    #[inline(always)]
    unsafe fn finish<S: Simd, const PARTIAL: bool>(
        &self,
        s: S,
        &Channels { n, low, high, .. }: &Channels<S>,
        to: *mut O,
        sum: S::V,
    ) {
        // SAFETY: the output is there (the caller's promise).
        unsafe { simd::store::<S, PARTIAL>(s, to, s.clamp(sum, low, high), n) }
    }
}
