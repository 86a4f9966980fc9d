//! AVX-512F: sixteen lanes, thirty-two registers, masks.

use std::arch::x86_64::*;
use std::mem::transmute;

use half::{bf16, f16};

use super::{Kernel, Simd, TILE_VECTORS, TileWalk, VALUE, x86_tile};

/// Proof that AVX-512F is present, and if `BF16` also AVX-512BW, VL and BF16. With `PAIRS`, a value of the
/// matrices that [`Simd::tile`] multiplies is a pair of bf16, neighbours in k.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const BF16: bool = false, const PAIRS: bool = false>;

/// # Safety
/// AVX-512F must be present, and the kernel's conditions hold.
#[target_feature(enable = "avx512f,avx2,fma")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    unsafe { kernel.run(Avx512::<false>) }
}

/// Adds the products of the first halves of the pairs behind the walk.
///
/// # Safety
/// AVX-512F, BW, VL and BF16 must be present, the half pair of each row of A there, and a row of B.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
unsafe fn last_half<const ROWS: usize, const VECTORS: usize>(
    sums: &mut [[__m512; VECTORS]; ROWS],
    segment: *const f32,
    walk: TileWalk,
) {
    for (row, sums) in sums.iter_mut().enumerate() {
        for (v, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise. (The lower half of a lane is the first of its pair.)
            unsafe {
                let a =
                    segment.byte_add(walk.pace.a + row * walk.a_row + walk.pace.steps() * walk.pace.a_step);
                let a = _mm512_set1_epi32(i32::from(a.cast::<u16>().read_unaligned()));
                let b = walk.vector::<Avx512>(v).byte_add(walk.pace.steps() * walk.pace.b_step);
                let b = _mm512_loadu_si512(b.cast());
                let [a, b] = [a, b].map(|v| transmute::<__m512i, __m512bh>(v));
                *sum = _mm512_dpbf16_ps(*sum, b, a);
            }
        }
    }
}

/// Like [`run_bf16`], but products are of pairs.
///
/// # Safety
/// AVX-512F, BW, VL and BF16 must be present, and the kernel's conditions hold.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
pub(crate) unsafe fn run_pairs<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    unsafe { kernel.run(Avx512::<true, true>) }
}

/// # Safety
/// AVX-512F, BW, VL and BF16 must be present, and the kernel's conditions hold.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
pub(super) unsafe fn run_bf16<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    unsafe { kernel.run(Avx512::<true>) }
}

/// Rounding of what is narrowed to f16: to the nearest, without exceptions.
const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    debug_assert!(n <= 16);
    ((1u32 << n) - 1) as __mmask16
}

#[inline(always)]
unsafe fn widen(v: __m256i) -> __m512 {
    // SAFETY: AVX-512F is present where this is inlined.
    unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(v))) }
}

/// Rounds to the nearest bf16, ties to even; a NaN keeps its upper half and becomes quiet.
#[inline(always)]
unsafe fn narrow(v: __m512) -> __m256i {
    // SAFETY: AVX-512F is present where this is inlined.
    unsafe {
        let bits = _mm512_castps_si512(v);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
        let quiet = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x0040_0000));
        _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(quiet))
    }
}

