//! The vectors that depthwise sums are taken in: those of an instruction set, in f32, or, with AVX512-FP16, of
//! twice as many values in half precision.

use crate::element::Element;
use crate::simd::{self, Simd};

/// Operations on vectors of sums. As with [`Simd`], every method is unsafe to call where the instruction set is
/// absent; pointers must be valid for [`Lanes::LANES`] values, or for `n`, fewer, if `PARTIAL`.
pub(super) trait Lanes: Copy {
    /// A vector.
    type V: Copy;
    /// Number of values in it.
    const LANES: usize;
    /// Input pixels of a stretch of output rows: as many as stay in the first-level cache, with the outputs, from one
    /// vector of channels to the next, whose values lie beside theirs in the same cache lines or the next ones.
    const STRETCH: usize;

    unsafe fn splat(self, x: f32) -> Self::V;
    unsafe fn add(self, a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// a·b + c
    unsafe fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// min(max(v, low), high); NaN stays NaN.
    unsafe fn clamp(self, v: Self::V, low: Self::V, high: Self::V) -> Self::V;
    /// Parameters, such as filter and bias.
    unsafe fn parameters<const PARTIAL: bool>(self, from: *const f32, n: usize) -> Self::V;
    /// See [`simd::prefetch_all`].
    unsafe fn prefetch_all<T>(self, values: &[T]);
}

/// Vectors of values that are stored as `E`.
pub(super) trait Reads<E>: Lanes {
    unsafe fn read<const PARTIAL: bool>(self, from: *const E, n: usize) -> Self::V;
}

/// Vectors of values to be stored as `O`.
pub(super) trait Writes<O>: Lanes {
    unsafe fn write<const PARTIAL: bool>(self, to: *mut O, v: Self::V, n: usize);

    /// Whether there is a faster way to store what is less than 2 in absolute value.
    const SMALL: bool = false;

    /// [`Writes::write`] of values that ought to be less than 2: `seen` remembers whether they are.
    unsafe fn write_small<const PARTIAL: bool>(
        self,
        to: *mut O,
        v: Self::V,
        n: usize,
        _seen: &mut [Self::V; 2],
    ) {
        // SAFETY: the caller's promises.
        unsafe { self.write::<PARTIAL>(to, v, n) }
    }

    /// Whether all values were small, and numbers; where not, what was written is wrong.
    unsafe fn were_small(self, _seen: [Self::V; 2]) -> bool {
        true
    }
}

/// Sums in f32.
#[derive(Clone, Copy)]
pub(super) struct Floats<S>(pub S);

// SAFETY (of every block below): the caller's promises are those of `Simd`'s methods.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<S: Simd> Lanes for Floats<S> {
    type V = S::V;
    const LANES: usize = S::LANES;
    const STRETCH: usize = 28;

