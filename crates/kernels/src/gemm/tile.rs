//! The register tile that all products are made of: which columns one takes, its walk down the rows
//! of C, and what happens to sums at the end.

use std::hint::black_box;
use std::ops::Range;

use crate::activation::Clamp;
use crate::element::Element;
use crate::simd::{self, Pace, Simd, TILE_VECTORS, TileWalk, VALUE};

/// Vectors of a neighbouring panel that a tile takes besides the panel of its own.
#[derive(Clone, Copy)]
pub(crate) struct Others {
    /// One or two.
    pub vectors: usize,
    /// Where they are, counted in columns from the first one of the tile's own panel.
    pub column: isize,
}

/// The columns of a tile.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// The first column of its panel, and how many of that there are.
    pub column: usize,
    pub columns: usize,
    pub others: Option<Others>,
}

impl Place {
    /// The first column of a panel that the tile is the first to read, besides its own.
    pub fn next_panel(&self) -> Option<usize> {
        let others = self.others.filter(|others| others.column > 0)?;
        Some(self.column + others.column as usize)
    }

    /// All its columns, which follow one another.
    pub fn range<S: Simd>(&self) -> Range<usize> {
        let Self { column, columns, others } = *self;
        match others {
            Some(Others { column: away, .. }) if away < 0 => {
                column.saturating_add_signed(away)..column + columns
            }
            Some(Others { vectors, .. }) => column..column + columns + vectors * S::LANES,
            None => column..column + columns,
        }
    }

    /// How far it is in B from the tile's panel to its other vectors, where a panel has so many values.
    pub fn panels_away<S: Simd>(&self, panel: usize) -> isize {
        let (width, panel) = ((S::LANES * TILE_VECTORS) as isize, panel as isize);
        self.others
            .map_or(0, |Others { column, .. }| column.div_euclid(width) * panel + column.rem_euclid(width))
    }
}

/// How the columns of a product are dealt out to tiles.
///
/// The more vectors a tile has, the fewer values of A and B are read for a product: 0.57 for each
/// with the two of a panel and fourteen rows, 0.44 with three and nine, 0.42 with four and six.
/// Where another thread of the same core is at work, that tells. B is read more often, though, from
/// the second-level cache if k is large: with four vectors that tells, too. So three panels become two
/// tiles of three vectors, each with half of the panel in the middle; only of what is left two panels
/// are a tile of four.
#[derive(Clone, Copy)]
pub(crate) struct Across {
    columns: usize,
    lanes: usize,
    /// Groups of three panels.
    threes: usize,
    /// Whether two panels are a tile.
    four: bool,
}

/// So many tiles one below the other are wide ones at least: see [`Across::new`].
const WIDE_TILES: usize = 4;

/// Whether tiles of at most `most` rows can be so high.
const fn is_height(height: usize, most: usize, wide: bool) -> bool {
    let least = if wide { ((WIDE_TILES - 1) * most + 1) / WIDE_TILES } else { 1 };
    height >= least && height <= most
}

impl Across {
    /// Of a product of `rows` rows.
    ///
    /// Where they are few, the weights of two panels would have to be asked for in fewer steps than they
    /// have lines.
    pub fn new<S: Simd>(rows: usize, columns: usize) -> Self {
        let panels = columns / (S::LANES * TILE_VECTORS);
        let enough = |most: usize| most > 0 && rows > (WIDE_TILES - 1) * most;
        let threes = if enough(S::ROWS_OF_THREE) { panels / 3 } else { 0 };
        let four = panels - 3 * threes == 2 && enough(S::ROWS_OF_FOUR);
        Self { columns, lanes: S::LANES, threes, four }
    }

    /// How many tiles there are side by side.
    pub fn tiles(&self) -> usize {
        let width = TILE_VECTORS * self.lanes;
        let left = (self.columns - 3 * width * self.threes).div_ceil(width);
        2 * self.threes + left - usize::from(self.four)
    }