// SAFETY (of every block below): AVX-512F is present where an `Avx512` exists, and pointers are
// valid for the lanes touched, by the trait's contract; masked lanes are not touched.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<const BF16: bool, const PAIRS: bool> Simd for Avx512<BF16, PAIRS> {
    type V = __m512;
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    const TILE_ROWS: usize = 14;
    const ROWS_OF_HALF: usize = 12;
    const ROWS_OF_THREE: usize = 9;
    const ROWS_OF_FOUR: usize = 6;

    #[inline(always)]
    unsafe fn tile<const ROWS: usize, const VECTORS: usize>(
        self,
        walk: TileWalk,
    ) -> [[Self::V; VECTORS]; ROWS] {
        unsafe {
            const PITCH: usize = TILE_VECTORS * 16 * VALUE;
            // (Conditions that are constants: what is not taken is not compiled.)
            if const { PAIRS } {
                let mut sums = if const { VECTORS == 4 } {
                    x86_tile::four_pairs_in_zmm::<ROWS, VECTORS, PITCH>(walk)
                } else if const { VECTORS == 3 } {
                    x86_tile::three_pairs_in_zmm::<ROWS, VECTORS, PITCH>(walk)
                } else {
                    x86_tile::pairs_in_zmm::<ROWS, VECTORS, PITCH>(walk)
                };
                if let (true, Some(segment)) = (walk.half_step, walk.segments.last()) {
                    last_half::<ROWS, VECTORS>(&mut sums, *segment, walk);
                }
                return sums;
            }
            if const { VECTORS == 4 } {
                return x86_tile::four_in_zmm::<ROWS, VECTORS, PITCH>(walk);
            }
            if const { VECTORS == 3 } {
                return x86_tile::three_in_zmm::<ROWS, VECTORS, PITCH>(walk);
            }
            if const { VECTORS == 2 && ROWS > 3 } {
                return x86_tile::in_zmm::<ROWS, VECTORS, PITCH>(walk);
            }
            if const { VECTORS == 1 && ROWS <= Self::ROWS_OF_HALF } && walk.columns <= Self::LANES / 2 {
                let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
                let halves = x86_tile::in_one_ymm::<ROWS, 1, PITCH>(walk);
                for (sums, [half]) in sums.iter_mut().zip(halves) {
                    sums[0] = _mm512_castps256_ps512(half);
                }
                return sums;
            }
            walk.sums::<Self, ROWS, VECTORS>(self)
        }
    }
    #[inline(always)]
    unsafe fn splat(self, x: f32) -> Self::V {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::V) {
        unsafe { _mm512_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn load_n(self, from: *const f32, n: usize) -> Self::V {
        unsafe { _mm512_maskz_loadu_ps(mask(n), from) }
    }
    #[inline(always)]
    unsafe fn store_n(self, to: *mut f32, v: Self::V, n: usize) {
        unsafe { _mm512_mask_storeu_ps(to, mask(n), v) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> Self::V {
        unsafe { widen(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, v: Self::V) {
        unsafe {
            if BF16 {
                // (Denormal values become zero.)
                _mm256_storeu_si256(to.cast(), transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v)));
            } else {
                _mm256_storeu_si256(to.cast(), narrow(v));
            }
        }
    }
    #[inline(always)]
    unsafe fn store_bf16_pair(self, to: *mut bf16, left: Self::V, right: Self::V) {
        unsafe {
            if BF16 {
                let both = _mm512_cvtne2ps_pbh(right, left);
                _mm512_storeu_si512(to.cast(), transmute::<__m512bh, __m512i>(both));
            } else {
                self.store_bf16(to, left);
                self.store_bf16(to.add(Self::LANES), right);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_n(self, from: *const bf16, n: usize) -> Self::V {
        let mut lanes = [bf16::ZERO; 16];
        unsafe {
            if BF16 {
                return widen(_mm256_maskz_loadu_epi16(mask(n), from.cast()));
            }
            // (Masked loads of 16-bit lanes need AVX-512BW.)
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), n);
            self.load_bf16(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_bf16_n(self, to: *mut bf16, v: Self::V, n: usize) {
        let mut lanes = [bf16::ZERO; 16];
        unsafe {
            if BF16 {
                let values = transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
                return _mm256_mask_storeu_epi16(to.cast(), mask(n), values);
            }
            self.store_bf16(lanes.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, n);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> Self::V {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16, v: Self::V) {
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<NEAREST>(v)) }
    }
    #[inline(always)]
    unsafe fn load_f16_n(self, from: *const f16, n: usize) -> Self::V {
        let mut lanes = [f16::ZERO; 16];
        unsafe {
            if BF16 {
                return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask(n), from.cast()));
            }
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), n);
            self.load_f16(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_f16_n(self, to: *mut f16, v: Self::V, n: usize) {
        let mut lanes = [f16::ZERO; 16];
        unsafe {
            if BF16 {
                return _mm256_mask_storeu_epi16(to.cast(), mask(n), _mm512_cvtps_ph::<NEAREST>(v));
            }
            self.store_f16(lanes.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, n);
        }
    }
    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> Self::V {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn add(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn neg_mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn clamp(self, v: Self::V, low: Self::V, high: Self::V) -> Self::V {
        // VMAXPS and VMINPS return their second operand when either is NaN.
        unsafe { _mm512_min_ps(high, _mm512_max_ps(low, v)) }
    }
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32, v: Self::V) {
        unsafe { _mm512_stream_ps(to, v) }
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
            let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, low);
            let inside = _mm512_mask_cmp_ps_mask::<_CMP_LT_OQ>(above, x, high);
            _mm512_maskz_mov_ps(inside, v)
        }
    }
}
