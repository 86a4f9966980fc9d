//! A network recovered from a graph (ONNX, GraphDef, TFLite), whatever its nodes are called.

use mobilenet::Tensor;
use mobilenet::conventions::Activation;

use crate::state_dict::Hints;

/// The convolutions of a graph in the order in which data flows, and its classifier.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// Stem, then depthwise and pointwise (or full) convolutions in turn.
    pub steps: Vec<Step>,
    /// Weight `[outputs, features]` and bias `[outputs]`; none where the graph ends in features.
    pub classifier: Option<(Tensor, Vec<f32>)>,
    /// Height and width of the input in pixels, 0 where the graph leaves them open.
    pub input_size: [usize; 2],
    /// What the graph or its metadata told; padding and activation are taken from the steps.
    /// A normalisation that the graph applies to its input is in `hints.preprocessing`.
    pub hints: Hints,
}

/// One convolution with what follows it.
#[derive(Clone, Debug)]
pub struct Step {
    /// The node's name, for errors.
    pub name: String,
    /// Whether each channel has a filter of its own.
    pub depthwise: bool,
    /// `[out, in, k, k]`, for depthwise `[channels, 1, 3, 3]` (PyTorch's layouts).
    pub weight: Tensor,
    /// Bias of the convolution itself, where BN is folded or precedes it.
    pub bias: Option<Vec<f32>>,
    /// The batch normalisation that follows, where it is not folded.
    pub batch_norm: Option<BatchNorm>,
    /// The non-linearity that follows, if any.
    pub activation: Option<Activation>,
    /// 1 or 2.
    pub stride: usize,
    /// 1 without dilation.
    pub dilation: usize,
    /// How it is padded.
    pub padding: StepPadding,
}

/// A batch normalisation's tensors.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    /// γ (ones where the graph has no scale).
    pub weight: Vec<f32>,
    /// β.
    pub bias: Vec<f32>,
    /// Running mean.
    pub mean: Vec<f32>,
    /// Running variance.
    pub variance: Vec<f32>,
    /// ε.
    pub epsilon: f32,
}

/// Padding as a graph states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepPadding {
    /// TensorFlow's SAME (ONNX: SAME_UPPER).
    Same,
    /// Pixels on each side (a preceding pad node is added in; VALID is all zeros).
    Explicit {
        /// Rows above.
        top: usize,
        /// Rows below.
        bottom: usize,
        /// Columns to the left.
        left: usize,
        /// Columns to the right.
        right: usize,
    },
}
