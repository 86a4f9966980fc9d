//! The right-hand matrix, packed.

use half::bf16;

use crate::buffer::Buffer;
use crate::extent::extent;
use crate::gemm::packed::{ROWS, each_panel};
use crate::gemm::{PackedB, Unpacked, panel_width};
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::Kind;
use crate::parallel::Pool;

/// The right-hand matrix `[k, n]` of bf16 values, rearranged into panels of a tile's width.
///
/// A panel is contiguous over k. Where products are of pairs (`avx512bf16`, `amx`), the values of two
/// neighbouring rows lie side by side; rows and columns beyond `k` and `n` are zero. Elsewhere the values
/// are kept as f32, as the arithmetic takes them.
#[derive(Clone, Debug)]
pub struct PackedBf16 {
    pairs: Buffer<bf16>,
    wide: Option<PackedB>,
    k: usize,
    n: usize,
    pub(super) isa: Isa,
}

/// Rows whose values lie side by side.
const SIDE: usize = 2;

/// The multiple to which the depth of a panel is filled up, where products are of pairs.
pub(super) fn depth_step(isa: Isa) -> Option<usize> {
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        Kind::Amx => Some(super::tiles::K_STEP),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512Bf16 => Some(SIDE),
        _ => None,
    }
}

impl PackedBf16 {
    /// Room for a `k` × `n` matrix, to be filled by one of the `pack` methods.
    pub fn new(isa: Isa, k: usize, n: usize) -> Self {
        match depth_step(isa) {
            Some(step) => {
                let (rows, columns) = (k.next_multiple_of(step), n.next_multiple_of(panel_width(isa)));
                Self { pairs: Buffer::zeros(extent(columns, rows, rows)), wide: None, k, n, isa }
            }
            None => Self { pairs: Buffer::default(), wide: Some(PackedB::new(isa, k, n)), k, n, isa },
        }
    }

    /// Makes it one of `k` × `n`, to be filled again, in the memory that it has if that is enough.
    pub fn reshape(&mut self, k: usize, n: usize) {
        (self.k, self.n) = (k, n);
        match &mut self.wide {
            Some(wide) => wide.reshape(k, n),
            None => {
                let rows = self.depth();
                let columns = n.next_multiple_of(panel_width(self.isa));
                self.pairs.at_least(extent(columns, rows, rows));
            }
        }
    }

    /// B = source (row-major `[k, n]`), rounded to the nearest.
    ///
    /// # Panics
    /// If `source` is not k·n long.
    pub fn pack(&mut self, source: &[f32]) {
        self.fill(None, Unpacked::Rows(source), |_, value| rounded(value));
    }

    /// B = sourceᵀ (row-major `[n, k]`), rounded to the nearest: weights `[out, in]` for the forward
    /// product.
    ///
    /// # Panics
    /// If `source` is not k·n long.
    pub fn pack_transposed(&mut self, source: &[f32]) {
        self.fill(None, Unpacked::Columns(source), |_, value| rounded(value));
    }

    /// B = (diag(scale) · source)ᵀ: weights `[out, in]`, each output's multiplied with its own factor,
    /// in f64, and rounded to bf16 once.
    ///
    /// # Panics
    /// If `source` is not k·n long, or `scale` not n.
    pub fn pack_transposed_scaled(&mut self, source: &[f32], scale: &[f64]) {
        assert_eq!(scale.len(), self.n);
        self.fill(None, Unpacked::Columns(source), |column, value| nearest(f64::from(value) * scale[column]));
    }

    /// B = source, rounded to the nearest, by all threads of `pool`.
    ///
    /// # Panics
    /// If `source` is not k·n long.
    pub fn pack_on(&mut self, pool: &mut Pool, source: Unpacked) {
        self.fill(Some(pool), source, |_, value| rounded(value));
    }

    /// B[row, column] = value(row, column), rounded to the nearest, for layouts that are neither.
    pub fn pack_with(&mut self, value: impl Fn(usize, usize) -> f32) {
        if let Some(wide) = &mut self.wide {
            return wide.pack_with(|row, column| rounded(value(row, column)).to_f32());
        }
        let (n, width) = (self.n, panel_width(self.isa));
        let (k, panel_len) = (self.k, self.depth() * width);
        for (panel, j) in self.pairs.chunks_exact_mut(panel_len.max(1)).zip((0..n).step_by(width)) {
            panel.fill(bf16::ZERO);
            for row in 0..k {
                let to = &mut panel[row / SIDE * SIDE * width + row % SIDE..];
                for (column, to) in to.iter_mut().step_by(SIDE).enumerate().take(width.min(n - j)) {
                    *to = rounded(value(row, j + column));
                }
            }
        }
    }

