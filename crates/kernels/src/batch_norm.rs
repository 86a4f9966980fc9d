//! Batch normalisation and activation around the convolutions, in few passes over memory.
//!
//! In training only the raw outputs z of the convolutions are stored. What the next operator reads
//! is `act(z·scale + shift)`, made on the way in ([`activate`]); the batch's statistics are taken
//! while a convolution's output is still in the cache ([`Moments`]); and the two sums that the
//! backward pass needs over the whole batch ([`GradientSums`]) are taken where the gradient that
//! they are about is made. Sums run over at most a few hundred rows in f32 lanes and then into f64.
//!
//! Outputs and gradients may be stored in any [`Element`]; what a channel has once is f32.

#![allow(clippy::needless_range_loop)] // one index into several arrays of vectors at once

use crate::activation::Clamp;
use crate::element::Element;
use crate::extent::extent;
use crate::isa::Isa;
use crate::simd::{
    Kernel, Simd, dispatch, for_channel_blocks, for_channel_groups, load, load_all, store, store_all,
};

/// Per channel: y = z·scale + shift.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a> {
    /// γ / √(variance + ε)
    pub scale: &'a [f32],
    /// β − mean·scale
    pub shift: &'a [f32],
}

/// `output[r][c] = clamp(input[r][c]·scale[c] + shift[c])` for contiguous rows of channels; output
/// rows are `output_stride` apart.
///
/// # Panics
/// If a length does not fit.
pub fn activate<E: Element, O: Element>(
    isa: Isa,
    affine: Affine,
    clamp: Clamp,
    input: &[E],
    output: &mut [O],
    output_stride: usize,
) {
    let channels = affine.scale.len();
    assert_eq!(affine.shift.len(), channels);
    let rows = rows_of(input, channels);
    assert!(
        output_stride >= channels && extent(rows, channels, output_stride) <= output.len(),
        "output rows"
    );
    // SAFETY: the lengths were checked.
    unsafe { dispatch(isa, Activate { affine, clamp, input, output: output.as_mut_ptr(), output_stride }) }
}

fn rows_of<E>(values: &[E], channels: usize) -> usize {
    assert!(channels > 0 && values.len().is_multiple_of(channels), "rows of {channels} channels");
    values.len() / channels
}

struct Activate<'a, E, O> {
    affine: Affine<'a>,
    clamp: Clamp,
    input: &'a [E],
    output: *mut O,
    output_stride: usize,
}

impl<E: Element, O: Element> Kernel for Activate<'_, E, O> {
    type Output = ();
    const BF16: bool = E::BF16 || O::BF16;

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        let rows = self.input.len() / self.affine.scale.len();
        // Two rows share what they load of the channels. (Channel after channel of one row, and not
        // row after row of one channel: memory is then read as it lies, which the prefetchers follow.)
        // SAFETY: `activate` checked the lengths.
        unsafe {
            for row in (0..rows / 2 * 2).step_by(2) {
                self.rows::<S, 2>(s, row);
            }
            if !rows.is_multiple_of(2) {
                self.rows::<S, 1>(s, rows - 1);
            }
        }
    }
}

impl<E: Element, O: Element> Activate<'_, E, O> {
    #[inline(always)]
    unsafe fn rows<S: Simd, const ROWS: usize>(&self, s: S, first: usize) {
        let Self { affine, clamp, input, output_stride, .. } = self;
        let channels = affine.scale.len();
        // SAFETY: see `run`.
        unsafe {
            let (low, high) = (s.splat(clamp.low), s.splat(clamp.high));
            let from = input.as_ptr().add(first * channels);
            let to = self.output.add(first * output_stride);
            for_channel_blocks!(S, channels, |c, n, PARTIAL| {
                let scale = load::<S, PARTIAL>(s, affine.scale.as_ptr().add(c), n);
                let shift = load::<S, PARTIAL>(s, affine.shift.as_ptr().add(c), n);
                for row in 0..ROWS {
                    let z = load::<S, PARTIAL>(s, from.add(row * channels + c), n);
                    let y = s.clamp(s.mul_add(z, scale, shift), low, high);
                    store::<S, PARTIAL>(s, to.add(row * output_stride + c), y, n);
                }
            });
        }
    }
}

