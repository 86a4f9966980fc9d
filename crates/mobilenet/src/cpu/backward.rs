//! The backward pass.
//!
//! Going back through a layer needs two sums over the whole batch (batch normalisation's), so they
//! are taken by whoever makes the gradient of the layer's activated output. Then one pass over the
//! layer's pixels does everything while it is in the cache: gradient of the raw output, gradient of
//! the input, share of the filter's gradient, and the sums that the layer before needs.

use std::ops::Range;

use mobilenet_kernels::batch_norm::{self, Affine, Correction, GradientSums, Normalisation};
use mobilenet_kernels::depthwise;
use mobilenet_kernels::depthwise_backward::{self, BackwardGeometry, RowGradients};
use mobilenet_kernels::gemm::{self, Ahead, Epilogue, MatrixMut, MatrixRef, PackedB, Unpacked};
use mobilenet_kernels::parallel::chunks;
use mobilenet_kernels::stream::write_parts;
use mobilenet_kernels::{Clamp, Element, element, im2col, pooling};

use super::forward::{State, Training, depthwise_forward, source};
use super::memory::{Maps, MapsIn, Scratch, with_maps};
use super::precision::Number;
use super::rows::{Ring, Source, chunk_pixels, images_per_item, room_ahead, windows};
use super::timing::{CLASSIFIER, Pass};
use super::{Conv, CpuExecutor, Engine, Stored};
use crate::architecture::{Layer, Operator};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// One layer's gradients on the way back.
struct Step<'a, E> {
    layer: &'a Layer,
    batch: usize,
    /// How this layer was normalised and activated.
    normalisation: Normalisation<'a>,
    correction: Correction<'a>,
    /// This layer's raw output.
    z: &'a [E],
    /// Gradient of this layer's activated output.
    d_output: &'a [E],
    /// What this layer read.
    source: Source<'a, E>,
    /// How the layer before was normalised; none for the first layer, which has no input gradient.
    before: Option<Normalisation<'a>>,
}

impl<E: Number> Step<'_, E> {
    /// Gradient of the raw output at `pixels` (over the batch), in rows `stride` apart.
    fn d_raw<O: Element>(&self, pixels: Range<usize>, output: &mut [O], stride: usize) {
        let channels = self.layer.output.channels;
        let range = pixels.start * channels..pixels.end * channels;
        let (d, z) = (&self.d_output[range.clone()], &self.z[range]);
        batch_norm::backward(self.source.isa, self.normalisation, self.correction, d, z, output, stride);
    }
}

/// Pieces that the pixels or images of a batch are cut into, each with a partial filter gradient of
/// `len` values: fewer where those would take much memory.
fn pieces(most: usize, len: usize) -> usize {
    const MEMORY: usize = 4 << 20;
    let fit = (MEMORY / len.max(1)).clamp(4, 16);
    fit.min(most).max(1)
}

impl CpuExecutor {
    pub(super) fn run_backward(&mut self, d_logits: &Tensor) -> Result<()> {
        let batch = std::mem::take(&mut self.training.batch);
        let expected = [batch, self.classifier.outputs];
        if batch == 0 || d_logits.shape() != expected {
            return Err(Error::Input {
                what: "gradient of the logits".into(),
                expected: if batch == 0 {
                    "a call of forward before each backward".into()
                } else {
                    format!("{expected:?}, as the last forward's logits")
                },
                found: format!("{:?}", d_logits.shape()),
            });
        }
        self.ensure_gradients();
        with_maps!(self, |this, maps| this.backward_images(maps, d_logits.data(), batch));
        Ok(())
    }

