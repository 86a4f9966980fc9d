//! The memory of a training step whose type is that of the precision: raw outputs, their gradients, and
//! what threads work in.
//!
//! What is small, or summed over many values, is f32 or f64 in either precision and is in
//! [`Training`](super::forward::Training).

use half::bf16;
use mobilenet_kernels::Buffer;

use super::CpuExecutor;
use super::precision::{Number, Precision};

/// Feature maps of training in the precision that was asked for.
#[derive(Debug)]
pub(super) enum Maps {
    F32(MapsIn<f32>),
    Bf16(MapsIn<bf16>),
}

/// Feature maps of training in one precision.
#[derive(Debug)]
pub(super) struct MapsIn<E: Number> {
    /// What the first layer that is not frozen reads: the images, or an activated feature map.
    pub input: Buffer<E>,
    /// The raw outputs and the gradients on the way back, at the places of a [`super::layout::Layout`].
    pub block: Buffer<E>,
    /// The raw output that is not kept (see [`super::layout`]).
    pub shared: Buffer<E>,
    /// The weights that the layer at work multiplies with.
    pub packed: Option<E::Packed>,
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
    /// A part of a map that goes past the caches ([`stream`](mobilenet_kernels::stream)).
    pub output: Buffer<E>,
    pub patches: Buffer<E>,
    /// What the product of a filter's gradient works in.
    pub product: Buffer,
    pub sums: Vec<f64>,
}

