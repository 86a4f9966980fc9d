//! The end of products in tiles, whose sums come from memory, a row of a panel at a time.

use crate::activation::Clamp;
use crate::element::Element;
use crate::gemm::Epilogue;
use crate::simd::{self, Simd, TILE_VECTORS};

/// What happens to the finished sums of a panel's columns on their way into C.
pub(super) trait Ending<C>: Copy {
    /// The instruction set.
    type Simd: Simd;

    /// Whether it takes all columns of a panel, always.
    const WHOLE: bool;

    /// For so many columns of C, at most a panel's, of which `column` is the first of B.
    ///
    /// # Safety
    /// The instruction set must be present, and the epilogue's values reach over the columns.
    unsafe fn new(s: Self::Simd, epilogue: &Epilogue, column: usize, columns: usize) -> Self;

    /// Takes a row of sums, of a panel's width, to C.
    ///
    /// # Safety
    /// The sums must be there, and the columns of C.
    unsafe fn row(&self, sums: *const f32, to: *mut C);
}

/// Sums as they are.
#[derive(Clone, Copy)]
pub(super) struct Plain<S>(S);

impl<S: Simd, C: Element> Ending<C> for Plain<S> {
    type Simd = S;
    const WHOLE: bool = true;

    #[inline(always)]
    unsafe fn new(s: S, _: &Epilogue, _: usize, _: usize) -> Self {
        Self(s)
    }

    #[inline(always)]
    unsafe fn row(&self, sums: *const f32, to: *mut C) {
        // SAFETY: the caller's promise.
        unsafe {
            let [left, right] = simd::load_all::<S, false, TILE_VECTORS>(self.0, sums, S::LANES);
            simd::store_pair(self.0, to, left, right);
        }
    }
}

/// Bias and bounds.
#[derive(Clone, Copy)]
pub(super) struct Bounded<S: Simd> {
    s: S,
    bias: [S::V; TILE_VECTORS],
    low: [S::V; TILE_VECTORS],
    high: [S::V; TILE_VECTORS],
}

impl<S: Simd> Bounded<S> {
    /// # Safety
    /// As [`Ending::new`].
    #[inline(always)]
    unsafe fn of(s: S, epilogue: &Epilogue, column: usize, columns: usize) -> Self {
        let Clamp { low, high } = epilogue.clamp.unwrap_or(Clamp::IDENTITY);
        // SAFETY: the caller's promise.
        unsafe {
            let mut end = Self {
                s,
                bias: [s.splat(0.0); TILE_VECTORS],
                low: [s.splat(low); TILE_VECTORS],
                high: [s.splat(high); TILE_VECTORS],
            };
            if let Some(bias) = epilogue.bias {
                end.bias = values(s, &bias[column..][..columns]);
            }
            if let Some(lowered) = epilogue.lowered {
                let by = values(s, &lowered[column..][..columns]);
                for (v, by) in by.into_iter().enumerate() {
                    (end.low[v], end.high[v]) = (s.sub(end.low[v], by), s.sub(end.high[v], by));
                }
            }
            end
        }
    }

    #[inline(always)]
    unsafe fn sums(&self, sums: *const f32) -> [S::V; TILE_VECTORS] {
        let Self { s, bias, low, high } = *self;
        // SAFETY: the caller's promise.
        unsafe {
            let mut v = simd::load_all::<S, false, TILE_VECTORS>(s, sums, S::LANES);
            for (i, v) in v.iter_mut().enumerate() {
                *v = s.clamp(s.add(*v, bias[i]), low[i], high[i]);
            }
            v
        }
    }
}

/// At most two vectors of values, filled up with zeros.
#[inline(always)]
unsafe fn values<S: Simd>(s: S, from: &[f32]) -> [S::V; TILE_VECTORS] {
    // SAFETY: the caller has the instruction set; no more values are read than there are.
    unsafe {
        let mut all = [s.splat(0.0); TILE_VECTORS];
        for (v, from) in all.iter_mut().zip(from.chunks(S::LANES)) {
            *v = if from.len() == S::LANES {
                simd::load::<S, false>(s, from.as_ptr(), S::LANES)
            } else {
                simd::load::<S, true>(s, from.as_ptr(), from.len())
            };
        }
        all
    }
}

