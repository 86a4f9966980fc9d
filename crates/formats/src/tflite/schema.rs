//! The numbers of TFLite's schema (`tensorflow/lite/schema/schema.fbs`) that are used here: fields by
//! their place in a table, operators and their options by their codes.

/// The identifier at byte 4 of every file.
pub(super) const IDENTIFIER: &str = "TFL3";

pub(super) mod model {
    pub(crate) const VERSION: usize = 0;
    pub(crate) const OPERATOR_CODES: usize = 1;
    pub(crate) const SUBGRAPHS: usize = 2;
    pub(crate) const DESCRIPTION: usize = 3;
    pub(crate) const BUFFERS: usize = 4;
    pub(crate) const METADATA: usize = 6;
}

pub(super) mod metadata {
    pub(crate) const NAME: usize = 0;
    pub(crate) const BUFFER: usize = 1;
}

pub(super) mod operator_code {
    /// A byte, from when there were fewer than 127 operators.
    pub(crate) const OLD_CODE: usize = 0;
    pub(crate) const VERSION: usize = 2;
    pub(crate) const CODE: usize = 3;
}

pub(super) mod subgraph {
    pub(crate) const TENSORS: usize = 0;
    pub(crate) const INPUTS: usize = 1;
    pub(crate) const OUTPUTS: usize = 2;
    pub(crate) const OPERATORS: usize = 3;
    pub(crate) const NAME: usize = 4;
}

pub(super) mod tensor {
    pub(crate) const SHAPE: usize = 0;
    pub(crate) const TYPE: usize = 1;
    pub(crate) const BUFFER: usize = 2;
    pub(crate) const NAME: usize = 3;
    /// The shape with −1 for sides that are open.
    pub(crate) const SIGNATURE: usize = 7;
}

pub(super) mod tensor_type {
    pub(crate) const FLOAT32: u8 = 0;
    pub(crate) const FLOAT16: u8 = 1;
    pub(crate) const INT32: u8 = 2;
    pub(crate) const UINT8: u8 = 3;
    pub(crate) const INT64: u8 = 4;
    pub(crate) const INT8: u8 = 9;
}

pub(super) mod buffer {
    pub(crate) const DATA: usize = 0;
}

pub(super) mod operator {
    pub(crate) const CODE_INDEX: usize = 0;
    pub(crate) const INPUTS: usize = 1;
    pub(crate) const OUTPUTS: usize = 2;
    pub(crate) const OPTIONS_TYPE: usize = 3;
    pub(crate) const OPTIONS: usize = 4;
}

/// Fields of the options of convolutions. Depthwise ones have the multiplier at 3, and what follows
/// one further.
pub(super) mod convolution {
    pub(crate) const PADDING: usize = 0;
    pub(crate) const STRIDE_WIDTH: usize = 1;
    pub(crate) const STRIDE_HEIGHT: usize = 2;
    pub(crate) const MULTIPLIER: usize = 3;
    pub(crate) const ACTIVATION: usize = 3;
    pub(crate) const DILATION_WIDTH: usize = 4;
    pub(crate) const DILATION_HEIGHT: usize = 5;

    pub(crate) const SAME: u8 = 0;
    pub(crate) const VALID: u8 = 1;
}

/// Fused activations.
pub(super) mod activation {
    pub(crate) const NONE: u8 = 0;
    pub(crate) const RELU: u8 = 1;
    pub(crate) const RELU6: u8 = 3;
}

/// `BuiltinOperator`.
pub(super) mod code {
    pub(crate) const ADD: i32 = 0;
    pub(crate) const AVERAGE_POOL_2D: i32 = 1;
    pub(crate) const CONV_2D: i32 = 3;
    pub(crate) const DEPTHWISE_CONV_2D: i32 = 4;
    pub(crate) const DEQUANTIZE: i32 = 6;
    pub(crate) const FULLY_CONNECTED: i32 = 9;
    pub(crate) const MUL: i32 = 18;
    pub(crate) const RELU: i32 = 19;
    pub(crate) const RELU6: i32 = 21;
    pub(crate) const RESHAPE: i32 = 22;
    pub(crate) const RESIZE_BILINEAR: i32 = 23;
    pub(crate) const SOFTMAX: i32 = 25;
    pub(crate) const PAD: i32 = 34;
    pub(crate) const TRANSPOSE: i32 = 39;
    pub(crate) const MEAN: i32 = 40;
    pub(crate) const SUB: i32 = 41;
    pub(crate) const DIV: i32 = 42;
    pub(crate) const SQUEEZE: i32 = 43;
    pub(crate) const LOG_SOFTMAX: i32 = 50;
    pub(crate) const CAST: i32 = 53;
    pub(crate) const MAXIMUM: i32 = 55;
    pub(crate) const MINIMUM: i32 = 57;
    pub(crate) const EXPAND_DIMS: i32 = 70;
    pub(crate) const RSQRT: i32 = 76;
    pub(crate) const QUANTIZE: i32 = 114;
}

/// `BuiltinOptions`.
pub(super) mod options {
    pub(crate) const CONV_2D: u8 = 1;
    pub(crate) const DEPTHWISE_CONV_2D: u8 = 2;
    pub(crate) const FULLY_CONNECTED: u8 = 8;
    pub(crate) const SOFTMAX: u8 = 9;
    pub(crate) const PAD: u8 = 22;
    pub(crate) const REDUCER: u8 = 27;
}
