//! What the tests of this crate share: random values and central differences.

/// SplitMix64, uniform in [-1, 1).
pub struct Random(pub u64);

impl Random {
    pub fn value(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as i64 as f64 / 2f64.powi(63)
    }

    pub fn values(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.value()).collect()
    }

    /// Away from zero, for variances and γ.
    #[allow(dead_code, reason = "not every test file uses it")]
    pub fn positive(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| 1.0 + 0.5 * self.value()).collect()
    }
}

#[allow(dead_code, reason = "not every test file uses it")]
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Checks every element of `gradient` against the central difference of `f` at `at`.
#[allow(dead_code, reason = "not every test file uses it")]
pub fn check_gradient(name: &str, at: &[f64], gradient: &[f64], mut f: impl FnMut(&[f64]) -> f64) {
    assert_eq!(at.len(), gradient.len(), "{name}");
    const STEP: f64 = 1e-5;
    let largest = gradient.iter().fold(0.0f64, |m, g| m.max(g.abs()));
    let mut x = at.to_vec();
    for i in 0..x.len() {
        x[i] = at[i] + STEP;
        let above = f(&x);
        x[i] = at[i] - STEP;
        let below = f(&x);
        x[i] = at[i];
        let difference = (above - below) / (2.0 * STEP);
        let error = (difference - gradient[i]).abs();
        assert!(error <= 1e-7 * (1.0 + largest), "{name}[{i}]: {} against {difference}", gradient[i]);
    }
}