impl<S: Simd, C: Element> Ending<C> for Bounded<S> {
    type Simd = S;
    const WHOLE: bool = true;

    #[inline(always)]
    unsafe fn new(s: S, epilogue: &Epilogue, column: usize, _: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self::of(s, epilogue, column, TILE_VECTORS * S::LANES) }
    }

    #[inline(always)]
    unsafe fn row(&self, sums: *const f32, to: *mut C) {
        // SAFETY: the caller's promise.
        unsafe {
            let [left, right] = self.sums(sums);
            simd::store_pair(self.s, to, left, right);
        }
    }
}

/// The same for any number of columns.
#[derive(Clone, Copy)]
pub(super) struct Columns<S: Simd> {
    bounded: Bounded<S>,
    columns: usize,
}

impl<S: Simd, C: Element> Ending<C> for Columns<S> {
    type Simd = S;
    const WHOLE: bool = false;

    #[inline(always)]
    unsafe fn new(s: S, epilogue: &Epilogue, column: usize, columns: usize) -> Self {
        // SAFETY: the caller's promise.
        Self { bounded: unsafe { Bounded::of(s, epilogue, column, columns) }, columns }
    }

    #[inline(always)]
    unsafe fn row(&self, sums: *const f32, to: *mut C) {
        let Self { bounded, columns } = *self;
        // SAFETY: the caller's promise; no other columns of C are touched.
        unsafe {
            let v = bounded.sums(sums);
            if columns == TILE_VECTORS * S::LANES {
                return simd::store_pair(bounded.s, to, v[0], v[1]);
            }
            for (at, v) in (0..columns).step_by(S::LANES).zip(v) {
                match columns - at {
                    n if n >= S::LANES => simd::store::<S, false>(bounded.s, to.wrapping_add(at), v, n),
                    n => simd::store::<S, true>(bounded.s, to.wrapping_add(at), v, n),
                }
            }
        }
    }
}

pub(super) use halves::Halves;

mod halves {
    use std::arch::x86_64::*;

    use super::{Bounded, Ending};
    use crate::element::Element;
    use crate::gemm::Epilogue;
    use crate::simd::Simd;
    use crate::simd::avx512::Avx512;

    /// Bias and bounds of what is kept in f16, with AVX512-FP16: sums are rounded first and held within rounded bounds
    /// then, of which a vector has twice as many. (Rounding never changes the order of two values: these are the
    /// values of [`Bounded`], but that a zero may be −0.)
    #[derive(Clone, Copy)]
    pub(in crate::bf16) struct Halves {
        s: Avx512<true>,
        bias: [__m512; 2],
        low: __m512h,
        high: __m512h,
    }

    /// Thirty-two values, rounded to the nearest.
    ///
    /// # Safety
    /// AVX-512F must be present.
    #[inline(always)]
    unsafe fn rounded(v: [__m512; 2]) -> __m512h {
        // SAFETY: the caller's promise.
        unsafe {
            let low = _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v[0]);
            let high = _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v[1]);
            _mm512_castsi512_ph(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high))
        }
    }

    impl<C: Element> Ending<C> for Halves {
        type Simd = Avx512<true>;
        const WHOLE: bool = true;

        #[inline(always)]
        unsafe fn new(s: Avx512<true>, epilogue: &Epilogue, column: usize, columns: usize) -> Self {
            // SAFETY: the caller's promise.
            unsafe {
                let Bounded { bias, low, high, .. } = Bounded::of(s, epilogue, column, columns);
                Self { s, bias, low: rounded(low), high: rounded(high) }
            }
        }

        #[inline(always)]
        unsafe fn row(&self, sums: *const f32, to: *mut C) {
            let Self { s, bias, low, high } = *self;
            debug_assert!(C::F16, "values are stored as f16");
            // SAFETY: the caller's promise; AVX512-FP16 is present where this is inlined. (VMAXPH and VMINPH return
            // their second operand when either is NaN.)
            unsafe {
                let left = s.add(s.load(sums), bias[0]);
                let right = s.add(s.load(sums.add(Avx512::<true>::LANES)), bias[1]);
                let v = _mm512_min_ph(high, _mm512_max_ph(low, rounded([left, right])));
                _mm512_storeu_si512(to.cast(), _mm512_castph_si512(v));
            }
        }
    }
}
