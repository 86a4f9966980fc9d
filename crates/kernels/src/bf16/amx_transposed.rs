//! C = Aᵀ·B or C += Aᵀ·B in tiles (AMX-BF16).
//!
//! A tile of the left factor is sixteen rows of Aᵀ and 32 of the rows that A and B share, so A's values
//! must be transposed; a tile of the right one has pairs of B's rows side by side. Both are got ready
//! 32 rows and 32 columns at a time, one tile beside another. The sums of two by two tiles (one by two, where
//! [`registers`] are few) are read from C, stay in their registers while rows go by, and are written to C.
//!
//! All of B is got ready first, and some panels of A at a time: more than one, since tiles that were idle for
//! some tenths of a microsecond take (measured on Sapphire Rapids) another half to come to speed again, and
//! not all, since those of a wide A would leave the caches before they are multiplied.

use std::arch::asm;
use std::arch::x86_64::*;

use half::bf16;

use super::registers;
use super::tiles::{Configured, K_STEP};
use crate::buffer::Buffer;
use crate::gemm::{MatrixMut, MatrixRef};

/// Rows, and values in a row, of a tile of C.
const TILE: usize = 16;
/// Columns of a panel of A or B: two tiles.
const WIDTH: usize = 2 * TILE;
/// Values of a step of a panel.
const STEP: usize = K_STEP * WIDTH;
/// The most rows that are multiplied at a time: a panel of A of so many stays in the L1 cache, past which those of B
/// are streamed.
const ROWS: usize = 512;
/// Values that are got ready at a time, unless they have fewer rows than that: they stay in the L2 cache.
const READY: usize = 512 * 1024;
/// Panels of A that are got ready at a time.
const GROUP: usize = 4;

