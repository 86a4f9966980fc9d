//! The forward pass in training mode.
//!
//! Every convolution's raw output is written once and kept; its statistics are taken chunk by chunk
//! while the output is in the cache; normalisation and activation happen when the next layer reads.

use std::ops::Range;

use mobilenet_kernels::batch_norm::{Affine, GradientSums, Moments, Normalisation};
use mobilenet_kernels::gemm::{self, Epilogue, MatrixMut, MatrixRef, PackedB, Unpacked};
use mobilenet_kernels::parallel::chunks;
use mobilenet_kernels::stream::write_parts;
use mobilenet_kernels::{Buffer, Clamp, Isa, depthwise, element, im2col, pooling};

use super::inference::{self, End};
use super::layout::{Layout, Place};
use super::memory::{Maps, MapsIn, Scratch, with_maps};
use super::precision::{Number, classifier_blocks, pack_classifier_block};
use super::rows::{Ring, Source, chunk_pixels, images_per_item, room_ahead, row_geometry, windows};
use super::timing::{CLASSIFIER, Pass};
use super::{Conv, CpuExecutor, Engine, Images, Input};
use crate::architecture::{Layer, Operator};
use crate::error::{Error, Result};
use crate::rng::Rng;
use crate::tensor::Tensor;

/// What the forward pass leaves for the backward pass, and memory that both reuse, beside [`Maps`].
#[derive(Debug, Default)]
pub(super) struct Training {
    /// Images of the last forward pass; 0 when there is none to go back through.
    pub batch: usize,
    pub states: Vec<State>,
    /// `[N, features]` after dropout, rows at [`gemm::padded_stride`].
    pub pooled: Buffer,
    /// What dropout multiplied the pooled features with; empty without dropout.
    pub kept: Vec<f32>,
    pub moments: Vec<Moments>,
    pub sums: Vec<GradientSums>,
    pub partials: Buffer,
    /// Where the maps are in their block.
    pub layout: Layout,
    /// The classifier's weights, by blocks of features; those of the way back.
    pub classifier: Vec<PackedB>,
    pub classifier_back: Option<PackedB>,
}

/// One convolution's batch statistics.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub mean: Vec<f32>,
    pub inv_std: Vec<f32>,
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
}

impl State {
    pub fn affine(&self) -> Affine<'_> {
        Affine { scale: &self.scale, shift: &self.shift }
    }

    pub fn normalisation(&self, clamp: Clamp) -> Normalisation<'_> {
        Normalisation { affine: self.affine(), mean: &self.mean, clamp }
    }

    /// This layer's raw output as the next layer reads it.
    pub fn source<'a, E>(&'a self, engine: &Engine, layer: &Layer, values: &'a [E]) -> Source<'a, E> {
        Source {
            isa: engine.isa,
            values,
            shape: layer.output,
            affine: Some(self.affine()),
            clamp: engine.clamp,
        }
    }

    /// Takes the batch's statistics over, for this pass and into the running ones.
    fn normalise(
        &mut self,
        moments: &Moments,
        gamma: &[f32],
        beta: &[f32],
        conv: &mut (Running<'_>, f32, f32),
    ) {
        let (running, epsilon, momentum) = conv;
        let unbiased = moments.count() / (moments.count() - 1.0);
        for values in [&mut self.mean, &mut self.inv_std, &mut self.scale, &mut self.shift] {
            values.resize(gamma.len(), 0.0);
        }
        for (c, (&mean, variance)) in moments.mean().iter().zip(moments.biased_variance()).enumerate() {
            let inv_std = 1.0 / (variance + f64::from(*epsilon)).sqrt();
            let scale = f64::from(gamma[c]) * inv_std;
            self.mean[c] = mean as f32;
            self.inv_std[c] = inv_std as f32;
            self.scale[c] = scale as f32;
            self.shift[c] = (f64::from(beta[c]) - mean * scale) as f32;
            let blend = |old: f32, new: f64| {
                (f64::from(old) * (1.0 - f64::from(*momentum)) + f64::from(*momentum) * new) as f32
            };
            running.mean[c] = blend(running.mean[c], mean);
            running.var[c] = blend(running.var[c], variance * unbiased);
        }
    }
}

