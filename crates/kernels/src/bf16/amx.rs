//! Products of bf16 in tiles (AMX-BF16), by inline assembly: the intrinsics are not in stable Rust.
//!
//! A tile register holds up to sixteen rows of 64 bytes. Four of them are the sums of two tile rows
//! and two tile columns of C, and in each step two take 32 values of k of the rows of A, straight from
//! the activations, and two the same of 2·16 columns of B from its panel, in which the pairs of k lie side
//! by side. The sums stay in their registers over all of k.
//!
//! The heights of all tile rows are equal, so that tiles are configured once a product: where they do not
//! divide the rows, the last tile row begins earlier and computes some of the rows before it again, to
//! the same bits.

use std::arch::asm;

use half::bf16;

use super::Product;
use super::tile::End;
use crate::element::Element;
use crate::simd::avx512::Avx512;

/// Values of k in a tile of A or B.
pub(super) const K_STEP: usize = 32;
/// The most rows of a tile.
const TILE_ROWS: usize = 16;
/// Bytes of a row of a tile.
const TILE_ROW: u16 = 64;
/// Columns of a panel: two tiles.
const WIDTH: usize = 32;
/// Values of a cache line.
const LINE: usize = 32;

/// # Safety
/// AMX-TILE, AMX-BF16 and AVX-512F must be present and permitted, and the product's shapes fit.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
pub(super) unsafe fn run<C: Element>(product: Product<C>) {
    let Product { a, b, first_column, c, epilogue } = product;
    if a.rows == 0 {
        return;
    }
    let tiles = a.rows.div_ceil(TILE_ROWS);
    let height = a.rows.div_ceil(tiles);
    let (steps, tail) = (b.k() / K_STEP, b.k() % K_STEP);
    let mut sums = Sums([0.0; 2 * TILE_ROWS * WIDTH]);
    let mut tails = Tails::default();
    // SAFETY: the instructions are there (the caller's promise). Tile row t begins at row
    // min(t·height, rows − height), of which height follow in A and C. Of A's rows `steps` whole steps are
    // read in place, and what is left of k in `tails`. B's panel has whole steps, filled up with zeros.
    unsafe {
        let _tiles = Configured::new(height as u8);
        for j in (0..c.columns).step_by(WIDTH) {
            let column = first_column + j;
            let columns = WIDTH.min(c.columns - j);
            let panel = b.panel(column);
            // The weights of a whole network do not stay in the cache: those of the next panel come
            // into it while this one is at work, evenly.
            let (mut ahead, ahead_lines) = if j + WIDTH < c.columns {
                (b.panel(column + WIDTH), (K_STEP * WIDTH / LINE).div_ceil(tiles.div_ceil(2)))
            } else {
                (panel, 0)
            };
            let end = End {
                columns,
                bias: epilogue.bias.map(|bias| bias[column..].as_ptr()),
                clamp: epilogue.clamp,
            };
            for tile in (0..tiles).step_by(2) {
                let two = tile + 1 < tiles;
                let first = (tile * height).min(a.rows - height);
                let second = if two { ((tile + 1) * height).min(a.rows - height) } else { first };
                let rows = [first, second].map(|row| a.data.as_ptr().wrapping_add(row * a.stride));
                let mut segments = [Segment::END; 3];
                let mut count = 0;
                if steps > 0 {
                    segments[0] = Segment { rows, stride: a.stride * size_of::<bf16>(), steps };
                    count = 1;
                }
                if tail > 0 {
                    segments[count] = tails.copy(rows, height, a.stride, steps * K_STEP, tail);
                }
                let work = Work { segments: segments.as_ptr(), panel, ahead, ahead_lines };
                match (two, columns > WIDTH / 2) {
                    (true, true) => work.two_by_two(&mut sums),
                    (true, false) => work.two_by_one(&mut sums),
                    (false, true) => work.one_by_two(&mut sums),
                    (false, false) => work.one_by_one(&mut sums),
                }
                ahead = ahead.wrapping_add(ahead_lines * (steps + usize::from(tail > 0)) * LINE);
                let (above, below) = sums.0.split_at(TILE_ROWS * WIDTH);
                let to = |row: usize| c.data.wrapping_add(row * c.stride + j);
                end.finish(Avx512, above, height, to(first), c.stride);
                if two {
                    end.finish(Avx512, below, height, to(second), c.stride);
                }
            }
        }
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
    /// Tiles 0 to 3 (sums) and 4, 5 (A) of `height` rows, 6 and 7 (B) of sixteen pairs of k.
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

/// Sums of two tile rows, sixteen rows apart, of a panel's width.
#[repr(align(64))]
struct Sums([f32; 2 * TILE_ROWS * WIDTH]);

/// The last values of k of two tile rows, filled up with zeros.
#[repr(align(64))]
#[derive(Default)]
struct Tails([[[bf16; K_STEP]; TILE_ROWS]; 2]);

impl Tails {
    /// Copies `tail` values from `k` on of the `height` rows from each of `rows` on, a step to be made of them.
    unsafe fn copy(
        &mut self,
        rows: [*const bf16; 2],
        height: usize,
        stride: usize,
        k: usize,
        tail: usize,
    ) -> Segment {
        for (to, from) in self.0.iter_mut().zip(rows) {
            for (row, to) in to.iter_mut().enumerate().take(height) {
                // SAFETY: row `row` of A has k + tail values, a step of which is longer than `tail`.
                unsafe {
                    let from = from.add(row * stride + k);
                    std::ptr::copy_nonoverlapping(from, to[..tail].as_mut_ptr(), tail);
                }
            }
        }
        let rows = [self.0[0].as_ptr().cast(), self.0[1].as_ptr().cast()];
        Segment { rows, stride: K_STEP * size_of::<bf16>(), steps: 1 }
    }
}

/// Steps of k of two tile rows of A.
#[repr(C)]
#[derive(Clone, Copy)]
struct Segment {
    rows: [*const bf16; 2],
    /// Bytes from row to row.
    stride: usize,
    steps: usize,
}

impl Segment {
    /// After the last one.
    const END: Self = Self { rows: [std::ptr::null(); 2], stride: 0, steps: 0 };
}

/// The sums of one or two tile rows and one or two tile columns.
struct Work {
    /// Ended by [`Segment::END`].
    segments: *const Segment,
    panel: *const bf16,
    /// So many lines are asked for in each step, from here on.
    ahead: *const bf16,
    ahead_lines: usize,
}

/// Defines a method of [`Work`] that walks all steps: what it does before, in each, and after.
macro_rules! walk {
    ($(#[$doc:meta])* $name:ident: $($zero:literal)*; $($step:literal)*; $($store:literal)*) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The tiles must be configured, and the segments have the rows that they are configured for.
        #[inline(always)]
        unsafe fn $name(&self, sums: &mut Sums) {
            // SAFETY: the caller's promise; a step reads 2 KB of the panel, which has as many as the
            // segments; the sums have a line for each row of each tile; prefetching touches nothing.
            unsafe {
                asm!(
                    $($zero,)*
                    // The next segment, until there is none.
                    "2:",
                    "mov {steps}, [{segment} + 24]",
                    "test {steps}, {steps}",
                    "jz 6f",
                    "mov {a}, [{segment}]",
                    "mov {a_below}, [{segment} + 8]",
                    "mov {a_stride}, [{segment} + 16]",
                    "add {segment}, 32",
                    // A step of k.
                    "3:",
                    $($step,)*
                    "add {a}, 64",
                    "add {a_below}, 64",
                    "add {b}, 2048",
                    "mov {lines}, {ahead_lines}",
                    "test {lines}, {lines}",
                    "jz 5f",
                    "4:",
                    "prefetcht1 [{ahead}]",
                    "add {ahead}, 64",
                    "dec {lines}",
                    "jnz 4b",
                    "5:",
                    "dec {steps}",
                    "jnz 3b",
                    "jmp 2b",
                    "6:",
                    $($store,)*
                    segment = inout(reg) self.segments => _,
                    b = inout(reg) self.panel => _,
                    ahead = inout(reg) self.ahead => _,
                    ahead_lines = in(reg) self.ahead_lines,
                    line = in(reg) 128usize,
                    to = in(reg) sums.0.as_mut_ptr(),
                    a = out(reg) _,
                    a_below = out(reg) _,
                    a_stride = out(reg) _,
                    steps = out(reg) _,
                    lines = out(reg) _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

impl Work {
    walk! {
        /// Two tile rows, two tile columns.
        two_by_two:
        "tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3";
        "tileloadd tmm6, [{b} + {line}]"
        "tileloadd tmm4, [{a} + {a_stride}]"
        "tdpbf16ps tmm0, tmm4, tmm6"
        "tileloadd tmm7, [{b} + {line} + 64]"
        "tdpbf16ps tmm1, tmm4, tmm7"
        "tileloadd tmm5, [{a_below} + {a_stride}]"
        "tdpbf16ps tmm2, tmm5, tmm6"
        "tdpbf16ps tmm3, tmm5, tmm7";
        "tilestored [{to} + {line}], tmm0"
        "tilestored [{to} + {line} + 64], tmm1"
        "tilestored [{to} + {line} + 2048], tmm2"
        "tilestored [{to} + {line} + 2112], tmm3"
    }

    walk! {
        /// Two tile rows, one tile column.
        two_by_one:
        "tilezero tmm0" "tilezero tmm2";
        "tileloadd tmm6, [{b} + {line}]"
        "tileloadd tmm4, [{a} + {a_stride}]"
        "tdpbf16ps tmm0, tmm4, tmm6"
        "tileloadd tmm5, [{a_below} + {a_stride}]"
        "tdpbf16ps tmm2, tmm5, tmm6";
        "tilestored [{to} + {line}], tmm0"
        "tilestored [{to} + {line} + 2048], tmm2"
    }

    walk! {
        /// One tile row, two tile columns.
        one_by_two:
        "tilezero tmm0" "tilezero tmm1";
        "tileloadd tmm6, [{b} + {line}]"
        "tileloadd tmm4, [{a} + {a_stride}]"
        "tdpbf16ps tmm0, tmm4, tmm6"
        "tileloadd tmm7, [{b} + {line} + 64]"
        "tdpbf16ps tmm1, tmm4, tmm7";
        "tilestored [{to} + {line}], tmm0"
        "tilestored [{to} + {line} + 64], tmm1"
    }

    walk! {
        /// One tile row, one tile column.
        one_by_one:
        "tilezero tmm0";
        "tileloadd tmm6, [{b} + {line}]"
        "tileloadd tmm4, [{a} + {a_stride}]"
        "tdpbf16ps tmm0, tmm4, tmm6";
        "tilestored [{to} + {line}], tmm0"
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
