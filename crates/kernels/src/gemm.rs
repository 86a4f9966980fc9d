//! Matrix products: pointwise convolutions, the classifier, and (over [`crate::im2col`] patches)
//! full convolutions, forward and backward.
//!
//! One register tile serves all of them. It walks `k` steps and reads, at each, a few scalars of
//! A (one a tile row, at any stride) and two vectors of B:
//!
//! - [`gemm`] computes C = A·B with A row-major as the activations are (no packing) and B packed
//!   into panels once ([`PackedB`]): forward (B = Wᵀ) and input gradient (B = W);
//! - [`gemm_transposed`] computes C = Aᵀ·B or C += Aᵀ·B with both row-major: the weight gradient.

pub(crate) mod packed;
mod tile;

use std::marker::PhantomData;
use std::ops::Range;

use crate::activation::Clamp;
use crate::element::Element;
use crate::extent::{covers, extent};
use crate::isa::Isa;
use crate::parallel::Parts;
use crate::simd::{self, Kernel, Simd, TILE_VECTORS, VALUE, dispatch};

pub use packed::{PackedB, Unpacked};

pub(crate) use tile::{Across, Panels, Place, Tile};

/// Steps of k that a tile walks at a time. (A panel of B of this depth does not stay in the L1 cache where
/// vectors are wide, but shorter blocks, whose sums pass through C more often, are slower.)
const K_BLOCK: usize = 512;

/// All of k at a time, where C has no room for partial sums.
pub(crate) const WHOLE_K: usize = usize::MAX;

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

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Some of its columns.
    ///
    /// # Panics
    /// If it does not have them.
    pub fn some_columns(&self, columns: Range<usize>) -> Self {
        assert!(columns.start <= columns.end && columns.end <= self.columns, "columns {columns:?}");
        let data = if self.rows == 0 { self.data } else { &self.data[columns.start..] };
        Self { data, columns: columns.len(), ..*self }
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

    /// Makes all of it zeros.
    pub(crate) fn zero(&mut self)
    where
        T: Default + Copy,
    {
        for row in 0..self.rows {
            // SAFETY: the constructors checked that the rows are there.
            unsafe {
                let row = self.data.wrapping_add(row * self.stride);
                std::slice::from_raw_parts_mut(row, self.columns).fill(T::default());
            }
        }
    }

    /// The same with the type of its values by name.
    ///
    /// # Safety
    /// `T` must be `O`.
    pub(crate) unsafe fn of_type<O>(self) -> MatrixMut<'a, O> {
        let Self { data, rows, columns, stride, .. } = self;
        MatrixMut { data: data.cast(), rows, columns, stride, slice: PhantomData }
    }

    /// Some of its rows, lent.
    pub(crate) fn some_rows(&mut self, rows: Range<usize>) -> MatrixMut<'_, T> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?}");
        let data = self.data.wrapping_add(rows.start * self.stride);
        MatrixMut { data, rows: rows.len(), slice: PhantomData, ..*self }
    }

    /// The same matrix, lent.
    pub fn reborrow(&mut self) -> MatrixMut<'_, T> {
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
        extent(rows, columns, stride) <= len,
        "matrix of {rows} rows, {columns} columns, stride {stride} needs more than {len} values"
    );
}

/// Columns of a tile.
pub(crate) fn panel_width(isa: Isa) -> usize {
    simd::lanes(isa) * TILE_VECTORS
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

/// Memory that is asked for, whatever it holds.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    start: *const f32,
    /// In values of 32 bits.
    len: usize,
    memory: PhantomData<&'a ()>,
}

impl<'a> Span<'a> {
    /// All of `values`.
    pub fn of<T: Element>(values: &'a [T]) -> Self {
        Self { start: values.as_ptr().cast(), len: size_of_val(values) / VALUE, memory: PhantomData }
    }
}

impl Default for Span<'_> {
    fn default() -> Self {
        Self::of::<f32>(&[])
    }
}

/// Memory that the caller of a product reads or writes after it. It is asked for while the product
/// is at work, which leaves the memory idle: what comes next then finds it in the cache.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ahead<'a> {
    /// The one, then the other.
    pub values: [Span<'a>; 2],
    /// Whether a product of the same rows with as many columns of B behind these follows, if there are any: what it
    /// begins with is asked for.
    pub columns: bool,
}