impl Training {
    /// Where the last layer's raw output is in the block. (A last depthwise layer would be a network
    /// that no [`Architecture`](crate::Architecture) describes.)
    pub fn last_output(&self) -> Range<usize> {
        match self.layout.outputs.last() {
            Some(Place::Kept(range)) => range.clone(),
            _ => 0..0,
        }
    }
}

/// What layer `index` reads: `values`, the raw output of the layer before with its statistics, or what
/// the first layer is given.
pub(super) fn source<'a, E>(
    engine: &Engine,
    convs: &[Conv],
    index: usize,
    before: Option<&'a State>,
    values: &'a [E],
) -> Source<'a, E> {
    match before {
        Some(state) => state.source(engine, &convs[index - 1].layer, values),
        None => Source {
            isa: engine.isa,
            values,
            shape: convs[index].layer.input,
            affine: None,
            clamp: Clamp::IDENTITY,
        },
    }
}

struct Running<'a> {
    mean: &'a mut [f32],
    var: &'a mut [f32],
}

/// Most rows of a depthwise convolution at a time ([`depthwise::rows_together`]).
const MOST_ROWS: usize = 4;

/// Items that the pixels of a batch are cut into for a forward product: at most this many, so that
/// merging their statistics costs little, and enough for many threads.
const MOST_ITEMS: usize = 64;

impl CpuExecutor {
    pub(super) fn run_forward(&mut self, images: &Tensor) -> Result<Tensor> {
        let input = self.input_of(images)?;
        // The running statistics change.
        self.forget_folded();
        let (frozen, batch) = (self.frozen, input.batch());
        if frozen.convs == self.convs.len() {
            return self.forward_classifier(input);
        }
        if let Input::Features(..) = input {
            return Err(Error::Input {
                what: "training batch".into(),
                expected: "images; features only where the whole body is frozen".into(),
                found: "features".into(),
            });
        }
        let last = self.convs.last().map(|conv| conv.layer.output.pixels()).unwrap_or(0);
        if batch * last < 2 {
            return Err(Error::Input {
                what: "training batch".into(),
                expected: "at least two pixels in the last feature map (batch statistics need them)".into(),
                found: format!("{batch} image(s) with {last} pixel(s); use a larger batch or resolution"),
            });
        }
        with_maps!(self, |this, maps| this.forward_images(maps, images, batch))
    }

    fn forward_images<E: Number>(
        &mut self,
        maps: &mut MapsIn<E>,
        images: &Tensor,
        batch: usize,
    ) -> Result<Tensor> {
        let (frozen, image_len) = (self.frozen, self.architecture.input_shape().len());
        let first_len = self.convs[frozen.convs].layer.input.len();
        let input = &mut maps.input.at_least(batch * first_len)[..batch * first_len];
        if frozen.stages > 0 {
            let images = Images::normalised(images.data(), image_len);
            self.run_stages(images, frozen.stages, End::Map, input, first_len);
        } else {
            let Engine { isa, pool, scratch, .. } = &mut self.engine;
            let images = images.data();
            pool.run(batch, scratch, chunks(input, first_len), |image, _, to| {
                element::convert(*isa, &images[image * first_len..][..first_len], to);
            });
        }
        let MapsIn { input, block, shared, packed, scratch } = &mut *maps;
        scratch.resize_with(self.engine.pool.threads(), Scratch::default);
        let Self { engine, convs, parameters, training, timing, recompute, .. } = self;
        training.batch = batch;
        training.states.resize_with(convs.len(), State::default);
        training.layout = Layout::new(&convs[frozen.convs..], batch, *recompute);
        let Training { states, layout, moments, .. } = training;
        let (block, shared) = (block.at_least(layout.len), shared.at_least(layout.shared));
        let conventions = &self.architecture.conventions;
        for index in frozen.convs..convs.len() {
            let start = timing.start();
            let (before, rest) = states.split_at_mut(index);
            let state = &mut rest[0];
            let input = &input[..batch * first_len];
            let (values, z) = layout.forward(index - frozen.convs, input, block, shared);
            let before = if index > frozen.convs { before.last() } else { None };
            let source = source(engine, convs, index, before, values);
            let Conv { layer, weight, gamma, beta, running_mean, running_var } = &mut convs[index];
            let weight = &parameters[*weight].value;
            let items = match layer.operator {
                Operator::Depthwise => depthwise_forward(engine, scratch, layer, source, weight, z, moments),
                Operator::Pointwise => {
                    let shape = (layer.input.channels, layer.output.channels);
                    let packed = E::pack_again(engine, packed, shape, Unpacked::Columns(weight));
                    pointwise_forward(engine, scratch, layer, source, packed, z, moments)
                }
                _ => conv_forward(engine, scratch, layer, source, weight, z, moments),
            };
            let (first, others) = moments.split_at_mut(1);
            for other in &others[..items - 1] {
                first[0].merge(other);
            }
            let running = Running { mean: running_mean, var: running_var };
            let (gamma, beta) = (&parameters[*gamma].value, &parameters[*beta].value);
            state.normalise(
                &first[0],
                gamma,
                beta,
                &mut (running, conventions.bn_epsilon, conventions.bn_momentum),
            );
            timing.stop(start, Pass::Forward, &layer.name);
        }
        let start = self.timing.start();
        let logits = self.classify(maps, batch);
        self.timing.stop(start, Pass::Forward, CLASSIFIER);
        logits
    }

