//! The right-hand matrix of a product, packed.

use super::panel_width;
use crate::buffer::Buffer;
use crate::extent::extent;
use crate::isa::Isa;
use crate::parallel::{Pool, chunks};

/// The right-hand matrix `[k, n]`, rearranged into panels of a tile's width, each contiguous over
/// k; columns beyond `n` are zero.
#[derive(Clone, Debug)]
pub struct PackedB {
    /// At least all panels: there may be memory left over from a larger shape.
    pub(crate) data: Buffer,
    pub(super) k: usize,
    pub(super) n: usize,
    pub(crate) isa: Isa,
}

/// A matrix `[k, n]` as it lies in memory.
#[derive(Clone, Copy, Debug)]
pub enum Unpacked<'a> {
    /// Row-major `[k, n]`.
    Rows(&'a [f32]),
    /// Row-major `[n, k]`: weights `[out, in]` for the forward product.
    Columns(&'a [f32]),
}

impl Unpacked<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Rows(values) | Self::Columns(values) => values.len(),
        }
    }
}

/// Rows of a panel that are packed at a time from columns, so that the lines that are written stay in the L1 cache
/// until they are full.
pub(crate) const ROWS: usize = 64;

impl PackedB {
    /// Room for a `k` × `n` matrix, to be filled by one of the `pack` methods.
    pub fn new(isa: Isa, k: usize, n: usize) -> Self {
        let columns = n.next_multiple_of(panel_width(isa));
        Self { data: Buffer::zeros(extent(columns, k, k)), k, n, isa }
    }

    /// Makes it one of `k` × `n`, to be filled again, in the memory that it has if that is enough.
    pub fn reshape(&mut self, k: usize, n: usize) {
        self.data.at_least(extent(n.next_multiple_of(panel_width(self.isa)), k, k));
        (self.k, self.n) = (k, n);
    }

    /// B = source (row-major `[k, n]`).
    ///
    /// # Panics
    /// If `source` is not k·n long.
    pub fn pack(&mut self, source: &[f32]) {
        self.fill(None, Unpacked::Rows(source), |_, value| value);
    }

    /// B = sourceᵀ (row-major `[n, k]`): weights `[out, in]` for the forward product.
    ///
    /// # Panics
    /// If `source` is not k·n long.
    pub fn pack_transposed(&mut self, source: &[f32]) {
        self.fill(None, Unpacked::Columns(source), |_, value| value);
    }

    /// B = (diag(scale) · source)ᵀ, products in f64: weights `[out, in]`, each output's multiplied with
    /// its own factor.
    ///
    /// # Panics
    /// If `source` is not k·n long, or `scale` not n.
    pub fn pack_transposed_scaled(&mut self, source: &[f32], scale: &[f64]) {
        assert_eq!(scale.len(), self.n);
        self.fill(None, Unpacked::Columns(source), |column, value| (f64::from(value) * scale[column]) as f32);
    }

    /// B = source, by all threads of `pool`.
    ///
    /// # Panics
    /// If `source` is not k·n long.
    pub fn pack_on(&mut self, pool: &mut Pool, source: Unpacked) {
        self.fill(Some(pool), source, |_, value| value);
    }

    /// B[row, column] = value(row, column), for layouts that are neither.
    pub fn pack_with(&mut self, value: impl Fn(usize, usize) -> f32) {
        let (k, n, width) = (self.k, self.n, panel_width(self.isa));
        for (panel, j) in self.data.chunks_exact_mut((k * width).max(1)).zip((0..n).step_by(width)) {
            for (row, to) in panel.chunks_exact_mut(width).enumerate() {
                to.fill(0.0);
                for (column, to) in to.iter_mut().enumerate().take(width.min(n - j)) {
                    *to = value(row, j + column);
                }
            }
        }
    }

    /// B = source with each value as `value(column, value)`, by the threads of `pool` if there is one.
    pub(crate) fn fill(
        &mut self,
        pool: Option<&mut Pool>,
        source: Unpacked,
        value: impl Fn(usize, f32) -> f32 + Sync,
    ) {
        let (k, n, width) = (self.k, self.n, panel_width(self.isa));
        assert_eq!(source.len(), k * n, "values of a {k} × {n} matrix");
        each_panel(pool, &mut self.data, k * width, n.div_ceil(width), |index, panel| {
            let first = index * width;
            let used = width.min(n - first);
            if used < width {
                panel.fill(0.0);
            }
            match source {
                Unpacked::Rows(source) => {
                    for (row, to) in panel.chunks_exact_mut(width).enumerate() {
                        let from = &source[row * n + first..][..used];
                        for (column, (to, &from)) in to.iter_mut().zip(from).enumerate() {
                            *to = value(first + column, from);
                        }
                    }
                }
                Unpacked::Columns(source) => {
                    for (block, row) in panel.chunks_mut(ROWS * width).zip((0..k).step_by(ROWS)) {
                        let rows = block.len() / width;
                        for column in 0..used {
                            let from = &source[(first + column) * k + row..][..rows];
                            for (to, &from) in block[column..].iter_mut().step_by(width).zip(from) {
                                *to = value(first + column, from);
                            }
                        }
                    }
                }
            }
        });
    }

    /// What a product reads for the columns from `column` on, the first of its panel.
    pub fn panels(&self, column: usize) -> &[f32] {
        let columns = self.n.next_multiple_of(panel_width(self.isa));
        &self.data[column * self.k..columns * self.k]
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

/// Calls `fill(index, panel)` for each of `panels` panels of `len` values, by the threads of `pool` if there is one.
pub(crate) fn each_panel<T: Send>(
    pool: Option<&mut Pool>,
    data: &mut [T],
    len: usize,
    panels: usize,
    fill: impl Fn(usize, &mut [T]) + Sync,
) {
    if len == 0 {
        return;
    }
    match pool {
        Some(pool) => {
            let mut scratch = vec![(); pool.threads()];
            pool.run(panels, &mut scratch, chunks(data, len), |index, _, panel| fill(index, panel));
        }
        None => {
            for (index, panel) in data.chunks_exact_mut(len).take(panels).enumerate() {
                fill(index, panel);
            }
        }
    }
}
