//! The executor for the CPU: inference with folded batch normalisation, and training.
//!
//! | file | what |
//! |---|---|
//! | `rows.rs` | what the next layer reads: activated rows, padded rows and images |
//! | `images.rs` | images as they are given: values or 8-bit pixels |
//! | `precision.rs` | the types that a network is computed in |
//! | `plan.rs` | weights folded and packed for inference |
//! | `centre.rs` | what bf16 values lie around |
//! | `stage.rs` | inference: one block on one thread |
//! | `strip.rs` | inference: the first blocks, depth first |
//! | `inference.rs` | inference: the pass over all blocks, on all threads |
//! | `inference/single.rs` | inference: one image, each layer shared out over the threads |
//! | `memory.rs` | the memory of a training step |
//! | `layout.rs` | where a training step keeps what it remembers |
//! | `forward.rs` | training mode: raw outputs, batch statistics |
//! | `backward.rs` | gradients |
//! | `timing.rs` | how long each layer takes |
//!
//! Results are the same to the bit for every number of threads. In training, work is cut into items by shape alone, and
//! partial sums are added in the order of the items. In inference threads get as much as they are fast, of which no sum
//! is a part.

mod backward;
mod centre;
mod forward;
mod images;
mod inference;
mod layout;
mod memory;
mod plan;
mod precision;
mod rows;
mod stage;
mod strip;
mod timing;

use mobilenet_kernels::parallel::Pool;
use mobilenet_kernels::{Clamp, Isa};

use crate::architecture::{Architecture, Layer, Operator};
use crate::conventions::Activation;
use crate::error::{Error, Result};
use crate::executor::{Executor, Parameter};
use crate::tensor::Tensor;
use crate::weights::{TensorSpec, Weights};

use images::Images;
pub use precision::Precision;
pub use timing::{LayerTime, Pass};

/// How a [`CpuExecutor`] uses the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuOptions {
    /// Threads, the caller's included; `None`: as many as the machine has cores.
    pub threads: Option<usize>,
    /// Instruction set; `None`: what the environment variable `MOBILENET_ISA` asks for, or else
    /// the fastest.
    pub isa: Option<Isa>,
    /// What inference and training compute in. What training changes is f32 in either: weights, their
    /// gradients, statistics.
    pub precision: Precision,
    /// Training computes the raw outputs of depthwise layers again on the way back instead of keeping
    /// them: less memory for more time. Results are the same to the bit.
    pub recompute: bool,
}

/// Runs a network on the CPU, in training and inference, in the precision that was asked for.
///
/// It is `Send` and `Sync`: it can move to another thread, and whatever takes `&self` (its
/// architecture, a copy of its weights) can be asked for from several. Whatever runs the network
/// takes `&mut self`, so that one call runs at a time; threads that are to run networks at the same
/// time each need an executor of their own, which brings its own threads ([`CpuOptions::threads`]).
/// Images are of the architecture's resolution, which [`CpuExecutor::set_resolution`] changes between calls.
#[derive(Debug)]
pub struct CpuExecutor {
    architecture: Architecture,
    engine: Engine,
    convs: Vec<Conv>,
    classifier: Classifier,
    parameters: Vec<Stored>,
    training: forward::Training,
    maps: memory::Maps,
    recompute: bool,
    /// Folded weights, as far as no parameter has changed since they were made, and feature maps.
    inference: inference::Inference,
    dropout_seed: u64,
    frozen: Frozen,
    timing: timing::Timing,
}

/// How much of the network stays as it is, counted from its beginning.
#[derive(Clone, Copy, Debug, Default)]
struct Frozen {
    /// Stages: the stem and the blocks.
    stages: usize,
    /// The convolutions of these.
    convs: usize,
}

/// What a pass is given.
#[derive(Clone, Copy, Debug)]
enum Input<'a> {
    Images(Images<'a>),
    /// Rows of what the classifier reads, so many.
    Features(&'a [f32], usize),
}

impl Input<'_> {
    fn batch(self) -> usize {
        match self {
            Self::Images(images) => images.count(),
            Self::Features(_, batch) => batch,
        }
    }
}