    #[inline(always)]
    unsafe fn splat(self, x: f32) -> S::V {
        unsafe { self.0.splat(x) }
    }
    #[inline(always)]
    unsafe fn add(self, a: S::V, b: S::V) -> S::V {
        unsafe { self.0.add(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(self, a: S::V, b: S::V) -> S::V {
        unsafe { self.0.sub(a, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, a: S::V, b: S::V, c: S::V) -> S::V {
        unsafe { self.0.mul_add(a, b, c) }
    }
    #[inline(always)]
    unsafe fn clamp(self, v: S::V, low: S::V, high: S::V) -> S::V {
        unsafe { self.0.clamp(v, low, high) }
    }
    #[inline(always)]
    unsafe fn parameters<const PARTIAL: bool>(self, from: *const f32, n: usize) -> S::V {
        unsafe { simd::load::<S, PARTIAL>(self.0, from, n) }
    }
    #[inline(always)]
    unsafe fn prefetch_all<T>(self, values: &[T]) {
        unsafe { simd::prefetch_all(self.0, values) }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl<S: Simd, E: Element> Reads<E> for Floats<S> {
    #[inline(always)]
    unsafe fn read<const PARTIAL: bool>(self, from: *const E, n: usize) -> S::V {
        unsafe { simd::load::<S, PARTIAL>(self.0, from, n) }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl<S: Simd, O: Element> Writes<O> for Floats<S> {
    #[inline(always)]
    unsafe fn write<const PARTIAL: bool>(self, to: *mut O, v: S::V, n: usize) {
        unsafe { simd::store::<S, PARTIAL>(self.0, to, v, n) }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use halves::run as run_in_halves;

/// AVX512-FP16: a vector has as many multiply-adds as two of f32, and values that are stored as f16 need
/// not be widened.
#[cfg(target_arch = "x86_64")]
mod halves {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use half::{bf16, f16};

    use super::{Lanes, Reads, Writes};
    use crate::depthwise::{ConvolveRows, slide};
    use crate::simd::{self, avx512::Avx512};

    /// Proof that AVX512-FP16, AVX-512BW, VL and BF16 are present.
    #[derive(Clone, Copy)]
    pub struct Halves;

    /// All rows of `work`, whose stride is 1 or 2 and whose dilation 1.
    ///
    /// # Safety
    /// The instruction sets of [`Halves`] must be present, and `work`'s lengths have been checked.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx512fp16,avx2,fma")]
    pub unsafe fn run(work: ConvolveRows<'_, f16, bf16>) {
        // SAFETY: the caller's promises.
        unsafe { slide::run(Halves, work) }
    }

    #[inline(always)]
    fn mask(n: usize) -> __mmask32 {
        debug_assert!(n < 32);
        (1 << n) - 1
    }

    /// Of `low` and `high` sixteen each.
    #[inline(always)]
    unsafe fn joined(low: __m512, high: __m512) -> __m512h {
        // SAFETY: AVX512-FP16 is present where this is inlined.
        unsafe {
            let [low, high] = [low, high].map(|v| _mm256_castph_si256(_mm512_cvtxps_ph(v)));
            _mm512_castsi512_ph(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high))
        }
    }

    // SAFETY (of every block below): the instruction sets are present where a `Halves` exists, and pointers are
    // valid for the lanes touched, by the trait's contract; masked lanes are not touched.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Lanes for Halves {
        type V = __m512h;
        const LANES: usize = 32;
        // (Where maps are of f16 a vector is a whole cache line.)
        const STRETCH: usize = 56;

        #[inline(always)]
        unsafe fn splat(self, x: f32) -> __m512h {
            unsafe { joined(_mm512_set1_ps(x), _mm512_set1_ps(x)) }
        }
        #[inline(always)]
        unsafe fn add(self, a: __m512h, b: __m512h) -> __m512h {
            unsafe { _mm512_add_ph(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(self, a: __m512h, b: __m512h) -> __m512h {
            unsafe { _mm512_sub_ph(a, b) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, a: __m512h, b: __m512h, c: __m512h) -> __m512h {
            unsafe { _mm512_fmadd_ph(a, b, c) }
        }
        #[inline(always)]
        unsafe fn clamp(self, v: __m512h, low: __m512h, high: __m512h) -> __m512h {
            // VMAXPH and VMINPH return their second operand when either is NaN.
            unsafe { _mm512_min_ph(high, _mm512_max_ph(low, v)) }
        }
        #[inline(always)]
        unsafe fn parameters<const PARTIAL: bool>(self, from: *const f32, n: usize) -> __m512h {
            unsafe {
                if PARTIAL {
                    let mask = mask(n);
                    let low = _mm512_maskz_loadu_ps(mask as __mmask16, from);
                    let high = _mm512_maskz_loadu_ps((mask >> 16) as __mmask16, from.wrapping_add(16));
                    return joined(low, high);
                }
                joined(_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16)))
            }
        }
        #[inline(always)]
        unsafe fn prefetch_all<T>(self, values: &[T]) {
            unsafe { simd::prefetch_all(Avx512::<true>, values) }
        }
    }

    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Reads<f16> for Halves {
        #[inline(always)]
        unsafe fn read<const PARTIAL: bool>(self, from: *const f16, n: usize) -> __m512h {
            unsafe {
                _mm512_castsi512_ph(if PARTIAL {
                    _mm512_maskz_loadu_epi16(mask(n), from.cast())
                } else {
                    _mm512_loadu_si512(from.cast())
                })
            }
        }
    }

    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Writes<bf16> for Halves {
        #[inline(always)]
        unsafe fn write<const PARTIAL: bool>(self, to: *mut bf16, v: __m512h, n: usize) {
            unsafe {
                let low = _mm512_cvtxph_ps(_mm512_castph512_ph256(v));
                let high = _mm512_extracti64x4_epi64::<1>(_mm512_castph_si512(v));
                let high = _mm512_cvtxph_ps(_mm256_castsi256_ph(high));
                let both = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                // (A value's bits do not depend on the others.)
                let [shifted, small] = shifted(v);
                let larger = larger(_mm512_castph_si512(v), shifted);
                store::<PARTIAL>(to, _mm512_mask_blend_epi16(larger, small, both), n);
            }
        }

        const SMALL: bool = true;

        #[inline(always)]
        unsafe fn write_small<const PARTIAL: bool>(
            self,
            to: *mut bf16,
            v: __m512h,
            n: usize,
            seen: &mut [__m512h; 2],
        ) {
            unsafe {
                let [shifted, small] = shifted(v);
                for (seen, value) in seen.iter_mut().zip([_mm512_castph_si512(v), shifted]) {
                    *seen = _mm512_castsi512_ph(_mm512_or_si512(_mm512_castph_si512(*seen), value));
                }
                store::<PARTIAL>(to, small, n);
            }
        }
        #[inline(always)]
        unsafe fn were_small(self, seen: [__m512h; 2]) -> bool {
            unsafe { larger(_mm512_castph_si512(seen[0]), _mm512_castph_si512(seen[1])) == 0 }
        }
    }

    /// Which of some values are 2 or more, infinite or not a number, or become 2 when they are [`shifted`]: the highest
    /// bit of their exponents is set.
    ///
    /// # Safety
    /// The instruction sets of [`Halves`] must be present.
    #[inline(always)]
    unsafe fn larger(values: __m512i, shifted: __m512i) -> u32 {
        // SAFETY: the caller's promise.
        unsafe {
            let values = _mm512_test_epi16_mask(values, _mm512_set1_epi16(1 << 14));
            values | _mm512_test_epi16_mask(shifted, _mm512_set1_epi16(1 << 11))
        }
    }

    /// Values rounded to what bf16 has of the significand, and shifted there; and those in bf16 that are less than 2.
    ///
    /// The exponent of such a value is at most 15 in f16, and its lowest four bits stand behind 0111 in bf16: nothing
    /// more is missing. Ties are rounded away from zero; and what is below 2⁻¹⁴, where f16 has no such exponent, comes
    /// out too large by up to 2⁻¹⁵.
    ///
    /// # Safety
    /// The instruction sets of [`Halves`] must be present.
    #[inline(always)]
    unsafe fn shifted(v: __m512h) -> [__m512i; 2] {
        // SAFETY: the caller's promise. (Of a product fifteen bits are cut off, and rounded. The sign is shifted in
        // from the left, where it is cleared again but for its own place.)
        unsafe {
            let shifted = _mm512_mulhrs_epi16(_mm512_castph_si512(v), _mm512_set1_epi16(1 << 12));
            let (clear, set) = (_mm512_set1_epi16(1 << 14), _mm512_set1_epi16(0b111 << 11));
            [shifted, _mm512_ternarylogic_epi32::<0b1011_1010>(shifted, clear, set)]
        }
    }

    /// Stores a vector of bf16, of whose lanes `n` if it is a partial one.
    ///
    /// # Safety
    /// The instruction sets of [`Halves`] must be present, and the lanes be there.
    #[inline(always)]
    unsafe fn store<const PARTIAL: bool>(to: *mut bf16, v: __m512i, n: usize) {
        // SAFETY: the caller's promises.
        unsafe {
            if PARTIAL {
                _mm512_mask_storeu_epi16(to.cast(), mask(n), v);
            } else {
                _mm512_storeu_si512(to.cast(), v);
            }
        }
    }
}
