//! Matrix products: pointwise convolutions, the classifier, and (over [`crate::im2col`] patches)
//! full convolutions, forward and backward.
//!
//! One register tile serves all of them. It walks `k` steps and reads, at each, a few scalars of
//! A (one a tile row, at any stride) and two vectors of B:
//!
//! - [`gemm`] computes C = A·B with A row-major as the activations are (no packing) and B packed
//!   into panels once ([`PackedB`]): forward (B = Wᵀ) and input gradient (B = W);
//! - [`gemm_transposed_accumulate`] computes C += Aᵀ·B with both row-major: the weight gradient.

use std::hint::black_box;
use std::marker::PhantomData;
use std::ops::Range;

use crate::activation::Clamp;
use crate::buffer::Buffer;
use crate::element::Element;
use crate::isa::Isa;
use crate::parallel::Parts;
use crate::simd::{self, Kernel, Simd, TILE_VECTORS, TileWalk, VALUE, dispatch};

/// Steps of k that a tile walks at a time: a panel of B of this depth stays in the L1 cache.
const K_BLOCK: usize = 512;

/// A row-major matrix inside a slice; rows may be further apart than they are long.
#[derive(Clone, Copy, Debug)]
pub struct MatrixRef<'a, T = f32> {
    pub(crate) data: &'a [T],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) stride: usize,
}

impl<'a, T> MatrixRef<'a, T> {
    /// `rows` × `columns`, row r at `data[r * stride..]`.
    ///
    /// # Panics
    /// If `data` is too short or `stride` is less than `columns`.
    pub fn new(data: &'a [T], rows: usize, columns: usize, stride: usize) -> Self {
        check(data.len(), rows, columns, stride);
        Self { data, rows, columns, stride }
    }
}

/// A row-major matrix to write, inside a slice.
#[derive(Debug)]
pub struct MatrixMut<'a, T = f32> {
    pub(crate) data: *mut T,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) stride: usize,
    slice: PhantomData<&'a mut [T]>,
}

impl<'a, T> MatrixMut<'a, T> {
    /// `rows` × `columns`, row r at `data[r * stride..]`.
    ///
    /// # Panics
    /// If `data` is too short or `stride` is less than `columns`.
    pub fn new(data: &'a mut [T], rows: usize, columns: usize, stride: usize) -> Self {
        check(data.len(), rows, columns, stride);
        Self { data: data.as_mut_ptr(), rows, columns, stride, slice: PhantomData }
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The columns before `column`, and the others.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn split_columns(self, column: usize) -> [Self; 2] {
        assert!(column <= self.columns, "column {column} of {}", self.columns);
        let data = self.data.wrapping_add(column);
        [Self { columns: column, ..self }, Self { data, columns: self.columns - column, ..self }]
    }

    /// The same matrix, lent.
    pub(crate) fn reborrow(&mut self) -> MatrixMut<'_, T> {
        MatrixMut { slice: PhantomData, ..*self }
    }
}

/// A matrix cut into blocks of columns, so that several threads can write one each: the
/// [`Parts`] of a product whose rows are too few to share out.
#[derive(Debug)]
pub struct ColumnBlocks<'a, T = f32> {
    data: *mut T,
    rows: usize,
    columns: usize,
    stride: usize,
    block: usize,
    slice: PhantomData<&'a mut [T]>,
}

/// Cuts the row-major matrix `data` of `columns` columns, in rows that are `stride` apart, into blocks
/// of `block` columns.
///
/// # Panics
/// If `data` is not whole rows.
pub fn column_blocks<T>(
    data: &mut [T],
    (columns, stride): (usize, usize),
    block: usize,
) -> ColumnBlocks<'_, T> {
    assert!(stride >= columns && columns > 0, "matrix stride {stride}, {columns} columns");
    assert!(data.len().is_multiple_of(stride), "rows of {stride} values");
    let rows = data.len() / stride;
    ColumnBlocks { data: data.as_mut_ptr(), rows, columns, stride, block, slice: PhantomData }
}

// SAFETY: it hands out matrices over disjoint columns of a slice that it borrows exclusively.
unsafe impl<T: Send> Sync for ColumnBlocks<'_, T> {}

// SAFETY: blocks of different items are different columns.
unsafe impl<'a, T: Send> Parts for ColumnBlocks<'a, T> {
    type Part = MatrixMut<'a, T>;

