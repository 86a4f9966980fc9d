//! AVX2 with FMA: eight lanes, sixteen registers.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Kernel, Simd, TILE_VECTORS, TileWalk, VALUE, WINDOWS, x86_tile, x86_windows};
use crate::element::Element;

/// Proof that AVX2, FMA and F16C are present.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// # Safety
/// AVX2, FMA and F16C must be present, and the kernel's conditions hold.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    unsafe { kernel.run(Avx2) }
}

/// Sliding window over this gives a mask with the first n lanes set.
static MASK: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
unsafe fn mask(n: usize) -> __m256i {
    debug_assert!(n <= 8);
    // SAFETY: n ≤ 8, so eight values from 8 − n on lie inside the table.
    unsafe { _mm256_loadu_si256(MASK.as_ptr().add(8 - n).cast()) }
}

/// Rounds to the nearest bf16, ties to even; a NaN keeps its upper half and becomes quiet.
#[inline(always)]
unsafe fn narrow(v: __m256) -> __m128i {
    // SAFETY: AVX2 is present where this is inlined.
    unsafe {
        let bits = _mm256_castps_si256(v);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
        let upper = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan));
        // (Values below 2^16 pass unsigned saturation.)
        let packed = _mm256_packus_epi32(upper, upper);
        _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b1000>(packed))
    }
}

// SAFETY (of every block below): AVX2 and FMA are present where an `Avx2` exists, and pointers are
// valid for the lanes touched, by the trait's contract; masked lanes are not touched.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    const TILE_ROWS: usize = 6;
    const ROWS_OF_ONE: usize = 12;

    #[inline(always)]
    unsafe fn tile<const ROWS: usize, const VECTORS: usize>(
        self,
        walk: TileWalk,
    ) -> [[Self::V; VECTORS]; ROWS] {
        unsafe {
            const PITCH: usize = TILE_VECTORS * Avx2::LANES * VALUE;
            // (A constant condition: what is not taken is not compiled.)
            if const { VECTORS == 2 } {
                return x86_tile::in_ymm::<ROWS, VECTORS, PITCH>(walk);
            }
            x86_tile::in_one_ymm::<ROWS, VECTORS, PITCH>(walk)
        }
    }
    #[inline(always)]
    unsafe fn windows<E: Element, const STRIDE: usize, const FIRST: bool, const LAST: bool>(
        self,
        rows: [*const E; 3],
        pixel: usize,
        weights: &[[Self::V; 3]; 3],
        sums: [Self::V; WINDOWS],
    ) -> [Self::V; WINDOWS] {
        let pixel = pixel * size_of::<E>();
        unsafe {
            match const { (STRIDE, E::BF16, E::F16) } {
                (1, false, false) => x86_windows::every_f32::<E, FIRST, LAST>(rows, pixel, weights, sums),
                (1, true, _) => x86_windows::every_bf16::<E, FIRST, LAST>(rows, pixel, weights, sums),
                (1, ..) => x86_windows::every_f16::<E, FIRST, LAST>(rows, pixel, weights, sums),
                (_, false, false) => {
                    x86_windows::every_other_f32::<E, FIRST, LAST>(rows, pixel, weights, sums)
                }
                (_, true, _) => x86_windows::every_other_bf16::<E, FIRST, LAST>(rows, pixel, weights, sums),
                _ => x86_windows::every_other_f16::<E, FIRST, LAST>(rows, pixel, weights, sums),
            }
        }
    }
    #[inline(always)]
    unsafe fn splat(self, x: f32) -> Self::V {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::V) {
        unsafe { _mm256_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn load_n(self, from: *const f32, n: usize) -> Self::V {
        unsafe { _mm256_maskload_ps(from, mask(n)) }
    }
    #[inline(always)]
    unsafe fn store_n(self, to: *mut f32, v: Self::V, n: usize) {
        unsafe { _mm256_maskstore_ps(to, mask(n), v) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> Self::V {
        unsafe {
            let v = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(v))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, v: Self::V) {
        unsafe { _mm_storeu_si128(to.cast(), narrow(v)) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> Self::V {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16, v: Self::V) {
        unsafe { _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }
    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> Self::V {
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn add(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn neg_mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe { _mm256_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn clamp(self, v: Self::V, low: Self::V, high: Self::V) -> Self::V {
        // MAXPS and MINPS return their second operand when either is NaN.
        unsafe { _mm256_min_ps(high, _mm256_max_ps(low, v)) }
    }
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32, v: Self::V) {
        unsafe { _mm256_stream_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn fence(self) {
        unsafe { _mm_sfence() }
    }
    #[inline(always)]
    unsafe fn prefetch(self, at: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn keep_inside(self, v: Self::V, x: Self::V, low: Self::V, high: Self::V) -> Self::V {
        unsafe {
            let above = _mm256_cmp_ps::<_CMP_GT_OQ>(x, low);
            let below = _mm256_cmp_ps::<_CMP_LT_OQ>(x, high);
            _mm256_and_ps(v, _mm256_and_ps(above, below))
        }
    }
}