/// What every pass needs: the instruction set and the threads.
#[derive(Debug)]
struct Engine {
    isa: Isa,
    pool: Pool,
    /// For the threads' work that needs no memory of its own.
    scratch: Vec<()>,
    clamp: Clamp,
    /// See [`Engine::is_large`].
    large: usize,
}

/// Bytes of a map, in training, that is more than the caches near a processor keep until the next layer reads it.
/// (Measured where the second-level cache has 2 MB; maps of 6 MB gain or lose a little.)
const LARGE_TRAINING_MAP: usize = 8 << 20;

impl Engine {
    /// Whether a map of so many values may as well go past the caches ([`mobilenet_kernels::stream`]).
    fn is_large<E>(&self, values: usize) -> bool {
        values * size_of::<E>() > self.large
    }
}

/// A convolution with its batch normalisation: indices into the parameters, and running statistics.
#[derive(Debug)]
struct Conv {
    layer: Layer,
    weight: usize,
    gamma: usize,
    beta: usize,
    running_mean: Vec<f32>,
    running_var: Vec<f32>,
}

#[derive(Debug)]
struct Classifier {
    features: usize,
    outputs: usize,
    weight: usize,
    bias: usize,
}

/// A trainable tensor. Its gradient takes memory from the first training step on, unless it is
/// frozen.
#[derive(Debug)]
struct Stored {
    spec: TensorSpec,
    value: Vec<f32>,
    grad: Vec<f32>,
    frozen: bool,
}

impl CpuExecutor {
    /// An executor of `architecture` with `weights`.
    ///
    /// # Errors
    /// If the architecture is out of range, the weights are not its own, the instruction set that
    /// the environment asks for is absent, or the system gives no threads.
    pub fn new(architecture: &Architecture, weights: &Weights, options: &CpuOptions) -> Result<Self> {
        weights.check(architecture)?;
        Self::build(architecture, options, |name| Ok(tensor(weights, name)?.data().to_vec()))
    }

    /// The same without a copy of the weights, which become the executor's.
    ///
    /// # Errors
    /// As [`CpuExecutor::new`].
    pub fn owning(architecture: &Architecture, mut weights: Weights, options: &CpuOptions) -> Result<Self> {
        weights.check(architecture)?;
        Self::build(architecture, options, |name| {
            Ok(weights.remove(name).ok_or_else(|| missing(name))?.into_data())
        })
    }

    /// An executor of checked weights, whose values are `values(name)`.
    fn build(
        architecture: &Architecture,
        options: &CpuOptions,
        values: impl FnMut(&str) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let isa = match options.isa {
            Some(isa) => isa,
            None => Isa::from_environment().map_err(|problem| Error::Input {
                what: mobilenet_kernels::isa::ISA_VARIABLE.into(),
                expected: "an instruction set of this machine".into(),
                found: problem,
            })?,
        };
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = options.threads.unwrap_or(available).max(1);
        let pool = Pool::new(threads).map_err(|source| Error::Input {
            what: "threads".into(),
            expected: "as many as the system gives".into(),
            found: format!("{threads} ({source})"),
        })?;
        let clamp = match architecture.conventions.activation {
            Activation::Relu => Clamp::RELU,
            Activation::Relu6 => Clamp::RELU6,
        };
        let scratch = vec![(); threads];
        let mut executor = Self {
            architecture: architecture.clone(),
            engine: Engine { isa, pool, scratch, clamp, large: LARGE_TRAINING_MAP },
            convs: Vec::new(),
            classifier: Classifier { features: 0, outputs: 0, weight: 0, bias: 0 },
            parameters: Vec::new(),
            training: forward::Training::default(),
            maps: memory::Maps::new(options.precision),
            recompute: options.recompute,
            inference: inference::Inference::new(options.precision, isa, clamp, threads),
            dropout_seed: 0,
            frozen: Frozen::default(),
            timing: timing::Timing::default(),
        };
        executor.take_over(values)?;
        Ok(executor)
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.engine.isa
    }

    /// What inference and training compute in.
    pub fn precision(&self) -> Precision {
        self.inference.precision()
    }

    /// Number of threads in use.
    pub fn threads(&self) -> usize {
        self.engine.pool.threads()
    }

