//! Tensors by name, as a file holds them, and what else the file tells of the network.

use std::collections::BTreeMap;

use mobilenet::Tensor;
use mobilenet::conventions::{Activation, Padding, Preprocessing};

/// Tensors by name, with names and layouts as the file has them (TensorFlow's and Keras'
/// convolutions are `[3, 3, in, out]`), and the hints that came along.
#[derive(Clone, Debug, Default)]
pub struct StateDict {
    /// Values as f32, whatever they were stored as. Integer scalars such as PyTorch's
    /// `num_batches_tracked` and TensorFlow's `global_step` are left out by the readers.
    pub tensors: BTreeMap<String, Tensor>,
    /// What else the file tells.
    pub hints: Hints,
}

/// What a file tells of the network beyond its tensors. What is `None` is not told; then the
/// family's known values are used and the import says so.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hints {
    /// Height and width of the input in pixels.
    pub resolution: Option<usize>,
    /// α.
    pub width_multiplier: Option<f64>,
    /// Padding of the 3×3 convolutions.
    pub padding: Option<Padding>,
    /// The non-linearity.
    pub activation: Option<Activation>,
    /// BN's ε.
    pub bn_epsilon: Option<f32>,
    /// BN's momentum in PyTorch's meaning.
    pub bn_momentum: Option<f32>,
    /// Whether output 0 is a background class.
    pub background_class: Option<bool>,
    /// Probability to drop.
    pub dropout: Option<f32>,
    /// How an image becomes the input.
    pub preprocessing: Option<Preprocessing>,
    /// Class names, without a background class.
    pub labels: Option<Vec<String>>,
    /// Things that the user should know, a sentence each ("weights are the moving averages
    /// (…/ExponentialMovingAverage)", "epoch 87, best top-1 68.8").
    pub notes: Vec<String>,
}
