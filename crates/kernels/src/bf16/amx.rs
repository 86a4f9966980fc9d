//! Products of bf16 in tiles (AMX-BF16).
//!
//! A tile register holds up to sixteen rows of 64 bytes. Four of them are the sums of two tile rows
//! and two tile columns of C (or two, of one tile row, where [`registers`] are few), and in each step others take
//! 32 values of k of the rows of A, straight from the activations, and the same of 2·16 columns of B from its
//! panel, in which the pairs of k lie side by side. The sums stay in their registers over all of k.
//!
//! Tile loads wait for tile stores before them, and these for all products before them. Therefore the first operands
//! of the next block are loaded before the sums of one are stored, and sums begin with zero: the bias is added where
//! they are finished, which is between the steps of the next block.
//!
//! The heights of all tile rows are equal, so that tiles are configured once a product.

use std::mem::MaybeUninit;

use half::bf16;

use super::end::{Bounded, Columns, Ending, Halves, Plain};
use super::tiles::{
    Configured, K_STEP, TILE_COLUMNS, TILE_ROWS, WIDTH, load, load_operands, load_panel, load_rows, multiply,
    products, store, zero,
};
use super::{Product, registers};
use crate::element::Element;
use crate::gemm::MatrixRef;
use crate::simd::Simd;
use crate::simd::avx512::Avx512;

/// Values of k that are gone through at a time: a panel of B of this depth stays in the L1 cache while rows of A
/// stream past it.
const K_BLOCK: usize = 16 * K_STEP;
/// Tile rows whose sums wait for the next block of k.
const GROUP: usize = 8;
/// Tile products in a call after which tiles are surely awake.
const LONG: usize = 256;
/// Values of a cache line.
const LINE: usize = 32;

/// [`super::gemm`] in tiles.
///
/// # Safety
/// AMX-TILE, AMX-BF16, AVX-512F, BW, VL and BF16 must be present and permitted, and the shapes fit.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
pub(super) unsafe fn gemm<C: Element>(product: Product<C>) {
    let Product { a, b, first_column, c, epilogue, ahead } = product;
    let whole = c.columns / WIDTH * WIDTH;
    let [c, rest] = c.split_columns(whole);
    let product = Product { a, b, first_column, c, epilogue, ahead };
    let rest = Product { a, b, first_column: first_column + whole, c: rest, epilogue, ahead };
    // SAFETY: the caller's promises.
    unsafe {
        if C::F16 && b.isa.has_half_arithmetic() {
            run_in_halves(product);
        } else if epilogue.bias.is_none() && epilogue.clamp.is_none() {
            run::<C, Plain<Avx512<true>>>(product);
        } else {
            run::<C, Bounded<Avx512<true>>>(product);
        }
        run::<C, Columns<Avx512<true>>>(rest);
    }
}

/// # Safety
/// As [`gemm`], for whole panels of f16; AVX512-FP16 must be present too.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx512fp16,avx2,fma")]
unsafe fn run_in_halves<C: Element>(product: Product<C>) {
    // SAFETY: the caller's promises.
    unsafe { run::<C, Halves>(product) }
}

