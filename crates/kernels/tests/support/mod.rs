//! What the kernel tests share: signed random values, the sizes worth trying, and the comparison
//! with the f64 oracle under a bound that follows from the number of terms of a sum.

#![allow(dead_code, reason = "no test file uses all of it")]

use mobilenet_kernels::Isa;
use mobilenet_reference::gamma;

/// Channel counts around the widths of vectors (4, 8, 16 lanes) and of pairs of them.
pub const CHANNELS: [usize; 15] = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 33, 65];

/// What must not be touched holds this.
pub const SENTINEL: f32 = 777.0;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [-1, 1).
    pub fn value(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }

    /// Away from zero.
    pub fn positive(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| 1.0 + 0.5 * self.value()).collect()
    }
}

/// Runs a test on every instruction set of this machine.
pub fn on_every_isa(mut test: impl FnMut(Isa)) {
    for isa in Isa::testable() {
        test(isa);
    }
}

/// `|found − exact| ≤ γ(terms) · magnitude` for every value, where `magnitude` is the sum of the
/// absolute values of the terms. A bound of zero demands equality.
#[track_caller]
pub fn assert_within(what: &str, found: &[f32], exact: &[f64], magnitude: &[f64], terms: usize) {
    assert_eq!(found.len(), exact.len(), "{what}");
    assert_eq!(found.len(), magnitude.len(), "{what}");
    for (i, ((&found, &exact), &magnitude)) in found.iter().zip(exact).zip(magnitude).enumerate() {
        let error = (f64::from(found) - exact).abs();
        let bound = gamma(terms) * magnitude;
        assert!(
            error <= bound,
            "{what}, value {i}: {found} against {exact}, off by {error:.2e} > {bound:.2e}"
        );
    }
}

/// The `columns` first values of every `stride`, after checking that the others are sentinels.
#[track_caller]
pub fn without_gaps(values: &[f32], rows: usize, columns: usize, stride: usize) -> Vec<f32> {
    let mut kept = Vec::with_capacity(rows * columns);
    for (i, &value) in values.iter().enumerate() {
        if i / stride < rows && i % stride < columns {
            kept.push(value);
        } else {
            assert_eq!(value, SENTINEL, "value {i} of a gap was written");
        }
    }
    kept
}

/// Rows of `columns`, `stride` apart, with `filler` between them.
pub fn with_gaps(values: &[f32], columns: usize, stride: usize, filler: f32) -> Vec<f32> {
    let mut spread = vec![filler; values.len() / columns * stride];
    for (to, from) in spread.chunks_exact_mut(stride).zip(values.chunks_exact(columns)) {
        to[..columns].copy_from_slice(from);
    }
    spread
}