    fn backward_images<E: Number>(&mut self, maps: &mut MapsIn<E>, d_logits: &[f32], batch: usize) {
        let start = self.timing.start();
        self.classifier_backward(maps, d_logits, batch);
        self.timing.stop(start, Pass::Backward, CLASSIFIER);

        let first = self.frozen.convs;
        let Self { engine, convs, parameters, training, timing, .. } = self;
        let Training { states, layout, moments, sums, partials, .. } = training;
        let MapsIn { input, block, shared, packed, scratch } = maps;
        let (block, shared) = (block.at_least(layout.len), shared.at_least(layout.shared));
        // The depthwise layer whose raw output the shared memory holds.
        let mut at_hand = (first..convs.len()).rfind(|&index| layout.is_shared(index - first));
        for index in (first..convs.len()).rev() {
            let start = timing.start();
            let input = &input[..batch * convs[first].layer.input.len()];
            let before = |index: usize| if index > first { Some(&states[index - 1]) } else { None };
            for again in [index, index.saturating_sub(1).max(first)] {
                if layout.is_shared(again - first) && at_hand != Some(again) {
                    let (values, z) = layout.forward(again - first, input, block, shared);
                    let source = source(engine, convs, again, before(again), values);
                    let (layer, weight) = (&convs[again].layer, &parameters[convs[again].weight].value);
                    depthwise_forward(engine, scratch, layer, source, weight, z, moments);
                    at_hand = Some(again);
                }
            }
            let state = &states[index];
            let conv = &convs[index];
            let layer = &conv.layer;
            let pixels = batch * layer.output.pixels();
            let (offset, slope) = normalisation_gradients(parameters, conv, state, &sums[0], pixels);
            let (values, z, d_output, d_input) = layout.backward(index - first, input, block, shared);
            let step = Step {
                layer,
                batch,
                normalisation: state.normalisation(engine.clamp),
                correction: Correction { offset: &offset, slope: &slope },
                z,
                d_output,
                source: source(engine, convs, index, before(index), values),
                before: before(index).map(|state| state.normalisation(engine.clamp)),
            };
            let Stored { value, grad, .. } = &mut parameters[conv.weight];
            let memory = (&mut *partials, &mut *sums);
            let items = match layer.operator {
                Operator::Depthwise => {
                    depthwise_backward(engine, scratch, &step, value, grad, d_input, memory)
                }
                Operator::Pointwise => {
                    let shape = (layer.output.channels, layer.input.channels);
                    let packed = E::pack_again(engine, packed, shape, Unpacked::Rows(value));
                    pointwise_backward(engine, scratch, &step, packed, grad, d_input, memory)
                }
                _ => conv_backward(engine, scratch, &step, value, grad, d_input, memory),
            };
            merge_sums(sums, items);
            timing.stop(start, Pass::Backward, &layer.name);
        }
    }

    /// Back through classifier, dropout and pool; takes the sums for the last convolution.
    fn classifier_backward<E: Number>(&mut self, maps: &mut MapsIn<E>, d_logits: &[f32], batch: usize) {
        let Self { engine, convs, classifier, parameters, training, .. } = self;
        let isa = engine.isa;
        let (features, outputs) = (classifier.features, classifier.outputs);
        let stride = gemm::padded_stride(isa, features);

        for (grad, index) in parameters[classifier.bias].grad.iter_mut().zip(0..) {
            let sum: f64 = d_logits.iter().skip(index).step_by(outputs).map(|&d| f64::from(d)).sum();
            *grad += sum as f32;
        }
        let Stored { value, grad, .. } = &mut parameters[classifier.weight];
        let block = 64;
        let pooled = &training.pooled[..batch * stride];
        let parts = chunks(grad, block * features);
        engine.pool.run(outputs.div_ceil(block), &mut engine.scratch, parts, |item, _, grad| {
            let rows = grad.len() / features;
            let d = MatrixRef::new(&d_logits[item * block..], batch, rows, outputs);
            let pooled = MatrixRef::new(pooled, batch, features, stride);
            let grad = MatrixMut::new(grad, rows, features, features);
            gemm::gemm_transposed(isa, d, pooled, (grad, true), Ahead::default());
        });
        if self.frozen.convs == convs.len() {
            return;
        }
        let packed = &mut training.classifier_back;
        let packed = f32::pack_again(engine, packed, (outputs, features), Unpacked::Rows(value));
        let mut d_pooled = vec![0.0; batch * features];
        product(engine, d_logits, batch, packed, &mut d_pooled);
        for (d, kept) in d_pooled.iter_mut().zip(&training.kept) {
            *d *= kept;
        }

        let (Some(state), Some(conv)) = (training.states.last(), convs.last()) else { return };
        let shape = conv.layer.output;
        let normalisation = state.normalisation(engine.clamp);
        let last = training.last_output();
        let gradient = training.layout.gradients.last().cloned().unwrap_or(0..0);
        let (kept, behind) = maps.block.at_least(training.layout.len).split_at_mut(gradient.start);
        let (z, d_images) = (&kept[last], &mut behind[..gradient.len()]);
        let sums = reset(&mut training.sums, batch, features);
        let parts = (chunks(d_images, shape.len()), chunks(sums, 1));
        engine.pool.run(batch, &mut engine.scratch, parts, |image, _, (d_image, sums)| {
            pooling::global_average_backward(&d_pooled[image * features..][..features], d_image);
            let z = &z[image * shape.len()..][..shape.len()];
            add_sums(&mut sums[0], engine.isa, normalisation, d_image, z);
        });
        merge_sums(&mut training.sums, batch);
    }
}

