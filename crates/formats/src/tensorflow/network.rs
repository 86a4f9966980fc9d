//! The nodes of a graph, as far as a MobileNet needs them; GraphDef and TFLite are brought to it.

use mobilenet::Tensor;
use mobilenet::conventions::Activation;

use crate::chain::StepPadding;

/// A graph whose nodes name their inputs by index. Nodes need not be in any order.
#[derive(Debug, Default)]
pub(crate) struct Network {
    pub(crate) nodes: Vec<Node>,
}

/// A node.
#[derive(Debug)]
pub(crate) struct Node {
    /// For errors, and to tell which layers were added to a network.
    pub(crate) name: String,
    pub(crate) op: Op,
    /// The nodes that it reads; [`MISSING`] where a node names what does not exist.
    pub(crate) inputs: Vec<usize>,
}

/// An input that is not there.
pub(crate) const MISSING: usize = usize::MAX;

/// How the filter of a convolution lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FilterLayout {
    /// `[height, width, in, out]` (TensorFlow).
    Hwio,
    /// `[height, width, channels, multiplier]` (TensorFlow, depthwise).
    Hwcm,
    /// `[out, height, width, in]` (TFLite).
    Ohwi,
    /// `[1, height, width, channels · multiplier]` (TFLite, depthwise).
    OneHwc,
}

/// A convolution's settings. Inputs: data, filter, and bias where TFLite has one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Convolution {
    pub(crate) layout: FilterLayout,
    /// Rows, columns.
    pub(crate) stride: [usize; 2],
    /// Rows, columns.
    pub(crate) dilation: [usize; 2],
    pub(crate) padding: StepPadding,
    /// Whether channels come before rows.
    pub(crate) channels_first: bool,
}

/// What a node computes. The data comes first among the inputs.
#[derive(Debug)]
pub(crate) enum Op {
    /// Where data comes in; sides of `[N, H, W, C]` or `[N, C, H, W]`, 0 where open.
    Input {
        shape: Vec<usize>,
        integer: bool,
    },
    /// Numbers of the file as f32, integers too.
    Constant(Tensor),
    /// Passes its data on.
    Identity,
    /// From another type of number; `integer` when that is an integer.
    Cast {
        integer: bool,
    },
    Convolution(Convolution),
    /// Data, γ, β, mean, variance.
    BatchNorm {
        epsilon: f32,
    },
    /// Data (or a constant) and another.
    Add,
    Subtract,
    Multiply,
    Divide,
    Minimum,
    Maximum,
    ReciprocalRoot,
    Activation(Activation),
    /// Data and how many zeros `[dimensions, 2]`.
    Pad,
    /// The mean over a window, or over all pixels.
    Pool,
    /// Only another shape.
    Reshape,
    /// Another order of the dimensions.
    Transpose,
    /// Data and `[in, out]`, or `[out, in]` when transposed.
    MatMul {
        transposed: bool,
    },
    Softmax,
    /// To another size, which is the second input.
    Resize,
    /// What a MobileNet has not.
    Other(String),
}

impl Op {
    /// Whether constants stay constants through it.
    pub(crate) fn folds(&self) -> bool {
        matches!(
            self,
            Self::Identity
                | Self::Cast { .. }
                | Self::Reshape
                | Self::Add
                | Self::Subtract
                | Self::Multiply
                | Self::Divide
                | Self::ReciprocalRoot
        )
    }

    /// Whether it is linear with weights of its own.
    pub(crate) fn is_layer(&self) -> bool {
        matches!(self, Self::Convolution(_) | Self::MatMul { .. })
    }

    /// Whether either input may be the data.
    pub(crate) fn is_binary(&self) -> bool {
        matches!(
            self,
            Self::Add | Self::Subtract | Self::Multiply | Self::Divide | Self::Minimum | Self::Maximum
        )
    }
}