/// Mean and variance of every channel over some rows, mergeable in a fixed order.
///
/// Values are summed relative to a shift (the first row seen), so that far-from-zero values lose
/// nothing; parts are merged with the pairwise formula of Chan, Golub and LeVeque (1979).
#[derive(Clone, Debug, Default)]
pub struct Moments {
    count: f64,
    mean: Vec<f64>,
    /// Sum of squared deviations from the mean.
    squares: Vec<f64>,
    lanes: Vec<f32>,
}

impl Moments {
    /// No rows of `channels` yet.
    pub fn new(channels: usize) -> Self {
        Self {
            count: 0.0,
            mean: vec![0.0; channels],
            squares: vec![0.0; channels],
            lanes: vec![0.0; 3 * channels],
        }
    }

    /// Forgets all rows.
    pub fn clear(&mut self) {
        self.count = 0.0;
        self.mean.fill(0.0);
        self.squares.fill(0.0);
    }

    /// Takes in contiguous rows of channels (at most a few hundred at a time).
    ///
    /// # Panics
    /// If `rows` is not whole rows.
    pub fn add_rows<E: Element>(&mut self, isa: Isa, rows: &[E]) {
        let channels = self.mean.len();
        let count = rows_of(rows, channels);
        if count == 0 {
            return;
        }
        let (shift, sums) = self.lanes.split_at_mut(channels);
        let (sum, square) = sums.split_at_mut(channels);
        if self.count == 0.0 {
            for (shift, &first) in shift.iter_mut().zip(rows) {
                *shift = first.to_f32();
            }
        }
        sum.fill(0.0);
        square.fill(0.0);
        // SAFETY: the slices have one value a channel, and `rows` whole rows.
        unsafe { dispatch(isa, ShiftedSums { rows, shift, sum, square }) };
        let (before, n) = (self.count, count as f64);
        self.count += n;
        for (c, (mean, squares)) in self.mean.iter_mut().zip(&mut self.squares).enumerate() {
            let part = f64::from(sum[c]) / n;
            let part_squares = (f64::from(square[c]) - f64::from(sum[c]) * part).max(0.0);
            merge((before, mean, squares), (n, f64::from(shift[c]) + part, part_squares));
        }
    }

    /// Takes in what `other` has seen.
    ///
    /// # Panics
    /// If the numbers of channels differ.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.mean.len(), other.mean.len());
        if other.count == 0.0 {
            return;
        }
        for (c, (mean, squares)) in self.mean.iter_mut().zip(&mut self.squares).enumerate() {
            merge((self.count, mean, squares), (other.count, other.mean[c], other.squares[c]));
        }
        self.count += other.count;
    }

    /// Number of rows seen.
    pub fn count(&self) -> f64 {
        self.count
    }

    /// Mean of every channel.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Variance of every channel: divided by the count.
    pub fn biased_variance(&self) -> impl Iterator<Item = f64> {
        let count = self.count.max(1.0);
        self.squares.iter().map(move |squares| squares / count)
    }
}

fn merge((n_a, mean_a, squares_a): (f64, &mut f64, &mut f64), (n_b, mean_b, squares_b): (f64, f64, f64)) {
    let n = n_a + n_b;
    let delta = mean_b - *mean_a;
    *mean_a += delta * n_b / n;
    *squares_a += squares_b + delta * delta * n_a * n_b / n;
}

struct ShiftedSums<'a, E> {
    rows: &'a [E],
    shift: &'a [f32],
    sum: &'a mut [f32],
    square: &'a mut [f32],
}

