//! Instructions of AMX on a block of sums, by inline assembly: the intrinsics are not in stable Rust.
//!
//! The sums of one or two tile rows and one or two tile columns are in tiles 0 (above, left), 1 (above, right), 2 and
//! 3 (below). They stay there from [`zero`] or [`load`] to [`store`]: the compiler itself uses no tile.

use std::arch::asm;

use half::bf16;

/// Values of k in a tile of A or B.
pub(super) const K_STEP: usize = 32;
/// The most rows of a tile.
pub(super) const TILE_ROWS: usize = 16;
/// Bytes of a row of a tile.
const TILE_ROW: u16 = 64;
/// Columns of a tile,
pub(super) const TILE_COLUMNS: usize = 16;
/// and of a panel.
pub(super) const WIDTH: usize = 2 * TILE_COLUMNS;

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

/// One tile instruction a tile of a block, without memory.
macro_rules! each_tile {
    ($two:expr, $wide:expr, $first:literal, $right:literal, $below:literal, $last:literal) => {
        match ($two, $wide) {
            (true, true) => asm!($first, $right, $below, $last, options(nomem, nostack, preserves_flags)),
            (true, false) => asm!($first, $below, options(nomem, nostack, preserves_flags)),
            (false, true) => asm!($first, $right, options(nomem, nostack, preserves_flags)),
            (false, false) => asm!($first, options(nomem, nostack, preserves_flags)),
        }
    };
}

/// Sums begin with zero.
///
/// # Safety
/// The tiles must be configured.
#[inline(always)]
pub(super) unsafe fn zero(two: bool, wide: bool) {
    // SAFETY: the caller's promise.
    unsafe { each_tile!(two, wide, "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3") }
}

/// Adds the products of what [`load_operands`] has loaded.
///
/// # Safety
/// The tiles must be configured.
#[inline(always)]
pub(super) unsafe fn products(two: bool, wide: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        each_tile!(
            two,
            wide,
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7"
        )
    }
}

/// Adds the products of a step of k: of A's values in `rows`, `stride` bytes from row to row, and the panel's.
///
/// # Safety
/// The tiles must be configured, and A and the panel be there.
#[inline(always)]
pub(super) unsafe fn multiply(
    rows: [*const bf16; 2],
    stride: usize,
    panel: *const bf16,
    two: bool,
    wide: bool,
) {
    macro_rules! step {
        ($($instruction:literal)*) => {
            asm!(
                $($instruction,)*
                a = in(reg) rows[0],
                a_below = in(reg) rows[1],
                stride = in(reg) stride,
                b = in(reg) panel,
                line = in(reg) LINE,
                options(nostack, readonly, preserves_flags),
            )
        };
    }
    // SAFETY: the caller's promises; 2 KB of the panel are read, and 64 bytes of each row. (Operands that
    // a form does not need are named in a comment.) A streams from the second-level cache and should not push
    // the panel out of the first: hence the hint in its loads, T1.
    unsafe {
        match (two, wide) {
            (true, true) => step!(
                "tileloaddt1 tmm4, [{a} + {stride}]"
                "tileloadd tmm6, [{b} + {line}]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tileloadd tmm7, [{b} + {line} + 64]"
                "tdpbf16ps tmm1, tmm4, tmm7"
                "tileloaddt1 tmm4, [{a_below} + {stride}]"
                "tdpbf16ps tmm2, tmm4, tmm6"
                "tdpbf16ps tmm3, tmm4, tmm7"
            ),
            (true, false) => step!(
                "tileloaddt1 tmm4, [{a} + {stride}]"
                "tileloadd tmm6, [{b} + {line}]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tileloaddt1 tmm4, [{a_below} + {stride}]"
                "tdpbf16ps tmm2, tmm4, tmm6"
            ),
            (false, true) => step!(
                "/* {a_below} */"
                "tileloaddt1 tmm4, [{a} + {stride}]"
                "tileloadd tmm6, [{b} + {line}]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tileloadd tmm6, [{b} + {line} + 64]"
                "tdpbf16ps tmm1, tmm4, tmm6"
            ),
            (false, false) => step!(
                "/* {a_below} */"
                "tileloaddt1 tmm4, [{a} + {stride}]"
                "tileloadd tmm6, [{b} + {line}]"
                "tdpbf16ps tmm0, tmm4, tmm6"
            ),
        }
    }
}

