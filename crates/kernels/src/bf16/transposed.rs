//! C += Aᵀ·B: the weight gradient of a pointwise convolution.
//!
//! Both matrices are brought into another form first (`amx_transposed` for tiles, `pairs` for vectors of pairs, widened
//! here for everything else), which takes r·(m + n) steps against the r·m·n of the product.

use half::bf16;

use crate::buffer::Buffer;
use crate::element::convert;
use crate::gemm::{self, Ahead, MatrixMut, MatrixRef};
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::Kind;

/// Rows that are brought into another form at a time: what the scratch memory holds.
const ROWS: usize = 512;

/// C += Aᵀ·B over the rows that A and B share: A is `[r, m]`, B `[r, n]`, C `[m, n]`.
///
/// Each element adds its products in an order that depends on r only, so the bits do not depend on how
/// the columns of A or of B are spread over calls. Any stride will do, and what lies between the rows
/// has no influence. `scratch` is memory to work in, which grows as needed; what it holds is of no account.
///
/// With `amx`, C passes through the first-level cache once every 256 rows, so that few rows (less than 200) of
/// a large C are slow; a stride of C that is not a power of two helps then.
///
/// # Panics
/// If shapes do not fit.
pub fn gemm_transposed_accumulate(
    isa: Isa,
    a: MatrixRef<bf16>,
    b: MatrixRef<bf16>,
    c: MatrixMut<f32>,
    scratch: &mut Buffer,
) {
    assert_eq!(a.rows, b.rows, "rows of A against rows of B");
    assert_eq!(a.columns, c.rows, "columns of A against rows of C");
    assert_eq!(b.columns, c.columns, "columns of B against columns of C");
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` exists only where its instructions do; the shapes fit.
        Kind::Amx => unsafe { super::amx_transposed::run(a, b, c, scratch) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Kind::Avx512Bf16 => unsafe { super::pairs::run_transposed(isa, a, b, c, scratch) },
        _ => widened(isa, a, b, c, scratch),
    }
}

/// The product in f32 of widened rows.
fn widened(isa: Isa, a: MatrixRef<bf16>, b: MatrixRef<bf16>, mut c: MatrixMut<f32>, scratch: &mut Buffer) {
    let strides = [a, b].map(|matrix| gemm::padded_stride(isa, matrix.columns));
    let most = ROWS.min(a.rows);
    let (wide_a, wide_b) = scratch.at_least(most * (strides[0] + strides[1])).split_at_mut(most * strides[0]);
    for first in (0..a.rows).step_by(ROWS) {
        let rows = ROWS.min(a.rows - first);
        let [a, b] =
            [(a, &mut *wide_a, strides[0]), (b, &mut *wide_b, strides[1])].map(|(from, to, stride)| {
                for (row, to) in (first..first + rows).zip(to.chunks_exact_mut(stride)) {
                    let from = &from.data[row * from.stride..][..from.columns];
                    convert(isa, from, &mut to[..from.len()]);
                }
                MatrixRef::new(&*to, rows, from.columns, stride)
            });
        gemm::gemm_transposed_accumulate(isa, a, b, c.reborrow(), Ahead::default());
    }
}
