//! The end of products whose sums come from memory.

use crate::activation::Clamp;
use crate::element::Element;
use crate::gemm;
use crate::simd::{self, Simd, TILE_VECTORS};

/// What happens to finished sums on their way into C.
#[derive(Clone, Copy)]
pub(super) struct End {
    /// Columns to store, at most a panel's.
    pub columns: usize,
    /// As many values as there are columns.
    pub bias: Option<*const f32>,
    pub clamp: Option<Clamp>,
    /// As many values as there are columns, see [`crate::gemm::Epilogue`].
    pub lowered: Option<*const f32>,
}

impl End {
    /// Adds the bias to `rows` rows of `sums`, a panel's width each, clamps, and stores them as C's.
    ///
    /// # Safety
    /// The instruction set of `s` must be present, the sums and the bias long enough, and C have
    /// `rows` rows of `columns`, `c_row` apart.
    #[inline(always)]
    pub unsafe fn finish<S: Simd, C: Element>(
        self,
        s: S,
        sums: *const f32,
        rows: usize,
        c: *mut C,
        c_row: usize,
    ) {
        if self.columns == TILE_VECTORS * S::LANES {
            let Clamp { low, high } = self.clamp.unwrap_or(Clamp::IDENTITY);
            // SAFETY: the caller's promise.
            unsafe {
                // (Where vectors are all that there is to do, every instruction of them counts.)
                match (self.bias.is_some(), low > f32::NEG_INFINITY, high < f32::INFINITY) {
                    (false, false, false) => self.whole::<S, C, false, false, false>(s, sums, rows, c, c_row),
                    (false, true, false) => self.whole::<S, C, false, true, false>(s, sums, rows, c, c_row),
                    (false, ..) => self.whole::<S, C, false, true, true>(s, sums, rows, c, c_row),
                    (true, ..) => self.whole::<S, C, true, true, true>(s, sums, rows, c, c_row),
                }
            }
            return;
        }
        for row in 0..rows {
            let sums = sums.wrapping_add(row * TILE_VECTORS * S::LANES);
            let mut at = 0;
            while at < self.columns {
                let n = self.columns - at;
                // SAFETY: the caller's promise; no more than `columns` values of C and bias are touched.
                unsafe {
                    let to = c.add(row * c_row + at);
                    if n >= S::LANES {
                        self.vector::<S, C, false>(s, sums.add(at), at, S::LANES, to);
                    } else {
                        self.vector::<S, C, true>(s, sums.add(at), at, n, to);
                    }
                }
                at += S::LANES;
            }
        }
    }

    /// [`End::finish`] for all of a panel's columns, where there is a bias and are bounds as the constants
    /// say.
    #[inline(always)]
    unsafe fn whole<S: Simd, C: Element, const BIAS: bool, const LOW: bool, const HIGH: bool>(
        self,
        s: S,
        sums: *const f32,
        rows: usize,
        c: *mut C,
        c_row: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut bias = [s.splat(0.0); TILE_VECTORS];
            if let Some(from) = self.bias {
                bias = simd::load_all::<S, false, TILE_VECTORS>(s, from, S::LANES);
            }
            let (low, high) = gemm::bounds::<S, TILE_VECTORS>(s, self.clamp, self.lowered);
            for row in 0..rows {
                let sums = sums.add(row * TILE_VECTORS * S::LANES);
                let [left, right] = simd::load_all::<S, false, TILE_VECTORS>(s, sums, S::LANES);
                let mut both = [left, right];
                for (i, v) in both.iter_mut().enumerate() {
                    if BIAS {
                        *v = s.add(*v, bias[i]);
                    }
                    if LOW && HIGH {
                        *v = s.clamp(*v, low[i], high[i]);
                    } else if LOW {
                        *v = s.at_least(*v, low[i]);
                    }
                }
                let [left, right] = both;
                simd::store_pair(s, c.add(row * c_row), left, right);
            }
        }
    }

    #[inline(always)]
    unsafe fn vector<S: Simd, C: Element, const PARTIAL: bool>(
        self,
        s: S,
        sums: *const f32,
        at: usize,
        n: usize,
        c: *mut C,
    ) {
        // SAFETY: as in `finish`; the sums have room for whole vectors.
        unsafe {
            let mut sum = s.load(sums);
            if let Some(bias) = self.bias {
                sum = s.add(sum, simd::load::<S, PARTIAL>(s, bias.add(at), n));
            }
            let lowered = self.lowered.map(|lowered| lowered.add(at));
            sum = gemm::clamp::<S, PARTIAL>(s, sum, self.clamp, lowered, n);
            simd::store::<S, PARTIAL>(s, c, sum, n);
        }
    }
}
