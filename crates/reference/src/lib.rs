//! Plain f64 operators of MobileNet v1, forward and backward: the oracle of every kernel test.
//!
//! Nothing here is fast and nothing is shared with what it checks: the shapes, the padding
//! arithmetic and the rows of the network are written out a second time. Activations are
//! `[N, H, W, C]`, weights have PyTorch's layouts. Sizes that do not fit panic: this crate is
//! for tests only.
//!
//! Where a bound on the error of an f32 kernel is wanted, run the operator a second time on the
//! absolute values: that gives Σ|a||b| of each output, to be multiplied by [`gamma`].

#![forbid(unsafe_code)]

pub mod activation;
pub mod batch_norm;
pub mod conv;
pub mod dense;
pub mod geometry;
pub mod loss;
pub mod mobilenet;
pub mod network;

pub use geometry::{Geometry, Pads};
pub use network::{Layer, Network, Operator, Parameters};

/// γₙ = n·u / (1 − n·u) with u = 2⁻²⁴: the relative error bound of an f32 sum of `n` products
/// in any order (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
pub fn gamma(n: usize) -> f64 {
    let nu = n as f64 * 2f64.powi(-24);
    assert!(nu < 0.5, "{n} terms are too many for a useful bound");
    nu / (1.0 - nu)
}

/// f64 copies of f32 values.
pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// The absolute values.
pub fn magnitudes(values: &[f64]) -> Vec<f64> {
    values.iter().map(|v| v.abs()).collect()
}
