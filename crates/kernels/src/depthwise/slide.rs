//! Depthwise rows where there are many registers: the filter of a vector of channels stays in them, and so do
//! the sums of a few output rows that a column of input pixels belongs to, which slide along. Every pixel
//! is loaded once for all these rows, from wherever it is: nothing has to stay in the first-level cache.
//!
//! A sum is taken column by column and, in a column, row by row, from its bias on: its bits do not depend
//! on how many rows there are at a time.

use std::ops::Range;

use super::lanes::{Lanes, Reads, Writes};
use super::{ConvolveRows, RowEpilogue, RowGeometry, bounds, outside, rows_together, taps};
use crate::simd::for_channel_blocks;

/// A few output rows, one below the other, or a stretch of them.
struct Rows<'a, E, O, const ROWS: usize, const INPUTS: usize> {
    geometry: RowGeometry,
    /// The input rows that they reach over, from the first pixel that is there on.
    inputs: [*const E; INPUTS],
    /// Pixels that are there, and pixels before them that are not.
    count: usize,
    left: usize,
    weights: &'a [f32],
    epilogue: Option<RowEpilogue<'a>>,
    output: *mut O,
    outputs: usize,
    /// Values from one output row to the next.
    output_row: usize,
}

/// The vector of channels at work.
#[derive(Clone, Copy)]
struct Channels<L: Lanes> {
    s: L,
    first: usize,
    /// How many, less than a vector's only if partial.
    n: usize,
    /// What a sum begins with.
    start: L::V,
    weights: [[L::V; 3]; 3],
    low: L::V,
    high: L::V,
}

/// Whether [`run`] can do it.
pub(super) fn can(RowGeometry { outputs, stride, dilation, .. }: RowGeometry) -> bool {
    outputs > 0 && dilation == 1 && stride <= 2
}

/// All rows of `work`, whose stride is 1 or 2 and whose dilation 1.
///
/// # Safety
/// `work`'s lengths must have been checked.
#[inline(always)]
pub(super) unsafe fn run<L: Reads<E> + Writes<O>, E, O>(s: L, work: ConvolveRows<'_, E, O>) {
    let ConvolveRows { geometry, inputs, weights, epilogue, output, ahead } = work;
    let RowGeometry { outputs, channels, pixel_stride, output_stride, stride, .. } = geometry;
    let output = output.as_mut_ptr();
    let (count, left) = match geometry.present {
        Some(present) => (present.count, present.left),
        None => ((outputs - 1) * stride + 3, 0),
    };
    let stretches = outputs.div_ceil(L::STRETCH / stride);
    let stretch = outputs.div_ceil(stretches);
    // Asked for evenly.
    let groups = inputs.len().div_ceil(rows_together(stride));
    let turns = groups * stretches * channels.div_ceil(L::LANES);
    let mut ahead = ahead.chunks(ahead.len().div_ceil(turns.max(1)).max(1));
    let mut done = 0;
    while done < inputs.len() {
        let rest = &inputs[done..];
        let together = chained(rest, stride);
        let output = output.wrapping_add(done * outputs * output_stride);
        macro_rules! rows {
            ($rows:literal, $stride:literal, $inputs:literal) => {{
                let mut rows = [rest[0][0].as_ptr(); $inputs];
                for (at, row) in rows.iter_mut().enumerate() {
                    // The last output row's filter reaches over what the others do not.
                    let of = (at / $stride).min($rows - 1);
                    *row = rest[of][at - of * $stride].as_ptr();
                }
                for first in (0..outputs).step_by(stretch) {
                    // Of the pixels that the stretch reads some may lie before the first that is there.
                    let pixel = (first * stride).saturating_sub(left).min(count);
                    let rows = Rows::<E, O, $rows, $inputs> {
                        geometry,
                        inputs: rows.map(|row| row.wrapping_add(pixel * pixel_stride)),
                        count: count - pixel,
                        left: left.saturating_sub(first * stride),
                        weights,
                        epilogue,
                        output: output.wrapping_add(first * output_stride),
                        outputs: stretch.min(outputs - first),
                        output_row: outputs * output_stride,
                    };
                    // SAFETY: the caller's promise, for each of these output rows.
                    unsafe { rows.convolve::<L, $stride>(s, &mut ahead) };
                }
                $rows
            }};
        }
        done += match (stride, together) {
            (1, 4..) => rows!(4, 1, 6),
            (1, 2..) => rows!(2, 1, 4),
            (1, _) => rows!(1, 1, 3),

            (_, 2..) => rows!(2, 2, 5),
            _ => rows!(1, 2, 3),
        };
    }
}

/// How many of the first output rows read input rows that follow one another.
fn chained<E>(inputs: &[[&[E]; 3]], stride: usize) -> usize {
    let follows = |pair: &&[[&[E]; 3]]| {
        let [before, after] = pair else { return false };
        (stride..3).all(|at| before[at].as_ptr() == after[at - stride].as_ptr())
    };
    1 + inputs.windows(2).take_while(follows).count()
}

