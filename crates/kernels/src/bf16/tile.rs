//! The register tile of a product of bf16, over whatever multiplies and adds, and the end of every
//! product.

use std::hint::black_box;

use half::bf16;

use super::Product;
use crate::activation::Clamp;
use crate::element::Element;
use crate::simd::{self, Simd, TILE_VECTORS};

/// Rows of the tallest tile.
const MOST_ROWS: usize = 14;
/// Values in the sums of the tallest and widest tile, of two vectors of sixteen lanes.
const SUMS: usize = MOST_ROWS * 32;
/// Values of k for which a tile's rows of A are got ready at a time: as f32 they take 14 KB, so that they
/// stay in the L1 cache.
const K_BLOCK: usize = 256;
/// A line more from row to row, so that rows do not fall on the same cache sets.
const ROW: usize = K_BLOCK + 16;

/// Room for a block of a tile's rows of A in another form.
#[repr(align(64))]
pub(super) struct Scratch([[f32; ROW]; MOST_ROWS]);

impl Scratch {
    /// Room for a block of a row.
    pub(super) fn row(&mut self, row: usize) -> &mut [f32; ROW] {
        &mut self.0[row]
    }
}

/// Multiplication of bf16 values, [`Multiply::STEP`] of k at a time in each lane.
///
/// Methods are unsafe to call where their instructions are absent; pointers must be valid for what is
/// read.
pub(super) trait Multiply: Copy {
    /// Vectors of sums.
    type Simd: Simd;
    /// A vector of factors.
    type Factors: Copy;
    /// What A's values are when they are multiplied.
    type A: Copy;
    /// Values of k in a lane.
    const STEP: usize;

    fn simd(self) -> Self::Simd;
    /// Factors of B: `STEP` values of each of as many columns as there are lanes.
    unsafe fn columns(self, from: *const bf16) -> Self::Factors;
    /// Gets `k` values, a block at most, of `rows` rows of A ready: where they lie then, and how far apart.
    unsafe fn prepare(
        self,
        a: (*const bf16, usize),
        rows: usize,
        k: usize,
        scratch: &mut Scratch,
    ) -> (*const Self::A, usize);
    /// `STEP` values of a row of A in every lane.
    unsafe fn splat(self, from: *const Self::A) -> Self::Factors;
    /// One value of a row of A in every lane, and zeros for the rest of the step.
    unsafe fn splat_last(self, from: *const Self::A) -> Self::Factors;
    unsafe fn multiply_add(
        self,
        a: Self::Factors,
        b: Self::Factors,
        sum: <Self::Simd as Simd>::V,
    ) -> <Self::Simd as Simd>::V;
}

/// # Safety
/// The instructions of `m` must be present, and the product's shapes fit.
#[inline(always)]
pub(super) unsafe fn run<M: Multiply, C: Element>(m: M, product: Product<C>) {
    let Product { a, b, first_column, c, epilogue } = product;
    let width = M::Simd::LANES * TILE_VECTORS;
    let mut scratch = Scratch([[0.0; ROW]; MOST_ROWS]);
    for j in (0..c.columns).step_by(width) {
        let column = first_column + j;
        let columns = width.min(c.columns - j);
        let ahead = j + width < c.columns;
        let tile = Tile { k: b.k(), a_row: a.stride, c_row: c.stride, narrow: columns <= M::Simd::LANES };
        let end =
            End { columns, bias: epilogue.bias.map(|bias| bias[column..].as_ptr()), clamp: epilogue.clamp };
        // SAFETY: the panel holds all steps of k; A and C hold `rows` rows of their strides.
        unsafe {
            let panel = b.panel(column);
            // The weights of a whole network do not stay in the cache: those of the next panel come
            // into it while this one is at work.
            let ahead = if ahead { (b.panel(column + width), b.depth() * width) } else { (panel, 0) };
            let to = c.data.wrapping_add(j);
            tile.down::<M, C>(m, a.rows, a.data.as_ptr(), panel, end, to, ahead, &mut scratch);
        }
    }
}

/// One register tile's walk: strides in values.
#[derive(Clone, Copy)]
struct Tile {
    k: usize,
    a_row: usize,
    c_row: usize,
    /// Whether one vector of columns will do.
    narrow: bool,
}