    /// The forward pass where the whole body is frozen.
    fn forward_classifier(&mut self, input: Input) -> Result<Tensor> {
        let stride = gemm::padded_stride(self.engine.isa, self.classifier.features);
        let batch = input.batch();
        let mut pooled = std::mem::take(&mut self.training.pooled);
        let rows = &mut pooled.at_least(batch * stride)[..batch * stride];
        self.pool_rows(input, rows, stride);
        self.training.pooled = pooled;
        self.training.batch = batch;
        let start = self.timing.start();
        let logits = self.drop_out_and_multiply(batch);
        self.timing.stop(start, Pass::Forward, CLASSIFIER);
        Ok(logits)
    }

    /// Pools, drops out and multiplies by the classifier.
    fn classify<E: Number>(&mut self, maps: &mut MapsIn<E>, batch: usize) -> Result<Tensor> {
        let Self { engine, convs, classifier, training, .. } = self;
        let last = training.last_output();
        let features = classifier.features;
        let stride = gemm::padded_stride(engine.isa, features);
        let (Some(state), Some(conv)) = (training.states.last(), convs.last()) else {
            return Err(Error::Input {
                what: "network".into(),
                expected: "layers".into(),
                found: "none".into(),
            });
        };
        let source = state.source(engine, &conv.layer, &maps.block[last]);
        let shape = conv.layer.output;
        let pooled = &mut training.pooled.at_least(batch * stride)[..batch * stride];
        engine.pool.run(batch, &mut maps.scratch, chunks(pooled, stride), |image, scratch, pooled| {
            let activated = scratch.rows.at_least(shape.len());
            source.image(image).load(0..shape.pixels(), activated, features);
            scratch.sums.resize(features, 0.0);
            pooling::global_average(source.isa, &*activated, &mut scratch.sums, &mut pooled[..features]);
        });
        Ok(self.drop_out_and_multiply(batch))
    }

    /// Drops pooled features out and multiplies by the classifier.
    fn drop_out_and_multiply(&mut self, batch: usize) -> Tensor {
        let Self { engine, classifier, parameters, training, .. } = self;
        let features = classifier.features;
        let stride = gemm::padded_stride(engine.isa, features);
        let pooled = &mut training.pooled.at_least(batch * stride)[..batch * stride];
        let dropout = self.architecture.conventions.dropout;
        training.kept.clear();
        if dropout > 0.0 {
            let mut rng = Rng::keyed(self.dropout_seed, &[0x6472_6f70]);
            let scale = 1.0 / (1.0 - dropout);
            for pooled in pooled.chunks_exact_mut(stride) {
                for feature in &mut pooled[..features] {
                    let kept = if rng.uniform() < f64::from(dropout) { 0.0 } else { scale };
                    *feature *= kept;
                    training.kept.push(kept);
                }
            }
        }
        let [weight, bias] = [classifier.weight, classifier.bias].map(|index| &parameters[index].value);
        // (As inference does it, to the bit.)
        let blocks = classifier_blocks(features);
        let packed = &mut training.classifier;
        packed.resize(blocks, PackedB::new(engine.isa, 0, 0));
        let Engine { pool, scratch, .. } = &mut *engine;
        pool.run(blocks, scratch, chunks(packed, 1), |index, _, packed| {
            pack_classifier_block((classifier.outputs, features), weight, index, &mut packed[0]);
        });
        inference::classify::<f32>(engine, (pooled, stride), classifier, packed, bias)
    }
}