    /// The columns of one of them.
    pub fn place(&self, tile: usize) -> Place {
        let width = TILE_VECTORS * self.lanes;
        let three = |column, others| Place {
            column,
            columns: width,
            others: Some(Others { vectors: 1, column: others }),
        };
        if tile < 2 * self.threes {
            let group = tile / 2 * 3 * width;
            return match tile % 2 {
                0 => three(group, width as isize),
                _ => three(group + 2 * width, -(self.lanes as isize)),
            };
        }
        let left = tile - 2 * self.threes;
        let first = 3 * width * self.threes;
        if self.four && left == 0 {
            let others = Some(Others { vectors: 2, column: width as isize });
            return Place { column: first, columns: width, others };
        }
        let column = first + (left + usize::from(self.four)) * width;
        Place { column, columns: width.min(self.columns - column), others: None }
    }
}

/// Neighbouring panels of B, or the same steps of k of each.
#[derive(Clone, Copy)]
pub(crate) struct Panels {
    pub start: *const f32,
    /// Values of each.
    pub len: usize,
    /// Where the other one starts, if there are two.
    pub second: Option<*const f32>,
}

impl Panels {
    /// One, or a part of it.
    pub fn one(start: *const f32, len: usize) -> Self {
        Self { start, len, second: None }
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
    /// How far it is from a row of B to the other vectors.
    pub b_others: isize,
    pub c_row: usize,
    /// Columns to store of the tile's own panel,
    pub columns: usize,
    /// and vectors besides.
    pub others: Option<Others>,
    pub accumulate: bool,
    pub bias: Option<*const f32>,
    pub clamp: Option<Clamp>,
    /// See [`super::Epilogue`].
    pub lowered: Option<*const f32>,
    /// They are asked for while the tiles are walked,
    pub ahead: Panels,
    /// and so many values from here on.
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
        let vectors = match self.others {
            Some(others) => TILE_VECTORS + others.vectors,
            None => self.columns.div_ceil(S::LANES),
        };
        let most = match vectors {
            4 => S::ROWS_OF_FOUR,
            3 => S::ROWS_OF_THREE,
            2 => S::TILE_ROWS,
            _ if self.columns <= S::LANES / 2 => S::ROWS_OF_HALF,
            _ => S::ROWS_OF_ONE,
        };
        let tiles = rows.div_ceil(most);
        // Asked for evenly, of two panels the second during the second half of the tiles; less than a
        // line a step: rather some lines twice than any too late.
        let k = segments.len() * self.steps;
        let second = self.ahead.second.map(|second| (tiles.div_ceil(2), second));
        let tiles_a_panel = if second.is_some() { tiles / 2 } else { tiles };
        let steps = [(self.ahead.len, tiles_a_panel), (self.next_len, tiles)]
            .map(|(len, tiles)| len.div_ceil((tiles * k).max(1)) * VALUE);
        // (Opaque: what the compiler sees through, it divides anew in every step.)
        let [ahead_step, next_step] = black_box(steps);
        let mut pace =
            Pace::new::<S>((segments, self.steps), (self.a_step, self.b_step), (ahead_step, next_step));
        let (mut ahead, mut next) = (self.ahead.start, self.next);
        let mut left = rows;
        for tile in 0..tiles {
            if let Some((_, second)) = second.filter(|(turn, _)| tile == *turn) {
                ahead = second;
            }
            let height = left.div_ceil(tiles - tile);
            // Conditions that are constants leave out of the program what they exclude. Heights are nearly equal,
            // so that tiles of three and four vectors, of which there are four at least, are never low.
            macro_rules! walk {
                ($($height:literal)*) => {
                    match height {
                        // SAFETY: the caller's promise covers `rows` rows, of which `left` are left.
                        $($height => unsafe {
                            if const { is_height($height, S::ROWS_OF_FOUR, true) } && vectors == 4 {
                                self.walk::<S, C, $height, 4>(s, segments, b, c, (ahead, next), &pace);
                            } else if const { is_height($height, S::ROWS_OF_THREE, true) } && vectors == 3 {
                                self.walk::<S, C, $height, 3>(s, segments, b, c, (ahead, next), &pace);
                            } else if const { is_height($height, S::TILE_ROWS, false) } && vectors == 2 {
                                self.walk::<S, C, $height, 2>(s, segments, b, c, (ahead, next), &pace);
                            } else if const { is_height($height, S::ROWS_OF_ONE, false) } && vectors == 1 {
                                self.walk::<S, C, $height, 1>(s, segments, b, c, (ahead, next), &pace);
                            } else {
                                unreachable!("a tile of {vectors} vectors has no {height} rows");
                            }
                        },)*
                        _ => unreachable!("a tile has 1 to `most` rows"),
                    }
                };
            }
            walk!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
            pace.a += height * self.a_row;
            c = c.wrapping_add(height * self.c_row);
            ahead = ahead.wrapping_byte_add(ahead_step * k);
            next = next.wrapping_byte_add(next_step * k);
            left -= height;
        }
    }