    /// Takes images of `resolution`×`resolution` pixels from here on, in inference and in training. Weights, running
    /// statistics, gradients and what is frozen stay; there is no way back through a pass of before.
    ///
    /// What was folded for inference is made anew at the next use, some milliseconds: who needs several
    /// resolutions by turns has an executor for each.
    ///
    /// # Errors
    /// When the architecture cannot have that resolution; nothing changes then.
    pub fn set_resolution(&mut self, resolution: usize) -> Result<()> {
        let architecture = Architecture { resolution, ..self.architecture.clone() };
        let layers = architecture.layers()?.into_iter();
        let convs =
            layers.filter(|layer| !matches!(layer.operator, Operator::GlobalPool | Operator::Classifier));
        for (conv, layer) in self.convs.iter_mut().zip(convs) {
            conv.layer = layer;
        }
        self.architecture = architecture;
        let Engine { isa, clamp, ref pool, .. } = self.engine;
        self.inference = inference::Inference::new(self.precision(), isa, clamp, pool.threads());
        self.training.batch = 0;
        Ok(())
    }

    /// The last feature map of each image in inference mode, `[N, h, w, C]`: activated, before the
    /// global pool. Its mean over the pixels is what [`Executor::features`] gives.
    ///
    /// # Errors
    /// When `images` are not `[N ≥ 1, H, W, C]` of the architecture's input.
    pub fn feature_maps(&mut self, images: &Tensor) -> Result<Tensor> {
        self.feature_maps_behind(images, self.architecture.blocks())
    }

    /// The activated feature maps behind the first convolution and the first `blocks` blocks, in
    /// inference mode: `[N, h, w, channels]`.
    ///
    /// # Errors
    /// When `images` do not fit the network, or the body has fewer blocks.
    pub fn feature_maps_behind(&mut self, images: &Tensor, blocks: usize) -> Result<Tensor> {
        let images = self.images_of(images)?;
        self.check_blocks("blocks before the feature map", blocks)?;
        Ok(self.run_maps(images, blocks))
    }

    fn check_blocks(&self, what: &'static str, blocks: usize) -> Result<()> {
        let most = self.architecture.blocks();
        if blocks <= most {
            return Ok(());
        }
        Err(Error::Architecture {
            what,
            found: blocks.to_string(),
            expected: format!("0 to {most}, as many as the body has"),
        })
    }

    fn take_over(&mut self, mut values: impl FnMut(&str) -> Result<Vec<f32>>) -> Result<()> {
        for spec in self.architecture.tensors()? {
            if spec.role.is_trainable() {
                let value = values(&spec.name)?;
                self.parameters.push(Stored { spec, value, grad: Vec::new(), frozen: false });
            }
        }
        let index = |parameters: &[Stored], name: String| {
            parameters.iter().position(|p| p.spec.name == name).ok_or_else(|| missing(&name))
        };
        for layer in self.architecture.layers()? {
            let at = |suffix: &str| index(&self.parameters, format!("{}.{suffix}", layer.name));
            match layer.operator {
                Operator::GlobalPool => {}
                Operator::Classifier => {
                    self.classifier = Classifier {
                        features: layer.input.channels,
                        outputs: layer.output.channels,
                        weight: at("weight")?,
                        bias: at("bias")?,
                    };
                }
                Operator::Conv | Operator::Depthwise | Operator::Pointwise => {
                    let mut statistic = |name: &str| values(&format!("{}.bn.{name}", layer.name));
                    self.convs.push(Conv {
                        weight: at("weight")?,
                        gamma: at("bn.weight")?,
                        beta: at("bn.bias")?,
                        running_mean: statistic("running_mean")?,
                        running_var: statistic("running_var")?,
                        layer,
                    });
                }
            }
        }
        Ok(())
    }