/// Makes `items` empty moments of `channels`.
fn reset(moments: &mut Vec<Moments>, items: usize, channels: usize) -> &mut [Moments] {
    moments.clear();
    moments.resize_with(items, || Moments::new(channels));
    moments
}

fn pointwise_forward<E: Number>(
    engine: &mut Engine,
    scratch: &mut [Scratch<E>],
    layer: &Layer,
    source: Source<E>,
    packed: &E::Packed,
    z: &mut [E],
    moments: &mut Vec<Moments>,
) -> usize {
    let isa = engine.isa;
    let (inputs, outputs) = (layer.input.channels, layer.output.channels);
    let pixels = z.len() / outputs;
    let stride = E::padded_stride(isa, inputs);
    let chunk = chunk_pixels::<E>(stride.max(outputs));
    let ahead = room_ahead(inputs * outputs);
    let per_item = pixels.div_ceil(MOST_ITEMS).next_multiple_of(chunk);
    let items = pixels.div_ceil(per_item);
    let parts = (chunks(z, per_item * outputs), chunks(reset(moments, items, outputs), 1));
    engine.pool.run(items, scratch, parts, |item, scratch, (z, moments)| {
        let input = scratch.input.at_least(chunk * stride);
        for (index, z) in z.chunks_mut(chunk * outputs).enumerate() {
            let first = item * per_item + index * chunk;
            let rows = z.len() / outputs;
            source.load(first..first + rows, input, stride);
            let a = MatrixRef::new(&*input, rows, inputs, stride);
            // What the next chunk reads is asked for while this one is multiplied.
            let behind = first + rows;
            let next = source.raw(behind..if ahead { (behind + chunk).min(pixels) } else { behind });
            let output = MatrixMut::new(z, rows, outputs, outputs);
            E::multiply_ahead(a, packed, output, [next, &[]]);
            moments[0].add_rows(isa, z);
        }
    });
    items
}

pub(super) fn depthwise_forward<E: Number>(
    engine: &mut Engine,
    scratch: &mut [Scratch<E>],
    layer: &Layer,
    source: Source<E>,
    weight: &[f32],
    z: &mut [E],
    moments: &mut Vec<Moments>,
) -> usize {
    let isa = engine.isa;
    let geometry = row_geometry(layer);
    let (channels, height, width) = (geometry.channels, layer.output.height, layer.output.width);
    let mut taps = vec![0.0; weight.len()];
    depthwise::by_tap(weight, channels, &mut taps);
    let row_len = padded_row_len(layer);
    let batch = z.len() / layer.output.len();
    let per_item = images_per_item(batch);
    let items = batch.div_ceil(per_item);
    let large = engine.is_large::<E>(z.len());
    let parts = (chunks(z, per_item * layer.output.len()), chunks(reset(moments, items, channels), 1));
    // Output rows are made some at a time, which share what they read.
    let together = depthwise::rows_together(layer.stride);
    let slots = (together - 1) * layer.stride + 2 * layer.dilation + 1;
    let stretch = 128usize.div_ceil(width).next_multiple_of(together);
    let last = |y: usize| ring_rows(layer, y)[2];
    let exists = |row: isize| row.clamp(0, layer.input.height as isize) as usize;
    let pixels_of = |rows: Range<usize>| rows.start * layer.input.width..rows.end * layer.input.width;
    engine.pool.run(items, scratch, parts, |item, scratch, (z, moments)| {
        let memory = scratch.rows.at_least(Ring::memory(row_len, slots));
        let left = layer.pads.left * geometry.pixel_stride;
        let mut ring = Ring::new(memory, row_len, left, slots, layer.input.height);
        let images = z.len() / layer.output.len();
        write_parts(isa, large, &mut scratch.output, z, |z| {
            for image in item * per_item..item * per_item + images {
                let source = source.image(image);
                ring.rewind();
                // Statistics are taken of some hundred pixels at a time, while they are in the cache.
                for start in (0..height).step_by(stretch) {
                    let end = height.min(start + stretch);
                    z.part((end - start) * width * channels, |z| {
                        for (index, z) in z.chunks_mut(together * width * channels).enumerate() {
                            let first = start + index * together;
                            let rows = first..first + z.len() / (width * channels);
                            ring.advance(last(rows.end - 1), |row, pixels| {
                                source.load(pixels_of(row..row + 1), pixels, geometry.pixel_stride);
                            });
                            let mut inputs: [[&[f32]; 3]; MOST_ROWS] = [[&[]; 3]; MOST_ROWS];
                            for (inputs, y) in inputs.iter_mut().zip(rows.clone()) {
                                *inputs = ring_rows(layer, y).map(|row| ring.row(row));
                            }
                            // What the next rows read is asked for meanwhile.
                            let next =
                                [rows.end - 1, rows.end - 1 + together].map(|row| exists(last(row) + 1));
                            let ahead = source.raw(pixels_of(next[0]..next[1]));
                            let inputs = &inputs[..rows.len()];
                            depthwise::convolve_rows(isa, geometry, inputs, &taps, None, z, ahead);
                        }
                        moments[0].add_rows(isa, z);
                    });
                }
            }
        });
    });
    items
}