impl Tile {
    /// Tiles for `rows` rows of C, one below the other: as few as will do, of nearly equal height.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    unsafe fn down<M: Multiply, C: Element>(
        self,
        m: M,
        rows: usize,
        mut a: *const bf16,
        b: *const bf16,
        end: End,
        mut c: *mut C,
        (ahead, ahead_len): (*const bf16, usize),
        scratch: &mut Scratch,
    ) {
        let tiles = rows.div_ceil(M::Simd::TILE_ROWS);
        // Asked for evenly; less than a line a step: rather some lines twice than any too late.
        let steps = self.k / M::STEP;
        // (Opaque: what the compiler sees through, it divides anew in every step.)
        let ahead_step = black_box(ahead_len.div_ceil((tiles * steps).max(1)));
        let mut ahead = ahead;
        let mut sums = [0.0; SUMS];
        let mut left = rows;
        for tile in 0..tiles {
            let height = left.div_ceil(tiles - tile);
            let to = sums.as_mut_ptr();
            macro_rules! walk {
                ($($height:literal)*) => {
                    match height {
                        // SAFETY: the caller's promise covers `rows` rows, of which `left` are left.
                        $($height if $height <= M::Simd::TILE_ROWS => unsafe {
                            if self.narrow {
                                self.walk::<M, $height, 1>(m, a, b, to, (ahead, ahead_step), scratch);
                            } else {
                                self.walk::<M, $height, TILE_VECTORS>(m, a, b, to, (ahead, ahead_step), scratch);
                            }
                        },)*
                        _ => unreachable!("a tile has 1 to TILE_ROWS rows"),
                    }
                };
            }
            walk!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
            // SAFETY: `walk` wrote `height` rows of sums; C has as many left.
            unsafe { end.finish(m.simd(), sums.as_ptr(), height, c, self.c_row) };
            a = a.wrapping_add(height * self.a_row);
            c = c.wrapping_add(height * self.c_row);
            ahead = ahead.wrapping_add(ahead_step * steps);
            left -= height;
        }
    }

    /// The sums of one tile of `ROWS` rows and `VECTORS` vectors of columns.
    #[inline(always)]
    unsafe fn walk<M: Multiply, const ROWS: usize, const VECTORS: usize>(
        self,
        m: M,
        a: *const bf16,
        mut b: *const bf16,
        sums_to: *mut f32,
        (mut ahead, ahead_step): (*const bf16, usize),
        scratch: &mut Scratch,
    ) {
        let s = m.simd();
        let step = M::Simd::LANES * M::STEP;
        // SAFETY: all addresses lie within the matrices whose extents `gemm` checked; of A's rows no
        // more than k values are read; B is there for whole tiles and whole steps.
        unsafe {
            let mut sums = [[s.splat(0.0); VECTORS]; ROWS];
            for block in (0..self.k).step_by(K_BLOCK) {
                let k = K_BLOCK.min(self.k - block);
                let (mut a, a_row) = m.prepare((a.wrapping_add(block), self.a_row), ROWS, k, scratch);
                for _ in 0..k / M::STEP {
                    let mut columns = [m.columns(b); VECTORS];
                    for (v, column) in columns.iter_mut().enumerate().skip(1) {
                        *column = m.columns(b.add(v * step));
                    }
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let scalar = m.splat(a.add(row * a_row));
                        for (sum, column) in sums.iter_mut().zip(columns) {
                            *sum = m.multiply_add(scalar, column, *sum);
                        }
                    }
                    s.prefetch(ahead.cast());
                    ahead = ahead.wrapping_add(ahead_step);
                    a = a.wrapping_add(M::STEP);
                    b = b.wrapping_add(TILE_VECTORS * step);
                }
                if !k.is_multiple_of(M::STEP) {
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let scalar = m.splat_last(a.add(row * a_row));
                        for (v, sum) in sums.iter_mut().enumerate() {
                            *sum = m.multiply_add(scalar, m.columns(b.add(v * step)), *sum);
                        }
                    }
                }
            }
            for (row, sums) in sums.into_iter().enumerate() {
                for (v, sum) in sums.into_iter().enumerate() {
                    s.store(sums_to.add((row * TILE_VECTORS + v) * M::Simd::LANES), sum);
                }
            }
        }
    }
}