    unsafe fn parts(&self, items: Range<usize>) -> MatrixMut<'a, T> {
        let [first, end] =
            [items.start, items.end].map(|item| item.saturating_mul(self.block).min(self.columns));
        MatrixMut {
            data: self.data.wrapping_add(first),
            rows: self.rows,
            columns: end - first,
            stride: self.stride,
            slice: PhantomData,
        }
    }
}

fn check(len: usize, rows: usize, columns: usize, stride: usize) {
    assert!(stride >= columns, "matrix stride {stride} is less than its {columns} columns");
    assert!(
        rows == 0 || (rows - 1) * stride + columns <= len,
        "matrix of {rows} rows, {columns} columns, stride {stride} needs more than {len} values"
    );
}

/// Columns of a tile.
pub(crate) fn panel_width(isa: Isa) -> usize {
    simd::lanes(isa) * TILE_VECTORS
}

/// The right-hand matrix `[k, n]`, rearranged into panels of a tile's width, each contiguous over
/// k; columns beyond `n` are zero.
#[derive(Clone, Debug)]
pub struct PackedB {
    pub(crate) data: Buffer,
    k: usize,
    n: usize,
    pub(crate) isa: Isa,
}

impl PackedB {
    /// Room for a `k` × `n` matrix, to be filled by one of the `pack` methods.
    pub fn new(isa: Isa, k: usize, n: usize) -> Self {
        Self { data: Buffer::zeros(k * n.next_multiple_of(panel_width(isa))), k, n, isa }
    }

    /// B = source (row-major `[k, n]`).
    ///
    /// # Panics
    /// If `source` is not k·n long.
    pub fn pack(&mut self, source: &[f32]) {
        assert_eq!(source.len(), self.k * self.n);
        let (k, n, width) = (self.k, self.n, panel_width(self.isa));
        for (panel, j) in self.data.chunks_exact_mut((k * width).max(1)).zip((0..n).step_by(width)) {
            let used = width.min(n - j);
            for (row, to) in panel.chunks_exact_mut(width).enumerate() {
                to[..used].copy_from_slice(&source[row * n + j..][..used]);
            }
        }
    }

    /// B = sourceᵀ (row-major `[n, k]`): weights `[out, in]` for the forward product.
    ///
    /// # Panics
    /// If `source` is not k·n long.
    pub fn pack_transposed(&mut self, source: &[f32]) {
        self.pack_columns(source, |_, value| value);
    }

    /// B = (diag(scale) · source)ᵀ, products in f64: weights `[out, in]`, each output's multiplied with
    /// its own factor.
    ///
    /// # Panics
    /// If `source` is not k·n long, or `scale` not n.
    pub fn pack_transposed_scaled(&mut self, source: &[f32], scale: &[f64]) {
        assert_eq!(scale.len(), self.n);
        self.pack_columns(source, |column, value| (f64::from(value) * scale[column]) as f32);
    }

    /// Packs sourceᵀ with each value as `value(column, value)`, a few rows at a time, so that the
    /// lines that are written stay in the L1 cache until they are full.
    pub(crate) fn pack_columns(&mut self, source: &[f32], value: impl Fn(usize, f32) -> f32) {
        const ROWS: usize = 64;
        assert_eq!(source.len(), self.k * self.n);
        let (k, n, width) = (self.k, self.n, panel_width(self.isa));
        for (panel, j) in self.data.chunks_exact_mut((k * width).max(1)).zip((0..n).step_by(width)) {
            for (block, row) in panel.chunks_mut(ROWS * width).zip((0..k).step_by(ROWS)) {
                let rows = block.len() / width;
                for column in 0..width.min(n - j) {
                    let from = &source[(j + column) * k + row..][..rows];
                    for (to, &from) in block[column..].iter_mut().step_by(width).zip(from) {
                        *to = value(j + column, from);
                    }
                }
            }
        }
    }

    /// B[row, column] = value(row, column), for layouts that are neither.
    pub fn pack_with(&mut self, value: impl Fn(usize, usize) -> f32) {
        let (k, n, width) = (self.k, self.n, panel_width(self.isa));
        for (panel, j) in self.data.chunks_exact_mut((k * width).max(1)).zip((0..n).step_by(width)) {
            for (row, to) in panel.chunks_exact_mut(width).enumerate() {
                for (column, to) in to.iter_mut().enumerate().take(width.min(n - j)) {
                    *to = value(row, j + column);
                }
            }
        }
    }

    /// What a product reads for the columns from `column` on, the first of its panel.
    pub fn panels(&self, column: usize) -> &[f32] {
        &self.data[column * self.k..]
    }

