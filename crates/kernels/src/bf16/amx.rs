//! Products of bf16 in tiles (AMX-BF16), by inline assembly: the intrinsics are not in stable Rust.
//!
//! A tile register holds up to sixteen rows of 64 bytes. Four of them are the sums of two tile rows
//! and two tile columns of C (or two, of one tile row, where [`registers`] are few), and in each step others take
//! 32 values of k of the rows of A, straight from the activations, and the same of 2·16 columns of B from its
//! panel, in which the pairs of k lie side by side. The sums stay in their registers over all of k.
//!
//! The heights of all tile rows are equal, so that tiles are configured once a product.

use std::arch::asm;
use std::mem::MaybeUninit;

use half::bf16;

use super::end::End;
use super::{Product, registers};
use crate::element::Element;
use crate::gemm::MatrixRef;
use crate::simd::Simd;
use crate::simd::avx512::Avx512;

/// Values of k in a tile of A or B.
pub(super) const K_STEP: usize = 32;
/// Values of k that are gone through at a time: a panel of B of this depth stays in the L1 cache beside
/// two tile rows of A.
const K_BLOCK: usize = 8 * K_STEP;
/// Tile rows whose sums wait for the next block of k.
const GROUP: usize = 8;
/// Tile products in a call after which tiles are surely awake.
const LONG: usize = 256;
/// The most rows of a tile.
pub(super) const TILE_ROWS: usize = 16;
/// Bytes of a row of a tile.
const TILE_ROW: u16 = 64;
/// Columns of a tile,
const TILE_COLUMNS: usize = 16;
/// and of a panel.
const WIDTH: usize = 2 * TILE_COLUMNS;
/// Values of a cache line.
const LINE: usize = 32;