/// All panels, one after another; of each all tile rows.
///
/// # Safety
/// As [`gemm`]; if the ending takes whole panels, so must C's columns be.
#[inline(always)]
unsafe fn run<C: Element, E: Ending<C, Simd = Avx512<true>>>(product: Product<C>) {
    let Product { a, b, first_column, c, epilogue, ahead } = product;
    let tiles = a.rows.div_ceil(TILE_ROWS);
    if tiles == 0 || c.columns == 0 {
        return;
    }
    let k = a.columns;
    if k == K_STEP && E::WHOLE {
        // SAFETY: the caller's promises.
        return unsafe { single_steps::<C, E>(Product { a, b, first_column, c, epilogue, ahead }) };
    }
    let few = k > K_STEP && registers::few();
    // Tile rows that are at work together.
    let together = if few { 1 } else { 2 };
    let height = a.rows.div_ceil(tiles);
    let shape = Shape { a, panels: b.panel(first_column), depth: b.depth(), tiles, together, height };
    let turns = tiles.div_ceil(together);
    let blocks = k.div_ceil(K_BLOCK).max(1);
    // Turns whose sums are in memory. (No more than there must be, in the L1 cache.)
    let group = if blocks > 1 { GROUP / together } else { 2 };
    let mut sums = [const { MaybeUninit::<Sums>::uninit() }; GROUP];
    let mut tails = MaybeUninit::<Tails>::uninit();
    // Rows of the sums before that are finished with every step, so that none are left behind the last.
    let share = (together * height).div_ceil((k - (blocks - 1) * K_BLOCK).div_ceil(K_STEP).max(1));
    let s = Avx512::<true>;
    // SAFETY: the caller's promises. Whole steps of A's rows are read in place, and what is left of k in
    // `tails`. B's panel has whole steps, filled up with zeros.
    unsafe {
        let _tiles = Configured::new(height as u8);
        if !k.is_multiple_of(K_STEP) {
            tails.write(Tails::default());
        }
        let tails = tails.as_mut_ptr();
        let mut place = Place { column: 0, first_turn: 0, block: 0, turn: 0 };
        let mut work = shape.block(place);
        if !few {
            work.load_first(E::WHOLE || c.columns > TILE_COLUMNS, tails, height);
        }
        // The sums before, which are finished while the tiles are at work on the next ones.
        let mut end = E::new(s, &epilogue, first_column, WIDTH.min(c.columns));
        let mut before = Finish::<C>::default();
        let (mut ahead, mut ahead_lines) = (std::ptr::null::<bf16>(), 0);
        while place.column < c.columns {
            let Place { column, first_turn, block, turn } = place;
            let wide = E::WHOLE || c.columns - column > TILE_COLUMNS;
            if turn == 0 && block == 0 {
                // The weights of a whole network do not stay in the cache: those of the next panel come
                // into it while this one is at work, evenly.
                ahead_lines =
                    if column + WIDTH < c.columns { (K_STEP * WIDTH / LINE).div_ceil(turns) } else { 0 };
                ahead = shape.panel(column + WIDTH);
            }
            let two = work.two;
            let sums = sums.as_mut_ptr().add((turn - first_turn) * together).cast::<f32>();
            if block == 0 {
                zero(two, wide);
            } else {
                load(sums, height, two, wide);
            }
            let beside = Beside { before, share, stride: c.stride, ahead, ahead_lines };
            let mut beside = match (two, wide) {
                (true, true) => work.steps::<C, E, true, true>(!few, beside, &end),
                (true, false) => work.steps::<C, E, true, false>(!few, beside, &end),
                (false, true) => work.steps::<C, E, false, true>(!few, beside, &end),
                (false, false) => work.steps::<C, E, false, false>(!few, beside, &end),
            };
            if work.tail > 0 {
                if work.steps == 0 && !few {
                    products(two, wide);
                } else {
                    let behind = work.steps * K_STEP;
                    let rows = Tails::copy(
                        tails,
                        work.rows.map(|row| row.wrapping_add(behind)),
                        height,
                        work.stride,
                        work.tail,
                    );
                    let panel = work.panel.wrapping_add(behind * WIDTH);
                    multiply(rows, size_of::<[bf16; K_STEP]>(), panel, two, wide);
                }
                beside.step(&end);
            }
            Beside { before, ahead, .. } = beside;
            // What is left of the tile row below.
            while before.rows > 0 {
                before.finish(&end, before.rows, c.stride);
            }
            place = place.next(turns, group, blocks);
            if place.column < c.columns {
                work = shape.block(place);
                if !few {
                    // (Tile loads wait for the stores before them, and these for all products before them.)
                    let wide = E::WHOLE || c.columns - place.column > TILE_COLUMNS;
                    work.load_first(wide, tails, height);
                }
            }
            store(sums, height, two, wide);
            if block + 1 == blocks {
                let first = shape.first_row(turn * together);
                let second = shape.first_row(turn * together + usize::from(two));
                let to = c.data.wrapping_add(column);
                if turn == 0 {
                    end = E::new(s, &epilogue, first_column + column, WIDTH.min(c.columns - column));
                }
                before = Finish {
                    from: sums,
                    to: to.wrapping_add(first * c.stride),
                    rows: height,
                    below: to.wrapping_add(second * c.stride),
                    rows_below: if two { height } else { 0 },
                };
            }
        }
        while before.rows > 0 {
            before.finish(&end, before.rows, c.stride);
        }
        let products = tiles * k.div_ceil(K_STEP) * c.columns.div_ceil(TILE_COLUMNS);
        if height > TILE_ROWS / 2 && products >= LONG {
            registers::look();
        }
    }
}

