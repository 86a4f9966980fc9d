//! CPU operators of MobileNet v1, forward and backward.
//!
//! Activations are NHWC f32 slices. Every operator works on one thread over what it is given;
//! [`parallel::Pool`] spreads ranges of work over threads. The instruction set is a run-time
//! value, [`Isa`]; kernels are written once over the vector type of the (private) `simd` module
//! and compiled for each instruction set.
//!
//! Denormal numbers follow IEEE 754 (nothing is flushed to zero), as in PyTorch's default mode.

pub mod activation;
pub mod bandwidth;
pub mod batch_norm;
pub mod bf16;
pub mod buffer;
pub mod conv;
pub mod depthwise;
pub mod depthwise_backward;
pub mod element;
pub mod gemm;
pub mod im2col;
pub mod isa;
mod pages;
pub mod parallel;
pub mod peak;
pub mod pooling;
mod simd;

pub use activation::Clamp;
pub use buffer::Buffer;
pub use element::Element;
pub use isa::Isa;