    /// Number of rows.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Number of columns.
    pub fn n(&self) -> usize {
        self.n
    }
}

/// What happens to a finished product before it is stored.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// Added to every row; as many values as B has columns.
    pub bias: Option<&'a [f32]>,
    /// Applied after the bias.
    pub clamp: Option<Clamp>,
    /// How much lower the bounds of `clamp` lie, as many values as B has columns: for results that are kept
    /// less a value a column, which the bias has taken off already.
    pub lowered: Option<&'a [f32]>,
}

impl Epilogue<'_> {
    /// That there is a value for each of `n` columns.
    pub(crate) fn check(&self, n: usize) {
        for values in [self.bias, self.lowered].into_iter().flatten() {
            assert_eq!(
                values.len(),
                n,
                "values of the bias, or of what bounds are lowered by, against columns"
            );
        }
    }
}

/// Memory that the caller of a product reads or writes after it. It is asked for while the product
/// is at work, which leaves the memory idle: what comes next then finds it in the cache.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ahead<'a>(pub [&'a [f32]; 2]);

impl Ahead<'_> {
    /// The share of one of `panels` panels of columns: where it begins and how many values it has.
    fn share(&self, panel: usize, panels: usize) -> (*const f32, usize) {
        let Self([first, second]) = self;
        // Each part is asked for during its share of the panels.
        let total = first.len() + second.len();
        let turn = if total == 0 { 0 } else { (panels * first.len()).div_ceil(total) };
        let (part, panel, panels) =
            if panel < turn { (first, panel, turn) } else { (second, panel - turn, panels - turn) };
        let len = part.len().div_ceil(panels.max(1));
        let start = (panel * len).min(part.len());
        (part.as_ptr().wrapping_add(start), len.min(part.len() - start))
    }
}

/// C = epilogue(A·B), for the columns of C: `first_column..first_column + c.columns` of B.
///
/// Each element is one sum over k in order (in blocks of k whose partial sums pass through C), so
/// the bits of a row do not depend on how rows or columns are spread over calls, as long as
/// `first_column` is a multiple of [`column_step`].
///
/// # Panics
/// If shapes do not fit, or `first_column` is not a multiple of [`column_step`].
pub fn gemm(a: MatrixRef, b: &PackedB, first_column: usize, c: MatrixMut, epilogue: Epilogue) {
    gemm_ahead(a, b, first_column, c, epilogue, Ahead::default());
}

/// [`gemm`], which asks for `ahead` meanwhile.
///
/// # Panics
/// As [`gemm`].
pub fn gemm_ahead(
    a: MatrixRef,
    b: &PackedB,
    first_column: usize,
    c: MatrixMut,
    epilogue: Epilogue,
    ahead: Ahead,
) {
    let width = panel_width(b.isa);
    assert_eq!(a.columns, b.k, "columns of A against rows of B");
    assert_eq!(a.rows, c.rows, "rows of A against rows of C");
    assert!(first_column.is_multiple_of(width) && first_column + c.columns <= b.n, "columns of C against B");
    epilogue.check(b.n);
    // SAFETY: the constructors of the matrices checked their extents; the panels from
    // `first_column` on cover C's columns, and the epilogue's values cover them too.
    unsafe { dispatch(b.isa, Gemm { a, b, first_column, c, epilogue, ahead }) }
}

/// Columns of B that share a panel: the granularity of [`gemm`]'s `first_column`.
pub fn column_step(isa: Isa) -> usize {
    panel_width(isa)
}

struct Gemm<'a> {
    a: MatrixRef<'a>,
    b: &'a PackedB,
    first_column: usize,
    c: MatrixMut<'a>,
    epilogue: Epilogue<'a>,
    ahead: Ahead<'a>,
}

