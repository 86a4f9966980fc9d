//! Products of bf16 by VDPBF16PS (AVX512-BF16): a lane adds two products at a time.

use std::arch::x86_64::*;
use std::hint::black_box;

use half::bf16;

use super::Product;
use super::tile::{self, Multiply, Scratch};
use crate::element::Element;
use crate::simd::avx512::Avx512;

/// # Safety
/// AVX-512F, BW, VL and BF16 must be present, and the product's shapes fit.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
pub(super) unsafe fn run<C: Element>(product: Product<C>) {
    // SAFETY: the caller's promises.
    unsafe { tile::run(Pairs, product) }
}

/// Proof that AVX512-BF16 is present.
#[derive(Clone, Copy)]
struct Pairs;

#[inline(always)]
unsafe fn as_pairs(v: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits, any of which are valid.
    unsafe { std::mem::transmute(v) }
}

// SAFETY (of every block below): the instructions are present where a `Pairs` exists; pointers are
// valid for what is read, by the trait's contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Multiply for Pairs {
    type Simd = Avx512<true>;
    type Factors = __m512bh;
    type A = bf16;
    const STEP: usize = 2;

    #[inline(always)]
    fn simd(self) -> Avx512<true> {
        Avx512::<true>
    }
    #[inline(always)]
    unsafe fn columns(self, from: *const bf16) -> __m512bh {
        unsafe { as_pairs(_mm512_loadu_si512(from.cast())) }
    }
    #[inline(always)]
    unsafe fn prepare(
        self,
        a: (*const bf16, usize),
        _rows: usize,
        _k: usize,
        _scratch: &mut Scratch,
    ) -> (*const bf16, usize) {
        a
    }
    #[inline(always)]
    unsafe fn splat(self, from: *const bf16) -> __m512bh {
        unsafe { as_pairs(_mm512_set1_epi32(from.cast::<i32>().read_unaligned())) }
    }
    #[inline(always)]
    unsafe fn splat_last(self, from: *const bf16) -> __m512bh {
        // (The lower half of a lane is the first of its pair.)
        unsafe { as_pairs(_mm512_set1_epi32(i32::from((*from).to_bits()))) }
    }
    #[inline(always)]
    unsafe fn multiply_add(self, a: __m512bh, b: __m512bh, sum: __m512) -> __m512 {
        unsafe { _mm512_dpbf16_ps(sum, b, a) }
    }
}

/// Independent sums: enough to hide the latency of the instruction, few enough for the registers.
const SUMS: usize = 12;

/// Multiply-adds of a round of [`multiply_adds`].
pub(super) const MULTIPLY_ADDS: usize = SUMS * 32;

/// As many multiply-adds as the processor can do, in registers.
///
/// # Safety
/// AVX-512F and BF16 must be present.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
pub(super) unsafe fn multiply_adds(rounds: usize) {
    // SAFETY: the caller's promise; registers only. (0x3c00 is 2^-7.)
    unsafe {
        let factors = as_pairs(_mm512_set1_epi32(black_box(0x3c00_3c00)));
        let mut sums = [_mm512_set1_ps(black_box(0.5)); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, factors, factors);
            }
        }
        black_box(sums);
    }
}