/// Makes `items` empty sums over `channels`.
fn reset(sums: &mut Vec<GradientSums>, items: usize, channels: usize) -> &mut [GradientSums] {
    sums.clear();
    sums.resize_with(items, || GradientSums::new(channels));
    sums
}

/// Adds the sums of all items to the first one's, in order.
fn merge_sums(sums: &mut [GradientSums], items: usize) {
    if let Some((first, others)) = sums[..items].split_first_mut() {
        for other in others {
            first.merge(other);
        }
    }
}

/// Takes the sums of any number of pixels, a few hundred at a time.
fn add_sums<E: Element>(
    sums: &mut GradientSums,
    isa: mobilenet_kernels::Isa,
    layer: Normalisation,
    d: &[E],
    z: &[E],
) {
    let together = 256 * layer.mean.len();
    for (d, z) in d.chunks(together).zip(z.chunks(together)) {
        sums.add_rows(isa, layer, d, z);
    }
}

/// Adds the gradients of γ and β and returns the correction's offset and slope.
fn normalisation_gradients(
    parameters: &mut [Stored],
    conv: &Conv,
    state: &State,
    sums: &GradientSums,
    pixels: usize,
) -> (Vec<f32>, Vec<f32>) {
    let count = pixels as f64;
    let (mut offset, mut slope) = (Vec::new(), Vec::new());
    for (c, (&d, &d_deviation)) in sums.d().iter().zip(sums.d_deviation()).enumerate() {
        let (scale, inv_std) = (f64::from(state.scale[c]), f64::from(state.inv_std[c]));
        parameters[conv.gamma].grad[c] += (d_deviation * inv_std) as f32;
        parameters[conv.beta].grad[c] += d as f32;
        offset.push((scale * d / count) as f32);
        slope.push((scale * d_deviation * inv_std * inv_std / count) as f32);
    }
    (offset, slope)
}

/// Adds the items' partial gradients to `grad`, of `columns` columns: first to one another, in the order of the items. A
/// partial gradient's columns lie in `blocks` ([`Number::transposed_blocks`]).
fn merge_partials<E: Number>(
    engine: &mut Engine,
    scratch: &mut [Scratch<E>],
    partials: &[f32],
    blocks: &[Range<usize>],
    columns: usize,
    grad: &mut [f32],
) {
    let (isa, len, rows) = (engine.isa, grad.len(), grad.len() / columns);
    let together = (16 * 1024 / columns).max(1);
    let parts = chunks(grad, together * columns);
    engine.pool.run(rows.div_ceil(together), scratch, parts, |item, scratch, grad| {
        for block in blocks {
            let width = block.len();
            let first = block.start * rows + item * together * width;
            let len_here = grad.len() / columns * width;
            let sums = scratch.product.at_least(len_here);
            let mut partials = partials.chunks_exact(len).map(|partial| &partial[first..][..len_here]);
            sums.copy_from_slice(partials.next().unwrap_or_default());
            for partial in partials {
                element::accumulate(isa, partial, sums);
            }
            for (grad, sums) in grad.chunks_exact_mut(columns).zip(sums.chunks_exact(width)) {
                element::accumulate(isa, sums, &mut grad[block.clone()]);
            }
        }
    });
}

