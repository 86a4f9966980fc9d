//! Inference: batch normalisation folded into the filters, one pass over each block.
//!
//! A depthwise output never reaches memory: a strip of its rows is computed into the cache and goes
//! from there into the product with the pointwise filter. With many images every thread takes whole
//! images through all layers; with few, the rows (or, where those are few, the output channels) of
//! each layer are shared out.

use mobilenet_kernels::depthwise::{self, RowEpilogue, RowGeometry};
use mobilenet_kernels::gemm::{self, Epilogue, MatrixMut, MatrixRef, PackedB};
use mobilenet_kernels::parallel::chunks;
use mobilenet_kernels::{Buffer, Clamp, Isa, im2col, pooling};

use super::forward::{padded_row_len, product, ring_rows};
use super::rows::{Ring, Source, chunk_pixels, row_geometry, windows};
use super::timing::{CLASSIFIER, Pass};
use super::{Conv, CpuExecutor, Engine, Input, Scratch, Stored};
use crate::architecture::{Layer, Operator, Shape};
use crate::tensor::Tensor;

/// Folded and packed weights, as far as they were needed: the first stages, in order, and the
/// classifier. Whoever changes parameters says so with [`CpuExecutor::forget_folded`].
#[derive(Debug)]
pub(super) struct Plan {
    isa: Isa,
    clamp: Clamp,
    stages: Vec<Stage>,
    classifier: Option<PackedB>,
}

/// What becomes of an image behind the last stage that it is taken through.
#[derive(Clone, Copy)]
pub(super) enum End {
    /// Its mean over all pixels, so many features.
    Pool(usize),
    /// The activated feature map as it is.
    Map,
}

/// A full convolution, or a depthwise one with the pointwise one behind it.
#[derive(Debug)]
struct Stage {
    depthwise: Option<Depthwise>,
    /// The layer whose filter is `packed`: `conv_*` or `pointwise_*`.
    layer: Layer,
    packed: PackedB,
    bias: Vec<f32>,
}

#[derive(Debug)]
struct Depthwise {
    layer: Layer,
    taps: Vec<f32>,
    bias: Vec<f32>,
}

/// Feature maps between stages: one pair for the images that all threads share, one pair a thread.
#[derive(Debug, Default)]
pub(super) struct Activations {
    shared: [Buffer; 2],
    pooled: Buffer,
}

impl CpuExecutor {
    /// Logits `[N, outputs]` of a batch of images, or of features that [`CpuExecutor::run_features`]
    /// gave.
    pub(super) fn run_inference(&mut self, input: Input, values: &[f32]) -> Tensor {
        let features = self.classifier.features;
        let stride = gemm::padded_stride(self.engine.isa, features);
        let batch = input.batch();
        let stages = if matches!(input, Input::Images(_)) { self.stages() } else { 0 };
        self.fold(stages, true);
        let mut pooled = std::mem::take(&mut self.inference.pooled);
        let rows = &mut pooled.at_least(batch * stride)[..batch * stride];
        self.pool_rows(input, values, rows, stride);
        let packed = self.plan.classifier.as_ref().expect("folded above");
        let mut logits = Tensor::zeros(&[batch, self.classifier.outputs]);
        let epilogue = Epilogue { bias: Some(&self.parameters[self.classifier.bias].value), clamp: None };
        let start = self.timing.start();
        product(&mut self.engine, rows, stride, batch, packed, logits.data_mut(), epilogue);
        self.timing.stop(start, Pass::Infer, CLASSIFIER);
        self.inference.pooled = pooled;
        logits
    }

    /// Pooled features `[N, features]` of a batch of images.
    pub(super) fn run_features(&mut self, images: &[f32], batch: usize) -> Tensor {
        let features = self.classifier.features;
        let mut pooled = Tensor::zeros(&[batch, features]);
        self.pool_rows(Input::Images(batch), images, pooled.data_mut(), features);
        pooled
    }

    /// The activated feature maps behind the stem and `blocks` blocks, `[N, h, w, channels]`.
    pub(super) fn run_maps(&mut self, images: &[f32], batch: usize, blocks: usize) -> Tensor {
        let stages = blocks + 1;
        self.fold(stages, false);
        let Shape { height, width, channels } = self.plan.stages[blocks].layer.output;
        let mut maps = Tensor::zeros(&[batch, height, width, channels]);
        self.run_stages(images, batch, stages, End::Map, maps.data_mut(), height * width * channels);
        maps
    }

