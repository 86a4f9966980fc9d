//! What feature maps and weights are stored in. Arithmetic is f32, whatever the storage (but for depthwise sums in
//! half precision, where they are asked for: [`crate::depthwise::RowEpilogue`]).

use half::{bf16, f16};

use crate::isa::Isa;
use crate::simd::{self, Kernel, MOST_LANES, Simd, dispatch, for_channel_blocks};

/// A type that values are stored in: `f32`, `bf16`, or (maps of inference) `f16`.
pub trait Element: sealed::Vectors + Copy + Default + Send + Sync + std::fmt::Debug + 'static {
    /// The value.
    fn to_f32(self) -> f32;

    /// The nearest value of this type; of two equally near the even one. NaN stays NaN. (Kernels store bf16
    /// by an instruction of its own where there is AVX512-BF16, which takes denormal values as zero.)
    fn from_f32(value: f32) -> Self;
}

impl Element for f32 {
    fn to_f32(self) -> f32 {
        self
    }

    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Element for bf16 {
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }

    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }
}

impl Element for f16 {
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }

    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }
}

/// Converts values, as many as there are of either.
///
/// # Panics
/// If there are not equally many.
pub fn convert<E: Element, O: Element>(isa: Isa, from: &[E], to: &mut [O]) {
    assert_eq!(from.len(), to.len(), "values to convert");
    // SAFETY: there are equally many.
    unsafe { dispatch(isa, Convert { from, to }) }
}

struct Convert<'a, E, O> {
    from: &'a [E],
    to: &'a mut [O],
}

impl<E: Element, O: Element> Kernel for Convert<'_, E, O> {
    type Output = ();
    const BF16: bool = E::BF16 || O::BF16;

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        let (from, to) = (self.from.as_ptr(), self.to.as_mut_ptr());
        // SAFETY: there are as many values as `from` has (the caller's promise).
        unsafe {
            for_channel_blocks!(S, self.from.len(), |at, n, PARTIAL| {
                let v = simd::load::<S, PARTIAL>(s, from.add(at), n);
                simd::store::<S, PARTIAL>(s, to.add(at), v, n);
            });
        }
    }
}

/// Adds values to as many others.
///
/// # Panics
/// If there are not equally many.
pub fn accumulate(isa: Isa, values: &[f32], sums: &mut [f32]) {
    assert_eq!(values.len(), sums.len(), "values to add");
    // SAFETY: there are equally many.
    unsafe { dispatch(isa, Accumulate { values, sums }) }
}

struct Accumulate<'a> {
    values: &'a [f32],
    sums: &'a mut [f32],
}

impl Kernel for Accumulate<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        let (values, sums) = (self.values.as_ptr(), self.sums.as_mut_ptr());
        // SAFETY: there are as many sums as values (the caller's promise).
        unsafe {
            for_channel_blocks!(S, self.values.len(), |at, n, PARTIAL| {
                let sum = simd::load::<S, PARTIAL>(s, sums.add(at), n);
                let value = simd::load::<S, PARTIAL>(s, values.add(at), n);
                simd::store::<S, PARTIAL>(s, sums.add(at), s.add(sum, value), n);
            });
        }
    }
}

/// Asks for values into the second-level cache: those of a few short runs come together then, where each would
/// be waited for when it is read.
pub fn prefetch<E: Element>(isa: Isa, values: &[E]) {
    // SAFETY: nothing is read.
    unsafe { dispatch(isa, Prefetch(values)) }
}

struct Prefetch<'a, E>(&'a [E]);

impl<E: Element> Kernel for Prefetch<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        // SAFETY: the instruction set is there.
        unsafe { simd::prefetch_all(s, self.0) }
    }
}

/// Most channels of 8-bit pixels.
pub const MOST_CHANNELS: usize = 4;

/// 8-bit pixels as a network reads them: `to[i] = from[i] · scale[c] + offset[c]` for the value's channel c,
/// the product rounded before the sum, so that every instruction set gives the same bits.
///
/// # Panics
/// If `from` is not whole pixels of `scale.len()` channels (1 to [`MOST_CHANNELS`]), or a length differs.
pub fn normalise(isa: Isa, from: &[u8], (scale, offset): (&[f32], &[f32]), to: &mut [f32]) {
    let channels = scale.len();
    assert!((1..=MOST_CHANNELS).contains(&channels) && offset.len() == channels, "channels of 8-bit pixels");
    assert!(from.len() == to.len() && from.len().is_multiple_of(channels), "8-bit values to normalise");
    // SAFETY: as many values of either, and whole pixels.
    unsafe { dispatch(isa, Normalise { from, scale, offset, to }) }
}

struct Normalise<'a> {
    from: &'a [u8],
    scale: &'a [f32],
    offset: &'a [f32],
    to: &'a mut [f32],
}

