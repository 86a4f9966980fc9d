//! Products of bf16 by f32 arithmetic: B is packed as f32, and a tile's rows of A are widened a block at a
//! time. The tiles are those of products of f32 ([`crate::gemm`]), whose sums wait in memory for the next block.

use super::Product;
use super::end::{Columns, Ending};
use crate::element::Element;
use crate::gemm::{PackedB, Panels, Tile};
use crate::simd::{self, Kernel, Simd, TILE_VECTORS, VALUE, dispatch, for_channel_blocks};

/// Rows of the tallest tile.
const MOST_ROWS: usize = 14;
/// Values in the sums of the tallest and widest tile, of two vectors of sixteen lanes.
const SUMS: usize = MOST_ROWS * 32;
/// Values of k for which a tile's rows of A are widened at a time: they take 14 KB, so that they stay in
/// the L1 cache.
const K_BLOCK: usize = 256;
/// A line more from row to row, so that rows do not fall on the same cache sets.
const ROW: usize = K_BLOCK + 16;

/// # Safety
/// The product's shapes must fit.
pub(super) unsafe fn run<C: Element>(product: Product<C>) {
    let Some(b) = product.b.wide() else { unreachable!("B is packed as the instruction set takes it") };
    // SAFETY: the caller's promise.
    unsafe { dispatch(product.b.isa, Widened { product, b }) }
}

struct Widened<'a, C> {
    product: Product<'a, C>,
    b: &'a PackedB,
}

/// Room for a block of a tile's rows of A, and for its sums.
#[repr(align(64))]
struct Scratch {
    rows: [[f32; ROW]; MOST_ROWS],
    sums: [f32; SUMS],
}

impl<C: Element> Kernel for Widened<'_, C> {
    type Output = ();
    const BF16: bool = true;

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        let Product { a, first_column, c, epilogue, .. } = self.product;
        let k = self.b.k();
        let width = S::LANES * TILE_VECTORS;
        let mut scratch = Scratch { rows: [[0.0; ROW]; MOST_ROWS], sums: [0.0; SUMS] };
        // As few tiles as will do, of nearly equal height.
        let tiles = a.rows.div_ceil(S::TILE_ROWS);
        for j in (0..c.columns).step_by(width) {
            let columns = width.min(c.columns - j);
            let panel = self.b.panels(first_column + j);
            // The weights of a whole network do not stay in the cache: those of the next panel come
            // into it while this one is at work.
            let ahead = if j + width < c.columns { self.b.panels(first_column + j + width) } else { &[] };
            let ahead = &ahead[..ahead.len().min(k * width)];
            let mut ahead = ahead.chunks(ahead.len().div_ceil((tiles * k.div_ceil(K_BLOCK)).max(1)).max(1));
            // SAFETY: the instruction set is there, and the epilogue's values were checked to reach over C's columns.
            let end: Columns<S> = unsafe { Ending::<C>::new(s, &epilogue, first_column + j, columns) };
            let mut row = 0;
            for tile in 0..tiles {
                let rows = (a.rows - row).div_ceil(tiles - tile);
                for block in (0..k).step_by(K_BLOCK) {
                    let steps = K_BLOCK.min(k - block);
                    let ahead = ahead.next().unwrap_or_default();
                    let tile = Tile {
                        steps,
                        half_step: false,
                        a_row: ROW * VALUE,
                        a_step: VALUE,
                        b_step: width * VALUE,
                        b_others: 0,
                        c_row: width,
                        columns: if columns <= S::LANES { S::LANES } else { width },
                        others: None,
                        accumulate: block > 0,
                        bias: None,
                        clamp: None,
                        lowered: None,
                        ahead: Panels::one(ahead.as_ptr(), ahead.len()),
                        next: ahead.as_ptr(),
                        next_len: 0,
                    };
                    // SAFETY: A has k values in each row, the scratch rows room for a block, the panel
                    // all steps of k; a tile has at most so many rows and columns as the scratch.
                    unsafe {
                        for (row, to) in (row..row + rows).zip(&mut scratch.rows) {
                            let from = a.data.as_ptr().add(row * a.stride + block);
                            for_channel_blocks!(S, steps, |at, n, PARTIAL| {
                                let values = simd::load::<S, PARTIAL>(s, from.add(at), n);
                                simd::store::<S, PARTIAL>(s, to.as_mut_ptr().add(at), values, n);
                            });
                        }
                        let from = scratch.rows.as_ptr().cast();
                        let b = panel[block * width..].as_ptr();
                        tile.down::<S, f32>(s, rows, &[from], b, scratch.sums.as_mut_ptr());
                    }
                }
                for sums in scratch.sums.chunks_exact(width).take(rows) {
                    // SAFETY: C has this row.
                    unsafe { end.row(sums.as_ptr(), c.data.wrapping_add(row * c.stride + j)) };
                    row += 1;
                }
            }
        }
    }
}