    /// One tile of `ROWS` rows and `VECTORS` vectors of columns.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    unsafe fn walk<S: Simd, C: Element, const ROWS: usize, const VECTORS: usize>(
        self,
        s: S,
        segments: &[*const f32],
        b: *const f32,
        c: *mut C,
        (ahead, next): (*const f32, *const f32),
        pace: &Pace,
    ) {
        // SAFETY: all addresses lie within the matrices whose extents the callers of `gemm` and
        // `gemm_transposed` checked; B is readable for whole tiles; C is touched for
        // `columns` columns only.
        unsafe {
            let walk = TileWalk {
                segments,
                columns: self.columns,
                half_step: self.half_step,
                pace,
                a_row: self.a_row,
                b,
                others: self.b_others as usize,
                ahead,
                next,
            };
            let mut sums = s.tile::<ROWS, VECTORS>(walk);
            // The usual end, with what all rows share loaded once. (Bounds are lowered where C has 16 bits; the
            // registers that they take there are better used where it is f32.)
            let narrow = const { C::BF16 || C::F16 };
            let usual = narrow || self.lowered.is_none();
            if usual && self.columns >= VECTORS.min(TILE_VECTORS) * S::LANES {
                let Clamp { low, high } = self.clamp.unwrap_or(Clamp::IDENTITY);
                let mut bias = [s.splat(0.0); VECTORS];
                let (mut low, mut high) = ([s.splat(low); VECTORS], [s.splat(high); VECTORS]);
                for v in 0..VECTORS {
                    let at = self.column::<S>(v);
                    if let Some(from) = self.bias {
                        bias[v] = s.load(from.offset(at));
                    }
                    if let Some(from) = self.lowered.filter(|_| narrow) {
                        let by = s.load(from.offset(at));
                        (low[v], high[v]) = (s.sub(low[v], by), s.sub(high[v], by));
                    }
                }
                if self.accumulate {
                    for (row, sums) in sums.iter_mut().enumerate() {
                        for (v, sum) in sums.iter_mut().enumerate() {
                            let before = c.add(row * self.c_row).offset(self.column::<S>(v));
                            *sum = s.add(*sum, simd::load::<S, false>(s, before, S::LANES));
                        }
                    }
                }
                for (row, mut sums) in sums.into_iter().enumerate() {
                    let to = c.add(row * self.c_row);
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = s.clamp(s.add(*sum, bias[v]), low[v], high[v]);
                    }
                    for (first, sums) in (0..VECTORS).step_by(TILE_VECTORS).zip(sums.chunks(TILE_VECTORS)) {
                        let to = to.offset(self.column::<S>(first));
                        match sums {
                            &[left, right] => simd::store_pair(s, to, left, right),
                            _ => simd::store::<S, false>(s, to, sums[0], S::LANES),
                        }
                    }
                }
                return;
            }
            for (row, sums) in sums.into_iter().enumerate() {
                for (v, sum) in sums.into_iter().enumerate() {
                    let at = self.column::<S>(v);
                    let n =
                        if v < TILE_VECTORS { self.columns.saturating_sub(v * S::LANES) } else { S::LANES };
                    let c = c.add(row * self.c_row).offset(at);
                    if n >= S::LANES {
                        self.finish::<S, C, false>(s, sum, at, S::LANES, c);
                    } else if n > 0 {
                        self.finish::<S, C, true>(s, sum, at, n, c);
                    }
                }
            }
        }
    }

    /// Where vector `v` begins, counted in columns from the first one of the tile's panel.
    #[inline(always)]
    fn column<S: Simd>(&self, v: usize) -> isize {
        match self.others {
            Some(Others { column, .. }) if v >= TILE_VECTORS => {
                column + ((v - TILE_VECTORS) * S::LANES) as isize
            }
            _ => (v * S::LANES) as isize,
        }
    }

    /// Adds what C holds and the bias, clamps, and stores one vector.
    #[inline(always)]
    unsafe fn finish<S: Simd, C: Element, const PARTIAL: bool>(
        self,
        s: S,
        sum: S::V,
        at: isize,
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
                sum = s.add(sum, simd::load::<S, PARTIAL>(s, bias.offset(at), n));
            }
            sum = clamp::<S, PARTIAL>(s, sum, self.clamp, self.lowered.map(|lowered| lowered.offset(at)), n);
            simd::store::<S, PARTIAL>(s, c, sum, n);
        }
    }
}

