//! Products of bf16 by f32 arithmetic: B is packed as f32, and rows of A are widened, as many at a time as stay in
//! the second-level cache while all panels of B pass by. The product is that of f32 ([`crate::gemm`]).

use std::cell::RefCell;

use half::bf16;

use super::Product;
use crate::buffer::Buffer;
use crate::element::Element;
use crate::gemm::{self, Ahead, Gemm, MatrixRef, WHOLE_K};
use crate::simd::{self, Kernel, Simd, dispatch, for_channel_blocks};

thread_local! {
    /// Rows of A, widened.
    static WIDENED: RefCell<Buffer> = RefCell::new(Buffer::default());
}

/// Values of A that are widened at a time: 128 KB,
const VALUES: usize = 32 * 1024;

/// or so many rows, which are worth reading B for.
const LEAST_ROWS: usize = 49;

/// C = epilogue(A·B).
pub(super) fn run<C: Element>(product: Product<C>) {
    let Product { a, b, first_column, mut c, epilogue, ahead } = product;
    let Some(wide) = b.wide() else { unreachable!("B is packed as the instruction set takes it") };
    let stride = gemm::padded_stride(b.isa, a.columns);
    let total = a.rows;
    let groups = total.div_ceil((VALUES / stride.max(1)).max(LEAST_ROWS));
    WIDENED.with_borrow_mut(|widened| {
        let mut done = 0;
        for group in 0..groups {
            let rows = (a.rows - done).div_ceil(groups - group);
            let to = widened.at_least(rows * stride);
            let from = MatrixRef { data: &a.data[done * a.stride..], rows, ..a };
            // SAFETY: `to` has as many rows.
            unsafe { dispatch(b.isa, Widen { from, to, stride }) };
            let a = MatrixRef::new(to, rows, a.columns, stride);
            let c = c.some_rows(done..done + rows);
            done += rows;
            let ahead = if done == total { ahead } else { Ahead::default() };
            Gemm { a, b: wide, first_column, c, epilogue, ahead, accumulate: false, k_block: WHOLE_K }
                .checked();
        }
    });
}

struct Widen<'a> {
    from: MatrixRef<'a, bf16>,
    to: &'a mut [f32],
    stride: usize,
}

impl Kernel for Widen<'_> {
    type Output = ();
    const BF16: bool = true;

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        let Self { from, to, stride } = self;
        for row in 0..from.rows {
            let (from_row, to) = (
                from.data.as_ptr().wrapping_add(row * from.stride),
                to.as_mut_ptr().wrapping_add(row * stride),
            );
            // SAFETY: A has `columns` values in each row, and `to` at least as many.
            unsafe {
                for_channel_blocks!(S, from.columns, |at, n, PARTIAL| {
                    let values = simd::load::<S, PARTIAL>(s, from_row.add(at), n);
                    simd::store::<S, PARTIAL>(s, to.add(at), values, n);
                });
            }
        }
    }
}