impl<E: Element> Kernel for ShiftedSums<'_, E> {
    type Output = ();
    const BF16: bool = E::BF16;

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        let Self { rows, shift, sum, square } = self;
        let channels = shift.len();
        // SAFETY: `Moments::add_rows` checked the lengths.
        unsafe {
            for_channel_groups!(S, channels, 4, |c, n, PARTIAL, VECTORS| {
                let shift = load_all::<S, PARTIAL, VECTORS>(s, shift.as_ptr().add(c), n);
                let (mut total, mut squares) = ([s.splat(0.0); VECTORS], [s.splat(0.0); VECTORS]);
                let mut from = rows.as_ptr().add(c);
                for _ in 0..rows.len() / channels {
                    let z = load_all::<S, PARTIAL, VECTORS>(s, from, n);
                    for v in 0..VECTORS {
                        let z = s.sub(z[v], shift[v]);
                        total[v] = s.add(total[v], z);
                        squares[v] = s.mul_add(z, z, squares[v]);
                    }
                    from = from.wrapping_add(channels);
                }
                store_all::<S, PARTIAL, VECTORS>(s, sum.as_mut_ptr().add(c), total, n);
                store_all::<S, PARTIAL, VECTORS>(s, square.as_mut_ptr().add(c), squares, n);
            });
        }
    }
}

/// What the backward pass through activation and normalisation needs of a layer's forward pass.
#[derive(Clone, Copy, Debug)]
pub struct Normalisation<'a> {
    /// Scale and shift, as in the forward pass.
    pub affine: Affine<'a>,
    /// The batch's mean.
    pub mean: &'a [f32],
    /// The activation.
    pub clamp: Clamp,
}

/// Per channel, over all rows: Σ dy and Σ dy·(z − mean), where dy is the gradient behind the
/// activation.
#[derive(Clone, Debug, Default)]
pub struct GradientSums {
    d: Vec<f64>,
    d_deviation: Vec<f64>,
    /// Sums that are not in those above yet: Σ dy, then Σ dy·(z − mean).
    lanes: Vec<f32>,
    /// Rows in the lanes.
    rows: usize,
}

impl GradientSums {
    /// No rows of `channels` yet.
    pub fn new(channels: usize) -> Self {
        Self {
            d: vec![0.0; channels],
            d_deviation: vec![0.0; channels],
            lanes: vec![0.0; 2 * channels],
            rows: 0,
        }
    }

    /// Forgets all rows.
    pub fn clear(&mut self) {
        self.d.fill(0.0);
        self.d_deviation.fill(0.0);
        self.lanes.fill(0.0);
        self.rows = 0;
    }

    /// Takes in contiguous rows: `d_activated` is the gradient of the activation's output, `z` the
    /// convolution's output (at most a few hundred rows at a time).
    ///
    /// # Panics
    /// If lengths do not fit.
    pub fn add_rows<E: Element>(&mut self, isa: Isa, layer: Normalisation, d_activated: &[E], z: &[E]) {
        let channels = self.d.len();
        layer.check(channels, d_activated, z);
        let (sum, deviation) = self.lanes(channels);
        // SAFETY: the lengths were checked; the sums have one value a channel.
        unsafe { dispatch(isa, GradientLanes { layer, d_activated, z, sum, deviation }) };
        self.flush();
    }

    /// The lanes that a kernel adds to: Σ dy and Σ dy·(z − mean).
    ///
    /// # Panics
    /// If these are not sums over `channels`.
    pub(crate) fn lanes(&mut self, channels: usize) -> (&mut [f32], &mut [f32]) {
        assert_eq!(self.d.len(), channels, "channels of the sums");
        self.lanes.split_at_mut(channels)
    }

    /// Counts rows that came into the lanes, and empties these while their sums are exact enough.
    pub(crate) fn count(&mut self, rows: usize) {
        const MOST_ROWS: usize = 256;
        self.rows += rows;
        if self.rows >= MOST_ROWS {
            self.flush();
        }
    }

