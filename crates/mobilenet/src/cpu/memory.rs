//! The memory of a training step whose type is that of the precision: raw outputs, their gradients, and
//! what threads work in.
//!
//! What is small, or summed over many values, is f32 or f64 in either precision and is in
//! [`Training`](super::forward::Training).

use half::bf16;
use mobilenet_kernels::Buffer;

use super::CpuExecutor;
use super::precision::Precision;

/// Feature maps of training in the precision that was asked for.
#[derive(Debug)]
pub(super) enum Maps {
    F32(MapsIn<f32>),
    Bf16(MapsIn<bf16>),
}

/// Feature maps of training in one precision.
#[derive(Debug)]
pub(super) struct MapsIn<E> {
    /// What the first layer that is not frozen reads: the images, or an activated feature map.
    pub input: Buffer<E>,
    /// The raw outputs and the gradients on the way back, at the places of a [`super::layout::Layout`].
    pub block: Buffer<E>,
    /// The raw output that is not kept (see [`super::layout`]).
    pub shared: Buffer<E>,
    /// One a thread.
    pub scratch: Vec<Scratch<E>>,
}

/// One thread's working memory; every use takes what it needs and finds left-overs in it.
#[derive(Debug)]
pub(super) struct Scratch<E> {
    /// What is f32 in either precision: rows of a depthwise layer, an activated image before the pool,
    /// sums of patches.
    pub rows: Buffer,
    /// What a product reads.
    pub input: Buffer<E>,
    /// Gradients that a product reads.
    pub gradient: Buffer<E>,
    pub patches: Buffer<E>,
    /// What the product of a filter's gradient works in.
    pub product: Buffer,
    pub sums: Vec<f64>,
}

impl<E> Default for MapsIn<E> {
    fn default() -> Self {
        Self {
            input: Buffer::default(),
            block: Buffer::default(),
            shared: Buffer::default(),
            scratch: Vec::new(),
        }
    }
}

impl<E> Default for Scratch<E> {
    fn default() -> Self {
        Self {
            rows: Buffer::default(),
            input: Buffer::default(),
            gradient: Buffer::default(),
            patches: Buffer::default(),
            product: Buffer::default(),
            sums: Vec::new(),
        }
    }
}

impl Maps {
    /// No memory yet.
    pub fn new(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32(MapsIn::default()),
            Precision::Bf16 => Self::Bf16(MapsIn::default()),
        }
    }
}

/// Calls a function with an executor and its maps, whichever they are.
macro_rules! with_maps {
    ($executor:expr, |$this:ident, $maps:ident| $body:expr) => {{
        let this = $executor;
        let mut maps = this.take_maps();
        let result = match &mut maps {
            Maps::F32($maps) => {
                let $this = &mut *this;
                $body
            }
            Maps::Bf16($maps) => {
                let $this = &mut *this;
                $body
            }
        };
        this.maps = maps;
        result
    }};
}
pub(super) use with_maps;

impl CpuExecutor {
    /// The maps, to be put back.
    pub(super) fn take_maps(&mut self) -> Maps {
        let none = Maps::new(self.precision());
        std::mem::replace(&mut self.maps, none)
    }
}
