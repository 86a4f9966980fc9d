//! ReLU and ReLU6 as an interval.

/// min(max(x, low), high): ReLU is `[0, ∞)`, ReLU6 `[0, 6]`, no activation `(−∞, ∞)`.
///
/// Its gradient is 1 strictly inside and 0 elsewhere, as in PyTorch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clamp {
    /// Values below become this.
    pub low: f32,
    /// Values above become this.
    pub high: f32,
}

impl Clamp {
    /// max(x, 0)
    pub const RELU: Self = Self { low: 0.0, high: f32::INFINITY };
    /// min(max(x, 0), 6)
    pub const RELU6: Self = Self { low: 0.0, high: 6.0 };
    /// x
    pub const IDENTITY: Self = Self { low: f32::NEG_INFINITY, high: f32::INFINITY };
}