    /// Writes what the classifier reads to rows of `output` that are `stride` apart.
    pub(super) fn pool_rows(&mut self, input: Input, values: &[f32], output: &mut [f32], stride: usize) {
        let features = self.classifier.features;
        match input {
            Input::Images(batch) => {
                let stages = self.stages();
                self.run_stages(values, batch, stages, End::Pool(features), output, stride);
            }
            Input::Features(_) => {
                for (to, from) in output.chunks_exact_mut(stride).zip(values.chunks_exact(features)) {
                    to[..features].copy_from_slice(from);
                }
            }
        }
    }

    /// Number of stages: the stem, and one a block.
    fn stages(&self) -> usize {
        self.convs.iter().filter(|conv| conv.layer.operator != Operator::Depthwise).count()
    }

    /// Takes each image through the first `stages` stages (at least one) and writes what `end` says
    /// to rows of `output` that are `stride` apart.
    pub(super) fn run_stages(
        &mut self,
        images: &[f32],
        batch: usize,
        stages: usize,
        end: End,
        output: &mut [f32],
        stride: usize,
    ) {
        self.fold(stages, false);
        let Self { engine, plan, inference, timing, .. } = self;
        let plan = &*plan;
        let stages = &plan.stages[..stages];
        let input_len = self.architecture.input_shape().len();
        let threads = engine.pool.threads();
        // Whole images for each thread as long as there are enough for all.
        let whole = match threads {
            _ if timing.is_on() => 0,
            1 => batch,
            _ => batch / threads * threads,
        };
        let largest = stages.iter().map(|stage| stage.layer.output.len()).max().unwrap_or(0);
        let last = stages.last().map_or(0, |stage| stage.layer.output.len());
        if whole > 0 {
            engine.pool.run(whole, &mut engine.scratch, chunks(output, stride), |image, scratch, row| {
                let Scratch { gradient, output, .. } = scratch;
                let (mut current, mut next) = (std::mem::take(gradient), std::mem::take(output));
                for (index, stage) in stages.iter().enumerate() {
                    let source = match index {
                        0 => &images[image * input_len..][..input_len],
                        _ => &current[..stage.input().len()],
                    };
                    let shape = stage.layer.output;
                    let output = &mut next.at_least(largest)[..shape.len()];
                    stage.rows(plan, source, 0, output, scratch);
                    std::mem::swap(&mut current, &mut next);
                }
                end.write(&current[..last], scratch, row);
                (scratch.gradient, scratch.output) = (current, next);
            });
        }
        for image in whole..batch {
            let [current, next] = &mut inference.shared;
            for (index, stage) in stages.iter().enumerate() {
                let source = match index {
                    0 => &images[image * input_len..][..input_len],
                    _ => &current[..stage.input().len()],
                };
                let output = &mut next.at_least(largest)[..stage.layer.output.len()];
                let start = timing.start();
                stage.spread(plan, engine, source, output);
                timing.stop(start, Pass::Infer, &stage.layer.name);
                std::mem::swap(current, next);
            }
            let row = &mut output[image * stride..][..stride];
            end.write(&current[..last], &mut engine.scratch[0], row);
        }
    }

    /// Drops what was folded from parameters that may have changed: all but the frozen stages.
    pub(super) fn forget_folded(&mut self) {
        self.plan.stages.truncate(self.frozen.stages);
        self.plan.classifier = None;
    }

    /// Drops everything that was folded.
    pub(super) fn forget_all_folded(&mut self) {
        self.plan.stages.clear();
        self.plan.classifier = None;
    }

    /// Folds each batch normalisation into the filter before it, in the first `stages` stages, and
    /// packs the filters; also the classifier's, if it is asked for. What is done already stays.
    /// The parts are shared out over the threads.
    fn fold(&mut self, stages: usize, classifier: bool) {
        let Self { engine, plan, convs, parameters, .. } = self;
        let ends = |conv: &Conv| conv.layer.operator != Operator::Depthwise;
        let groups: Vec<&[Conv]> = convs.split_inclusive(ends).take(stages).skip(plan.stages.len()).collect();
        let classifier = Some(&self.classifier).filter(|_| classifier && plan.classifier.is_none());
        let items = groups.len() + usize::from(classifier.is_some());
        if items == 0 {
            return;
        }
        let mut parts: Vec<Part> = std::iter::repeat_with(|| Part::None).take(items).collect();
        let (isa, epsilon) = (engine.isa, f64::from(self.architecture.conventions.bn_epsilon));
        engine.pool.run(items, &mut engine.scratch, chunks(&mut parts, 1), |item, _, part| {
            part[0] = match (groups.get(item), classifier) {
                (Some(convs), _) => Stage::folded(isa, convs, parameters, epsilon)
                    .map_or(Part::None, |stage| Part::Stage(Box::new(stage))),
                (None, Some(classifier)) => {
                    let mut packed = PackedB::new(isa, classifier.features, classifier.outputs);
                    packed.pack_transposed(&parameters[classifier.weight].value);
                    Part::Classifier(packed)
                }
                (None, None) => Part::None,
            };
        });
        for part in parts {
            match part {
                Part::Stage(stage) => plan.stages.push(*stage),
                Part::Classifier(packed) => plan.classifier = Some(packed),
                Part::None => {}
            }
        }
    }
}