/// [`super::gemm`] in tiles.
///
/// # Safety
/// AMX-TILE, AMX-BF16, AVX-512F, BW, VL and BF16 must be present and permitted, and the shapes fit.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
pub(super) unsafe fn gemm<C: Element>(product: Product<C>) {
    let Product { a, b, first_column, c, epilogue } = product;
    let MatrixRef { rows, columns: k, stride, .. } = a;
    let tiles = rows.div_ceil(TILE_ROWS);
    if tiles == 0 {
        return;
    }
    // Where the height does not divide the rows, the last tile row begins earlier and computes some of those before
    // it again, to the same bits.
    let height = rows.div_ceil(tiles);
    let first_row = |tile: usize| (tile * height).min(rows - height);
    let blocks = k.div_ceil(K_BLOCK).max(1);
    // Tile rows that are at work together.
    let together = if registers::few() { 1 } else { 2 };
    let turns = tiles.div_ceil(together);
    let mut sums = [const { MaybeUninit::<Sums>::uninit() }; GROUP];
    let mut tails = Tails::default();
    // The sums before, which are finished while the tiles are at work on the next ones.
    let end = End { columns: 0, bias: None, clamp: None, lowered: None };
    let mut before = Finish { end, from: std::ptr::null(), to: c.data, rows: 0, stride: c.stride };
    // Turns whose sums are in memory. (No more than there must be, in the L1 cache.)
    let group = if blocks > 1 { GROUP / together } else { 2 };
    // SAFETY: the caller's promises. Whole steps of A's rows are read in place, and what is left of k in
    // `tails`. B's panel has whole steps, filled up with zeros.
    unsafe {
        let _tiles = Configured::new(height as u8);
        for j in (0..c.columns).step_by(WIDTH) {
            let column = first_column + j;
            let columns = WIDTH.min(c.columns - j);
            let panel = b.panel(column);
            let bias = Bias::of(epilogue.bias, column, columns);
            // The weights of a whole network do not stay in the cache: those of the next panel come
            // into it while this one is at work, evenly.
            let (mut ahead, ahead_lines) = if j + WIDTH < c.columns {
                (b.panel(column + WIDTH), (K_STEP * WIDTH / LINE).div_ceil(turns))
            } else {
                (panel, 0)
            };
            let lowered = epilogue.lowered.map(|lowered| lowered[column..].as_ptr());
            let end = End { columns, bias: None, clamp: epilogue.clamp, lowered };
            for (first_turn, block) in groups(turns, group, blocks) {
                let k0 = block * K_BLOCK;
                let k = K_BLOCK.min(k - k0);
                let (steps, tail) = (k / K_STEP, k % K_STEP);
                let all_steps = steps + usize::from(tail > 0);
                let panel = panel.wrapping_add(k0 * WIDTH);
                for (slot, turn) in (first_turn..turns.min(first_turn + group)).enumerate() {
                    let tile = turn * together;
                    let two = together == 2 && tile + 1 < tiles;
                    let tiles = [tile, tile + usize::from(two)];
                    let wide = columns > TILE_COLUMNS;
                    let start = |tile| a.data.as_ptr().wrapping_add(first_row(tile) * stride + k0);
                    let stride_bytes = stride * size_of::<bf16>();
                    let mut work = Block { rows: tiles.map(start), stride: stride_bytes, panel, two, wide };
                    let sums = sums.as_mut_ptr().add(slot * together).cast::<f32>();
                    let left = before.rows;
                    let share = left.div_ceil(all_steps.max(1));
                    if block == 0 {
                        work.load(bias.0.as_ptr(), 0, 0)
                    } else {
                        work.load(sums, size_of::<[f32; WIDTH]>(), height * WIDTH)
                    }
                    for step in 0..all_steps {
                        if step == steps {
                            work.rows = tails.copy(work.rows, height, stride, tail);
                            work.stride = K_STEP * size_of::<bf16>();
                        }
                        work.step();
                        for _ in 0..ahead_lines {
                            Avx512::<true>.prefetch(ahead.cast());
                            ahead = ahead.wrapping_add(LINE);
                        }
                        before.finish(share);
                    }
                    before.finish(left);
                    work.store(sums, height);
                    if block + 1 < blocks {
                        continue;
                    }
                    let [row, second] = tiles.map(first_row);
                    let to = |row: usize| c.data.wrapping_add(row * c.stride + j);
                    let from = sums.cast_const();
                    before = Finish { end, from, to: to(row), rows: height, stride: c.stride };
                    if two && second == row + height {
                        before.rows += height;
                    } else if two {
                        let from = from.wrapping_add(height * WIDTH);
                        Finish { from, to: to(second), ..before }.finish(height);
                    }
                }
            }
        }
        before.finish(before.rows);
        let products = tiles * k.div_ceil(K_STEP) * c.columns.div_ceil(TILE_COLUMNS);
        if height > TILE_ROWS / 2 && products >= LONG {
            registers::look();
        }
    }
}

/// The first turn of each group, and the block of k: all blocks of a group one after another.
fn groups(turns: usize, group: usize, blocks: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..turns).step_by(group).flat_map(move |first| (0..blocks).map(move |block| (first, block)))
}

/// Rows of sums that are not in C yet.
#[derive(Clone, Copy)]
struct Finish<C> {
    end: End,
    from: *const f32,
    to: *mut C,
    rows: usize,
    /// From row to row of C.
    stride: usize,
}

impl<C: Element> Finish<C> {
    /// Finishes the next few rows.
    ///
    /// # Safety
    /// As [`End::finish`].
    #[inline(always)]
    unsafe fn finish(&mut self, rows: usize) {
        let rows = rows.min(self.rows);
        if rows > 0 {
            // SAFETY: the caller's promise.
            unsafe { self.end.finish(Avx512::<true>, self.from, rows, self.to, self.stride) };
            self.from = self.from.wrapping_add(rows * WIDTH);
            self.to = self.to.wrapping_add(rows * self.stride);
            self.rows -= rows;
        }
    }
}

/// What the sums of a panel begin with.
#[repr(align(64))]
struct Bias([f32; WIDTH]);

impl Bias {
    fn of(bias: Option<&[f32]>, column: usize, columns: usize) -> Self {
        let mut values = [0.0; WIDTH];
        if let Some(bias) = bias {
            values[..columns].copy_from_slice(&bias[column..][..columns]);
        }
        Self(values)
    }
}

/// A configuration of the tile registers, given up when dropped (which lets the processor save less when
/// threads change).
pub(super) struct Configured;

