//! Vectors of f32, one implementation an instruction set, and the switch between them.
//!
//! A kernel is a value that implements [`Kernel`]: its `run` is generic over [`Simd`] and inlined
//! into one function per instruction set that has the matching target features.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86_tile;
#[cfg(target_arch = "x86_64")]
mod x86_windows;

use half::{bf16, f16};

use crate::element::Element;
use crate::element::sealed::Vectors;
use crate::isa::{Isa, Kind};

/// Operations on vectors of f32.
///
/// Every method is unsafe to call where the instruction set is absent; pointers must be valid for
/// the lanes that are touched ([`Simd::LANES`], or `n` in the `_n` forms, with 0 < n < LANES).
pub(crate) trait Simd: Copy {
    /// A vector.
    type V: Copy;
    /// Number of f32 in a vector.
    const LANES: usize;
    /// Number of registers for them.
    const REGISTERS: usize;
    /// Rows of a GEMM tile: with [`TILE_VECTORS`] columns of vectors it fills the registers.
    const TILE_ROWS: usize;
    /// Most rows of a tile of one vector, and of one of half a vector.
    const ROWS_OF_ONE: usize = Self::TILE_ROWS;
    const ROWS_OF_HALF: usize = Self::ROWS_OF_ONE;
    /// And of tiles that take one or two vectors of another panel, too, which read fewer values for a
    /// product; 0 where there are not registers enough for that to pay.
    const ROWS_OF_THREE: usize = 0;
    const ROWS_OF_FOUR: usize = 0;
    /// Steps of k that [`Simd::lane_steps`] takes; 0 where there is no multiplication by a lane.
    const LANE_STEPS: usize = 0;