impl<'a> Ahead<'a> {
    /// Values that are asked for, the one, then the other.
    pub fn of<T: Element>(values: [&'a [T]; 2]) -> Self {
        Self { values: values.map(Span::of), columns: false }
    }

    /// The share of one of `panels` panels of columns: where it begins and how many values of 32 bits it has.
    pub(crate) fn share(&self, panel: usize, panels: usize) -> (*const f32, usize) {
        let [first, second] = self.values;
        // Each part is asked for during its share of the panels.
        let total = first.len + second.len;
        let turn = if total == 0 { 0 } else { (panels * first.len).div_ceil(total) };
        let (part, panel, panels) =
            if panel < turn { (first, panel, turn) } else { (second, panel - turn, panels - turn) };
        let len = part.len.div_ceil(panels.max(1));
        let start = (panel * len).min(part.len);
        (part.start.wrapping_add(start), len.min(part.len - start))
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

/// C = epilogue(C + A·B), as [`gemm`], for few k: the product is complete before it is added.
///
/// # Panics
/// As [`gemm`]; if k exceeds 512, of which a product is added in parts.
pub fn gemm_accumulate(a: MatrixRef, b: &PackedB, first_column: usize, c: MatrixMut, epilogue: Epilogue) {
    assert!(b.k <= K_BLOCK, "{} rows of B, expected up to {K_BLOCK}", b.k);
    Gemm { a, b, first_column, c, epilogue, ahead: Ahead::default(), accumulate: true, k_block: K_BLOCK }
        .checked();
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
    Gemm { a, b, first_column, c, epilogue, ahead, accumulate: false, k_block: K_BLOCK }.checked();
}

/// Columns of B that share a panel: the granularity of [`gemm`]'s `first_column`.
pub fn column_step(isa: Isa) -> usize {
    panel_width(isa)
}

pub(crate) struct Gemm<'a, C = f32> {
    pub a: MatrixRef<'a>,
    pub b: &'a PackedB,
    pub first_column: usize,
    pub c: MatrixMut<'a, C>,
    pub epilogue: Epilogue<'a>,
    pub ahead: Ahead<'a>,
    pub accumulate: bool,
    /// Steps of k at a time.
    pub k_block: usize,
}

impl<C: Element> Gemm<'_, C> {
    /// Computes it, if its shapes fit.
    pub fn checked(self) {
        let Self { a, b, first_column, ref c, epilogue, .. } = self;
        assert_eq!(a.columns, b.k, "columns of A against rows of B");
        assert_eq!(a.rows, c.rows, "rows of A against rows of C");
        let starts_a_panel = first_column.is_multiple_of(panel_width(b.isa));
        assert!(starts_a_panel && covers(b.n, first_column, c.columns), "columns of C against B");
        epilogue.check(b.n);
        // SAFETY: the constructors of the matrices checked their extents; the panels from
        // `first_column` on cover C's columns, and the epilogue's values cover them too.
        unsafe { dispatch(b.isa, self) }
    }
}

impl<C: Element> Kernel for Gemm<'_, C> {
    type Output = ();
    const BF16: bool = C::BF16;

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        let Self { a, b, first_column, c, epilogue, ahead: touched, accumulate, k_block } = self;
        let c_data = c.data;
        let width = S::LANES * TILE_VECTORS;
        let k_blocks = b.k.div_ceil(k_block).max(1);
        let across = Across::new::<S>(a.rows, c.columns);
        let tiles = across.tiles();
        let behind = if touched.columns { b.n - first_column - c.columns } else { 0 };
        for block in 0..k_blocks {
            let k0 = block * k_block;
            let last = block + 1 == k_blocks;
            let steps_of = |block: usize| k_block.min(b.k - block * k_block);
            // Where a panel has a block of k.
            let panel = |block: usize, column: usize| {
                b.data.as_ptr().wrapping_add((first_column + column) * b.k + block * k_block * width)
            };
            let panels = |block: usize, place: Place| Panels {
                start: panel(block, place.column),
                len: steps_of(block) * width,
                second: place.next_panel().map(|column| panel(block, column)),
            };
            for index in 0..tiles {
                let place = across.place(index);
                let column = first_column + place.column;
                // The weights of a whole network do not stay in the cache: those of the next
                // panels come into it while these are at work.
                let ahead = if index + 1 < tiles {
                    panels(block, across.place(index + 1))
                } else if !last {
                    panels(block + 1, across.place(0))
                } else if behind > 0 {
                    let place = Across::new::<S>(a.rows, c.columns.min(behind)).place(0);
                    panels(0, Place { column: c.columns + place.column, ..place })
                } else {
                    // (An address without memory behind it would cost a walk through the page tables.)
                    Panels::one(panel(block, place.column), 0)
                };
                let (next, next_len) = touched.share(block * tiles + index, k_blocks * tiles);
                let tile = Tile {
                    steps: steps_of(block),
                    half_step: false,
                    a_row: a.stride * VALUE,
                    a_step: VALUE,
                    b_step: width * VALUE,
                    b_others: place.panels_away::<S>(b.k * width) * VALUE as isize,
                    c_row: c.stride,
                    columns: place.columns,
                    others: place.others,
                    accumulate: accumulate || block > 0,
                    bias: epilogue.bias.filter(|_| last).map(|bias| bias.as_ptr().wrapping_add(column)),
                    clamp: epilogue.clamp.filter(|_| last),
                    lowered: epilogue.lowered.map(|lowered| lowered.as_ptr().wrapping_add(column)),
                    ahead,
                    next,
                    next_len,
                };
                // SAFETY: panel `column / width` holds k·width values from `column * k` on, of
                // which k0..k0 + steps are read, and so do the panels of the place's other
                // vectors; A and C hold `rows` rows of their strides.
                unsafe {
                    let a_start = a.data.as_ptr().wrapping_add(k0);
                    let c_start = c_data.wrapping_add(place.column);
                    tile.down::<S, _>(s, a.rows, &[a_start], panel(block, place.column), c_start);
                }
            }
        }
    }
}