    /// Checks a batch of images.
    fn images_of<'a>(&self, images: &'a Tensor) -> Result<Images<'a>> {
        let shape = self.architecture.input_shape();
        match *images.shape() {
            [n, h, w, c] if n > 0 && (h, w, c) == (shape.height, shape.width, shape.channels) => {
                Ok(Images::normalised(images.data(), shape.len()))
            }
            ref found => Err(Error::Input {
                what: "image batch".into(),
                expected: format!("[N ≥ 1, {}, {}, {}]", shape.height, shape.width, shape.channels),
                found: format!("{found:?}"),
            }),
        }
    }

    /// Checks a batch of images or features.
    fn input_of<'a>(&self, input: &'a Tensor) -> Result<Input<'a>> {
        match *input.shape() {
            [n, features] if n > 0 && features == self.classifier.features => {
                Ok(Input::Features(input.data(), n))
            }
            _ => Ok(Input::Images(self.images_of(input)?)),
        }
    }

    fn ensure_gradients(&mut self) {
        for parameter in self.parameters.iter_mut().filter(|parameter| !parameter.frozen) {
            parameter.grad.resize(parameter.value.len(), 0.0);
        }
    }
}

fn missing(name: &str) -> Error {
    Error::Weights { tensor: name.to_owned(), problem: "missing".into() }
}

fn tensor<'a>(weights: &'a Weights, name: &str) -> Result<&'a Tensor> {
    weights.get(name).ok_or_else(|| missing(name))
}

impl Executor for CpuExecutor {
    fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    fn infer(&mut self, images: &Tensor) -> Result<Tensor> {
        let input = self.input_of(images)?;
        Ok(self.run_inference(input))
    }

    fn infer_pixels(&mut self, pixels: &[u8]) -> Result<Tensor> {
        let shape = self.architecture.input_shape();
        self.architecture.count_pixels(pixels)?;
        // Two values a channel; the pixels themselves are normalised where the first convolution reads them.
        let normalisation = self.architecture.conventions.preprocessing.normalisation();
        Ok(self.run_inference(Input::Images(Images::pixels(pixels, &normalisation, shape.len()))))
    }

    fn features(&mut self, images: &Tensor) -> Result<Tensor> {
        let images = self.images_of(images)?;
        Ok(self.run_features(images))
    }

    fn freeze(&mut self, blocks: Option<usize>) -> Result<()> {
        self.check_blocks("frozen blocks", blocks.unwrap_or(0))?;
        let stages = blocks.map_or(0, |blocks| blocks + 1);
        let ends = self.convs.iter().enumerate().filter(|(_, c)| c.layer.operator != Operator::Depthwise);
        let convs = ends.take(stages).last().map_or(0, |(index, _)| index + 1);
        self.frozen = Frozen { stages, convs };
        for (index, conv) in self.convs.iter().enumerate() {
            for parameter in [conv.weight, conv.gamma, conv.beta] {
                let stored = &mut self.parameters[parameter];
                stored.frozen = index < convs;
                if stored.frozen {
                    stored.grad = Vec::new();
                }
            }
        }
        // There is no way back through a pass of before.
        self.training.batch = 0;
        Ok(())
    }

    fn forward(&mut self, images: &Tensor) -> Result<Tensor> {
        self.run_forward(images)
    }

    fn backward(&mut self, d_logits: &Tensor) -> Result<()> {
        self.run_backward(d_logits)
    }

    fn zero_grad(&mut self) {
        self.ensure_gradients();
        for parameter in &mut self.parameters {
            parameter.grad.fill(0.0); // Of what is frozen there is none.
        }
    }