    unsafe fn splat(self, x: f32) -> Self::V;
    unsafe fn load(self, from: *const f32) -> Self::V;
    unsafe fn store(self, to: *mut f32, v: Self::V);
    /// The first `n` lanes; the others are zero.
    unsafe fn load_n(self, from: *const f32, n: usize) -> Self::V;
    /// Writes the first `n` lanes only.
    unsafe fn store_n(self, to: *mut f32, v: Self::V, n: usize);
    /// Widens.
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> Self::V {
        // SAFETY: `LANES` values are there.
        unsafe { self.load_bf16_n(from, Self::LANES) }
    }
    /// Rounds to the nearest, of two equally near to the even one; NaN stays NaN.
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, v: Self::V) {
        // SAFETY: `LANES` values are there.
        unsafe { self.store_bf16_n(to, v, Self::LANES) }
    }
    /// Two vectors side by side.
    #[inline(always)]
    unsafe fn store_bf16_pair(self, to: *mut bf16, left: Self::V, right: Self::V) {
        // SAFETY: twice `LANES` values are there.
        unsafe {
            self.store_bf16(to, left);
            self.store_bf16(to.add(Self::LANES), right);
        }
    }
    /// The first `n` lanes (here also all of them); the others are zero.
    #[inline(always)]
    unsafe fn load_bf16_n(self, from: *const bf16, n: usize) -> Self::V {
        let mut lanes = [0.0; MOST_LANES];
        // SAFETY: `n` values are there, and as many lanes as a vector has.
        unsafe {
            for (i, lane) in lanes.iter_mut().enumerate().take(n) {
                *lane = from.add(i).read().to_f32();
            }
            self.load(lanes.as_ptr())
        }
    }
    /// Writes the first `n` lanes (here also all of them).
    #[inline(always)]
    unsafe fn store_bf16_n(self, to: *mut bf16, v: Self::V, n: usize) {
        let mut lanes = [0.0; MOST_LANES];
        // SAFETY: as many lanes as a vector has, and room for `n` values.
        unsafe {
            self.store(lanes.as_mut_ptr(), v);
            for (i, &lane) in lanes.iter().enumerate().take(n) {
                to.add(i).write(bf16::from_f32(lane));
            }
        }
    }
    /// As [`Simd::load_bf16`].
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> Self::V {
        // SAFETY: `LANES` values are there.
        unsafe { self.load_f16_n(from, Self::LANES) }
    }
    /// As [`Simd::store_bf16`].
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16, v: Self::V) {
        // SAFETY: `LANES` values are there.
        unsafe { self.store_f16_n(to, v, Self::LANES) }
    }
    /// As [`Simd::load_bf16_n`].
    #[inline(always)]
    unsafe fn load_f16_n(self, from: *const f16, n: usize) -> Self::V {
        let mut lanes = [0.0; MOST_LANES];
        // SAFETY: `n` values are there, and as many lanes as a vector has.
        unsafe {
            for (i, lane) in lanes.iter_mut().enumerate().take(n) {
                *lane = from.add(i).read().to_f32();
            }
            self.load(lanes.as_ptr())
        }
    }
    /// As [`Simd::store_bf16_n`].
    #[inline(always)]
    unsafe fn store_f16_n(self, to: *mut f16, v: Self::V, n: usize) {
        let mut lanes = [0.0; MOST_LANES];
        // SAFETY: as many lanes as a vector has, and room for `n` values.
        unsafe {
            self.store(lanes.as_mut_ptr(), v);
            for (i, &lane) in lanes.iter().enumerate().take(n) {
                to.add(i).write(f16::from_f32(lane));
            }
        }
    }
    /// Bytes as numbers.
    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> Self::V {
        let mut lanes = [0.0; MOST_LANES];
        // SAFETY: `LANES` bytes are there, and as many lanes as a vector has.
        unsafe {
            for (i, lane) in lanes.iter_mut().enumerate().take(Self::LANES) {
                *lane = f32::from(from.add(i).read());
            }
            self.load(lanes.as_ptr())
        }
    }
    unsafe fn add(self, a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// a·b + c
    unsafe fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// c − a·b
    unsafe fn neg_mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// min(max(v, low), high); NaN stays NaN.
    unsafe fn clamp(self, v: Self::V, low: Self::V, high: Self::V) -> Self::V;
    /// [`Simd::LANE_STEPS`] steps of a GEMM tile: a load of A serves all of them where multiplication
    /// is by a lane. Row r of A continues at `a + r·a_row`, its values side by side; those of B
    /// are `b_step` apart. Each sum gets its products in order, as step by step.
    #[inline(always)]
    unsafe fn lane_steps<const ROWS: usize, const VECTORS: usize>(
        self,
        _sums: &mut [[Self::V; VECTORS]; ROWS],
        (_a, _a_row): (*const f32, usize),
        (_b, _b_step): (*const f32, usize),
    ) {
    }
    /// The sums of a GEMM tile over all steps of `walk`, in order.
    #[inline(always)]
    unsafe fn tile<const ROWS: usize, const VECTORS: usize>(
        self,
        walk: TileWalk,
    ) -> [[Self::V; VECTORS]; ROWS] {
        // SAFETY: the caller's promise, see `TileWalk`.
        unsafe { walk.sums::<Self, ROWS, VECTORS>(self) }
    }
    /// Adds [`WINDOWS`] neighbouring 3×3 windows, `STRIDE` (1 or 2) pixels apart, to `sums`: column by column and, in
    /// a column, row by row. The rows begin with the first window's pixels, `pixel` values apart. The `FIRST` column
    /// of the first window, and the `LAST` one of the last, may be missing; they are not read then.
    #[inline(always)]
    unsafe fn windows<E: Element, const STRIDE: usize, const FIRST: bool, const LAST: bool>(
        self,
        rows: [*const E; 3],
        pixel: usize,
        weights: &[[Self::V; 3]; 3],
        mut sums: [Self::V; WINDOWS],
    ) -> [Self::V; WINDOWS] {
        let columns = (WINDOWS - 1) * STRIDE + 3;
        for column in usize::from(!FIRST)..columns - usize::from(!LAST) {
            for (row, weights) in rows.iter().zip(weights) {
                // SAFETY: the pixels are there (the caller's promise).
                unsafe {
                    let value = Vectors::load(self, row.wrapping_add(column * pixel));
                    for (window, sum) in sums.iter_mut().enumerate() {
                        if column >= window * STRIDE && column < window * STRIDE + 3 {
                            *sum = self.mul_add(value, weights[column - window * STRIDE], *sum);
                        }
                    }
                }
            }
        }
        sums
    }
    /// Asks for the cache line at `at`, which may be any address, into the second-level cache.
    unsafe fn prefetch(self, at: *const f32);
    /// Stores a vector at an address of whole vectors, past the caches where the processor can; others see it after
    /// [`Simd::fence`].
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32, v: Self::V) {
        // SAFETY: the caller's promise.
        unsafe { self.store(to, v) }
    }
    /// Orders what was stored by [`Simd::stream`] before everything that is stored later.
    #[inline(always)]
    unsafe fn fence(self) {}
    /// `v` in the lanes where low < x < high, else 0.
    unsafe fn keep_inside(self, v: Self::V, x: Self::V, low: Self::V, high: Self::V) -> Self::V;
}