/// A tile load.
macro_rules! load_tile {
    ($instruction:literal, $at:expr, $stride:expr) => {
        asm!(
            $instruction, at = in(reg) $at, stride = in(reg) $stride,
            options(nostack, readonly, preserves_flags),
        )
    };
}

/// From row to row of a tile of B.
const LINE: usize = 2 * TILE_ROW as usize;

/// Of what [`products`] multiplies B's part, a whole panel's, into tiles 6 and 7.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
pub(super) unsafe fn load_panel(panel: *const bf16) {
    // SAFETY: the caller's promise.
    unsafe {
        load_tile!("tileloadd tmm6, [{at} + {stride}]", panel, LINE);
        load_tile!("tileloadd tmm7, [{at} + {stride} + 64]", panel, LINE);
    }
}

/// Of what [`products`] multiplies A's part, into tiles 4 and (below) 5.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
pub(super) unsafe fn load_rows(rows: [*const bf16; 2], stride: usize, two: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        load_tile!("tileloaddt1 tmm4, [{at} + {stride}]", rows[0], stride);
        if two {
            load_tile!("tileloaddt1 tmm5, [{at} + {stride}]", rows[1], stride);
        }
    }
}

/// Loads what [`products`] multiplies: of A into tiles 4 and (below) 5, of B into 6 and (right) 7.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
pub(super) unsafe fn load_operands(
    rows: [*const bf16; 2],
    stride: usize,
    panel: *const bf16,
    two: bool,
    wide: bool,
) {
    // SAFETY: the caller's promise.
    unsafe {
        load_rows(rows, stride, false);
        load_tile!("tileloadd tmm6, [{at} + {stride}]", panel, LINE);
        if wide {
            load_tile!("tileloadd tmm7, [{at} + {stride} + 64]", panel, LINE);
        }
        if two {
            load_tile!("tileloaddt1 tmm5, [{at} + {stride}]", rows[1], stride);
        }
    }
}

/// Moves a block's sums between its tiles and memory, a panel's width a row.
macro_rules! move_sums {
    ($two:expr, $wide:expr, $at:expr, $height:expr, $first:literal, $right:literal, $below:literal, $last:literal) => {{
        let line = LINE;
        let (above, below) = ($at, $at.wrapping_add($height * WIDTH));
        asm!($first, at = in(reg) above, line = in(reg) line, options(nostack, preserves_flags));
        if $wide {
            asm!($right, at = in(reg) above, line = in(reg) line, options(nostack, preserves_flags));
        }
        if $two {
            asm!($below, at = in(reg) below, line = in(reg) line, options(nostack, preserves_flags));
            if $wide {
                asm!($last, at = in(reg) below, line = in(reg) line, options(nostack, preserves_flags));
            }
        }
    }};
}

/// Sums begin with those that were stored.
///
/// # Safety
/// The tiles must be configured, and there be a line of `sums` for each row of each tile.
#[inline(always)]
pub(super) unsafe fn load(sums: *const f32, height: usize, two: bool, wide: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        move_sums!(
            two,
            wide,
            sums,
            height,
            "tileloadd tmm0, [{at} + {line}]",
            "tileloadd tmm1, [{at} + {line} + 64]",
            "tileloadd tmm2, [{at} + {line}]",
            "tileloadd tmm3, [{at} + {line} + 64]"
        )
    }
}

/// Stores a block's sums.
///
/// # Safety
/// As [`load`].
#[inline(always)]
pub(super) unsafe fn store(sums: *mut f32, height: usize, two: bool, wide: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        move_sums!(
            two,
            wide,
            sums,
            height,
            "tilestored [{at} + {line}], tmm0",
            "tilestored [{at} + {line} + 64], tmm1",
            "tilestored [{at} + {line}], tmm2",
            "tilestored [{at} + {line} + 64], tmm3"
        )
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