/// What one item of folding makes.
enum Part {
    None,
    Stage(Box<Stage>),
    Classifier(PackedB),
}

impl End {
    fn write(self, map: &[f32], scratch: &mut Scratch, row: &mut [f32]) {
        match self {
            Self::Pool(features) => {
                scratch.sums.resize(features, 0.0);
                pooling::global_average(map, &mut scratch.sums, &mut row[..features]);
            }
            Self::Map => row.copy_from_slice(map),
        }
    }
}

/// A batch normalisation by its running statistics: what each output's filter is multiplied with,
/// and the bias.
struct Folding {
    scale: Vec<f64>,
    bias: Vec<f32>,
}

impl Folding {
    fn of(conv: &Conv, parameters: &[Stored], epsilon: f64) -> Self {
        let (gamma, beta) = (&parameters[conv.gamma].value, &parameters[conv.beta].value);
        let variances = conv.running_var.iter().map(|&variance| (f64::from(variance) + epsilon).sqrt());
        let scale: Vec<f64> =
            gamma.iter().zip(variances).map(|(&g, deviation)| f64::from(g) / deviation).collect();
        let shift = conv.running_mean.iter().zip(&scale).map(|(&mean, scale)| f64::from(mean) * scale);
        let bias = beta.iter().zip(shift).map(|(&beta, shift)| (f64::from(beta) - shift) as f32).collect();
        Self { scale, bias }
    }
}

impl Plan {
    /// Nothing is folded yet.
    pub fn new(isa: Isa, clamp: Clamp) -> Self {
        Self { isa, clamp, stages: Vec::new(), classifier: None }
    }
}

impl Stage {
    /// The stage of `convs`: a full convolution, or a depthwise one and a pointwise one.
    fn folded(isa: Isa, convs: &[Conv], parameters: &[Stored], epsilon: f64) -> Option<Self> {
        let (last, before) = convs.split_last()?;
        let depthwise = before.last().map(|conv| {
            let Folding { scale, bias } = Folding::of(conv, parameters, epsilon);
            let filter = &parameters[conv.weight].value;
            let per_output = filter.len() / scale.len();
            let scaled: Vec<f32> = filter
                .chunks_exact(per_output)
                .zip(&scale)
                .flat_map(|(filter, scale)| filter.iter().map(move |&w| (f64::from(w) * scale) as f32))
                .collect();
            let mut taps = vec![0.0; scaled.len()];
            depthwise::by_tap(&scaled, conv.layer.output.channels, &mut taps);
            Depthwise { layer: conv.layer.clone(), taps, bias }
        });
        let layer = last.layer.clone();
        let Folding { scale, bias } = Folding::of(last, parameters, epsilon);
        let filter = &parameters[last.weight].value;
        let packed = match layer.operator {
            Operator::Pointwise => {
                let mut packed = PackedB::new(isa, layer.input.channels, layer.output.channels);
                packed.pack_transposed_scaled(filter, &scale);
                packed
            }
            _ => super::forward::pack_conv(isa, &layer, |at, output| {
                (f64::from(filter[at]) * scale[output]) as f32
            }),
        };
        Some(Self { depthwise, layer, packed, bias })
    }

    /// The shape that the stage reads.
    fn input(&self) -> Shape {
        self.depthwise.as_ref().map_or(self.layer.input, |depthwise| depthwise.layer.input)
    }

    /// Shares one image's stage out over the threads.
    fn spread(&self, plan: &Plan, engine: &mut Engine, input: &[f32], output: &mut [f32]) {
        let Shape { height, width, channels } = self.layer.output;
        let threads = engine.pool.threads();
        // A few pixels a thread waste most of a tile: then the channels are shared out instead.
        const FEW_PIXELS: usize = 49;
        if threads > 1 && height * width <= FEW_PIXELS {
            let step = gemm::column_step(plan.isa);
            let block = channels.div_ceil(threads).next_multiple_of(step);
            let columns = gemm::column_blocks(output, channels, block);
            engine.pool.run(
                channels.div_ceil(block),
                &mut engine.scratch,
                columns,
                |item, scratch, output| {
                    self.columns(plan, input, item * block, output, scratch);
                },
            );
            return;
        }
        let rows = height.div_ceil(if height >= 56 { 2 * threads } else { threads });
        let parts = chunks(output, rows * width * channels);
        engine.pool.run(height.div_ceil(rows), &mut engine.scratch, parts, |item, scratch, output| {
            self.rows(plan, input, item * rows, output, scratch);
        });
    }