/// The way of a GEMM tile through k: row r of A continues in each of the segments at
/// `a + r·a_row`, with a value every `a_step`; the rows of B follow one another over all segments,
/// `b_step` apart. `ahead` and `next`, any addresses, are asked for on the way. Strides are in bytes.
/// (Some of these are in `pace`.)
#[derive(Clone, Copy)]
pub(crate) struct TileWalk<'a> {
    pub segments: &'a [*const f32],
    /// Columns that are wanted of the tile's vectors.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub columns: usize,
    /// Whether, where values are pairs, the first half of one more is left.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub half_step: bool,
    pub pace: &'a Pace,
    pub a_row: usize,
    pub b: *const f32,
    /// How far it is from a row of B to the vectors beyond [`TILE_VECTORS`], which lie in another panel.
    pub others: usize,
    pub ahead: *const f32,
    pub next: *const f32,
}

/// How all tiles of a product walk. (Laid out for the assembly of x86_tile.rs.)
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Pace {
    /// From what is asked for in one step to what is in the next; the same for `next`.
    pub ahead_step: usize,
    pub next_step: usize,
    /// Where the rows of the tile at work begin in each segment.
    pub a: usize,
    pub b_step: usize,
    /// Steps in each segment: so many times eight, and four, whose values of A lie side by side in a row, and rows of B in
    /// a panel,
    pub eights: usize,
    pub fours: usize,
    /// and others, besides those of `apart`.
    pub ones: usize,
    /// Where the segments end.
    pub segments_end: *const *const f32,
    /// How far it is from what is asked for to what is so many steps later. (In eights and in fours that lie apart it is
    /// asked for less often than in every step, where that is often enough.)
    pub ahead_fours: usize,
    pub next_eights: usize,
    /// So many times four steps whose values lie further apart.
    pub apart: usize,
    pub next_fours: usize,
    pub a_step: usize,
}

impl Pace {
    /// Of `steps` steps in each of the segments.
    #[inline(always)]
    pub fn new<S: Simd>(
        (segments, steps): (&[*const f32], usize),
        (a_step, b_step): (usize, usize),
        (ahead_step, next_step): (usize, usize),
    ) -> Self {
        const LINE: usize = 64;
        let side_by_side = a_step == VALUE && b_step == S::LANES * TILE_VECTORS * VALUE;
        // (Of the lines ahead each is asked for twice in eight steps: once was a twentieth slower in bf16.)
        let seldom = 4 * ahead_step.max(next_step) <= LINE;
        let eights = if side_by_side && seldom && 8 * next_step <= LINE { steps / 8 } else { 0 };
        let left = steps - 8 * eights;
        let (fours, apart) = match (side_by_side, seldom) {
            (true, _) => (left / 4, 0),
            (false, true) => (0, left / 4),
            (false, false) => (0, 0),
        };
        Self {
            ahead_step,
            next_step,
            a: 0,
            b_step,
            eights,
            fours,
            ones: left - 4 * (fours + apart),
            segments_end: segments.as_ptr_range().end,
            ahead_fours: 4 * ahead_step,
            next_eights: 8 * next_step,
            apart,
            next_fours: 4 * next_step,
            a_step,
        }
    }

    /// Steps in each segment.
    pub fn steps(&self) -> usize {
        8 * self.eights + 4 * (self.fours + self.apart) + self.ones
    }
}