/// What LDTILECFG reads: palette 1, and for each tile the bytes of a row and the number of rows.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Configured {
    /// Tiles 0 to 3 (sums) and 4, 5 (A) of `height` rows, 6 and 7 (B) of sixteen pairs of k. As long as one of
    /// them is not written to, it is zero and takes no register.
    pub(super) unsafe fn new(height: u8) -> Self {
        let mut configuration =
            Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        configuration.row_bytes[..8].fill(TILE_ROW);
        configuration.rows[..6].fill(height);
        configuration.rows[6..8].fill(TILE_ROWS as u8);
        // SAFETY: reads 64 bytes; the values are within what palette 1 allows.
        unsafe {
            asm!(
                "ldtilecfg [{at}]",
                at = in(reg) &raw const configuration,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly, preserves_flags),
            );
        }
        Self
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: a `Configured` exists only where AMX does.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nomem, nostack, preserves_flags),
            );
        }
    }
}

/// Sums of a tile row, of a panel's width.
#[repr(align(64))]
struct Sums {
    _values: [f32; TILE_ROWS * WIDTH],
}

/// The last values of k of two tile rows, filled up with zeros.
#[repr(align(64))]
#[derive(Default)]
struct Tails([[[bf16; K_STEP]; TILE_ROWS]; 2]);

impl Tails {
    /// Copies `tail` values of the `height` rows, `stride` apart, from each of `rows` on: where the
    /// copies are.
    unsafe fn copy(
        &mut self,
        rows: [*const bf16; 2],
        height: usize,
        stride: usize,
        tail: usize,
    ) -> [*const bf16; 2] {
        for (to, from) in self.0.iter_mut().zip(rows) {
            for (row, to) in to.iter_mut().enumerate().take(height) {
                // SAFETY: so many values of the row are there, fewer than a step.
                unsafe {
                    let from = from.add(row * stride);
                    std::ptr::copy_nonoverlapping(from, to[..tail].as_mut_ptr(), tail);
                }
            }
        }
        [self.0[0].as_ptr().cast(), self.0[1].as_ptr().cast()]
    }
}

/// The sums of one or two tile rows and one or two tile columns, in tiles 0 (above, left), 1 (above,
/// right), 2 and 3 (below). They stay there from [`Block::start`] to [`Block::store`]: the compiler
/// itself uses no tile.
struct Block {
    /// Where the next step's values of A begin, of either tile row.
    rows: [*const bf16; 2],
    /// Bytes from row to row of A.
    stride: usize,
    /// The next step's values of B.
    panel: *const bf16,
    /// Whether there is a tile row below,
    two: bool,
    /// and a tile column on the right.
    wide: bool,
}

impl Block {
    /// The sums begin with what lies at `above` and, `below` values from there, of the second tile row: lines
    /// so many bytes apart.
    ///
    /// # Safety
    /// The tiles must be configured, and there be a line for each row of each tile.
    #[inline(always)]
    unsafe fn load(&self, above: *const f32, line: usize, below: usize) {
        /// Loads a tile of the left column, and one of the right.
        macro_rules! load {
            ($left:literal, $right:literal, $from:expr) => {
                asm!($left, from = in(reg) $from, line = in(reg) line, options(nostack, readonly, preserves_flags));
                if self.wide {
                    asm!($right, from = in(reg) $from, line = in(reg) line, options(nostack, readonly, preserves_flags));
                }
            };
        }
        // SAFETY: the caller's promise.
        unsafe {
            load!("tileloadd tmm0, [{from} + {line}]", "tileloadd tmm1, [{from} + {line} + 64]", above);
            if self.two {
                let below = above.wrapping_add(below);
                load!("tileloadd tmm2, [{from} + {line}]", "tileloadd tmm3, [{from} + {line} + 64]", below);
            }
        }
    }

