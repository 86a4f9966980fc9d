//! CPU operators of MobileNet v1, forward and backward.
//!
//! Activations are NHWC slices of f32, bf16 or f16. Every operator works on one thread over what it is given;
//! [`parallel::Pool`] spreads ranges of work over threads. The instruction set is a run-time
//! value, [`Isa`]; kernels are written once over the vector type of the (private) `simd` module
//! and compiled for each instruction set.
//!
//! Denormal numbers of f32 follow IEEE 754 (nothing is flushed to zero), as in PyTorch's default mode; of bf16 it is
//! the instructions that decide ([`element`], [`bf16`]).

pub mod activation;
pub mod bandwidth;
pub mod batch_norm;
pub mod bf16;
pub mod buffer;
pub mod conv;
pub mod depthwise;
pub mod depthwise_backward;
pub mod element;
mod extent;
pub mod gemm;
pub mod im2col;
pub mod isa;
mod pages;
pub mod parallel;
pub mod peak;
pub mod pooling;
mod simd;
pub mod stream;

pub use activation::Clamp;
pub use buffer::Buffer;
pub use element::Element;
pub use isa::Isa;