impl Kernel for Gemm<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        let Self { a, b, first_column, c, epilogue, ahead: touched } = self;
        let c_data = c.data;
        let width = S::LANES * TILE_VECTORS;
        let k_blocks = b.k.div_ceil(K_BLOCK).max(1);
        let panels = c.columns.div_ceil(width);
        let steps_of = |block: usize| K_BLOCK.min(b.k - block * K_BLOCK);
        // Where a block of a panel lies in B, and how many values it has.
        let panel =
            |block: usize, column: usize| (column * b.k + block * K_BLOCK * width, steps_of(block) * width);
        for block in 0..k_blocks {
            let k0 = block * K_BLOCK;
            let steps = steps_of(block);
            let last = block + 1 == k_blocks;
            for j in (0..c.columns).step_by(width) {
                let column = first_column + j;
                // The weights of a whole network do not stay in the cache: those of the next
                // panel come into it while this one is at work.
                let here = panel(block, column);
                let (ahead, ahead_len) = if j + width < c.columns {
                    panel(block, column + width)
                } else if !last {
                    panel(block + 1, first_column)
                } else {
                    // (An address without memory behind it would cost a walk through the page tables.)
                    (here.0, 0)
                };
                let (next, next_len) = touched.share(block * panels + j / width, k_blocks * panels);
                let tile = Tile {
                    steps,
                    half_step: false,
                    a_row: a.stride * VALUE,
                    a_step: VALUE,
                    b_step: width * VALUE,
                    c_row: c.stride,
                    columns: width.min(c.columns - j),
                    accumulate: block > 0,
                    bias: epilogue.bias.filter(|_| last).map(|bias| bias[column..].as_ptr()),
                    clamp: epilogue.clamp.filter(|_| last),
                    lowered: epilogue.lowered.map(|lowered| lowered[column..].as_ptr()),
                    ahead: b.data.as_ptr().wrapping_add(ahead),
                    ahead_len,
                    next,
                    next_len,
                };
                // SAFETY: panel `column / width` holds k·width values from `column * k` on, of
                // which k0..k0 + steps are read; A and C hold `rows` rows of their strides.
                unsafe {
                    let b = b.data.as_ptr().add(here.0);
                    let a_start = a.data.as_ptr().wrapping_add(k0);
                    let c_start = c_data.wrapping_add(j);
                    tile.down::<S, _>(s, a.rows, &[a_start], b, c_start);
                }
            }
        }
    }
}

/// C += Aᵀ·B over the rows that A and B share: A is `[r, m]`, B `[r, n]`, C `[m, n]`.
///
/// Each element adds its r products in order, in registers, to what C holds. `ahead` is asked for
/// meanwhile.
///
/// # Panics
/// If shapes do not fit, or B's stride is less than [`padded_stride`] asks for: whole tiles of
/// B's columns are read (what lies beyond the columns does not influence the result).
pub fn gemm_transposed_accumulate(isa: Isa, a: MatrixRef, b: MatrixRef, c: MatrixMut, ahead: Ahead) {
    assert_eq!(a.rows, b.rows, "rows of A against rows of B");
    assert_eq!(a.columns, c.rows, "columns of A against rows of C");
    assert_eq!(b.columns, c.columns, "columns of B against columns of C");
    let readable = b.columns.next_multiple_of(panel_width(isa));
    assert!(
        b.stride >= readable && (b.rows == 0 || b.rows * b.stride <= b.data.len()),
        "slack after B's rows"
    );
    // SAFETY: the constructors checked the extents, and the line above that whole tiles of B's
    // columns can be read in every row.
    unsafe { dispatch(isa, TransposedGemm { a, b, c, ahead }) }
}

/// The least row stride with which a matrix of `columns` may be the B of
/// [`gemm_transposed_accumulate`]. It is odd in cache lines, so that the rows of a matrix whose
/// width is a power of two do not fall on the same cache sets.
pub fn padded_stride(isa: Isa, columns: usize) -> usize {
    const LINE: usize = 16;
    let lines = columns.next_multiple_of(panel_width(isa)).div_ceil(LINE);
    (lines | 1) * LINE
}

pub(crate) struct TransposedGemm<'a> {
    pub a: MatrixRef<'a>,
    pub b: MatrixRef<'a>,
    pub c: MatrixMut<'a>,
    pub ahead: Ahead<'a>,
}

impl Kernel for TransposedGemm<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        let Self { a, b, c, ahead: Ahead([first, second]) } = self;
        let c_data = c.data;
        let width = S::LANES * TILE_VECTORS;
        let panels = c.columns.div_ceil(width);
        for j in (0..c.columns).step_by(width) {
            let (ahead, ahead_len) = Ahead([first, &[]]).share(j / width, panels);
            let (next, next_len) = Ahead([second, &[]]).share(j / width, panels);
            let tile = Tile {
                steps: a.rows,
                half_step: false,
                a_row: VALUE,
                a_step: a.stride * VALUE,
                b_step: b.stride * VALUE,
                c_row: c.stride,
                columns: width.min(c.columns - j),
                accumulate: true,
                bias: None,
                clamp: None,
                lowered: None,
                ahead,
                ahead_len,
                next,
                next_len,
            };
            // SAFETY: row r of A holds all tile rows' scalars, row r of B a whole tile from j on.
            unsafe {
                let b_start = b.data.as_ptr().wrapping_add(j);
                let c_start = c_data.wrapping_add(j);
                tile.down::<S, _>(s, c.rows, &[a.data.as_ptr()], b_start, c_start);
            }
        }
    }
}