/// What happens to finished sums on their way into C.
#[derive(Clone, Copy)]
pub(super) struct End {
    /// Columns to store, at most a panel's.
    pub columns: usize,
    /// As many values as there are columns.
    pub bias: Option<*const f32>,
    pub clamp: Option<Clamp>,
}

impl End {
    /// Adds the bias to `rows` rows of `sums`, a panel's width each, clamps, and stores them as C's.
    ///
    /// # Safety
    /// The instruction set of `s` must be present, the sums and the bias long enough, and C have
    /// `rows` rows of `columns`, `c_row` apart.
    #[inline(always)]
    pub unsafe fn finish<S: Simd, C: Element>(
        self,
        s: S,
        sums: *const f32,
        rows: usize,
        c: *mut C,
        c_row: usize,
    ) {
        if self.columns == TILE_VECTORS * S::LANES {
            let Clamp { low, high } = self.clamp.unwrap_or(Clamp::IDENTITY);
            // SAFETY: the caller's promise.
            unsafe {
                // (Where vectors are all that there is to do, every instruction of them counts.)
                match (self.bias.is_some(), low > f32::NEG_INFINITY, high < f32::INFINITY) {
                    (false, false, false) => self.whole::<S, C, false, false, false>(s, sums, rows, c, c_row),
                    (false, true, false) => self.whole::<S, C, false, true, false>(s, sums, rows, c, c_row),
                    (false, ..) => self.whole::<S, C, false, true, true>(s, sums, rows, c, c_row),
                    (true, ..) => self.whole::<S, C, true, true, true>(s, sums, rows, c, c_row),
                }
            }
            return;
        }
        for row in 0..rows {
            let sums = sums.wrapping_add(row * TILE_VECTORS * S::LANES);
            let mut at = 0;
            while at < self.columns {
                let n = self.columns - at;
                // SAFETY: the caller's promise; no more than `columns` values of C and bias are touched.
                unsafe {
                    let to = c.add(row * c_row + at);
                    if n >= S::LANES {
                        self.vector::<S, C, false>(s, sums.add(at), at, S::LANES, to);
                    } else {
                        self.vector::<S, C, true>(s, sums.add(at), at, n, to);
                    }
                }
                at += S::LANES;
            }
        }
    }

    /// [`End::finish`] for all of a panel's columns, where there is a bias and are bounds as the constants
    /// say.
    #[inline(always)]
    unsafe fn whole<S: Simd, C: Element, const BIAS: bool, const LOW: bool, const HIGH: bool>(
        self,
        s: S,
        sums: *const f32,
        rows: usize,
        c: *mut C,
        c_row: usize,
    ) {
        let Clamp { low, high } = self.clamp.unwrap_or(Clamp::IDENTITY);
        // SAFETY: the caller's promise.
        unsafe {
            let mut bias = [s.splat(0.0); TILE_VECTORS];
            if let Some(from) = self.bias {
                bias = simd::load_all::<S, false, TILE_VECTORS>(s, from, S::LANES);
            }
            let (low, high) = (s.splat(low), s.splat(high));
            for row in 0..rows {
                let sums = sums.add(row * TILE_VECTORS * S::LANES);
                let [left, right] = simd::load_all::<S, false, TILE_VECTORS>(s, sums, S::LANES);
                let mut both = [left, right];
                for (v, bias) in both.iter_mut().zip(bias) {
                    if BIAS {
                        *v = s.add(*v, bias);
                    }
                    if LOW && HIGH {
                        *v = s.clamp(*v, low, high);
                    } else if LOW {
                        *v = s.at_least(*v, low);
                    }
                }
                let [left, right] = both;
                simd::store_pair(s, c.add(row * c_row), left, right);
            }
        }
    }

    #[inline(always)]
    unsafe fn vector<S: Simd, C: Element, const PARTIAL: bool>(
        self,
        s: S,
        sums: *const f32,
        at: usize,
        n: usize,
        c: *mut C,
    ) {
        // SAFETY: as in `finish`; the sums have room for whole vectors.
        unsafe {
            let mut sum = s.load(sums);
            if let Some(bias) = self.bias {
                sum = s.add(sum, simd::load::<S, PARTIAL>(s, bias.add(at), n));
            }
            if let Some(Clamp { low, high }) = self.clamp {
                sum = s.clamp(sum, s.splat(low), s.splat(high));
            }
            simd::store::<S, PARTIAL>(s, c, sum, n);
        }
    }
}