type Memory<'a> = (&'a mut mobilenet_kernels::Buffer, &'a mut Vec<GradientSums>);

fn pointwise_backward<E: Number>(
    engine: &mut Engine,
    scratch: &mut [Scratch<E>],
    step: &Step<E>,
    packed: &E::Packed,
    grad: &mut [f32],
    d_input: &mut [E],
    (partials, sums): Memory,
) -> usize {
    let isa = engine.isa;
    let (inputs, outputs) = (step.layer.input.channels, step.layer.output.channels);
    let weights = inputs * outputs;
    let large = engine.is_large::<E>(d_input.len());
    let (input_stride, output_stride) = (E::padded_stride(isa, inputs), E::padded_stride(isa, outputs));
    let pixels = step.batch * step.layer.output.pixels();
    let chunk = chunk_pixels::<E>(input_stride + output_stride);
    let ahead = room_ahead(weights);
    let wanted = pieces(pixels.div_ceil(chunk), weights);
    let per_item = pixels.div_ceil(wanted).next_multiple_of(chunk);
    let items = pixels.div_ceil(per_item);
    let partials = &mut partials.at_least(items * weights)[..items * weights];
    let parts = (
        chunks(d_input, per_item * inputs),
        chunks(partials, weights),
        chunks(reset(sums, items, inputs), 1),
    );
    engine.pool.run(items, scratch, parts, |item, scratch, (d_input, partial, sums)| {
        let input = scratch.input.at_least(chunk * input_stride);
        let d_raw = scratch.gradient.at_least(chunk * output_stride);
        let rows = item * per_item..pixels.min((item + 1) * per_item);
        write_parts(isa, large, &mut scratch.output, d_input, |d_input| {
            for first in rows.clone().step_by(chunk) {
                let range = first..rows.end.min(first + chunk);
                let count = range.len();
                step.d_raw(range.clone(), d_raw, output_stride);
                step.source.load(range.clone(), input, input_stride);
                let d = MatrixRef::new(&*d_raw, count, outputs, output_stride);
                // What the next chunk reads is asked for while this one is multiplied.
                let next = range.end..if ahead { (range.end + chunk).min(pixels) } else { range.end };
                let values = next.start * outputs..next.end * outputs;
                let (d_next, z_next) = (&step.d_output[values.clone()], &step.z[values]);
                let raw = step.source.raw(range);
                d_input.part(count * inputs, |d_input| {
                    let output = MatrixMut::new(d_input, count, inputs, inputs);
                    E::multiply_ahead(d, packed, output, [d_next, &[]]);
                    if let Some(before) = step.before {
                        sums[0].add_rows(isa, before, d_input, raw);
                    }
                });
                let a = MatrixRef::new(&*input, count, inputs, input_stride);
                let to = (&mut *partial, first > rows.start);
                E::transposed(isa, d, a, to, &mut scratch.product, [z_next, step.source.raw(next)]);
            }
        });
    });
    merge_partials(engine, scratch, partials, &E::transposed_blocks(isa, (outputs, inputs)), inputs, grad);
    items
}