impl<E, O, const ROWS: usize, const INPUTS: usize> Rows<'_, E, O, ROWS, INPUTS> {
    #[inline(always)]
    unsafe fn convolve<'p, L: Reads<E> + Writes<O>, const STRIDE: usize>(
        &self,
        s: L,
        ahead: &mut impl Iterator<Item = &'p [O]>,
    ) where
        O: 'p,
    {
        let channels = self.geometry.channels;
        // SAFETY: the caller's promise; the filter has nine values a channel, the bias one.
        unsafe {
            for_channel_blocks!(L, channels, |c, n, PARTIAL| {
                s.prefetch_all(ahead.next().unwrap_or_default());
                let start = match self.epilogue {
                    Some(RowEpilogue { bias, .. }) => s.parameters::<PARTIAL>(bias.as_ptr().add(c), n),
                    None => s.splat(0.0),
                };
                let (low, high) = bounds::<L, PARTIAL>(s, self.epilogue, c, n);
                let weights = taps::<L, PARTIAL>(s, self.weights.as_ptr().add(c), channels, n);
                let channels = Channels { s, first: c, n, start, weights, low, high };
                // (It turns out afterwards whether they were.)
                if !(L::SMALL && self.columns::<L, PARTIAL, STRIDE, true>(channels)) {
                    self.columns::<L, PARTIAL, STRIDE, false>(channels);
                }
            });
        }
    }

    /// All columns, which ought to be `SMALL`: whether they were.
    #[inline(always)]
    unsafe fn columns<
        L: Reads<E> + Writes<O>,
        const PARTIAL: bool,
        const STRIDE: usize,
        const SMALL: bool,
    >(
        &self,
        channels: Channels<L>,
    ) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            let seen = if STRIDE == 1 {
                self.every_column::<L, PARTIAL, SMALL>(channels)
            } else {
                self.every_other::<L, PARTIAL, SMALL>(channels)
            };
            channels.s.were_small(seen)
        }
    }

    /// At stride 1 a column of pixels belongs to three outputs, and is the last of the first of them.
    #[inline(always)]
    unsafe fn every_column<L: Reads<E> + Writes<O>, const PARTIAL: bool, const SMALL: bool>(
        &self,
        channels: Channels<L>,
    ) -> [L::V; 2] {
        let Self { count, left, outputs, .. } = *self;
        let start = [channels.start; ROWS];
        // Where the next column of pixels is, and the next output: they are counted on, as multiplying would
        // take registers.
        let mut pixels = channels.first;
        let mut to = self.output.wrapping_add(channels.first);
        // SAFETY: the instruction set is there.
        let mut seen = [unsafe { channels.s.splat(0.0) }; 2];
        // The next column into the sums of three outputs.
        macro_rules! add {
            ($first:ident $second:ident $third:ident) => {
                self.add::<L, PARTIAL, 1, 3>(
                    channels,
                    &mut pixels,
                    [0, 1, 2],
                    [&mut $third, &mut $second, &mut $first],
                )
            };
        }
        // SAFETY: pixels before `count` are there, and outputs before `outputs`.
        unsafe {
            // Pixel p is the last of output p + left − 2; outputs before that of pixel 0 have none at all.
            for _ in 0..left.saturating_sub(2).min(outputs) {
                let mut none = start;
                self.around::<L, PARTIAL>(channels, 0..3, &mut none);
                self.finish::<L, PARTIAL, SMALL>(channels, (&mut to, &mut seen), none);
            }
            // The next two lack their first columns.
            let (mut first, mut second) = (start, start);
            if left > 1 {
                self.around::<L, PARTIAL>(channels, 0..2, &mut first);
            }
            if left > 0 {
                self.around::<L, PARTIAL>(channels, 0..1, &mut second);
            }
            let mut pixel = 0;
            while pixel < count && pixel + left < 2 {
                let mut third = start;
                add!(first second third);
                (first, second) = (second, third);
                pixel += 1;
            }
            let end = count.min((outputs + 2).saturating_sub(left));
            // The sums change places, instead of their values moving: three outputs in a round.
            while pixel + 3 <= end {
                let mut third = start;
                add!(first second third);
                self.finish::<L, PARTIAL, SMALL>(channels, (&mut to, &mut seen), first);
                first = start;
                add!(second third first);
                self.finish::<L, PARTIAL, SMALL>(channels, (&mut to, &mut seen), second);
                second = start;
                add!(third first second);
                self.finish::<L, PARTIAL, SMALL>(channels, (&mut to, &mut seen), third);
                pixel += 3;
            }
            while pixel < end {
                let mut third = start;
                add!(first second third);
                self.finish::<L, PARTIAL, SMALL>(channels, (&mut to, &mut seen), first);
                (first, second) = (second, third);
                pixel += 1;
            }
            // What lacks pixels on the right.
            for output in (pixel + left).saturating_sub(2)..outputs {
                let (mut sums, columns) = match (pixel + left).saturating_sub(output) {
                    2 => (first, 2..3),
                    1 => (second, 1..3),
                    _ => (start, 0..3),
                };
                self.around::<L, PARTIAL>(channels, columns, &mut sums);
                self.finish::<L, PARTIAL, SMALL>(channels, (&mut to, &mut seen), sums);
            }
        }
        seen
    }

    /// At stride 2 every other column of pixels belongs to two outputs, the others to one.
    #[inline(always)]
    unsafe fn every_other<L: Reads<E> + Writes<O>, const PARTIAL: bool, const SMALL: bool>(
        &self,
        channels: Channels<L>,
    ) -> [L::V; 2] {
        let Self { count, left, outputs, .. } = *self;
        let start = [channels.start; ROWS];
        let mut pixels = channels.first;
        let mut to = self.output.wrapping_add(channels.first);
        // SAFETY: the instruction set is there.
        let mut seen = [unsafe { channels.s.splat(0.0) }; 2];
        // Column k is pixel k − left; output x reads columns 2x to 2x + 2.
        let is_there = |column: usize| column >= left && column - left < count;
        // SAFETY: what `is_there` says, and that there are so many outputs.
        unsafe {
            let mut sums = start;
            if is_there(0) {
                self.add::<L, PARTIAL, 2, 1>(channels, &mut pixels, [0], [&mut sums]);
            } else {
                self.around::<L, PARTIAL>(channels, 0..1, &mut sums);
            }
            for output in 0..outputs {
                let (middle, right) = (2 * output + 1, 2 * output + 2);
                let mut next = start;
                if is_there(middle) {
                    self.add::<L, PARTIAL, 2, 1>(channels, &mut pixels, [1], [&mut sums]);
                } else {
                    self.around::<L, PARTIAL>(channels, 1..2, &mut sums);
                }
                if is_there(right) {
                    self.add::<L, PARTIAL, 2, 2>(channels, &mut pixels, [0, 2], [&mut next, &mut sums]);
                } else {
                    self.around::<L, PARTIAL>(channels, 0..1, &mut next);
                    self.around::<L, PARTIAL>(channels, 2..3, &mut sums);
                }
                self.finish::<L, PARTIAL, SMALL>(channels, (&mut to, &mut seen), sums);
                sums = next;
            }
        }
        seen
    }

    /// Adds the column of pixels `pixels` values into the rows to the sums of outputs of which it is column
    /// `columns[i]`, and goes on to the next.
    #[inline(always)]
    unsafe fn add<L: Reads<E> + Writes<O>, const PARTIAL: bool, const STRIDE: usize, const OUTPUTS: usize>(
        &self,
        Channels { s, n, weights, .. }: Channels<L>,
        pixels: &mut usize,
        columns: [usize; OUTPUTS],
        mut sums: [&mut [L::V; ROWS]; OUTPUTS],
    ) {
        for (y, input) in self.inputs.into_iter().enumerate() {
            // SAFETY: the column is there (the caller's promise).
            let value = unsafe { s.read::<PARTIAL>(input.wrapping_add(*pixels), n) };
            for row in 0..ROWS {
                if y < row * STRIDE || y >= row * STRIDE + 3 {
                    continue;
                }
                for (sums, column) in sums.iter_mut().zip(columns) {
                    // SAFETY: the instruction set is there.
                    sums[row] = unsafe { s.mul_add(value, weights[y - row * STRIDE][column], sums[row]) };
                }
            }
        }
        *pixels += self.geometry.pixel_stride;
    }

    /// Adds the columns `columns` of an output, in which there are no pixels.
    #[inline(always)]
    unsafe fn around<L: Reads<E> + Writes<O>, const PARTIAL: bool>(
        &self,
        Channels { s, first, n, .. }: Channels<L>,
        columns: Range<usize>,
        sums: &mut [L::V; ROWS],
    ) {
        for column in columns {
            let place = (column, self.geometry.channels);
            // SAFETY: the caller's promise.
            unsafe {
                if let Some(outside) = outside::<L, PARTIAL>(s, self.epilogue, place, first, n) {
                    for sum in sums.iter_mut() {
                        *sum = s.add(*sum, outside);
                    }
                }
            }
        }
    }

    /// Bounds and stores one output of each row, and goes on to the next.
    #[inline(always)]
    unsafe fn finish<L: Reads<E> + Writes<O>, const PARTIAL: bool, const SMALL: bool>(
        &self,
        Channels { s, n, low, high, .. }: Channels<L>,
        (to, seen): (&mut *mut O, &mut [L::V; 2]),
        sums: [L::V; ROWS],
    ) {
        for (row, sum) in sums.into_iter().enumerate() {
            // SAFETY: each of the rows has the output (the caller's promise).
            unsafe {
                let (to, sum) = (to.wrapping_add(row * self.output_row), s.clamp(sum, low, high));
                if SMALL {
                    s.write_small::<PARTIAL>(to, sum, n, seen);
                } else {
                    s.write::<PARTIAL>(to, sum, n);
                }
            }
        }
        *to = to.wrapping_add(self.geometry.output_stride);
    }
}