    fn epilogue(&self, plan: &Plan) -> Epilogue<'_> {
        Epilogue { bias: Some(&self.bias), clamp: Some(plan.clamp) }
    }

    /// The output rows from `first_row` on that fit into `output`.
    fn rows(&self, plan: &Plan, input: &[f32], first_row: usize, output: &mut [f32], scratch: &mut Scratch) {
        let Shape { width, channels, .. } = self.layer.output;
        let k = self.packed.k();
        let stride = gemm::padded_stride(plan.isa, k);
        let together = (chunk_pixels(stride.max(channels)) / width).max(1);
        self.patches(
            plan,
            input,
            first_row,
            output.len() / (width * channels),
            together,
            scratch,
            |first, patches| {
                let start = (first - first_row) * width * channels;
                let pixels = patches.len() / stride;
                let output = &mut output[start..start + pixels * channels];
                let a = MatrixRef::new(patches, pixels, k, stride);
                gemm::gemm(
                    a,
                    &self.packed,
                    0,
                    MatrixMut::new(output, pixels, channels, channels),
                    self.epilogue(plan),
                );
            },
        );
    }

    /// All pixels, for the output channels from `first_column` on that `output` has.
    fn columns(
        &self,
        plan: &Plan,
        input: &[f32],
        first_column: usize,
        output: MatrixMut,
        scratch: &mut Scratch,
    ) {
        let k = self.packed.k();
        let stride = gemm::padded_stride(plan.isa, k);
        let height = self.layer.output.height;
        let mut output = Some(output);
        self.patches(plan, input, 0, height, height, scratch, |_, patches| {
            if let Some(output) = output.take() {
                let a = MatrixRef::new(patches, patches.len() / stride, k, stride);
                gemm::gemm(a, &self.packed, first_column, output, self.epilogue(plan));
            }
        });
    }

    /// Makes what the product reads, for output rows `first..first + rows`, `together` rows at a
    /// time: patches of the input, or the depthwise output. Calls `f(first row, patches)`.
    #[allow(clippy::too_many_arguments)]
    fn patches(
        &self,
        plan: &Plan,
        input: &[f32],
        first: usize,
        rows: usize,
        together: usize,
        scratch: &mut Scratch,
        mut f: impl FnMut(usize, &[f32]),
    ) {
        let isa = plan.isa;
        let stride = gemm::padded_stride(isa, self.packed.k());
        let width = self.layer.output.width;
        let Scratch { input: memory, patches, .. } = scratch;
        let patches = patches.at_least(together.min(rows) * width * stride);
        let groups = (first..first + rows).step_by(together).map(|y| (y, together.min(first + rows - y)));
        let source = Source { isa, values: input, shape: self.input(), affine: None, clamp: plan.clamp };
        let Some(Depthwise { layer, taps, bias }) = &self.depthwise else {
            let windows = windows(&self.layer);
            let padded = memory.at_least(windows.image_len());
            source.load_padded(&self.layer, windows, padded);
            for (y, rows) in groups {
                let patches = &mut patches[..rows * width * stride];
                im2col::gather(windows, padded, y * width, rows * width, patches, stride);
                f(y, patches);
            }
            return;
        };
        let geometry = RowGeometry { output_stride: stride, ..row_geometry(layer) };
        let pixel = geometry.pixel_stride;
        let row_len = padded_row_len(layer);
        let memory = memory.at_least(Ring::memory(row_len, layer.dilation));
        let mut ring =
            Ring::new(memory, row_len, layer.pads.left * pixel, layer.dilation, layer.input.height);
        ring.skip_to(ring_rows(layer, first)[0]);
        let epilogue = RowEpilogue { bias, clamp: plan.clamp };
        for (y, rows) in groups {
            let patches = &mut patches[..rows * width * stride];
            for (index, patches) in patches.chunks_exact_mut(width * stride).enumerate() {
                let at = ring_rows(layer, y + index);
                ring.advance(at[2], |row, pixels| {
                    let width = layer.input.width;
                    source.load(row * width..(row + 1) * width, pixels, pixel);
                });
                let rows = at.map(|row| ring.row(row));
                depthwise::convolve_row(isa, geometry, rows, taps, Some(epilogue), patches);
            }
            f(y, patches);
        }
    }
}