fn depthwise_backward<E: Number>(
    engine: &mut Engine,
    scratch: &mut [Scratch<E>],
    step: &Step<E>,
    weight: &[f32],
    grad: &mut [f32],
    d_input: &mut [E],
    (partials, sums): Memory,
) -> usize {
    let isa = engine.isa;
    let layer = step.layer;
    let channels = layer.input.channels;
    let mut taps = vec![0.0; weight.len()];
    depthwise::by_tap(weight, channels, &mut taps);
    let per_item = images_per_item(step.batch);
    let items = step.batch.div_ceil(per_item);
    let partials = &mut partials.at_least(items * weight.len())[..items * weight.len()];
    let large = engine.is_large::<E>(d_input.len());
    let parts = (
        chunks(d_input, per_item * layer.input.len()),
        chunks(partials, weight.len()),
        chunks(reset(sums, items, channels), 1),
    );
    let geometry = BackwardGeometry {
        inputs: layer.input.width,
        outputs: layer.output.width,
        channels,
        pixel_stride: depthwise::pixel_stride(channels),
        left: layer.pads.left,
        stride: layer.stride,
        dilation: layer.dilation,
    };
    let row_len = geometry.gradient_row_len();
    let left = depthwise_backward::ZEROS * geometry.pixel_stride;
    let slots = 2 * layer.dilation + 1;
    // Where there is no layer before, the input is read as it is.
    let (ones, zeros) = (vec![1.0; channels], vec![0.0; channels]);
    let identity = Affine { scale: &ones, shift: &zeros };
    let before =
        step.before.unwrap_or(Normalisation { affine: identity, mean: &zeros, clamp: Clamp::IDENTITY });
    engine.pool.run(items, scratch, parts, |item, scratch, (d_input, filter, sums)| {
        filter.fill(0.0);
        let sums = &mut sums[0];
        let memory = scratch.rows.at_least(Ring::memory(row_len, slots));
        let mut gradients = Ring::new(memory, row_len, left, slots, layer.output.height);
        let images = d_input.len() / layer.input.len();
        write_parts(isa, large, &mut scratch.output, d_input, |d_input| {
            for image in item * per_item..item * per_item + images {
                let source = step.source.image(image);
                let (width, out_width) = (layer.input.width, layer.output.width);
                gradients.rewind();
                for y in 0..layer.input.height {
                    let rows = output_rows(layer, y);
                    if let Some(last) = rows.iter().flatten().max() {
                        gradients.advance(*last as isize, |row, pixels| {
                            let first = (image * layer.output.height + row) * out_width;
                            step.d_raw(first..first + out_width, pixels, geometry.pixel_stride);
                        });
                    }
                    let d_rows = rows.map(|row| row.map(|row| gradients.row(row as isize)));
                    let z = source.raw(y * width..(y + 1) * width);
                    // What the next row of gradients is made from is asked for meanwhile.
                    let next = rows.iter().flatten().max().map_or(0, |last| last + 1);
                    let ahead = if next < layer.output.height && next > 0 {
                        let first = (image * layer.output.height + next) * out_width;
                        let values = first * channels..(first + out_width) * channels;
                        [&step.d_output[values.clone()], &step.z[values]]
                    } else {
                        [&[][..]; 2]
                    };
                    d_input.part(width * channels, |d_input| {
                        let gradients = RowGradients { filter, sums };
                        depthwise_backward::backward_row(
                            isa, geometry, d_rows, &taps, before, z, d_input, gradients, ahead,
                        );
                    });
                }
            }
        });
        sums.flush();
    });
    let mut by_tap = vec![0.0; weight.len()];
    merge_partials(engine, scratch, partials, std::slice::from_ref(&(0..channels)), channels, &mut by_tap);
    for (channel, grad) in grad.chunks_exact_mut(depthwise::TAPS).enumerate() {
        for (tap, grad) in grad.iter_mut().enumerate() {
            *grad += by_tap[tap * channels + channel];
        }
    }
    items
}

/// The output rows that input row `y` contributes to, by the filter's row; none where there is none.
fn output_rows(layer: &Layer, y: usize) -> [Option<usize>; 3] {
    [0, 1, 2].map(|ky| {
        let at = (y + layer.pads.top).checked_sub(ky * layer.dilation)?;
        let row = at / layer.stride;
        (at.is_multiple_of(layer.stride) && row < layer.output.height).then_some(row)
    })
}