impl TileWalk<'_> {
    /// Where the first row of B has vector `v` of the tile.
    #[inline(always)]
    fn vector<S: Simd>(&self, v: usize) -> *const f32 {
        let panel = if v < TILE_VECTORS { self.b } else { self.b.wrapping_byte_add(self.others) };
        panel.wrapping_add(v % TILE_VECTORS * S::LANES)
    }

    /// [`Simd::tile`], for any instruction set.
    #[inline(always)]
    unsafe fn sums<S: Simd, const ROWS: usize, const VECTORS: usize>(self, s: S) -> [[S::V; VECTORS]; ROWS] {
        let Self { a_row, pace: &Pace { a_step, b_step, ahead_step, next_step, .. }, .. } = self;
        let (mut b, mut ahead, mut next) = (self.b, self.ahead, self.next);
        // SAFETY: A and B are there as far as the walk goes (the caller's promise).
        unsafe {
            let mut sums = [[s.splat(0.0); VECTORS]; ROWS];
            for segment in self.segments {
                let mut a = segment.wrapping_byte_add(self.pace.a);
                let mut left = self.pace.steps();
                while S::LANE_STEPS > 0 && a_row > VALUE && a_step == VALUE && left >= S::LANE_STEPS {
                    s.lane_steps::<ROWS, VECTORS>(&mut sums, (a, a_row / VALUE), (b, b_step / VALUE));
                    for _ in 0..S::LANE_STEPS {
                        s.prefetch(ahead);
                        ahead = ahead.wrapping_byte_add(ahead_step);
                    }
                    s.prefetch(next);
                    next = next.wrapping_byte_add(S::LANE_STEPS * next_step);
                    a = a.wrapping_byte_add(S::LANE_STEPS * VALUE);
                    b = b.wrapping_byte_add(S::LANE_STEPS * b_step);
                    left -= S::LANE_STEPS;
                }
                for _ in 0..left {
                    let mut columns = [s.splat(0.0); VECTORS];
                    for (v, columns) in columns.iter_mut().enumerate() {
                        *columns = s.load(Self { b, ..self }.vector::<S>(v));
                    }
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let scalar = s.splat(*a.byte_add(row * a_row));
                        for (sum, column) in sums.iter_mut().zip(columns) {
                            *sum = s.mul_add(scalar, column, *sum);
                        }
                    }
                    s.prefetch(ahead);
                    s.prefetch(next);
                    ahead = ahead.wrapping_byte_add(ahead_step);
                    next = next.wrapping_byte_add(next_step);
                    a = a.wrapping_byte_add(a_step);
                    b = b.wrapping_byte_add(b_step);
                }
            }
            sums
        }
    }
}

/// Lanes of the widest vector.
pub(crate) const MOST_LANES: usize = 16;

/// Bytes of a value of the matrices of a GEMM tile.
pub(crate) const VALUE: usize = size_of::<f32>();

/// Windows that [`Simd::windows`] takes at a time.
pub(crate) const WINDOWS: usize = 4;

/// Vectors side by side in a GEMM tile.
pub(crate) const TILE_VECTORS: usize = 2;

/// The channels `c..c + LANES` of a row: all of them, or (`PARTIAL`) only the first `n`.
///
/// The loops over channels run the full form and then, for what is left, the partial one.
#[inline(always)]
pub(crate) unsafe fn load<S: Simd, const PARTIAL: bool>(s: S, from: *const impl Element, n: usize) -> S::V {
    // SAFETY: the caller's promise, see the trait.
    unsafe { if PARTIAL { Vectors::load_n(s, from, n) } else { Vectors::load(s, from) } }
}

/// The counterpart of [`load`].
#[inline(always)]
pub(crate) unsafe fn store<S: Simd, const PARTIAL: bool>(s: S, to: *mut impl Element, v: S::V, n: usize) {
    // SAFETY: the caller's promise, see the trait.
    unsafe { if PARTIAL { Vectors::store_n(s, to, v, n) } else { Vectors::store(s, to, v) } }
}

/// Asks for the cache lines of `values`, see [`Simd::prefetch`].
#[inline(always)]
pub(crate) unsafe fn prefetch_all<S: Simd, T>(s: S, values: &[T]) {
    const LINE: usize = 64;
    for at in (0..size_of_val(values)).step_by(LINE) {
        // SAFETY: the instruction set is there (the caller's promise).
        unsafe { s.prefetch(values.as_ptr().wrapping_byte_add(at).cast()) };
    }
}

/// Stores two full vectors side by side.
#[inline(always)]
pub(crate) unsafe fn store_pair<S: Simd>(s: S, to: *mut impl Element, left: S::V, right: S::V) {
    // SAFETY: the caller's promise, see the trait.
    unsafe { Vectors::store_pair(s, to, left, right) }
}

/// Calls `$block!(c, n, PARTIAL)` for every block of channels.
macro_rules! for_channel_blocks {
    ($s:ty, $channels:expr, |$c:ident, $n:ident, $partial:ident| $body:expr) => {{
        let channels: usize = $channels;
        let full = channels / <$s>::LANES * <$s>::LANES;
        let mut $c = 0;
        while $c < full {
            let $n = <$s>::LANES;
            const $partial: bool = false;
            $body;
            $c += $n;
        }
        if $c < channels {
            let $n = channels - $c;
            const $partial: bool = true;
            $body;
        }
    }};
}
pub(crate) use for_channel_blocks;