impl<E: Number> Default for MapsIn<E> {
    fn default() -> Self {
        Self {
            input: Buffer::default(),
            block: Buffer::default(),
            shared: Buffer::default(),
            packed: None,
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
            output: Buffer::default(),
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

#[cfg(test)]
mod tests {
    use mobilenet_kernels::{Element, Isa};

    use super::*;
    use crate::architecture::{Architecture, Body};
    use crate::cpu::CpuOptions;
    use crate::cpu::layout::Place;
    use crate::executor::Executor;
    use crate::rng::Rng;
    use crate::tensor::Tensor;
    use crate::weights::Weights;

    fn normal(shape: &[usize], seed: u64) -> Tensor {
        let mut rng = Rng::keyed(seed, &[]);
        Tensor::new(shape, (0..shape.iter().product()).map(|_| rng.normal() as f32).collect()).unwrap()
    }

    fn norm(values: impl Iterator<Item = f32>) -> f64 {
        values.map(|v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
    }

    fn off(exact: &[f32], found: &[impl Element]) -> f64 {
        norm(exact.iter().zip(found).map(|(a, b)| a - b.to_f32()))
    }

    /// Steps in both precisions. Where an activation bends, what is almost the same may have another gradient,
    /// and after many layers the two would be of two networks; so the way back begins, in both, with what the
    /// forward pass in bf16 left behind.
    #[test]
    fn bf16_is_near_f32_forward_and_back_on_every_instruction_set() {
        for (body, frozen) in
            [(Body::Separable, None), (Body::Separable, Some(4)), (Body::Full, None), (Body::Full, Some(4))]
        {
            let architecture = Architecture {
                body,
                width_multiplier: 0.25,
                resolution: 65,
                classes: 5,
                ..Architecture::default()
            };
            let weights = Weights::random(&architecture, 3).unwrap();
            let (images, d_logits) = (normal(&[6, 65, 65, 3], 1), normal(&[6, 5], 2));
            let step = |options: CpuOptions| {
                let mut executor = CpuExecutor::new(&architecture, &weights, &options).unwrap();
                executor.freeze(frozen).unwrap();
                executor.zero_grad();
                executor.forward(&images).unwrap();
                executor
            };
            for isa in Isa::testable() {
                let what = format!("{body:?}, {frozen:?} frozen, {}", isa.name());
                let mut exact = step(CpuOptions::default());
                let precision = Precision::Bf16;
                let mut rough = step(CpuOptions { isa: Some(isa), precision, ..CpuOptions::default() });
                let (Maps::F32(to), Maps::Bf16(from)) = (&mut exact.maps, &rough.maps) else {
                    panic!("{what}: precisions");
                };
                let (exact_training, training) = (&mut exact.training, &rough.training);
                for (index, place) in training.layout.outputs.iter().enumerate().take(4) {
                    let Place::Kept(place) = place else { panic!("{what}: all are kept") };
                    let z = &to.block[place.clone()];
                    let off = off(z, &from.block[place.clone()]) / norm(z.iter().copied());
                    assert!(off > 0.0 && off < 0.04, "{what}: output {index} is off by {off}");
                }
                exact_training.states.clone_from(&training.states);
                exact_training.pooled.copy_from_slice(&training.pooled);
                let widen = |to: &mut Buffer, from: &Buffer<bf16>| {
                    to.iter_mut().zip(from.iter()).for_each(|(to, from)| *to = from.to_f32());
                };
                widen(&mut to.input, &from.input);
                widen(&mut to.block, &from.block);
                widen(&mut to.shared, &from.shared);
                exact.backward(&d_logits).unwrap();
                rough.backward(&d_logits).unwrap();
                let (exact, rough) = (exact.parameters(), rough.parameters());
                assert_eq!(exact.len(), rough.len(), "{what}");
                for (exact, rough) in exact.iter().zip(&rough) {
                    let off = off(exact.grad, rough.grad) / norm(exact.grad.iter().copied());
                    // (The classifier is f32, but for what it reads.)
                    let rounded = !exact.name.starts_with("classifier.");
                    assert!(off < 0.04 && (off > 0.0 || !rounded), "{what}: {} is off by {off}", exact.name);
                }
            }
        }
    }

    /// With sizes that leave parts of maps on odd addresses.
    #[test]
    fn maps_that_go_past_the_caches_hold_the_same() {
        let architecture =
            Architecture { width_multiplier: 0.25, resolution: 65, classes: 5, ..Architecture::default() };
        let weights = Weights::random(&architecture, 3).unwrap();
        let (images, d_logits) = (normal(&[3, 65, 65, 3], 1), normal(&[3, 5], 2));
        let precisions = [Precision::F32, Precision::Bf16];
        for (isa, precision) in Isa::testable().into_iter().flat_map(|isa| precisions.map(|it| (isa, it))) {
            for (recompute, frozen) in [(false, None), (true, None), (false, Some(3))] {
                let step = |large: usize| {
                    let threads = Some(2);
                    let options = CpuOptions { isa: Some(isa), precision, recompute, threads };
                    let mut executor = CpuExecutor::new(&architecture, &weights, &options).unwrap();
                    executor.freeze(frozen).unwrap();
                    executor.engine.large = large;
                    executor.zero_grad();
                    let logits = executor.forward(&images).unwrap();
                    executor.backward(&d_logits).unwrap();
                    let gradients: Vec<_> =
                        executor.parameters().iter().map(|parameter| parameter.grad.to_vec()).collect();
                    (logits, gradients)
                };
                let what = format!("{} in {}, {recompute}, {frozen:?}", isa.name(), precision.name());
                assert!(step(0) == step(usize::MAX), "{what}");
            }
        }
    }

    /// A few images, learnt by heart.
    #[test]
    fn bf16_learns_as_f32_does() {
        let architecture =
            Architecture { width_multiplier: 0.25, resolution: 33, classes: 3, ..Architecture::default() };
        let weights = Weights::random(&architecture, 3).unwrap();
        let images = normal(&[9, 33, 33, 3], 1);
        let precisions = [Precision::F32, Precision::Bf16];
        for (isa, precision) in Isa::testable().into_iter().flat_map(|isa| precisions.map(|it| (isa, it))) {
            let options = CpuOptions { isa: Some(isa), precision, ..CpuOptions::default() };
            let mut executor = CpuExecutor::new(&architecture, &weights, &options).unwrap();
            let mut losses = Vec::new();
            // (After half as many the loss is on its way down: how far depends on the order of sums.)
            for _ in 0..80 {
                executor.zero_grad();
                let logits = executor.forward(&images).unwrap();
                // Cross-entropy; image i is of class i mod 3.
                let (mut loss, mut d) = (0.0, logits.clone());
                for (image, d) in d.data_mut().chunks_exact_mut(3).enumerate() {
                    let total: f32 = d.iter().map(|logit| logit.exp()).sum();
                    d.iter_mut().for_each(|logit| *logit = logit.exp() / total);
                    loss -= d[image % 3].ln() / 9.0;
                    d[image % 3] -= 1.0;
                    d.iter_mut().for_each(|d| *d /= 9.0);
                }
                losses.push(loss);
                executor.backward(&d).unwrap();
                for parameter in executor.parameters() {
                    parameter
                        .value
                        .iter_mut()
                        .zip(&*parameter.grad)
                        .for_each(|(value, d)| *value -= 0.05 * d);
                }
            }
            let last = losses[losses.len() - 1];
            let what = format!("{} in {}", isa.name(), precision.name());
            assert!(losses[0] > 0.9 && last < 0.1, "{what}: {losses:?}");
        }
    }
}
