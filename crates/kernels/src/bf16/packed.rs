//! The right-hand matrix, packed.

use half::bf16;

use crate::buffer::Buffer;
use crate::element::Element;
use crate::extent::extent;
use crate::gemm::{PackedB, panel_width};
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::Kind;

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

    /// B = source (row-major `[k, n]`), rounded to the nearest.
    ///
    /// # Panics
    /// If `source` is not k·n long.
    pub fn pack(&mut self, source: &[f32]) {
        assert_eq!(source.len(), self.k * self.n);
        let n = self.n;
        self.pack_with(|row, column| source[row * n + column]);
    }

    /// B = sourceᵀ (row-major `[n, k]`), rounded to the nearest: weights `[out, in]` for the forward
    /// product.
    ///
    /// # Panics
    /// If `source` is not k·n long.
    pub fn pack_transposed(&mut self, source: &[f32]) {
        self.pack_columns(source, |_, value| bf16::from_f32(value));
    }

    /// B = (diag(scale) · source)ᵀ: weights `[out, in]`, each output's multiplied with its own factor,
    /// in f64, and rounded to bf16 once.
    ///
    /// # Panics
    /// If `source` is not k·n long, or `scale` not n.
    pub fn pack_transposed_scaled(&mut self, source: &[f32], scale: &[f64]) {
        assert_eq!(scale.len(), self.n);
        self.pack_columns(source, |column, value| nearest(f64::from(value) * scale[column]));
    }

    /// B[row, column] = value(row, column), rounded to the nearest, for layouts that are neither.
    pub fn pack_with(&mut self, value: impl Fn(usize, usize) -> f32) {
        if let Some(wide) = &mut self.wide {
            return wide.pack_with(|row, column| bf16::from_f32(value(row, column)).to_f32());
        }
        let (n, width) = (self.n, panel_width(self.isa));
        let (k, panel_len) = (self.k, self.depth() * width);
        for (panel, j) in self.pairs.chunks_exact_mut(panel_len.max(1)).zip((0..n).step_by(width)) {
            for row in 0..k {
                let to = &mut panel[row / SIDE * SIDE * width + row % SIDE..];
                for (column, to) in to.iter_mut().step_by(SIDE).enumerate().take(width.min(n - j)) {
                    *to = Element::from_f32(value(row, j + column));
                }
            }
        }
    }

    /// Packs sourceᵀ with each value as `value(column, value)`, a few rows at a time, so that the
    /// lines that are written stay in the L1 cache until they are full.
    fn pack_columns(&mut self, source: &[f32], value: impl Fn(usize, f32) -> bf16) {
        const ROWS: usize = 64;
        assert_eq!(source.len(), self.k * self.n);
        if let Some(wide) = &mut self.wide {
            return wide.pack_columns(source, |column, from| value(column, from).to_f32());
        }
        let (k, n, width) = (self.k, self.n, panel_width(self.isa));
        let panel_len = self.depth() * width;
        for (panel, j) in self.pairs.chunks_exact_mut(panel_len.max(1)).zip((0..n).step_by(width)) {
            for (block, row) in panel.chunks_mut(ROWS * width).zip((0..k).step_by(ROWS)) {
                for column in 0..width.min(n - j) {
                    let from = &source[(j + column) * k + row..][..ROWS.min(k - row)];
                    let to = block[column * SIDE..].chunks_mut(SIDE * width);
                    for (to, from) in to.zip(from.chunks(SIDE)) {
                        for (to, &from) in to.iter_mut().zip(from) {
                            *to = value(j + column, from);
                        }
                    }
                }
            }
        }
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
        self.pairs.get(column * self.depth()..).unwrap_or_default()
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
