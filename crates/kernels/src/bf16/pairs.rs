//! Products of bf16 by VDPBF16PS (AVX512-BF16): a lane adds two products at a time. The tiles are those of
//! products of f32 ([`crate::gemm`]), with a pair in place of a value.

use std::arch::x86_64::*;
use std::hint::black_box;

use half::bf16;

use super::Product;
use crate::buffer::Buffer;
use crate::element::Element;
use crate::gemm::{Ahead, MatrixMut, MatrixRef, Tile, TransposedGemm, VALUE, padded_stride};
use crate::isa::Isa;
use crate::simd::avx512::run_pairs;
use crate::simd::{Kernel, Simd, TILE_VECTORS};

/// # Safety
/// AVX-512F, BW, VL and BF16 must be present, and the product's shapes fit.
pub(super) unsafe fn run<C: Element>(product: Product<C>) {
    // SAFETY: the caller's promises.
    unsafe { run_pairs(PairProduct(product)) }
}

struct PairProduct<'a, C>(Product<'a, C>);

impl<C: Element> Kernel for PairProduct<'_, C> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        let Product { a, b, first_column, c, epilogue } = self.0;
        let width = S::LANES * TILE_VECTORS;
        for j in (0..c.columns).step_by(width) {
            let column = first_column + j;
            let panel = b.panel(column);
            // The weights of a whole network do not stay in the cache: those of the next panel come
            // into it while this one is at work.
            let (ahead, ahead_len) = match j + width < c.columns {
                true => (b.panel(column + width), b.depth() / 2 * width),
                false => (panel, 0),
            };
            let tile = Tile {
                steps: b.k() / 2,
                half_step: !b.k().is_multiple_of(2),
                a_row: a.stride * size_of::<bf16>(),
                a_step: VALUE,
                b_step: width * VALUE,
                c_row: c.stride,
                columns: width.min(c.columns - j),
                accumulate: false,
                bias: epilogue.bias.map(|bias| bias[column..].as_ptr()),
                clamp: epilogue.clamp,
                ahead: ahead.cast(),
                ahead_len,
                next: panel.cast(),
                next_len: 0,
            };
            // SAFETY: the panel holds all steps of k; A and C hold `rows` rows of their strides.
            unsafe {
                tile.down::<S, C>(s, a.rows, &[a.data.as_ptr().cast()], panel.cast(), c.data.wrapping_add(j))
            };
        }
    }
}

/// Rows that are paired at a time: what the scratch memory holds.
const ROWS: usize = 512;

/// C += Aᵀ·B over the rows that A and B share, of which two neighbours make pairs.
///
/// # Safety
/// The instructions of `isa`, which has AVX-512F, BW, VL and BF16, must be present, and the shapes fit.
pub(super) unsafe fn run_transposed(
    isa: Isa,
    a: MatrixRef<bf16>,
    b: MatrixRef<bf16>,
    mut c: MatrixMut<f32>,
    scratch: &mut Buffer,
) {
    let strides = [a, b].map(|matrix| padded_stride(isa, matrix.columns));
    let most = ROWS.min(a.rows).div_ceil(2);
    let (pairs_a, pairs_b) =
        scratch.at_least(most * (strides[0] + strides[1])).split_at_mut(most * strides[0]);
    for first in (0..a.rows).step_by(ROWS) {
        let rows = first..a.rows.min(first + ROWS);
        let [a, b] =
            [(a, &mut *pairs_a, strides[0]), (b, &mut *pairs_b, strides[1])].map(|(from, to, stride)| {
                let row = |row: usize| &from.data[row * from.stride..][..from.columns];
                for (at, to) in rows.clone().step_by(2).zip(to.chunks_exact_mut(stride)) {
                    let second = (at + 1 < rows.end).then(|| row(at + 1));
                    // SAFETY: the caller's promise.
                    unsafe { pair(row(at), second, &mut to[..from.columns]) };
                }
                MatrixRef::new(&*to, rows.len().div_ceil(2), from.columns, stride)
            });
        // SAFETY: the caller's promises; the strides are those that the product needs.
        unsafe { run_pairs(TransposedGemm { a, b, c: c.reborrow(), ahead: Ahead::default() }) };
    }
}

/// The values of two rows (or one and zeros) side by side: the bits of pairs.
///
/// # Safety
/// AVX-512F, BW and VL must be present.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn pair(first: &[bf16], second: Option<&[bf16]>, to: &mut [f32]) {
    const LANES: usize = 16;
    assert!(first.len() == to.len() && second.is_none_or(|second| second.len() == to.len()));
    for at in (0..to.len()).step_by(LANES) {
        let mask = ((1u32 << LANES.min(to.len() - at)) - 1) as __mmask16;
        // SAFETY: only lanes inside the rows are touched.
        unsafe {
            let load = |row: &[bf16]| {
                _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, row.as_ptr().add(at).cast()))
            };
            let mut pairs = load(first);
            if let Some(second) = second {
                pairs = _mm512_or_si512(pairs, _mm512_slli_epi32::<16>(load(second)));
            }
            _mm512_mask_storeu_epi32(to.as_mut_ptr().add(at).cast(), mask, pairs);
        }
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
        let factors = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(black_box(0x3c00_3c00)));
        let mut sums = [_mm512_set1_ps(black_box(0.5)); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, factors, factors);
            }
        }
        black_box(sums);
    }
}
