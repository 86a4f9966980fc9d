//! Products of bf16 by VDPBF16PS (AVX512-BF16): a lane adds two products at a time. The tiles are those of
//! products of f32 ([`crate::gemm`]), with a pair in place of a value.

use std::arch::x86_64::*;
use std::hint::black_box;

use half::bf16;

use super::Product;
use crate::element::Element;
use crate::gemm::{Across, Ahead, MatrixMut, MatrixRef, Panels, Target, Tile, TransposedGemm};
use crate::simd::avx512::run_pairs;
use crate::simd::{Kernel, Simd, TILE_VECTORS, VALUE};

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
        let Product { a, b, first_column, c, epilogue, ahead: touched } = self.0;
        let width = S::LANES * TILE_VECTORS;
        let panel_len = b.depth() / 2 * width;
        let across = Across::new::<S>(a.rows, c.columns);
        let tiles = across.tiles();
        let panel = |column: usize| b.panel(first_column + column).cast::<f32>();
        for index in 0..tiles {
            let place = across.place(index);
            let column = first_column + place.column;
            // The weights of a whole network do not stay in the cache: those of the next panels come
            // into it while these are at work.
            let ahead = if index + 1 < tiles {
                let next = across.place(index + 1);
                Panels { start: panel(next.column), len: panel_len, second: next.next_panel().map(panel) }
            } else {
                Panels::one(panel(place.column), 0)
            };
            let (next, next_len) = touched.share(index, tiles);
            let tile = Tile {
                steps: b.k() / 2,
                half_step: !b.k().is_multiple_of(2),
                a_row: a.stride * size_of::<bf16>(),
                a_step: VALUE,
                b_step: width * VALUE,
                b_others: place.panels_away::<S>(panel_len) * VALUE as isize,
                c_row: c.stride,
                columns: place.columns,
                others: place.others,
                accumulate: false,
                bias: epilogue.bias.map(|bias| bias.as_ptr().wrapping_add(column)),
                clamp: epilogue.clamp,
                lowered: epilogue.lowered.map(|lowered| lowered.as_ptr().wrapping_add(column)),
                ahead,
                next,
                next_len,
            };
            // SAFETY: the panels hold all steps of k; A and C hold `rows` rows of their strides.
            unsafe {
                let to = c.data.wrapping_add(place.column);
                tile.down::<S, C>(s, a.rows, &[a.data.as_ptr().cast()], panel(place.column), to)
            };
        }
    }
}

/// C = Aᵀ·B or C += Aᵀ·B, where a value of A and B is the pair of two rows, see [`pair`].
///
/// # Safety
/// AVX-512F, BW, VL and BF16 must be present, and the shapes fit as for [`crate::gemm::gemm_transposed`].
pub(super) unsafe fn multiply_transposed(a: MatrixRef, b: MatrixRef, (c, accumulate): (MatrixMut, bool)) {
    let MatrixMut { data, rows, columns, stride, .. } = c;
    let c = Target { data, rows, columns, stride: Some(stride), accumulate };
    // SAFETY: the caller's promises.
    unsafe { run_pairs(TransposedGemm { a, b, c, ahead: Ahead::default() }) };
}

/// The values of two rows (or one and zeros) side by side: the bits of pairs.
///
/// # Safety
/// AVX-512F, BW and VL must be present.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn pair(first: &[bf16], second: Option<&[bf16]>, to: &mut [f32]) {
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
