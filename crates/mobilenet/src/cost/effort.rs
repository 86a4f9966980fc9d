//! What a pass over a layer must do at least: multiply-adds, and bytes to and from memory. Set
//! against what a machine does at most, it says how fast the layer could be.

use serde::Serialize;

use super::{Cost, LayerCost};
use crate::architecture::Operator;

/// Bytes of an f32: pixels, logits, biases, and everything that an optimizer changes.
const F32: u64 = size_of::<f32>() as u64;

/// What a pass over a layer must do at least, for the whole batch: every value that comes from
/// another layer is read once, every value that another layer needs is written once, and weights
/// pass once for all images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Effort {
    /// Multiply-adds; each is two floating-point operations.
    pub mult_adds: u64,
    /// Bytes of weights read, and of their gradients written.
    pub weight_bytes: u64,
    /// Bytes of activations, and of gradients of activations, read.
    pub read_bytes: u64,
    /// Bytes of these written.
    pub written_bytes: u64,
    /// Of the bytes read, those that the pass before writes or reads too.
    #[serde(skip)]
    pub shared_bytes: u64,
}

impl Effort {
    /// All bytes moved.
    pub fn bytes(&self) -> u64 {
        self.weight_bytes + self.activation_bytes()
    }

    /// Bytes moved of what is not weights.
    pub fn activation_bytes(&self) -> u64 {
        self.read_bytes + self.written_bytes
    }

    /// Of two passes run as one, `self` first: what both touch is read once, and what one hands to
    /// the other is not written.
    #[must_use]
    pub fn fused_with(&self, next: &Self) -> Self {
        Self {
            mult_adds: self.mult_adds + next.mult_adds,
            weight_bytes: self.weight_bytes + next.weight_bytes,
            read_bytes: self.read_bytes + next.read_bytes - next.shared_bytes,
            written_bytes: next.written_bytes,
            shared_bytes: self.shared_bytes,
        }
    }
}

impl Cost {
    /// Every layer's effort in inference, in order: batch normalisation is folded into the filter
    /// and an f32 bias. Filters and activations take `value_bytes` a value (4 in f32, 2 in bf16),
    /// pixels and logits those of f32.
    pub fn inference(&self, value_bytes: usize) -> Vec<Effort> {
        self.efforts(value_bytes, |cost, ends| Effort {
            mult_adds: self.of_batch(cost.mult_adds),
            weight_bytes: cost.filter_parameters * value_bytes as u64 + cost.biases() * F32,
            read_bytes: ends.input,
            written_bytes: ends.output,
            shared_bytes: ends.input,
        })
    }

    /// Every layer's effort in the forward pass of training, in order: it reads the raw output of
    /// the layer before (and normalises it as it does) and writes its own. Parameters are read in
    /// f32, activations take `value_bytes` a value.
    pub fn forward(&self, value_bytes: usize) -> Vec<Effort> {
        self.efforts(value_bytes, |cost, ends| Effort {
            mult_adds: self.of_batch(cost.mult_adds),
            weight_bytes: cost.parameters * F32,
            read_bytes: ends.input,
            written_bytes: ends.output,
            shared_bytes: ends.input,
        })
    }

    /// Every layer's effort in the backward pass, in the order of the layers: it reads the gradient
    /// of its output, its raw output (for the gradient of batch normalisation and activation; the
    /// pool and the classifier have neither) and its input (for the filter's gradient), and writes
    /// the gradients of its input and its parameters. The first layer needs no gradient of its
    /// input: it writes none, and does one product where the others do two.
    pub fn backward(&self, value_bytes: usize) -> Vec<Effort> {
        let mut first = true;
        self.efforts(value_bytes, |cost, ends| {
            let products = if std::mem::take(&mut first) { 1 } else { 2 };
            // Backward the layer behind is the one before; it has handed over the gradient of this
            // one's output, and has read the raw output.
            let (shared_bytes, input) = match cost.layer.operator {
                Operator::GlobalPool => (ends.output, 0),
                Operator::Classifier => (ends.output, ends.input),
                Operator::Conv | Operator::Depthwise | Operator::Pointwise => (2 * ends.output, ends.input),
            };
            Effort {
                mult_adds: products * self.of_batch(cost.mult_adds),
                weight_bytes: 2 * cost.parameters * F32,
                read_bytes: shared_bytes + input,
                written_bytes: if products == 1 { 0 } else { ends.input },
                shared_bytes,
            }
        })
    }

    /// Multiply-adds of a training step on one image: forward, and backward for the gradients of
    /// filters and, but for the first layer, of inputs.
    pub fn training_mult_adds(&self) -> u64 {
        3 * self.mult_adds() - self.layers.first().map_or(0, |first| first.mult_adds)
    }

    fn of_batch(&self, of_image: u64) -> u64 {
        of_image * self.batch as u64
    }

    fn efforts(&self, value_bytes: usize, mut effort: impl FnMut(&LayerCost, Ends) -> Effort) -> Vec<Effort> {
        let last = self.layers.len().saturating_sub(1);
        let bytes = |len: usize, is_f32: bool| {
            self.of_batch(len as u64 * if is_f32 { F32 } else { value_bytes as u64 })
        };
        let efforts = self.layers.iter().enumerate().map(|(index, cost)| {
            let ends = Ends {
                input: bytes(cost.layer.input.len(), index == 0),
                output: bytes(cost.layer.output.len(), index == last),
            };
            effort(cost, ends)
        });
        efforts.collect()
    }
}

/// Bytes of a layer's input and output, for the whole batch.
struct Ends {
    input: u64,
    output: u64,
}

impl LayerCost {
    /// Biases once batch normalisation is folded.
    fn biases(&self) -> u64 {
        if self.filter_parameters == 0 { 0 } else { self.layer.output.channels as u64 }
    }
}