/// `n` sums within their bounds, see [`super::Epilogue`].
///
/// # Safety
/// The instruction set of `s` must be present, and `lowered` have a value for every column.
#[inline(always)]
unsafe fn clamp<S: Simd, const PARTIAL: bool>(
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

#[cfg(test)]
mod tests {
    use super::{Across, Others, Place};
    use crate::isa::Isa;
    use crate::simd::{Kernel, Simd, TILE_VECTORS, dispatch};

    /// How often each column is in a tile, and whether panels are new where they are said to be.
    struct Covered {
        rows: usize,
        columns: usize,
    }

    impl Kernel for Covered {
        type Output = Vec<usize>;

        #[inline(always)]
        unsafe fn run<S: Simd>(self, _: S) -> Vec<usize> {
            let (mut covered, mut panels) = (vec![0; self.columns], Vec::new());
            let across = Across::new::<S>(self.rows, self.columns);
            for place in (0..across.tiles()).map(|tile| across.place(tile)) {
                let Place { column, columns, others } = place;
                assert!(column.is_multiple_of(S::LANES * TILE_VECTORS) && columns > 0);
                covered[column..][..columns].iter_mut().for_each(|times| *times += 1);
                panels.push(column);
                panels.extend(place.next_panel());
                if let Some(Others { vectors, column: others }) = others {
                    assert_eq!(columns, S::LANES * TILE_VECTORS, "an incomplete panel and others");
                    let from = column.checked_add_signed(others).expect("a column");
                    covered[from..][..vectors * S::LANES].iter_mut().for_each(|times| *times += 1);
                }
            }
            panels.sort_unstable();
            assert!(panels.iter().copied().eq((0..self.columns).step_by(S::LANES * TILE_VECTORS)));
            covered
        }
    }

    #[test]
    fn every_column_is_in_one_tile() {
        for isa in Isa::testable() {
            for rows in [1, 18, 19, 27, 28, 100] {
                for columns in 1..400 {
                    // SAFETY: the kernel touches its own memory only.
                    let covered = unsafe { dispatch(isa, Covered { rows, columns }) };
                    assert!(covered.iter().all(|&times| times == 1), "{} {rows} {columns}", isa.name());
                }
            }
        }
    }
}
