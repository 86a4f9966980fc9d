//! A small generator of random numbers whose stream never changes between releases.
//!
//! Runs must be repeatable to the bit and resumable at any sample, so every use draws from a
//! generator keyed by what it is for (seed, epoch, sample …) instead of sharing one stream.

/// SplitMix64 (Steele, Lea, Flood 2014), keyed.
#[derive(Clone, Debug)]
pub struct Rng(u64);

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Rng {
    /// A generator for the purpose that `key` names; other keys give unrelated streams.
    pub fn keyed(seed: u64, key: &[u64]) -> Self {
        let mut rng = Self(seed);
        for &part in key {
            rng.0 = rng.next_u64() ^ part.wrapping_mul(GOLDEN).rotate_left(17);
        }
        Self(rng.next_u64())
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `[low, high)`.
    pub fn range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Uniform among `0..n`; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// Standard normal (Box–Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Shuffles in place (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_and_normal_have_their_moments() {
        let mut rng = Rng::keyed(1, &[2, 3]);
        let n = 100_000;
        let (mut u, mut s, mut ss) = (0.0, 0.0, 0.0);
        for _ in 0..n {
            u += rng.uniform();
            let x = rng.normal();
            s += x;
            ss += x * x;
        }
        let n = f64::from(n);
        assert!((u / n - 0.5).abs() < 0.01);
        assert!((s / n).abs() < 0.02);
        assert!((ss / n - 1.0).abs() < 0.02);
    }

    #[test]
    fn keys_give_unrelated_and_repeatable_streams() {
        let draw = |key: &[u64]| Rng::keyed(7, key).next_u64();
        assert_eq!(draw(&[1, 2]), draw(&[1, 2]));
        assert_ne!(draw(&[1, 2]), draw(&[2, 1]));
        assert_ne!(draw(&[0]), draw(&[0, 0]));
    }
}
