//! Plain Rust: arrays that the compiler turns into whatever the target has.

use super::Simd;

/// Arrays of `LANES`, and tiles of `ROWS`.
#[derive(Clone, Copy)]
pub(crate) struct Arrays<const LANES: usize, const ROWS: usize>;

/// Four lanes: one register of every machine's baseline.
pub(crate) type Portable = Arrays<4, 4>;

/// The shape of AVX-512: so that its blocks, tails and tiles are walked, slowly, on every machine.
#[cfg(debug_assertions)]
pub(crate) type Wide = Arrays<16, 14>;

#[inline(always)]
fn zip<const LANES: usize>(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

// SAFETY (of every block below): pointers are valid for the lanes touched, by the trait's contract.
impl<const LANES: usize, const ROWS: usize> Simd for Arrays<LANES, ROWS> {
    type V = [f32; LANES];
    const LANES: usize = LANES;
    /// Those of what it stands for: AVX-512, or anything.
    const REGISTERS: usize = if LANES == 16 { 32 } else { 16 };
    const TILE_ROWS: usize = ROWS;
    const ROWS_OF_THREE: usize = if LANES == 16 { 9 } else { 0 };
    const ROWS_OF_FOUR: usize = if LANES == 16 { 6 } else { 0 };

    #[inline(always)]
    unsafe fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        // SAFETY: see above.
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::V) {
        // SAFETY: see above.
        unsafe { to.cast::<Self::V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_n(self, from: *const f32, n: usize) -> Self::V {
        // SAFETY: see above; only the first n are read.
        std::array::from_fn(|i| if i < n { unsafe { *from.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_n(self, to: *mut f32, v: Self::V, n: usize) {
        for (i, x) in v.into_iter().enumerate().take(n) {
            // SAFETY: see above; only the first n are written.
            unsafe { *to.add(i) = x }
        }
    }
    #[inline(always)]
    unsafe fn add(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not `f32::mul_add`: without an FMA instruction that is a call into libm.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn neg_mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| c[i] - a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn clamp(self, v: Self::V, low: Self::V, high: Self::V) -> Self::V {
        std::array::from_fn(|i| {
            let x = if v[i] < low[i] { low[i] } else { v[i] };
            if x > high[i] { high[i] } else { x }
        })
    }
    #[inline(always)]
    unsafe fn prefetch(self, _: *const f32) {}
    #[inline(always)]
    unsafe fn keep_inside(self, v: Self::V, x: Self::V, low: Self::V, high: Self::V) -> Self::V {
        std::array::from_fn(|i| if x[i] > low[i] && x[i] < high[i] { v[i] } else { 0.0 })
    }
}