/// One register tile's walk, and what to do at its end. The strides of A and B are in bytes, as a value of
/// theirs may also be a pair of half as many bits.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    /// Steps of k in each of A's segments.
    pub steps: usize,
    /// See [`TileWalk`].
    pub half_step: bool,
    pub a_row: usize,
    pub a_step: usize,
    pub b_step: usize,
    pub c_row: usize,
    /// Columns to store, at most a panel's.
    pub columns: usize,
    pub accumulate: bool,
    pub bias: Option<*const f32>,
    pub clamp: Option<Clamp>,
    /// See [`Epilogue`].
    pub lowered: Option<*const f32>,
    /// So many values from here on are asked for while the tiles are walked,
    pub ahead: *const f32,
    pub ahead_len: usize,
    /// and so many from here on.
    pub next: *const f32,
    pub next_len: usize,
}

impl Tile {
    /// Tiles for `rows` rows of C, one below the other: as few as will do, of nearly equal height.
    ///
    /// A's columns lie in `segments`, each of `steps` columns; B has all their rows in turn.
    ///
    /// # Safety
    /// Each segment must hold `rows` rows, B the panel's rows, C `rows` rows of `columns`.
    #[inline(always)]
    pub unsafe fn down<S: Simd, C: Element>(
        self,
        s: S,
        rows: usize,
        segments: &[*const f32],
        b: *const f32,
        mut c: *mut C,
    ) {
        let narrow = self.columns <= S::LANES;
        let most = match self.columns {
            columns if columns <= S::LANES / 2 => S::ROWS_OF_HALF,
            columns if columns <= S::LANES => S::ROWS_OF_ONE,
            _ => S::TILE_ROWS,
        };
        let tiles = rows.div_ceil(most);
        // Asked for evenly; less than a line a step: rather some lines twice than any too late.
        let k = segments.len() * self.steps;
        let steps = [self.ahead_len, self.next_len].map(|len| len.div_ceil((tiles * k).max(1)) * VALUE);
        // (Opaque: what the compiler sees through, it divides anew in every step.)
        let [ahead_step, next_step] = black_box(steps);
        let steps = (ahead_step, next_step);
        let (mut ahead, mut next) = (self.ahead, self.next);
        let (mut left, mut a) = (rows, 0);
        for tile in 0..tiles {
            let height = left.div_ceil(tiles - tile);
            macro_rules! walk {
                ($($height:literal)*) => {
                    match height {
                        // SAFETY: the caller's promise covers `rows` rows, of which `left` are left.
                        $($height if $height <= S::ROWS_OF_ONE => unsafe {
                            if narrow {
                                self.walk::<S, C, $height, 1>(s, segments, a, b, c, (ahead, next), steps);
                            } else if $height <= S::TILE_ROWS {
                                self.walk::<S, C, $height, TILE_VECTORS>(s, segments, a, b, c, (ahead, next), steps);
                            }
                        },)*
                        _ => unreachable!("a tile has 1 to `most` rows"),
                    }
                };
            }
            walk!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
            a += height * self.a_row;
            c = c.wrapping_add(height * self.c_row);
            ahead = ahead.wrapping_byte_add(ahead_step * k);
            next = next.wrapping_byte_add(next_step * k);
            left -= height;
        }
    }