impl Kernel for Normalise<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        let Self { from, scale, offset, to } = self;
        let channels = scale.len();
        // As many vectors as there are channels begin with the same channel again.
        let mut factors = [[0.0; MOST_LANES * MOST_CHANNELS]; 2];
        for (factors, channel) in factors.iter_mut().zip([scale, offset]) {
            for (i, factor) in factors.iter_mut().enumerate() {
                *factor = channel[i % channels];
            }
        }
        let [scales, offsets] = factors;
        let vectors = from.len() / S::LANES;
        let mut turn = 0;
        // SAFETY: `vectors` whole vectors are there of either.
        unsafe {
            for vector in 0..vectors {
                let at = vector * S::LANES;
                let scale = s.load(scales.as_ptr().add(turn * S::LANES));
                let offset = s.load(offsets.as_ptr().add(turn * S::LANES));
                let value = s.add(s.mul(s.load_u8(from.as_ptr().add(at)), scale), offset);
                s.store(to.as_mut_ptr().add(at), value);
                turn = if turn + 1 == channels { 0 } else { turn + 1 };
            }
        }
        for at in vectors * S::LANES..from.len() {
            to[at] = f32::from(from[at]) * scale[at % channels] + offset[at % channels];
        }
    }
}

pub(crate) mod sealed {
    // (No other crate can name this trait, so what it says of private ones stays here.)
    #![allow(private_bounds, private_interfaces)]

    use half::{bf16, f16};

    use crate::simd::Simd;

    /// Vectors of f32 from stored values and back: [`Simd`]'s loads and stores.
    pub trait Vectors: Sized {
        const BF16: bool = false;
        const F16: bool = false;
        unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::V;
        unsafe fn store<S: Simd>(s: S, to: *mut Self, v: S::V);
        /// Two vectors side by side.
        unsafe fn store_pair<S: Simd>(s: S, to: *mut Self, left: S::V, right: S::V);
        unsafe fn load_n<S: Simd>(s: S, from: *const Self, n: usize) -> S::V;
        unsafe fn store_n<S: Simd>(s: S, to: *mut Self, v: S::V, n: usize);
    }

    // SAFETY (of every block below): the caller's promises are those of `Simd`'s methods.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Vectors for f32 {
        #[inline(always)]
        unsafe fn store_pair<S: Simd>(s: S, to: *mut Self, left: S::V, right: S::V) {
            unsafe {
                s.store(to, left);
                s.store(to.add(S::LANES), right);
            }
        }
        #[inline(always)]
        unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::V {
            unsafe { s.load(from) }
        }
        #[inline(always)]
        unsafe fn store<S: Simd>(s: S, to: *mut Self, v: S::V) {
            unsafe { s.store(to, v) }
        }
        #[inline(always)]
        unsafe fn load_n<S: Simd>(s: S, from: *const Self, n: usize) -> S::V {
            unsafe { s.load_n(from, n) }
        }
        #[inline(always)]
        unsafe fn store_n<S: Simd>(s: S, to: *mut Self, v: S::V, n: usize) {
            unsafe { s.store_n(to, v, n) }
        }
    }

    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Vectors for bf16 {
        const BF16: bool = true;

        #[inline(always)]
        unsafe fn store_pair<S: Simd>(s: S, to: *mut Self, left: S::V, right: S::V) {
            unsafe { s.store_bf16_pair(to, left, right) }
        }
        #[inline(always)]
        unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::V {
            unsafe { s.load_bf16(from) }
        }
        #[inline(always)]
        unsafe fn store<S: Simd>(s: S, to: *mut Self, v: S::V) {
            unsafe { s.store_bf16(to, v) }
        }
        #[inline(always)]
        unsafe fn load_n<S: Simd>(s: S, from: *const Self, n: usize) -> S::V {
            unsafe { s.load_bf16_n(from, n) }
        }
        #[inline(always)]
        unsafe fn store_n<S: Simd>(s: S, to: *mut Self, v: S::V, n: usize) {
            unsafe { s.store_bf16_n(to, v, n) }
        }
    }

    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Vectors for f16 {
        const F16: bool = true;

        #[inline(always)]
        unsafe fn store_pair<S: Simd>(s: S, to: *mut Self, left: S::V, right: S::V) {
            unsafe {
                s.store_f16(to, left);
                s.store_f16(to.add(S::LANES), right);
            }
        }
        #[inline(always)]
        unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::V {
            unsafe { s.load_f16(from) }
        }
        #[inline(always)]
        unsafe fn store<S: Simd>(s: S, to: *mut Self, v: S::V) {
            unsafe { s.store_f16(to, v) }
        }
        #[inline(always)]
        unsafe fn load_n<S: Simd>(s: S, from: *const Self, n: usize) -> S::V {
            unsafe { s.load_f16_n(from, n) }
        }
        #[inline(always)]
        unsafe fn store_n<S: Simd>(s: S, to: *mut Self, v: S::V, n: usize) {
            unsafe { s.store_f16_n(to, v, n) }
        }
    }
}