    /// Moves what is in the lanes into the sums in f64, which then hold all rows.
    pub fn flush(&mut self) {
        let (sum, deviation) = self.lanes.split_at_mut(self.d.len());
        for (c, (d, d_deviation)) in self.d.iter_mut().zip(&mut self.d_deviation).enumerate() {
            *d += f64::from(sum[c]);
            *d_deviation += f64::from(deviation[c]);
        }
        self.lanes.fill(0.0);
        self.rows = 0;
    }

    /// Takes in what `other` has seen (and flushed).
    ///
    /// # Panics
    /// If the numbers of channels differ.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.d.len(), other.d.len());
        debug_assert!(self.rows == 0 && other.rows == 0, "rows in the lanes");
        for (a, b) in self.d.iter_mut().zip(&other.d) {
            *a += b;
        }
        for (a, b) in self.d_deviation.iter_mut().zip(&other.d_deviation) {
            *a += b;
        }
    }

    /// Σ dy: the gradient of β.
    pub fn d(&self) -> &[f64] {
        &self.d
    }

    /// Σ dy·(z − mean): times 1/√(variance + ε), the gradient of γ.
    pub fn d_deviation(&self) -> &[f64] {
        &self.d_deviation
    }
}

impl Normalisation<'_> {
    pub(crate) fn check<E>(&self, channels: usize, d: &[E], z: &[E]) {
        let lens = [self.affine.scale.len(), self.affine.shift.len(), self.mean.len()];
        assert_eq!(lens, [channels; 3], "one value a channel");
        rows_of(d, channels);
        assert_eq!(d.len(), z.len(), "gradient and output rows");
    }
}

struct GradientLanes<'a, E> {
    layer: Normalisation<'a>,
    d_activated: &'a [E],
    z: &'a [E],
    sum: &'a mut [f32],
    deviation: &'a mut [f32],
}

impl<E: Element> Kernel for GradientLanes<'_, E> {
    type Output = ();
    const BF16: bool = E::BF16;

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        let Self { layer: Normalisation { affine, mean, clamp }, d_activated, z, sum, deviation } = self;
        let channels = mean.len();
        // SAFETY: `GradientSums::add_rows` checked the lengths.
        unsafe {
            let (low, high) = (s.splat(clamp.low), s.splat(clamp.high));
            for_channel_groups!(S, channels, 2, |c, n, PARTIAL, VECTORS| {
                let scale = load_all::<S, PARTIAL, VECTORS>(s, affine.scale.as_ptr().add(c), n);
                let shift = load_all::<S, PARTIAL, VECTORS>(s, affine.shift.as_ptr().add(c), n);
                let mean = load_all::<S, PARTIAL, VECTORS>(s, mean.as_ptr().add(c), n);
                let mut total = load_all::<S, PARTIAL, VECTORS>(s, sum.as_ptr().add(c), n);
                let mut deviations = load_all::<S, PARTIAL, VECTORS>(s, deviation.as_ptr().add(c), n);
                let (mut z_at, mut d_at) = (z.as_ptr().add(c), d_activated.as_ptr().add(c));
                for _ in 0..z.len() / channels {
                    let z = load_all::<S, PARTIAL, VECTORS>(s, z_at, n);
                    let d = load_all::<S, PARTIAL, VECTORS>(s, d_at, n);
                    for v in 0..VECTORS {
                        let d = s.keep_inside(d[v], s.mul_add(z[v], scale[v], shift[v]), low, high);
                        total[v] = s.add(total[v], d);
                        deviations[v] = s.mul_add(d, s.sub(z[v], mean[v]), deviations[v]);
                    }
                    (z_at, d_at) = (z_at.wrapping_add(channels), d_at.wrapping_add(channels));
                }
                store_all::<S, PARTIAL, VECTORS>(s, sum.as_mut_ptr().add(c), total, n);
                store_all::<S, PARTIAL, VECTORS>(s, deviation.as_mut_ptr().add(c), deviations, n);
            });
        }
    }
}

