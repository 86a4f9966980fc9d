//! Numbers that Python and Rust make alike, so that golden files need not hold them: the
//! counterpart of interop/values.py, which says how.

use mobilenet::{Architecture, Role, Tensor, Weights};

/// Streams of what is not a tensor of the network.
pub const IMAGES: u64 = 1000;
pub const LABELS: u64 = 2000;
pub const SAMPLES: u64 = 3000;

/// The upper 24 bits of the values of a stream.
fn bits(stream: u64) -> impl Iterator<Item = u64> {
    (1u64..).map(move |i| {
        let mut z = ((stream << 32) + i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) >> 40
    })
}

/// Values in `[low, high)`.
pub fn uniform(stream: u64, count: usize, low: f64, high: f64) -> Vec<f32> {
    bits(stream).take(count).map(|b| (low + (high - low) * (b as f64 / 16_777_216.0)) as f32).collect()
}

/// Integers below `limit`.
pub fn below(stream: u64, count: usize, limit: usize) -> Vec<usize> {
    bits(stream).take(count).map(|b| ((b * limit as u64) >> 24) as usize).collect()
}

/// A batch `[N, H, W, C]` in `[-2, 2)`.
pub fn images(number: u64, batch: usize, architecture: &Architecture) -> Tensor {
    let shape = [batch, architecture.resolution, architecture.resolution, architecture.input_channels];
    let data = uniform(IMAGES + number, shape.iter().product(), -2.0, 2.0);
    Tensor::new(&shape, data).unwrap()
}

/// Indices of the outputs that a batch should give.
pub fn labels(number: u64, batch: usize, architecture: &Architecture) -> Vec<usize> {
    let background = architecture.outputs() - architecture.classes;
    below(LABELS + number, batch, architecture.classes).into_iter().map(|l| l + background).collect()
}

/// Every tensor of the network.
pub fn weights(architecture: &Architecture, relu6: bool) -> Weights {
    let mut weights = Weights::new();
    for (number, spec) in architecture.tensors().unwrap().into_iter().enumerate() {
        let fan_in: usize = spec.shape[1..].iter().product();
        let (low, high) = match spec.role {
            Role::ConvWeight | Role::DepthwiseWeight | Role::PointwiseWeight => {
                let bound = (6.0 / fan_in as f64).sqrt();
                (-bound, bound)
            }
            Role::ClassifierWeight => {
                let bound = 1.0 / (fan_in as f64).sqrt();
                (-bound, bound)
            }
            Role::ClassifierBias => (-0.5, 0.5),
            Role::BnWeight if relu6 => (1.0, 3.0),
            Role::BnWeight => (0.5, 1.0),
            Role::BnBias if relu6 => (0.5, 3.5),
            Role::BnBias => (0.0, 1.0),
            Role::RunningMean => (-0.25, 0.25),
            Role::RunningVar if relu6 => (8.0, 16.0),
            Role::RunningVar => (0.5, 1.5),
        };
        let data = uniform(number as u64, spec.len(), low, high);
        weights.insert(spec.name, Tensor::new(&spec.shape, data).unwrap());
    }
    weights
}