/// C += Aᵀ·B over the rows that A and B share, or, if it does not `accumulate`, C = Aᵀ·B, whatever C held: A is `[r, m]`,
/// B `[r, n]`, C `[m, n]`.
///
/// Each element adds its r products in order, in registers, and then what C holds. `ahead` is asked for
/// meanwhile.
///
/// # Panics
/// If shapes do not fit, or B's stride is less than [`padded_stride`] asks for: whole tiles of
/// B's columns are read (what lies beyond the columns does not influence the result).
pub fn gemm_transposed(
    isa: Isa,
    a: MatrixRef,
    b: MatrixRef,
    (c, accumulate): (MatrixMut, bool),
    ahead: Ahead,
) {
    let MatrixMut { data, rows, columns, stride, .. } = c;
    let c = Target { data, rows, columns, stride: Some(stride), accumulate };
    TransposedGemm { a, b, c, ahead }.checked(isa);
}

/// [`gemm_transposed`] of a C that lies in [`transposed_blocks`], so that it can be asked for as well: a large one, to
/// which few rows are added at a time, is waited for otherwise.
///
/// # Panics
/// As [`gemm_transposed`]; if C has not m·n values.
pub fn gemm_transposed_blocks(
    isa: Isa,
    a: MatrixRef,
    b: MatrixRef,
    (c, accumulate): (&mut [f32], bool),
    ahead: Ahead,
) {
    let (rows, columns) = (a.columns, b.columns);
    assert_eq!(c.len(), extent(rows, columns, columns), "values of C");
    let c = Target { data: c.as_mut_ptr(), rows, columns, stride: None, accumulate };
    TransposedGemm { a, b, c, ahead }.checked(isa);
}

/// Blocks of columns in which [`gemm_transposed_blocks`] takes a C of `rows` rows, by their first column, in
/// order. Each is row-major, without gaps, and right behind the one before: the one from column j on begins at j·`rows`.
pub fn transposed_blocks(isa: Isa, rows: usize, columns: usize) -> Vec<Range<usize>> {
    let mut blocks = Vec::new();
    // SAFETY: nothing is read or written but what it owns.
    unsafe { dispatch(isa, Blocks { rows, columns, blocks: &mut blocks }) };
    blocks
}