    /// B = source with each value as `value(column, value)`, by the threads of `pool` if there is one.
    fn fill(&mut self, pool: Option<&mut Pool>, source: Unpacked, value: impl Fn(usize, f32) -> bf16 + Sync) {
        if let Some(wide) = &mut self.wide {
            return wide.fill(pool, source, |column, from| value(column, from).to_f32());
        }
        let (k, n, width, depth) = (self.k, self.n, panel_width(self.isa), self.depth());
        assert_eq!(source.len(), k * n, "values of a {k} × {n} matrix");
        each_panel(pool, &mut self.pairs, depth * width, n.div_ceil(width), |index, panel| {
            let first = index * width;
            let used = width.min(n - first);
            if used < width || k < depth {
                panel.fill(bf16::ZERO);
            }
            match source {
                Unpacked::Rows(source) => {
                    for (to, row) in panel.chunks_exact_mut(SIDE * width).zip((0..k).step_by(SIDE)) {
                        let from = |row: usize| &source[row * n + first..][..used];
                        let pairs = to.as_chunks_mut::<SIDE>().0;
                        if row + 1 < k {
                            let both = from(row).iter().zip(from(row + 1));
                            for (column, (to, (&upper, &lower))) in pairs.iter_mut().zip(both).enumerate() {
                                *to = [value(first + column, upper), value(first + column, lower)];
                            }
                        } else {
                            for (column, (to, &upper)) in pairs.iter_mut().zip(from(row)).enumerate() {
                                to[0] = value(first + column, upper);
                            }
                        }
                    }
                }
                Unpacked::Columns(source) => {
                    for (block, row) in panel.chunks_mut(ROWS * width).zip((0..k).step_by(ROWS)) {
                        let pairs = block.as_chunks_mut::<SIDE>().0;
                        for column in 0..used {
                            let (both, last) =
                                source[(first + column) * k + row..][..ROWS.min(k - row)].as_chunks::<SIDE>();
                            let mut to = pairs[column..].iter_mut().step_by(width);
                            for (&from, to) in both.iter().zip(&mut to) {
                                *to = from.map(|from| value(first + column, from));
                            }
                            if let ([from], Some(to)) = (last, to.next()) {
                                to[0] = value(first + column, *from);
                            }
                        }
                    }
                }
            }
        });
    }

    /// Rows of a panel of pairs, those that fill it up included.
    pub(super) fn depth(&self) -> usize {
        self.k.next_multiple_of(depth_step(self.isa).unwrap_or(1))
    }

    /// The values as f32, where products are not of pairs.
    pub(super) fn wide(&self) -> Option<&PackedB> {
        self.wide.as_ref()
    }

    /// Where the panel of pairs of `column`, the first of its panel, begins.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub(super) fn panel(&self, column: usize) -> *const bf16 {
        self.pairs[column * self.depth()..].as_ptr()
    }

    /// What a product reads for the columns from `column` on, the first of its panel; nothing, where it
    /// reads values of another type.
    pub fn panels(&self, column: usize) -> &[bf16] {
        let columns = self.n.next_multiple_of(panel_width(self.isa));
        self.pairs.get(column * self.depth()..columns * self.depth()).unwrap_or_default()
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

/// As [`bf16::from_f32`], without branches, so that many values are rounded at a time.
fn rounded(value: f32) -> bf16 {
    let bits = value.to_bits();
    // Half of the last bit, less where the last bit is even already.
    let near = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let nan = (bits >> 16) | 0x40;
    bf16::from_bits(if value.is_nan() { nan } else { near } as u16)
}

/// The nearest bf16, of two equally near the even one: not by way of the nearest f32, which may turn
/// what is just above or below the middle into the middle.
fn nearest(value: f64) -> bf16 {
    let near = value as f32;
    if f64::from(near) == value || near.is_nan() {
        return bf16::from_f32(near);
    }
    // Cut off instead, with the last bit for "and something more".
    let beyond = f64::from(near).abs() > value.abs();
    bf16::from_f32(f32::from_bits((near.to_bits() - u32::from(beyond)) | 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_rounded_as_the_library_rounds_them() {
        // Every upper half, with lower halves around the middle and at the ends.
        for upper in 0..=u32::from(u16::MAX) {
            for lower in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let value = f32::from_bits(upper << 16 | lower);
                assert_eq!(rounded(value).to_bits(), bf16::from_f32(value).to_bits(), "{value:?}");
            }
        }
    }

    #[test]
    fn f64_is_rounded_once() {
        let (one, next) = (1.0, 1.0 + 2f64.powi(-7));
        let middle = (one + next) / 2.0;
        for (value, expected) in [
            (middle, one),
            (middle + 2f64.powi(-40), next),
            (middle - 2f64.powi(-40), one),
            (next + 2f64.powi(-8), 1.0 + 2f64.powi(-6)),
            (next + 2f64.powi(-8) - 2f64.powi(-40), next),
            (1e300, f64::INFINITY),
            (1e-300, 0.0),
        ] {
            assert_eq!(nearest(value).to_f64(), expected, "{value}");
            assert_eq!(nearest(-value).to_f64(), -expected, "-{value}");
        }
        assert!(nearest(f64::NAN).is_nan());
        // By way of f32 the first of these would be a tie and go to the even neighbour.
        assert_eq!(bf16::from_f32((middle + 2f64.powi(-40)) as f32).to_f64(), one);
    }
}