/// # Safety
/// AMX-TILE, AMX-BF16, AVX-512F and BW must be present and permitted, and the product's shapes fit.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
pub(super) unsafe fn run(
    a: MatrixRef<bf16>,
    b: MatrixRef<bf16>,
    (mut c, accumulate): (MatrixMut<f32>, bool),
    scratch: &mut Buffer,
) {
    if a.rows == 0 || c.rows == 0 || c.columns == 0 {
        return;
    }
    let panels = [c.rows, c.columns].map(|columns| columns.div_ceil(WIDTH));
    let most = (READY / (WIDTH * (panels[0] + panels[1])) / ROWS).max(1) * ROWS;
    let most = most.min(a.rows.next_multiple_of(K_STEP));
    // Values of a panel.
    let panel = most * WIDTH;
    let group = GROUP.min(panels[0]);
    let len = ((group + panels[1]) * panel * size_of::<bf16>()).div_ceil(size_of::<f32>());
    let ready_a: *mut bf16 = scratch.at_least(len).as_mut_ptr().cast();
    let ready_b = ready_a.wrapping_add(group * panel);
    // SAFETY: the instructions are there (the caller's promise). The scratch memory, which is aligned to
    // lines, has room for `most` rows, in whole steps, of a group of A's panels and all of B's. Row and column `first`, `i` and `j` are
    // those of matrices that have them, and so many as are said follow.
    unsafe {
        let _tiles = Configured::new(TILE as u8);
        for first in (0..a.rows).step_by(most) {
            let rows = most.min(a.rows - first);
            // As few turns as will do, of nearly equal length.
            let steps = rows.div_ceil(K_STEP);
            let turn = steps.div_ceil(rows.div_ceil(ROWS));
            for (index, j) in (0..c.columns).step_by(WIDTH).enumerate() {
                Block::new(b, first, rows, j).arrange(ready_b.wrapping_add(index * panel), pairs);
            }
            for above in (0..panels[0]).step_by(group) {
                let members = group.min(panels[0] - above);
                for index in 0..members {
                    let to = ready_a.wrapping_add(index * panel);
                    Block::new(a, first, rows, (above + index) * WIDTH).arrange(to, transposed);
                }
                for step in (0..steps).step_by(turn) {
                    for index in 0..members {
                        for panel_b in 0..panels[1] {
                            let work = Work {
                                a: ready_a.wrapping_add(index * panel + step * STEP),
                                b: ready_b.wrapping_add(panel_b * panel + step * STEP),
                                steps: turn.min(steps - step),
                            };
                            let (i, j) = ((above + index) * WIDTH, panel_b * WIDTH);
                            let (rows, columns) = (WIDTH.min(c.rows - i), WIDTH.min(c.columns - j));
                            let [_, block] = c.some_rows(i..i + rows).split_columns(j);
                            let [mut block, _] = block.split_columns(columns);
                            if !accumulate && first == 0 && step == 0 {
                                // (In the L1 cache, where the tiles find it.)
                                block.zero();
                            }
                            let to = block.data;
                            if rows.is_multiple_of(TILE) && columns.is_multiple_of(TILE) {
                                work.add(to, c.stride, rows, columns);
                            } else {
                                work.add_at_edge(to, c.stride, rows, columns);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Rows of a panel's columns of a matrix.
struct Block {
    data: *const bf16,
    stride: usize,
    rows: usize,
    columns: usize,
}

impl Block {
    fn new(matrix: MatrixRef<bf16>, first: usize, rows: usize, column: usize) -> Self {
        Self {
            data: matrix.data.as_ptr().wrapping_add(first * matrix.stride + column),
            stride: matrix.stride,
            rows,
            columns: WIDTH.min(matrix.columns - column),
        }
    }

    /// Brings all steps into the form that `arrange` makes of one, at `to`; what is missing of a step are
    /// zeros.
    ///
    /// # Safety
    /// The rows must be there, `to` have room for all steps, aligned to lines, and the instructions
    /// of `arrange` be present.
    #[inline(always)]
    unsafe fn arrange(self, mut to: *mut bf16, arrange: unsafe fn(*const bf16, usize, *mut bf16)) {
        for row in (0..self.rows).step_by(K_STEP) {
            let from = self.data.wrapping_add(row * self.stride);
            let rows = K_STEP.min(self.rows - row);
            // SAFETY: the caller's promise; a step that is not whole is copied to where it is.
            unsafe {
                if rows == K_STEP && self.columns == WIDTH {
                    arrange(from, self.stride, to);
                } else {
                    let mut whole = Whole([[bf16::ZERO; WIDTH]; K_STEP]);
                    for (row, to) in whole.0.iter_mut().enumerate().take(rows) {
                        let from = from.wrapping_add(row * self.stride);
                        std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), self.columns);
                    }
                    arrange(whole.0.as_ptr().cast(), WIDTH, to);
                }
            }
            to = to.wrapping_add(STEP);
        }
    }
}

/// A step of a panel, as it lies in a matrix.
#[repr(align(64))]
struct Whole([[bf16; WIDTH]; K_STEP]);

/// A step of B: for each pair of rows the pairs of values of sixteen columns, and the same of the next
/// sixteen columns.
///
/// # Safety
/// AVX-512F and BW must be present; there must be 32 rows of 32 values, and room for as many at `to`, which
/// is aligned to lines.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
unsafe fn pairs(from: *const bf16, stride: usize, to: *mut bf16) {
    let first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    let second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    for pair in 0..K_STEP / 2 {
        // SAFETY: the caller's promise.
        unsafe {
            let even = _mm512_loadu_si512(from.add(2 * pair * stride).cast());
            let odd = _mm512_loadu_si512(from.add((2 * pair + 1) * stride).cast());
            // Of each eight columns the first and the last four.
            let low = _mm512_unpacklo_epi16(even, odd);
            let high = _mm512_unpackhi_epi16(even, odd);
            let to = to.add(pair * 2 * TILE);
            _mm512_store_si512(to.cast(), _mm512_permutex2var_epi64(low, first, high));
            _mm512_store_si512(to.add(STEP / 2).cast(), _mm512_permutex2var_epi64(low, second, high));
        }
    }
}

/// A step of A: the 32 values of each column, one column after another.
///
/// # Safety
/// As for [`pairs`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
unsafe fn transposed(from: *const bf16, stride: usize, to: *mut bf16) {
    /// Columns whose values fill a quarter of a vector.
    const SIDE: usize = 8;
    for column in (0..WIDTH).step_by(SIDE) {
        // SAFETY: the caller's promise.
        unsafe {
            // Row i of each quarter of the rows: then what is left are transpositions of eight by eight
            // within the quarters of vectors.
            let mut rows = [_mm512_setzero_si512(); SIDE];
            for (i, row) in rows.iter_mut().enumerate() {
                let at =
                    |quarter: usize| _mm_loadu_si128(from.add((quarter * SIDE + i) * stride + column).cast());
                let v = _mm512_castsi128_si512(at(0));
                let v = _mm512_inserti32x4::<1>(v, at(1));
                let v = _mm512_inserti32x4::<2>(v, at(2));
                *row = _mm512_inserti32x4::<3>(v, at(3));
            }
            let mut twos = [_mm512_setzero_si512(); SIDE];
            for i in 0..SIDE / 2 {
                twos[i] = _mm512_unpacklo_epi16(rows[2 * i], rows[2 * i + 1]);
                twos[i + 4] = _mm512_unpackhi_epi16(rows[2 * i], rows[2 * i + 1]);
            }
            // Two columns each: in `fours[half]` of the first four rows, in `fours[half + 4]` of the others.
            let mut fours = [_mm512_setzero_si512(); SIDE];
            for half in 0..2 {
                for rows in 0..2 {
                    let (one, other) = (twos[4 * half + 2 * rows], twos[4 * half + 2 * rows + 1]);
                    fours[4 * rows + 2 * half] = _mm512_unpacklo_epi32(one, other);
                    fours[4 * rows + 2 * half + 1] = _mm512_unpackhi_epi32(one, other);
                }
            }
            let to = to.add(column * K_STEP);
            for i in 0..SIDE / 2 {
                let even = _mm512_unpacklo_epi64(fours[i], fours[i + 4]);
                let odd = _mm512_unpackhi_epi64(fours[i], fours[i + 4]);
                _mm512_store_si512(to.add(2 * i * K_STEP).cast(), even);
                _mm512_store_si512(to.add((2 * i + 1) * K_STEP).cast(), odd);
            }
        }
    }
}

/// The product of a panel of A and one of B.
#[derive(Clone, Copy)]
struct Work {
    a: *const bf16,
    b: *const bf16,
    steps: usize,
}

/// Sums of two by two tiles.
#[repr(align(64))]
struct Sums([[f32; WIDTH]; WIDTH]);

/// Defines a method of [`Work`] that walks all steps: what it reads before, does in each, and writes after.
macro_rules! walk {
    ($(#[$doc:meta])* $name:ident: $($load:literal)*; $($step:literal)*; $($store:literal)*) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The tiles must be configured, the panels have the steps, of which there are some, and C its tiles.
        #[inline(always)]
        unsafe fn $name(self, c: *mut f32, stride: usize) {
            // SAFETY: the caller's promise; a step reads 2 KB of each panel.
            unsafe {
                asm!(
                    // Sixteen rows below.
                    "mov {below}, {stride}",
                    "shl {below}, 4",
                    "add {below}, {c}",
                    $($load,)*
                    "2:",
                    $($step,)*
                    "add {a}, 2048",
                    "add {b}, 2048",
                    "dec {steps}",
                    "jnz 2b",
                    $($store,)*
                    a = inout(reg) self.a => _,
                    b = inout(reg) self.b => _,
                    steps = inout(reg) self.steps => _,
                    line = in(reg) 64usize,
                    c = in(reg) c,
                    below = out(reg) _,
                    stride = in(reg) stride * size_of::<f32>(),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

impl Work {
    /// Adds to `rows` × `columns` values of C, one or two whole tiles each.
    ///
    /// # Safety
    /// The tiles must be configured, the panels have the steps, and C the rows and columns.
    #[inline(always)]
    unsafe fn add(self, c: *mut f32, stride: usize, rows: usize, columns: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            match (rows > TILE, columns > TILE) {
                (true, true) if registers::few() => {
                    self.one_by_two(c, stride);
                    let below = Self { a: self.a.wrapping_add(TILE * K_STEP), ..self };
                    below.one_by_two(c.wrapping_add(TILE * stride), stride);
                }
                (true, true) => self.two_by_two(c, stride),
                (true, false) => self.two_by_one(c, stride),
                (false, true) => self.one_by_two(c, stride),
                (false, false) => self.one_by_one(c, stride),
            }
        }
    }

    /// As [`Work::add`], where tiles are not whole.
    unsafe fn add_at_edge(self, c: *mut f32, stride: usize, rows: usize, columns: usize) {
        let mut sums = Sums([[0.0; WIDTH]; WIDTH]);
        // SAFETY: the caller's promise; the sums are whole tiles.
        unsafe {
            for (row, sums) in sums.0.iter_mut().enumerate().take(rows) {
                std::ptr::copy_nonoverlapping(c.add(row * stride), sums.as_mut_ptr(), columns);
            }
            self.add(sums.0.as_mut_ptr().cast(), WIDTH, rows, columns);
            for (row, sums) in sums.0.iter().enumerate().take(rows) {
                std::ptr::copy_nonoverlapping(sums.as_ptr(), c.add(row * stride), columns);
            }
        }
    }

    walk! {
        /// Two tile rows, two tile columns.
        two_by_two:
        "tileloadd tmm0, [{c} + {stride}]"
        "tileloadd tmm1, [{c} + {stride} + 64]"
        "tileloadd tmm2, [{below} + {stride}]"
        "tileloadd tmm3, [{below} + {stride} + 64]";
        "tileloaddt1 tmm6, [{b} + {line}]"
        "tileloadd tmm4, [{a} + {line}]"
        "tdpbf16ps tmm0, tmm4, tmm6"
        "tileloaddt1 tmm7, [{b} + {line} + 1024]"
        "tdpbf16ps tmm1, tmm4, tmm7"
        "tileloadd tmm4, [{a} + {line} + 1024]"
        "tdpbf16ps tmm2, tmm4, tmm6"
        "tdpbf16ps tmm3, tmm4, tmm7";
        "tilestored [{c} + {stride}], tmm0"
        "tilestored [{c} + {stride} + 64], tmm1"
        "tilestored [{below} + {stride}], tmm2"
        "tilestored [{below} + {stride} + 64], tmm3"
    }

    walk! {
        /// Two tile rows, one tile column.
        two_by_one:
        "tileloadd tmm0, [{c} + {stride}]"
        "tileloadd tmm2, [{below} + {stride}]";
        "tileloaddt1 tmm6, [{b} + {line}]"
        "tileloadd tmm4, [{a} + {line}]"
        "tdpbf16ps tmm0, tmm4, tmm6"
        "tileloadd tmm4, [{a} + {line} + 1024]"
        "tdpbf16ps tmm2, tmm4, tmm6";
        "tilestored [{c} + {stride}], tmm0"
        "tilestored [{below} + {stride}], tmm2"
    }

    walk! {
        /// One tile row, two tile columns.
        one_by_two:
        "tileloadd tmm0, [{c} + {stride}]"
        "tileloadd tmm1, [{c} + {stride} + 64]";
        "tileloaddt1 tmm6, [{b} + {line}]"
        "tileloadd tmm4, [{a} + {line}]"
        "tdpbf16ps tmm0, tmm4, tmm6"
        "tileloaddt1 tmm6, [{b} + {line} + 1024]"
        "tdpbf16ps tmm1, tmm4, tmm6";
        "tilestored [{c} + {stride}], tmm0"
        "tilestored [{c} + {stride} + 64], tmm1"
    }

    walk! {
        /// One tile row, one tile column.
        one_by_one:
        "tileloadd tmm0, [{c} + {stride}]";
        "tileloaddt1 tmm6, [{b} + {line}]"
        "tileloadd tmm4, [{a} + {line}]"
        "tdpbf16ps tmm0, tmm4, tmm6";
        "tilestored [{c} + {stride}], tmm0"
    }
}