struct Blocks<'a> {
    rows: usize,
    columns: usize,
    blocks: &'a mut Vec<Range<usize>>,
}

impl Kernel for Blocks<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self, _: S) {
        let across = Across::new::<S>(self.rows, self.columns);
        self.blocks.extend((0..across.tiles()).map(|index| across.place(index).range::<S>()));
    }
}

/// The least row stride with which a matrix of `columns` may be the B of
/// [`gemm_transposed`]. It is odd in cache lines, so that the rows of a matrix whose
/// width is a power of two do not fall on the same cache sets.
pub fn padded_stride(isa: Isa, columns: usize) -> usize {
    const LINE: usize = 16;
    let lines = columns.next_multiple_of(panel_width(isa)).div_ceil(LINE);
    (lines | 1) * LINE
}

pub(crate) struct TransposedGemm<'a> {
    pub a: MatrixRef<'a>,
    pub b: MatrixRef<'a>,
    pub c: Target,
    pub ahead: Ahead<'a>,
}

/// Where the sums of a transposed product go.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub data: *mut f32,
    pub rows: usize,
    pub columns: usize,
    /// From row to row; none of what lies in [`transposed_blocks`].
    pub stride: Option<usize>,
    /// Whether they are added to what is there.
    pub accumulate: bool,
}

impl TransposedGemm<'_> {
    /// Computes it, if its shapes fit.
    fn checked(self, isa: Isa) {
        let Self { a, b, c, .. } = self;
        assert_eq!(a.rows, b.rows, "rows of A against rows of B");
        assert_eq!(a.columns, c.rows, "columns of A against rows of C");
        assert_eq!(b.columns, c.columns, "columns of B against columns of C");
        let readable = b.columns.next_multiple_of(panel_width(isa));
        assert!(
            b.stride >= readable && extent(b.rows, b.stride, b.stride) <= b.data.len(),
            "slack after B's rows"
        );
        // SAFETY: the constructors checked the extents, and the line above that whole tiles of B's
        // columns can be read in every row.
        unsafe { dispatch(isa, self) }
    }
}

impl Kernel for TransposedGemm<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        let Self { a, b, c, ahead: touched } = self;
        let across = Across::new::<S>(c.rows, c.columns);
        let tiles = across.tiles();
        for index in 0..tiles {
            let place = across.place(index);
            let Range { start, end } = place.range::<S>();
            let (c_start, c_row, own) = match c.stride {
                Some(stride) => (c.data.wrapping_add(place.column), stride, None),
                None => {
                    let (width, block) = (end - start, c.data.wrapping_add(start * c.rows));
                    (block.wrapping_add(place.column - start), width, Some((block, width)))
                }
            };
            let alone = |span| Ahead { values: [span, Span::default()], columns: false };
            let [first, second] = touched.values;
            // A block of C is asked for a tile before it is added to, and the next one as this one ends.
            let ((ahead, ahead_len), (next, next_len)) = match own {
                Some((block, width)) => {
                    let before = S::TILE_ROWS.min(c.rows) * width;
                    ((block.wrapping_add(before).cast_const(), c.rows * width), touched.share(index, tiles))
                }
                None => (alone(first).share(index, tiles), alone(second).share(index, tiles)),
            };
            let others = place.others.map_or(0, |others| others.column * VALUE as isize);
            let tile = Tile {
                steps: a.rows,
                half_step: false,
                a_row: VALUE,
                a_step: a.stride * VALUE,
                b_step: b.stride * VALUE,
                b_others: others,
                c_row,
                columns: place.columns,
                others: place.others,
                accumulate: c.accumulate,
                bias: None,
                clamp: None,
                lowered: None,
                ahead: Panels::one(ahead, ahead_len),
                next,
                next_len,
            };
            // SAFETY: row r of A holds all tile rows' scalars, row r of B whole tiles from each place on.
            unsafe {
                let b_start = b.data.as_ptr().wrapping_add(place.column);
                tile.down::<S, _>(s, c.rows, &[a.data.as_ptr()], b_start, c_start);
            }
        }
    }
}