/// Values of a padded row: all pixels and their pads, at the pixel stride.
pub(super) fn padded_row_len(layer: &Layer) -> usize {
    let pixels = layer.input.width + layer.pads.left + layer.pads.right;
    pixels * depthwise::pixel_stride(layer.input.channels)
}

/// The three input rows of output row `y`; rows that do not exist are out of range.
pub(super) fn ring_rows(layer: &Layer, y: usize) -> [isize; 3] {
    let first = (y * layer.stride) as isize - layer.pads.top as isize;
    [0, 1, 2].map(|k| first + (k * layer.dilation) as isize)
}

/// The packed filter of a full convolution: rows `[ky][kx][in]`, columns `out`.
pub(super) fn pack_conv<E: Number>(
    isa: Isa,
    layer: &Layer,
    weight: impl Fn(usize, usize) -> f32,
) -> E::ConvFilter {
    let inputs = layer.input.channels;
    E::pack_conv(isa, layer, |row, out| weight((out * inputs + row % inputs) * 9 + row / inputs, out))
}

/// The same for products with patches.
fn pack_patches<E: Number>(isa: Isa, layer: &Layer, weight: &[f32]) -> E::Packed {
    let inputs = layer.input.channels;
    let shape = (9 * inputs, layer.output.channels);
    E::pack_with(isa, shape, |row, out| weight[(out * inputs + row % inputs) * 9 + row / inputs])
}

fn conv_forward<E: Number>(
    engine: &mut Engine,
    scratch: &mut [Scratch<E>],
    layer: &Layer,
    source: Source<E>,
    weight: &[f32],
    z: &mut [E],
    moments: &mut Vec<Moments>,
) -> usize {
    let isa = engine.isa;
    let windows = windows(layer);
    let outputs = layer.output.channels;
    let packed = pack_patches::<E>(isa, layer, weight);
    let stride = E::padded_stride(isa, windows.patch_len());
    let chunk = chunk_pixels::<E>(stride.max(outputs));
    let batch = z.len() / layer.output.len();
    let parts = (chunks(z, layer.output.len()), chunks(reset(moments, batch, outputs), 1));
    engine.pool.run(batch, scratch, parts, |image, scratch, (z, moments)| {
        let padded = scratch.input.at_least(windows.image_len());
        source.image(image).load_padded(layer, windows, padded);
        let patches = scratch.patches.at_least(chunk * stride);
        for (index, z) in z.chunks_mut(chunk * outputs).enumerate() {
            let rows = z.len() / outputs;
            im2col::gather(windows, padded, index * chunk, rows, patches, stride);
            let a = MatrixRef::new(&*patches, rows, windows.patch_len(), stride);
            E::multiply(a, &packed, 0, MatrixMut::new(z, rows, outputs, outputs), Epilogue::default());
            moments[0].add_rows(isa, z);
        }
    });
    batch
}