fn conv_backward<E: Number>(
    engine: &mut Engine,
    scratch: &mut [Scratch<E>],
    step: &Step<E>,
    weight: &[f32],
    grad: &mut [f32],
    d_input: &mut [E],
    (partials, sums): Memory,
) -> usize {
    let isa = engine.isa;
    let layer = step.layer;
    let windows = windows(layer);
    let (inputs, outputs) = (layer.input.channels, layer.output.channels);
    let patch = windows.patch_len();
    let packed = step.before.map(|_| pack_conv_back::<E>(engine, layer, weight));
    let (patch_stride, output_stride) = (E::padded_stride(isa, patch), E::padded_stride(isa, outputs));
    let chunk = chunk_pixels::<E>(patch_stride + output_stride);
    let wanted = pieces(step.batch, weight.len());
    let per_item = step.batch.div_ceil(wanted);
    let items = step.batch.div_ceil(per_item);
    let partials = &mut partials.at_least(items * weight.len())[..items * weight.len()];
    let parts = (
        chunks(d_input, per_item * layer.input.len()),
        chunks(partials, weight.len()),
        chunks(reset(sums, items, inputs), 1),
    );
    let pixels = layer.output.pixels();
    engine.pool.run(items, scratch, parts, |item, scratch, (d_input, partial, sums)| {
        for image in item * per_item..((item + 1) * per_item).min(step.batch) {
            let source = step.source.image(image);
            let padded = scratch.input.at_least(windows.image_len());
            source.load_padded(layer, windows, padded);
            let d_padded = scratch.rows.at_least(windows.image_len());
            d_padded.fill(0.0);
            let patches = scratch.patches.at_least(chunk * patch_stride);
            let d_raw = scratch.gradient.at_least(chunk * output_stride);
            for first in (0..pixels).step_by(chunk) {
                let rows = chunk.min(pixels - first);
                let start = image * pixels + first;
                step.d_raw(start..start + rows, d_raw, output_stride);
                let d = MatrixRef::new(&*d_raw, rows, outputs, output_stride);
                im2col::gather(windows, padded, first, rows, patches, patch_stride);
                let a = MatrixRef::new(&*patches, rows, patch, patch_stride);
                let to = (&mut *partial, start > item * per_item * pixels);
                E::transposed(isa, d, a, to, &mut scratch.product, [&[]; 2]);
                if let Some(packed) = &packed {
                    let d_patches = MatrixMut::new(patches, rows, patch, patch_stride);
                    E::multiply(d, packed, 0, d_patches, Epilogue::default());
                    im2col::scatter_add(windows, patches, patch_stride, first, rows, d_padded);
                }
            }
            if let Some(before) = step.before {
                let width = layer.input.width * inputs;
                let d_image =
                    &mut d_input[(image - item * per_item) * layer.input.len()..][..layer.input.len()];
                for (y, row) in d_image.chunks_exact_mut(width).enumerate() {
                    let at = ((y + layer.pads.top) * windows.width + layer.pads.left) * inputs;
                    element::convert(isa, &d_padded[at..at + width], row);
                }
                add_sums(&mut sums[0], isa, before, d_image, source.raw(0..layer.input.pixels()));
            }
        }
    });
    let mut by_tap = vec![0.0; weight.len()];
    merge_partials(
        engine,
        scratch,
        partials,
        &E::transposed_blocks(isa, (outputs, patch)),
        patch,
        &mut by_tap,
    );
    for (filter, by_tap) in grad.chunks_exact_mut(patch).zip(by_tap.chunks_exact(patch)) {
        for (index, &d) in by_tap.iter().enumerate() {
            filter[index % inputs * 9 + index / inputs] += d;
        }
    }
    items
}

/// The filter of a full convolution for the way back: rows `out`, columns `[ky][kx][in]`.
fn pack_conv_back<E: Number>(engine: &Engine, layer: &Layer, weight: &[f32]) -> E::Packed {
    let inputs = layer.input.channels;
    E::pack_with(engine.isa, (layer.output.channels, 9 * inputs), |out, column| {
        weight[(out * inputs + column % inputs) * 9 + column / inputs]
    })
}

/// `output[rows][b.n()] = input[rows][b.k()] · b`, shared out by columns (rows are few).
fn product(engine: &mut Engine, input: &[f32], rows: usize, b: &PackedB, output: &mut [f32]) {
    let block = (64usize).next_multiple_of(gemm::column_step(engine.isa));
    let columns = gemm::column_blocks(output, (b.n(), b.n()), block);
    engine.pool.run(b.n().div_ceil(block), &mut engine.scratch, columns, |item, _, output| {
        gemm::gemm(MatrixRef::new(input, rows, b.k(), b.k()), b, item * block, output, Epilogue::default());
    });
}