/// Products of one step of k, which are mostly the ends of blocks: a panel's operands stay in their tiles.
///
/// # Safety
/// As [`run`]; A has rows of a step, and C whole panels.
#[inline(always)]
unsafe fn single_steps<C: Element, E: Ending<C, Simd = Avx512<true>>>(product: Product<C>) {
    let Product { a, b, first_column, c, epilogue, .. } = product;
    let tiles = a.rows.div_ceil(TILE_ROWS);
    let height = a.rows.div_ceil(tiles);
    let stride = a.stride * size_of::<bf16>();
    let first_row = |tile: usize| (tile * height).min(a.rows - height);
    let rows_of = |tile: usize| {
        [tile, tile + 1].map(|tile| a.data.as_ptr().wrapping_add(first_row(tile.min(tiles - 1)) * a.stride))
    };
    let mut sums = [const { MaybeUninit::<Sums>::uninit() }; 4];
    // SAFETY: the caller's promises.
    unsafe {
        let _tiles = Configured::new(height as u8);
        let mut end = E::new(Avx512::<true>, &epilogue, first_column, WIDTH);
        let mut before = Finish::<C>::default();
        let mut into = sums.as_mut_ptr().cast::<f32>();
        let mut other = into.wrapping_add(2 * TILE_ROWS * WIDTH);
        for column in (0..c.columns).step_by(WIDTH) {
            load_panel(b.panel(first_column + column));
            load_rows(rows_of(0), stride, tiles > 1);
            for tile in (0..tiles).step_by(2) {
                let two = tile + 1 < tiles;
                zero(two, true);
                products(two, true);
                while before.rows > 0 {
                    before.finish(&end, before.rows, c.stride);
                }
                if tile == 0 {
                    end = E::new(Avx512::<true>, &epilogue, first_column + column, WIDTH);
                }
                if tile + 2 < tiles {
                    load_rows(rows_of(tile + 2), stride, tile + 3 < tiles);
                }
                store(into, height, two, true);
                let to = c.data.wrapping_add(column);
                before = Finish {
                    from: into,
                    to: to.wrapping_add(first_row(tile) * c.stride),
                    rows: height,
                    below: to.wrapping_add(first_row(tile + 1) * c.stride),
                    rows_below: if two { height } else { 0 },
                };
                (other, into) = (into, other);
            }
        }
        while before.rows > 0 {
            before.finish(&end, before.rows, c.stride);
        }
    }
}

/// What blocks are cut out of.
#[derive(Clone, Copy)]
struct Shape<'a> {
    a: MatrixRef<'a, bf16>,
    /// B from C's first column on,
    panels: *const bf16,
    /// and rows of its panels.
    depth: usize,
    tiles: usize,
    /// Tile rows of a block.
    together: usize,
    /// Rows of a tile.
    height: usize,
}

impl Shape<'_> {
    /// Where the height does not divide the rows, the last tile row begins earlier and computes some of those before
    /// it again, to the same bits.
    #[inline(always)]
    fn first_row(&self, tile: usize) -> usize {
        (tile * self.height).min(self.a.rows - self.height)
    }

    /// Where the panel of a column of C begins.
    #[inline(always)]
    fn panel(&self, column: usize) -> *const bf16 {
        self.panels.wrapping_add(column * self.depth)
    }

    #[inline(always)]
    fn block(&self, place: Place) -> Block {
        let k0 = place.block * K_BLOCK;
        let tile = place.turn * self.together;
        let two = self.together == 2 && tile + 1 < self.tiles;
        let left = K_BLOCK.min(self.a.columns - k0);
        let a = self.a.data.as_ptr().wrapping_add(k0);
        let above = a.wrapping_add(self.first_row(tile) * self.a.stride);
        let below = a.wrapping_add(self.first_row(tile + usize::from(two)) * self.a.stride);
        Block {
            rows: [above, below],
            stride: self.a.stride * size_of::<bf16>(),
            panel: self.panel(place.column).wrapping_add(k0 * WIDTH),
            two,
            steps: left / K_STEP,
            tail: left % K_STEP,
        }
    }
}

/// Which block of sums, and which of its blocks of k.
#[derive(Clone, Copy)]
struct Place {
    /// The first column of its panel.
    column: usize,
    /// The first turn of its group, which takes all blocks of k one after another.
    first_turn: usize,
    block: usize,
    turn: usize,
}

impl Place {
    /// The one behind it, where columns have so many `turns`, in groups, and k so many `blocks`.
    #[inline(always)]
    fn next(self, turns: usize, group: usize, blocks: usize) -> Self {
        let Self { column, first_turn, block, turn } = self;
        let end = turns.min(first_turn + group);
        if turn + 1 < end {
            Self { turn: turn + 1, ..self }
        } else if block + 1 < blocks {
            Self { turn: first_turn, block: block + 1, ..self }
        } else if end < turns {
            Self { column, first_turn: end, block: 0, turn: end }
        } else {
            Self { column: column + WIDTH, first_turn: 0, block: 0, turn: 0 }
        }
    }
}

/// Rows of sums that are not in C yet.
#[derive(Clone, Copy)]
struct Finish<C> {
    from: *const f32,
    to: *mut C,
    rows: usize,
    /// Where those of the tile row below go.
    below: *mut C,
    rows_below: usize,
}

impl<C> Default for Finish<C> {
    fn default() -> Self {
        let none = std::ptr::null_mut::<C>();
        Self { from: none.cast(), to: none, rows: 0, below: none, rows_below: 0 }
    }
}