    /// A step of k.
    ///
    /// # Safety
    /// The tiles must be configured, and A and the panel have another step.
    #[inline(always)]
    unsafe fn step(&mut self) {
        macro_rules! step {
            ($($instruction:literal)*) => {
                asm!(
                    $($instruction,)*
                    a = in(reg) self.rows[0],
                    a_below = in(reg) self.rows[1],
                    stride = in(reg) self.stride,
                    b = in(reg) self.panel,
                    line = in(reg) 2 * usize::from(TILE_ROW),
                    options(nostack, readonly, preserves_flags),
                )
            };
        }
        // SAFETY: the caller's promises; 2 KB of the panel are read, and 64 bytes of each row. (Operands that
        // a form does not need are named in a comment.)
        unsafe {
            match (self.two, self.wide) {
                (true, true) => step!(
                    "tileloadd tmm4, [{a} + {stride}]"
                    "tileloadd tmm6, [{b} + {line}]"
                    "tdpbf16ps tmm0, tmm4, tmm6"
                    "tileloadd tmm7, [{b} + {line} + 64]"
                    "tdpbf16ps tmm1, tmm4, tmm7"
                    "tileloadd tmm4, [{a_below} + {stride}]"
                    "tdpbf16ps tmm2, tmm4, tmm6"
                    "tdpbf16ps tmm3, tmm4, tmm7"
                ),
                (true, false) => step!(
                    "tileloadd tmm4, [{a} + {stride}]"
                    "tileloadd tmm6, [{b} + {line}]"
                    "tdpbf16ps tmm0, tmm4, tmm6"
                    "tileloadd tmm4, [{a_below} + {stride}]"
                    "tdpbf16ps tmm2, tmm4, tmm6"
                ),
                (false, true) => step!(
                    "/* {a_below} */"
                    "tileloadd tmm4, [{a} + {stride}]"
                    "tileloadd tmm6, [{b} + {line}]"
                    "tdpbf16ps tmm0, tmm4, tmm6"
                    "tileloadd tmm6, [{b} + {line} + 64]"
                    "tdpbf16ps tmm1, tmm4, tmm6"
                ),
                (false, false) => step!(
                    "/* {a_below} */"
                    "tileloadd tmm4, [{a} + {stride}]"
                    "tileloadd tmm6, [{b} + {line}]"
                    "tdpbf16ps tmm0, tmm4, tmm6"
                ),
            }
        }
        self.rows = self.rows.map(|row| row.wrapping_add(K_STEP));
        self.panel = self.panel.wrapping_add(K_STEP * WIDTH);
    }

    /// # Safety
    /// The tiles must be configured.
    #[inline(always)]
    unsafe fn store(&self, sums: *mut f32, height: usize) {
        /// Stores a tile of the left column, and one of the right.
        macro_rules! store {
            ($left:literal, $right:literal, $to:expr) => {
                let line = 2 * usize::from(TILE_ROW);
                asm!($left, to = in(reg) $to, line = in(reg) line, options(nostack, preserves_flags));
                if self.wide {
                    asm!($right, to = in(reg) $to, line = in(reg) line, options(nostack, preserves_flags));
                }
            };
        }
        // SAFETY: there is a line for each row of each tile.
        unsafe {
            store!("tilestored [{to} + {line}], tmm0", "tilestored [{to} + {line} + 64], tmm1", sums);
            if self.two {
                let below = sums.wrapping_add(height * WIDTH);
                store!("tilestored [{to} + {line}], tmm2", "tilestored [{to} + {line} + 64], tmm3", below);
            }
        }
    }
}

/// Multiply-adds of a round of [`multiply_adds`]: six tile products.
pub(super) const MULTIPLY_ADDS: usize = 6 * TILE_ROWS * 16 * K_STEP;

/// As many multiply-adds as the processor can do, in registers.
///
/// # Safety
/// AMX-TILE and AMX-BF16 must be present and permitted.
pub(super) unsafe fn multiply_adds(rounds: usize) {
    // SAFETY: the caller's promise; the tiles are configured, and zero then.
    unsafe {
        let _tiles = Configured::new(TILE_ROWS as u8);
        asm!(
            "2:",
            "tdpbf16ps tmm0, tmm6, tmm7",
            "tdpbf16ps tmm1, tmm6, tmm7",
            "tdpbf16ps tmm2, tmm6, tmm7",
            "tdpbf16ps tmm3, tmm6, tmm7",
            "tdpbf16ps tmm4, tmm6, tmm7",
            "tdpbf16ps tmm5, tmm6, tmm7",
            "dec {rounds}",
            "jnz 2b",
            rounds = inout(reg) rounds.max(1) => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nomem, nostack),
        );
    }
}