/// Like [`for_channel_blocks`], but as long as it can with `$width` vectors at a time (`WIDTH` of
/// them in the body): what the vectors of a block need stays in registers while rows go by.
macro_rules! for_channel_groups {
    ($s:ty, $channels:expr, $width:literal, |$c:ident, $n:ident, $partial:ident, $vectors:ident| $body:expr) => {{
        let channels: usize = $channels;
        let mut $c = 0;
        while $c + $width * <$s>::LANES <= channels {
            let $n = <$s>::LANES;
            const $partial: bool = false;
            const $vectors: usize = $width;
            $body;
            $c += $width * <$s>::LANES;
        }
        while $c + <$s>::LANES <= channels {
            let $n = <$s>::LANES;
            const $partial: bool = false;
            const $vectors: usize = 1;
            $body;
            $c += <$s>::LANES;
        }
        if $c < channels {
            let $n = channels - $c;
            const $partial: bool = true;
            const $vectors: usize = 1;
            $body;
        }
    }};
}
pub(crate) use for_channel_groups;

/// Neighbouring vectors from `from` on; only the first `n` lanes of the last one if `PARTIAL`.
#[inline(always)]
pub(crate) unsafe fn load_all<S: Simd, const PARTIAL: bool, const VECTORS: usize>(
    s: S,
    from: *const impl Element,
    n: usize,
) -> [S::V; VECTORS] {
    // A loop, not `array::from_fn`: a closure that is not inlined would be compiled without the
    // instruction set.
    // SAFETY: the caller's promise, see the trait.
    unsafe {
        let mut vectors = [s.splat(0.0); VECTORS];
        for (v, vector) in vectors.iter_mut().enumerate() {
            *vector = load::<S, PARTIAL>(s, from.add(v * S::LANES), n);
        }
        vectors
    }
}

/// The counterpart of [`load_all`].
#[inline(always)]
pub(crate) unsafe fn store_all<S: Simd, const PARTIAL: bool, const VECTORS: usize>(
    s: S,
    to: *mut f32,
    vectors: [S::V; VECTORS],
    n: usize,
) {
    for (v, vector) in vectors.into_iter().enumerate() {
        // SAFETY: the caller's promise, see the trait.
        unsafe { store::<S, PARTIAL>(s, to.add(v * S::LANES), vector, n) }
    }
}

/// Work that is compiled once for each instruction set.
pub(crate) trait Kernel {
    /// What it returns.
    type Output;
    /// Whether it loads or stores bf16, for which some instruction sets have instructions of their own.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    const BF16: bool = false;

    /// Does the work. Implementations are `#[inline(always)]`.
    ///
    /// # Safety
    /// The instruction set of `s` must be present, and the kernel's own conditions hold.
    unsafe fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// Runs `kernel` with the vectors of `isa`.
///
/// # Safety
/// The kernel's own conditions (lengths, pointers) must hold; that the instructions are present
/// follows from `isa`.
#[inline]
pub(crate) unsafe fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    // SAFETY: an `Isa` other than portable exists only where detection found its features; the
    // kernel's conditions are the caller's promise.
    unsafe {
        match isa.0 {
            Kind::Portable => kernel.run::<portable::Portable>(portable::Arrays),
            #[cfg(debug_assertions)]
            Kind::Wide => kernel.run::<portable::Wide>(portable::Arrays),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => avx2::run(kernel),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16 | Kind::Amx if K::BF16 => avx512::run_bf16(kernel),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 | Kind::Avx512Bf16 | Kind::Amx => avx512::run(kernel),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => neon::run(kernel),
        }
    }
}

/// Lanes of a vector of `isa`.
pub(crate) fn lanes(isa: Isa) -> usize {
    match isa.0 {
        Kind::Portable => portable::Portable::LANES,
        #[cfg(debug_assertions)]
        Kind::Wide => portable::Wide::LANES,
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => avx2::Avx2::LANES,
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 | Kind::Avx512Bf16 | Kind::Amx => avx512::Avx512::<false>::LANES,
        #[cfg(target_arch = "aarch64")]
        Kind::Neon => neon::Neon::LANES,
    }
}