impl<C> Finish<C> {
    /// Finishes the next few rows, not of both tile rows at once.
    ///
    /// # Safety
    /// As [`Ending::row`], for all rows.
    #[inline(always)]
    unsafe fn finish<E: Ending<C>>(&mut self, end: &E, most: usize, stride: usize) {
        let rows = most.min(self.rows);
        for _ in 0..rows {
            // SAFETY: the caller's promise.
            unsafe { end.row(self.from, self.to) };
            self.from = self.from.wrapping_add(WIDTH);
            self.to = self.to.wrapping_add(stride);
        }
        self.rows -= rows;
        if self.rows == 0 {
            (self.to, self.rows, self.rows_below) = (self.below, self.rows_below, 0);
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
    /// Copies `tail` values of the `height` rows, `stride` bytes apart, from each of `rows` on: where the
    /// copies are.
    ///
    /// # Safety
    /// So many values must be there, and be fewer than a step, and `to` hold values.
    #[cold]
    #[inline(never)]
    unsafe fn copy(
        to: *mut Self,
        rows: [*const bf16; 2],
        height: usize,
        stride: usize,
        tail: usize,
    ) -> [*const bf16; 2] {
        // SAFETY: the caller's promise.
        let to = unsafe { &mut (*to).0 };
        for (to, from) in to.iter_mut().zip(rows) {
            for (row, to) in to.iter_mut().enumerate().take(height) {
                // SAFETY: the caller's promise.
                unsafe {
                    let from = from.byte_add(row * stride);
                    std::ptr::copy_nonoverlapping(from, to[..tail].as_mut_ptr(), tail);
                }
            }
        }
        [to[0].as_ptr().cast(), to[1].as_ptr().cast()]
    }
}

/// What is done beside the tiles' work.
struct Beside<C> {
    before: Finish<C>,
    /// Rows that are finished with a step.
    share: usize,
    /// From row to row of C.
    stride: usize,
    /// What is asked for next, and lines of it with a step.
    ahead: *const bf16,
    ahead_lines: usize,
}

impl<C> Beside<C> {
    /// # Safety
    /// As [`Finish::finish`].
    #[inline(always)]
    unsafe fn step<E: Ending<C>>(&mut self, end: &E) {
        // SAFETY: the caller's promise; what is asked for need not be there.
        unsafe {
            for _ in 0..self.ahead_lines {
                Avx512::<true>.prefetch(self.ahead.cast());
                self.ahead = self.ahead.wrapping_add(LINE);
            }
            self.before.finish(end, self.share, self.stride);
        }
    }
}

/// What the sums of one or two tile rows and one or two tile columns are made from.
#[derive(Clone, Copy)]
struct Block {
    /// Where the values of A begin, of either tile row.
    rows: [*const bf16; 2],
    /// Bytes from row to row of A.
    stride: usize,
    /// The values of B.
    panel: *const bf16,
    /// Whether there is a tile row below.
    two: bool,
    /// Whole steps,
    steps: usize,
    /// and values of k behind them.
    tail: usize,
}

impl Block {
    /// All whole steps, of which the first one's operands may be loaded.
    ///
    /// # Safety
    /// As [`multiply`] and [`Beside::step`].
    #[inline(always)]
    unsafe fn steps<C, E: Ending<C>, const TWO: bool, const WIDE: bool>(
        &self,
        loaded: bool,
        mut beside: Beside<C>,
        end: &E,
    ) -> Beside<C> {
        let Self { mut rows, stride, mut panel, steps, .. } = *self;
        for step in 0..steps {
            // SAFETY: the caller's promises.
            unsafe {
                if step == 0 && loaded {
                    products(TWO, WIDE);
                } else {
                    multiply(rows, stride, panel, TWO, WIDE);
                }
                beside.step(end);
            }
            rows = [rows[0].wrapping_add(K_STEP), rows[1].wrapping_add(K_STEP)];
            panel = panel.wrapping_add(K_STEP * WIDTH);
        }
        beside
    }

    /// Loads what the first step multiplies ([`products`]).
    ///
    /// # Safety
    /// The tiles must be configured, and A and the panel be there.
    #[inline(always)]
    unsafe fn load_first(&self, wide: bool, tails: *mut Tails, height: usize) {
        let Self { mut rows, mut stride, panel, two, steps, tail } = *self;
        // SAFETY: the caller's promise.
        unsafe {
            if steps == 0 {
                if tail == 0 {
                    return;
                }
                rows = Tails::copy(tails, rows, height, stride, tail);
                stride = size_of::<[bf16; K_STEP]>();
            }
            load_operands(rows, stride, panel, two, wide);
        }
    }
}