    /// One tile of `ROWS` rows and `VECTORS` vectors of columns; its rows of A begin `a` bytes
    /// into each segment.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    unsafe fn walk<S: Simd, C: Element, const ROWS: usize, const VECTORS: usize>(
        self,
        s: S,
        segments: &[*const f32],
        a: usize,
        b: *const f32,
        c: *mut C,
        (ahead, next): (*const f32, *const f32),
        (ahead_step, next_step): (usize, usize),
    ) {
        // SAFETY: all addresses lie within the matrices whose extents the callers of `gemm` and
        // `gemm_transposed_accumulate` checked; B is readable for whole tiles; C is touched for
        // `columns` columns only.
        unsafe {
            let walk = TileWalk {
                segments,
                steps: self.steps,
                columns: self.columns,
                half_step: self.half_step,
                a,
                a_row: self.a_row,
                a_step: self.a_step,
                b,
                b_step: self.b_step,
                ahead,
                ahead_step,
                next,
                next_step,
            };
            let sums = s.tile::<ROWS, VECTORS>(walk);
            // The usual end, with what all rows share loaded once. (Bounds are lowered where C is bf16; the
            // registers that they take there are better used where it is f32.)
            let usual = C::BF16 || self.lowered.is_none();
            if usual && !self.accumulate && self.columns >= VECTORS * S::LANES {
                let mut bias = [s.splat(0.0); VECTORS];
                if let Some(from) = self.bias {
                    bias = simd::load_all::<S, false, VECTORS>(s, from, S::LANES);
                }
                let lowered = self.lowered.filter(|_| C::BF16);
                let (low, high) = bounds::<S, VECTORS>(s, self.clamp, lowered);
                for (row, mut sums) in sums.into_iter().enumerate() {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = s.clamp(s.add(*sum, bias[v]), low[v], high[v]);
                    }
                    let to = c.add(row * self.c_row);
                    match sums.as_slice() {
                        &[left, right] => simd::store_pair(s, to, left, right),
                        _ => simd::store::<S, false>(s, to, sums[0], S::LANES),
                    }
                }
                return;
            }
            for (row, sums) in sums.into_iter().enumerate() {
                for (v, sum) in sums.into_iter().enumerate() {
                    let at = v * S::LANES;
                    let n = self.columns.saturating_sub(at);
                    let c = c.add(row * self.c_row + at);
                    if n >= S::LANES {
                        self.finish::<S, C, false>(s, sum, at, S::LANES, c);
                    } else if n > 0 {
                        self.finish::<S, C, true>(s, sum, at, n, c);
                    }
                }
            }
        }
    }

    /// Adds what C holds and the bias, clamps, and stores one vector.
    #[inline(always)]
    unsafe fn finish<S: Simd, C: Element, const PARTIAL: bool>(
        self,
        s: S,
        sum: S::V,
        at: usize,
        n: usize,
        c: *mut C,
    ) {
        // SAFETY: as in `walk`; the bias has a value for every column of C.
        unsafe {
            let mut sum = sum;
            if self.accumulate {
                sum = s.add(sum, simd::load::<S, PARTIAL>(s, c, n));
            }
            if let Some(bias) = self.bias {
                sum = s.add(sum, simd::load::<S, PARTIAL>(s, bias.add(at), n));
            }
            sum = clamp::<S, PARTIAL>(s, sum, self.clamp, self.lowered.map(|lowered| lowered.add(at)), n);
            simd::store::<S, PARTIAL>(s, c, sum, n);
        }
    }
}

/// The bounds of a row of vectors, see [`Epilogue`].
///
/// # Safety
/// The instruction set of `s` must be present, and `lowered` have a value for every column.
#[inline(always)]
pub(crate) unsafe fn bounds<S: Simd, const VECTORS: usize>(
    s: S,
    clamp: Option<Clamp>,
    lowered: Option<*const f32>,
) -> ([S::V; VECTORS], [S::V; VECTORS]) {
    let Clamp { low, high } = clamp.unwrap_or(Clamp::IDENTITY);
    // SAFETY: the caller's promise.
    unsafe {
        let (mut low, mut high) = ([s.splat(low); VECTORS], [s.splat(high); VECTORS]);
        if let Some(from) = lowered {
            let by = simd::load_all::<S, false, VECTORS>(s, from, S::LANES);
            for v in 0..VECTORS {
                (low[v], high[v]) = (s.sub(low[v], by[v]), s.sub(high[v], by[v]));
            }
        }
        (low, high)
    }
}

/// `n` sums within their bounds, see [`Epilogue`].
///
/// # Safety
/// As [`bounds`].
#[inline(always)]
pub(crate) unsafe fn clamp<S: Simd, const PARTIAL: bool>(
    s: S,
    sum: S::V,
    clamp: Option<Clamp>,
    lowered: Option<*const f32>,
    n: usize,
) -> S::V {
    let Some(Clamp { low, high }) = clamp else { return sum };
    // SAFETY: the caller's promise.
    unsafe {
        let (low, high) = (s.splat(low), s.splat(high));
        match lowered {
            Some(from) => {
                let by = simd::load::<S, PARTIAL>(s, from, n);
                s.clamp(sum, s.sub(low, by), s.sub(high, by))
            }
            None => s.clamp(sum, low, high),
        }
    }
}
