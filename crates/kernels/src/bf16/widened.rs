//! Products of bf16 by f32 arithmetic: B is packed as f32, and rows of A are widened, as many at a time as stay in
//! the second-level cache while all panels of B pass by. The product is that of f32 ([`crate::gemm`]).

use std::cell::RefCell;

use super::Product;
use crate::buffer::Buffer;
use crate::element::{self, Element};
use crate::gemm::{self, Ahead, Gemm, MatrixRef, WHOLE_K};

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
    let groups = a.rows.div_ceil((VALUES / stride).max(LEAST_ROWS));
    WIDENED.with_borrow_mut(|widened| {
        let mut done = 0;
        for group in 0..groups {
            let rows = (a.rows - done).div_ceil(groups - group);
            // (As much as any layer's rows need, so that the memory grows once.)
            let to = &mut widened.at_least((rows * stride).max(2 * VALUES))[..rows * stride];
            for (row, to) in to.chunks_exact_mut(stride).enumerate() {
                let from = &a.data[(done + row) * a.stride..][..a.columns];
                element::convert(b.isa, from, &mut to[..a.columns]);
            }
            let a = MatrixRef::new(to, rows, a.columns, stride);
            let c = c.some_rows(done..done + rows);
            done += rows;
            let ahead = if group + 1 == groups { ahead } else { Ahead::default() };
            Gemm { a, b: wide, first_column, c, epilogue, ahead, accumulate: false, k_block: WHOLE_K }
                .checked();
        }
    });
}