/// Per channel, what subtracts the batch's share from a gradient:
/// dz = scale·dy − offset − slope·(z − mean).
#[derive(Clone, Copy, Debug)]
pub struct Correction<'a> {
    /// scale · Σ dy / count
    pub offset: &'a [f32],
    /// scale · Σ dy·(z − mean) / (count · (variance + ε))
    pub slope: &'a [f32],
}

/// The gradient of a convolution's output from that of the activation's output, for contiguous
/// rows; output rows are `output_stride` apart.
///
/// # Panics
/// If a length does not fit.
pub fn backward<E: Element, O: Element>(
    isa: Isa,
    layer: Normalisation,
    correction: Correction,
    d_activated: &[E],
    z: &[E],
    output: &mut [O],
    output_stride: usize,
) {
    let channels = layer.mean.len();
    layer.check(channels, d_activated, z);
    assert!(correction.offset.len() == channels && correction.slope.len() == channels);
    let rows = z.len() / channels;
    assert!(
        output_stride >= channels && extent(rows, channels, output_stride) <= output.len(),
        "output rows"
    );
    let output = output.as_mut_ptr();
    // SAFETY: the lengths were checked.
    unsafe { dispatch(isa, Backward { layer, correction, d_activated, z, output, output_stride }) }
}

struct Backward<'a, E, O> {
    layer: Normalisation<'a>,
    correction: Correction<'a>,
    d_activated: &'a [E],
    z: &'a [E],
    output: *mut O,
    output_stride: usize,
}

impl<E: Element, O: Element> Kernel for Backward<'_, E, O> {
    type Output = ();
    const BF16: bool = E::BF16 || O::BF16;

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        let rows = self.z.len() / self.layer.mean.len();
        // SAFETY: `backward` checked the lengths. (Rows by twos: see `Activate`.)
        unsafe {
            for row in (0..rows / 2 * 2).step_by(2) {
                self.rows::<S, 2>(s, row);
            }
            if !rows.is_multiple_of(2) {
                self.rows::<S, 1>(s, rows - 1);
            }
        }
    }
}

impl<E: Element, O: Element> Backward<'_, E, O> {
    #[inline(always)]
    unsafe fn rows<S: Simd, const ROWS: usize>(&self, s: S, first: usize) {
        let Self { layer: Normalisation { affine, mean, clamp }, correction, output_stride, .. } = self;
        let channels = mean.len();
        // SAFETY: see `run`.
        unsafe {
            let (low, high) = (s.splat(clamp.low), s.splat(clamp.high));
            let z = self.z.as_ptr().add(first * channels);
            let d = self.d_activated.as_ptr().add(first * channels);
            let to = self.output.add(first * output_stride);
            for_channel_blocks!(S, channels, |c, n, PARTIAL| {
                let scale = load::<S, PARTIAL>(s, affine.scale.as_ptr().add(c), n);
                let shift = load::<S, PARTIAL>(s, affine.shift.as_ptr().add(c), n);
                let mean = load::<S, PARTIAL>(s, mean.as_ptr().add(c), n);
                let offset = load::<S, PARTIAL>(s, correction.offset.as_ptr().add(c), n);
                let slope = load::<S, PARTIAL>(s, correction.slope.as_ptr().add(c), n);
                for row in 0..ROWS {
                    let z = load::<S, PARTIAL>(s, z.add(row * channels + c), n);
                    let d = load::<S, PARTIAL>(s, d.add(row * channels + c), n);
                    let d = s.keep_inside(d, s.mul_add(z, scale, shift), low, high);
                    let d = s.sub(s.mul(scale, d), offset);
                    let d_raw = s.neg_mul_add(slope, s.sub(z, mean), d);
                    store::<S, PARTIAL>(s, to.add(row * output_stride + c), d_raw, n);
                }
            });
        }
    }
}