    fn parameters(&mut self) -> Vec<Parameter<'_>> {
        self.forget_folded();
        self.ensure_gradients();
        self.parameters
            .iter_mut()
            .filter(|stored| !stored.frozen)
            .map(|Stored { spec, value, grad, .. }| Parameter {
                name: &spec.name,
                role: spec.role,
                value,
                grad,
            })
            .collect()
    }

    fn seed_dropout(&mut self, seed: u64) {
        self.dropout_seed = seed;
    }

    fn weights(&self) -> Weights {
        let mut weights = Weights::new();
        let mut insert = |name: String, shape: &[usize], data: &[f32]| {
            weights.insert(name, Tensor::new(shape, data.to_vec()).expect("stored with its shape"));
        };
        for Stored { spec, value, .. } in &self.parameters {
            insert(spec.name.clone(), &spec.shape, value);
        }
        for Conv { layer, running_mean, running_var, .. } in &self.convs {
            let shape = [layer.output.channels];
            insert(format!("{}.bn.running_mean", layer.name), &shape, running_mean);
            insert(format!("{}.bn.running_var", layer.name), &shape, running_var);
        }
        weights
    }

    fn set_weights(&mut self, weights: &Weights) -> Result<()> {
        weights.check(&self.architecture)?;
        self.forget_all_folded();
        for Stored { spec, value, .. } in &mut self.parameters {
            value.copy_from_slice(tensor(weights, &spec.name)?.data());
        }
        for conv in &mut self.convs {
            let statistic = |name: &str| tensor(weights, &format!("{}.bn.{name}", conv.layer.name));
            conv.running_mean = statistic("running_mean")?.data().to_vec();
            conv.running_var = statistic("running_var")?.data().to_vec();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::Body;
    use crate::weights::Role;

    fn small() -> Architecture {
        Architecture { width_multiplier: 0.25, resolution: 33, classes: 5, ..Architecture::default() }
    }

    #[test]
    fn weights_survive_a_round_trip_and_roles_match_operators() {
        for body in Body::ALL {
            let architecture = Architecture { body, ..small() };
            let weights = Weights::random(&architecture, 3).unwrap();
            let executor = CpuExecutor::new(&architecture, &weights, &CpuOptions::default()).unwrap();
            assert_eq!(executor.weights(), weights);
            for conv in &executor.convs {
                let expected = match conv.layer.operator {
                    Operator::Depthwise => Role::DepthwiseWeight,
                    Operator::Pointwise => Role::PointwiseWeight,
                    _ => Role::ConvWeight,
                };
                assert_eq!(executor.parameters[conv.weight].spec.role, expected);
            }
        }
    }

    #[test]
    fn wrong_batches_are_refused() {
        let architecture = small();
        let weights = Weights::random(&architecture, 3).unwrap();
        let mut executor = CpuExecutor::new(&architecture, &weights, &CpuOptions::default()).unwrap();
        for shape in [vec![0, 33, 33, 3], vec![1, 32, 33, 3], vec![1, 33, 33, 1], vec![33, 33, 3]] {
            let error = executor.infer(&Tensor::zeros(&shape)).unwrap_err().to_string();
            assert!(error.contains("[N ≥ 1, 33, 33, 3]"), "{error}");
        }
        let d = Tensor::zeros(&[1, 5]);
        assert!(executor.backward(&d).unwrap_err().to_string().contains("forward"));
    }

    #[test]
    fn feature_maps_are_of_the_block_that_was_asked_for() {
        let architecture = small();
        let weights = Weights::random(&architecture, 3).unwrap();
        let images = Tensor::new(&[2, 33, 33, 3], vec![0.5; 2 * 33 * 33 * 3]).unwrap();
        let mut executor = CpuExecutor::new(&architecture, &weights, &CpuOptions::default()).unwrap();
        assert_eq!(executor.feature_maps_behind(&images, 0).unwrap().shape(), [2, 17, 17, 8]);
        assert_eq!(executor.feature_maps_behind(&images, 2).unwrap().shape(), [2, 9, 9, 32]);
        let last = executor.feature_maps_behind(&images, 13).unwrap();
        assert_eq!(last.shape(), [2, 2, 2, 256]);
        assert_eq!(executor.feature_maps(&images).unwrap(), last);
        let error = executor.feature_maps_behind(&images, 14).unwrap_err().to_string();
        assert!(error.contains("expected 0 to 13"), "{error}");
    }

    #[test]
    fn depth_first_and_layer_by_layer_agree_to_the_bit() {
        for (body, resolution, dilated) in
            [(Body::Separable, 224, false), (Body::Separable, 301, true), (Body::Full, 192, false)]
        {
            let output_stride = if dilated { 8 } else { 32 };
            let architecture = Architecture {
                body,
                output_stride,
                width_multiplier: if body == Body::Full { 0.25 } else { 0.5 },
                resolution,
                classes: 5,
                ..Architecture::default()
            };
            let weights = Weights::random(&architecture, 3).unwrap();
            let mut rng = crate::rng::Rng::keyed(1, &[]);
            let pixels = (0..3 * resolution * resolution * 3).map(|_| rng.normal() as f32).collect();
            let images = Tensor::new(&[3, resolution, resolution, 3], pixels).unwrap();
            for precision in [Precision::F32, Precision::Bf16] {
                let mut expected = None;
                for threads in [1, 2, 3] {
                    let options = CpuOptions { threads: Some(threads), precision, ..CpuOptions::default() };
                    let mut executor = CpuExecutor::new(&architecture, &weights, &options).unwrap();
                    let together = executor.infer(&images).unwrap();
                    // Timed, each layer follows the one before, and each image is shared out.
                    executor.time_layers();
                    let what = format!("{body:?}, {}, {threads} threads", precision.name());
                    assert_eq!(executor.infer(&images).unwrap(), together, "{what}");
                    assert_eq!(*expected.get_or_insert(together.clone()), together, "{what}");
                }
            }
        }
    }

    #[test]
    fn bf16_is_near_f32_on_every_instruction_set() {
        for body in Body::ALL {
            let architecture = Architecture { body, ..small() };
            let weights = Weights::random(&architecture, 3).unwrap();
            let mut rng = crate::rng::Rng::keyed(1, &[]);
            let pixels = (0..4 * 33 * 33 * 3).map(|_| rng.normal() as f32).collect();
            let images = Tensor::new(&[4, 33, 33, 3], pixels).unwrap();
            let mut exact = CpuExecutor::new(&architecture, &weights, &CpuOptions::default()).unwrap();
            let exact = exact.infer(&images).unwrap();
            let size = exact.data().iter().fold(0.0f32, |size, &logit| size.max(logit.abs()));
            for isa in Isa::testable() {
                let options =
                    CpuOptions { isa: Some(isa), precision: Precision::Bf16, ..CpuOptions::default() };
                let mut executor = CpuExecutor::new(&architecture, &weights, &options).unwrap();
                assert_eq!(executor.precision(), Precision::Bf16);
                let found = executor.infer(&images).unwrap();
                let off = found.data().iter().zip(exact.data()).map(|(a, b)| (a - b).abs());
                let off = off.fold(0.0f32, f32::max) / size;
                // A rounding is off by up to 2^-9; some thirty of them follow one another, of random sign. Twice
                // that again, since random weights come with statistics that are not their own, so that
                // values are kept less what they do not lie around. (tests/bf16.rs: with their own.)
                assert!(off > 0.0 && off < 0.04, "{body:?}, {}: off by {off} of the largest", isa.name());
                // What the classifier reads, and where it is all there is.
                let features = executor.features(&images).unwrap();
                assert_eq!(executor.infer(&features).unwrap(), found, "{body:?}: features");
            }
        }
    }

    fn images(batch: usize, architecture: &Architecture, seed: u64) -> Tensor {
        let resolution = architecture.resolution;
        let mut rng = crate::rng::Rng::keyed(seed, &[]);
        let pixels = (0..batch * resolution * resolution * 3).map(|_| rng.normal() as f32).collect();
        Tensor::new(&[batch, resolution, resolution, 3], pixels).unwrap()
    }

    #[test]
    fn neither_threads_nor_recomputing_change_a_bit() {
        for (body, precision) in [
            (Body::Separable, Precision::F32),
            (Body::Separable, Precision::Bf16),
            (Body::Full, Precision::Bf16),
        ] {
            let architecture = Architecture { body, ..small() };
            let weights = Weights::random(&architecture, 3).unwrap();
            for batch in [1, 2, 5] {
                let images = images(batch, &architecture, batch as u64);
                let results: Vec<_> = [(1, false), (2, false), (3, false), (2, true)]
                    .into_iter()
                    .map(|(threads, recompute)| {
                        let options = CpuOptions {
                            threads: Some(threads),
                            recompute,
                            precision,
                            ..CpuOptions::default()
                        };
                        let mut executor = CpuExecutor::new(&architecture, &weights, &options).unwrap();
                        let inferred = executor.infer(&images).unwrap();
                        executor.zero_grad();
                        let logits = executor.forward(&images).unwrap();
                        executor.backward(&logits).unwrap();
                        let grads: Vec<Vec<f32>> =
                            executor.parameters().into_iter().map(|p| p.grad.to_vec()).collect();
                        (inferred, logits, grads, executor.weights())
                    })
                    .collect();
                let what = format!("{body:?}, {}, batch {batch}", precision.name());
                assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{what}");
            }
        }
    }
}
