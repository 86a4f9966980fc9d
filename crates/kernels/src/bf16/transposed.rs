//! C = Aᵀ·B or C += Aᵀ·B: the weight gradient of a pointwise convolution.
//!
//! Both matrices are brought into another form first (that of `amx_transposed` for tiles, pairs of neighbouring
//! rows for VDPBF16PS, f32 for everything else), which takes r·(m + n) steps against the r·m·n of the product.

use half::bf16;

use crate::buffer::Buffer;
use crate::element::convert;
use crate::gemm::{self, Ahead, MatrixMut, MatrixRef};
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::Kind;

/// Rows that are brought into another form at a time: what the scratch memory holds.
const ROWS: usize = 512;

/// C += Aᵀ·B over the rows that A and B share, or, if it does not `accumulate`, C = Aᵀ·B, whatever C held: A is `[r, m]`,
/// B `[r, n]`, C `[m, n]`.
///
/// Each element adds its products in an order that depends on r only, so the bits do not depend on how
/// the columns of A or of B are spread over calls. Any stride will do, and what lies between the rows
/// has no influence. `scratch` is memory to work in, which grows as needed; what it holds is of no account.
///
/// With `amx`, C passes through the first-level cache once every 512 rows at most, so that few rows (less than 200) of
/// a large C are slow; a stride of C that is not a power of two helps then.
///
/// # Panics
/// If shapes do not fit.
pub fn gemm_transposed(
    isa: Isa,
    a: MatrixRef<bf16>,
    b: MatrixRef<bf16>,
    (mut c, accumulate): (MatrixMut<f32>, bool),
    scratch: &mut Buffer,
) {
    assert_eq!(a.rows, b.rows, "rows of A against rows of B");
    assert_eq!(a.columns, c.rows, "columns of A against rows of C");
    assert_eq!(b.columns, c.columns, "columns of B against columns of C");
    if a.rows == 0 {
        if !accumulate {
            c.zero();
        }
        return;
    }
    let c = (c, accumulate);
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` exists only where its instructions do; the shapes fit.
        Kind::Amx => unsafe { super::amx_transposed::run(a, b, c, scratch) },
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512Bf16 => by_blocks(
            isa,
            2,
            (a, b, c),
            scratch,
            // SAFETY: as above.
            |first, second, to| unsafe { super::pairs::pair(first, second, to) },
            // SAFETY: as above.
            |a, b, c, accumulate| unsafe { super::pairs::multiply_transposed(a, b, (c, accumulate)) },
        ),
        _ => by_blocks(
            isa,
            1,
            (a, b, c),
            scratch,
            |row, _, to| convert(isa, row, to),
            |a, b, c, accumulate| gemm::gemm_transposed(isa, a, b, (c, accumulate), Ahead::default()),
        ),
    }
}

/// The product by blocks of rows: `together` of them (one or two) become one of 32-bit values by
/// `form(first, second, to)`, and `multiply` makes the product of such rows C, or adds it to that.
fn by_blocks(
    isa: Isa,
    together: usize,
    (a, b, (mut c, accumulate)): (MatrixRef<bf16>, MatrixRef<bf16>, (MatrixMut<f32>, bool)),
    scratch: &mut Buffer,
    form: impl Fn(&[bf16], Option<&[bf16]>, &mut [f32]),
    multiply: impl Fn(MatrixRef, MatrixRef, MatrixMut, bool),
) {
    let strides = [a, b].map(|matrix| gemm::padded_stride(isa, matrix.columns));
    let most = ROWS.min(a.rows).div_ceil(together);
    let (of_a, of_b) = scratch.at_least(most * (strides[0] + strides[1])).split_at_mut(most * strides[0]);
    for first in (0..a.rows).step_by(ROWS) {
        let end = a.rows.min(first + ROWS);
        let [a, b] = [(a, &mut *of_a, strides[0]), (b, &mut *of_b, strides[1])].map(|(from, to, stride)| {
            let row = |row: usize| &from.data[row * from.stride..][..from.columns];
            for (at, to) in (first..end).step_by(together).zip(to.chunks_exact_mut(stride)) {
                let second = (together > 1 && at + 1 < end).then(|| row(at + 1));
                form(row(at), second, &mut to[..from.columns]);
            }
            MatrixRef::new(&*to, (end - first).div_ceil(together), from.columns, stride)
        });
        multiply(a, b, c.reborrow(), accumulate || first > 0);
    }
}
