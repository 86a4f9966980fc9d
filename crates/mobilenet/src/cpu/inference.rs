//! Inference: batch normalisation folded into the filters, one pass over each block.
//!
//! A depthwise output never reaches memory: a strip of its rows is computed into the cache and goes
//! from there into the product with the pointwise filter. The first stages, whose maps are large, are
//! taken depth first (`strip.rs`). With many images every thread takes a few whole ones through all
//! layers; with few, the rows (or, where those are few, the output channels) of each layer are shared
//! out.

use mobilenet_kernels::gemm::{self, Epilogue, MatrixMut};
use mobilenet_kernels::parallel::chunks;
use mobilenet_kernels::{Buffer, pooling};

use super::forward::product;
use super::plan::{Plan, Stage};
use super::stage::Padded;
use super::strip::{self, Kept, depth_first, output_stride};
use super::timing::{CLASSIFIER, Pass};
use super::{CpuExecutor, Engine, Input};
use crate::architecture::{Operator, Shape};
use crate::tensor::Tensor;

/// What becomes of an image behind the last stage that it is taken through.
#[derive(Clone, Copy)]
pub(super) enum End {
    /// Its mean over all pixels, so many features.
    Pool(usize),
    /// The activated feature map as it is.
    Map,
}

/// Feature maps between stages of the images that all threads share, and what the classifier reads.
#[derive(Debug, Default)]
pub(super) struct Activations {
    maps: [Buffer; 2],
    pooled: Buffer,
}

/// One thread's memory for inference.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Of the stages that are taken depth first.
    kept: Vec<Kept>,
    /// Feature maps between the others.
    maps: [Buffer; 2],
    patches: Buffer,
    /// Patches of several images.
    gathered: Buffer,
    padded: Padded,
    sums: Vec<f64>,
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
        let image_len = self.architecture.input_shape().len();
        let threads = engine.pool.threads();
        // Layers can be told apart only where one follows the other.
        let first = if timing.is_on() { 1 } else { depth_first(stages) };
        // A few whole images for each thread as long as there are enough for all.
        let most = group_of(stages);
        let mut done = 0;
        while !timing.is_on() && batch - done >= threads {
            let group = ((batch - done) / threads).min(most);
            let items = (batch - done) / (group * threads) * threads;
            let count = items * group;
            let images = &images[done * image_len..][..count * image_len];
            let rows = &mut output[done * stride..][..count * stride];
            let rows = chunks(rows, group * stride);
            engine.pool.run(items, &mut engine.scratch, rows, |item, scratch, rows| {
                let images = &images[item * group * image_len..][..group * image_len];
                let memory = &mut scratch.inference;
                run_group(plan, stages, first, (images, image_len), memory, |index, map, sums| {
                    end.write(map, sums, &mut rows[index * stride..][..stride]);
                });
            });
            done += count;
        }
        for image in done..batch {
            let pixels = &images[image * image_len..][..image_len];
            let [current, next] = &mut inference.maps;
            let start = timing.start();
            spread_strip(plan, stages, first, engine, pixels, next);
            timing.stop(start, Pass::Infer, &stages[first - 1].layer.name);
            std::mem::swap(current, next);
            for (index, stage) in stages.iter().enumerate().skip(first) {
                let start = timing.start();
                stage.spread(plan, engine, current, (next, output_stride(stage, stages.get(index + 1))));
                timing.stop(start, Pass::Infer, &stage.layer.name);
                std::mem::swap(current, next);
            }
            let last = stages.last().map_or(0, |stage| stage.layer.output.len());
            let sums = &mut engine.scratch[0].inference.sums;
            end.write(&current[..last], sums, &mut output[image * stride..][..stride]);
        }
    }
}

/// A few pixels waste most of a tile, and take as many weights as many pixels would.
const FEW_PIXELS: usize = 49;

fn has_few_pixels(stage: &Stage) -> bool {
    stage.layer.output.pixels() <= FEW_PIXELS
}

/// How many images to take through the last stages together.
fn group_of(stages: &[Stage]) -> usize {
    /// Pixels that are worth reading a panel of weights for.
    const PIXELS: usize = 196;
    const MOST: usize = 8;
    match stages.last() {
        Some(last) if last.depthwise.is_some() => (PIXELS / last.layer.output.pixels()).clamp(1, MOST),
        _ => 1,
    }
}

/// Takes images through all stages on one thread: each alone as long as its maps are large, then all
/// together. Calls `end(index, last map, scratch)` for each.
fn run_group(
    plan: &Plan,
    stages: &[Stage],
    first: usize,
    (images, image_len): (&[f32], usize),
    memory: &mut Memory,
    mut end: impl FnMut(usize, &[f32], &mut Vec<f64>),
) {
    let Memory { kept, maps: [current, next], patches, gathered, padded, sums } = memory;
    let count = images.len() / image_len;
    // From here on the product's rows are those of all images.
    let few = |stage: &Stage| has_few_pixels(stage) && stage.depthwise.is_some();
    let together = match stages.iter().rposition(|stage| !few(stage)) {
        Some(last) if count > 1 => (last + 1).max(first),
        _ => stages.len(),
    };
    let stride_of = |index: usize| output_stride(&stages[index], stages.get(index + 1));
    for (image, pixels) in images.chunks_exact(image_len).enumerate() {
        let Shape { height, width, .. } = stages[first - 1].layer.output;
        let stride = stride_of(first - 1);
        let map = next.at_least(height * width * stride);
        strip::rows(plan, &stages[..first], kept, pixels, 0..height, (map, stride));
        std::mem::swap(current, next);
        for (index, stage) in stages.iter().enumerate().take(together).skip(first) {
            let Shape { height, width, .. } = stage.layer.output;
            let stride = stride_of(index);
            let output = next.at_least(height * width * stride);
            padded.start(0);
            let mut map = stage.map(current);
            stage.rows(plan, &mut map, 0..height, (output, stride), (&mut *patches, &mut *padded));
            std::mem::swap(current, next);
        }
        match stages.get(together) {
            Some(stage) => stage.read(plan, current, (image, count), gathered),
            None => end(image, &current[..stages[stages.len() - 1].layer.output.len()], sums),
        }
    }
    for (index, stage) in stages.iter().enumerate().skip(together) {
        let Shape { height, width, channels } = stage.layer.output;
        let (pixels, stride) = (count * height * width, stride_of(index));
        let output = next.at_least(pixels * stride);
        stage.multiply(plan, gathered, pixels, (0, MatrixMut::new(output, pixels, channels, stride)));
        std::mem::swap(current, next);
        for (image, map) in current[..pixels * stride].chunks_exact(height * width * stride).enumerate() {
            match stages.get(index + 1) {
                Some(next) => next.read(plan, map, (image, count), gathered),
                None => end(image, map, sums),
            }
        }
    }
}

/// Takes one image through the first `count` stages, the output rows of the last one shared out over
/// the threads. At the seams each thread makes the few rows before that it needs itself.
fn spread_strip(
    plan: &Plan,
    stages: &[Stage],
    count: usize,
    engine: &mut Engine,
    image: &[f32],
    output: &mut Buffer,
) {
    let last = &stages[count - 1];
    let Shape { height, width, .. } = last.layer.output;
    let stride = output_stride(last, stages.get(count));
    let rows = height.div_ceil(engine.pool.threads());
    let parts = chunks(output.at_least(height * width * stride), rows * width * stride);
    engine.pool.run(height.div_ceil(rows), &mut engine.scratch, parts, |item, scratch, output| {
        let rows = item * rows..height.min((item + 1) * rows);
        strip::rows(plan, &stages[..count], &mut scratch.inference.kept, image, rows, (output, stride));
    });
}

impl Stage {
    /// Shares one image's stage out over the threads.
    fn spread(
        &self,
        plan: &Plan,
        engine: &mut Engine,
        input: &[f32],
        (output, stride): (&mut Buffer, usize),
    ) {
        let Shape { height, width, channels } = self.layer.output;
        let output = output.at_least(height * width * stride);
        let threads = engine.pool.threads();
        let map = self.map(input);
        if threads > 1 && has_few_pixels(self) {
            let step = gemm::column_step(plan.isa);
            let block = channels.div_ceil(threads).next_multiple_of(step);
            let columns = gemm::column_blocks(output, (channels, stride), block);
            let items = channels.div_ceil(block);
            engine.pool.run(items, &mut engine.scratch, columns, |item, scratch, output| {
                let Memory { patches, padded, .. } = &mut scratch.inference;
                padded.start(0);
                self.product(plan, &mut { map }, 0..height, (item * block, output), (patches, padded));
            });
            return;
        }
        let rows = height.div_ceil(threads);
        let parts = chunks(output, rows * width * stride);
        engine.pool.run(height.div_ceil(rows), &mut engine.scratch, parts, |item, scratch, output| {
            let Memory { patches, padded, .. } = &mut scratch.inference;
            let rows = item * rows..height.min((item + 1) * rows);
            padded.start(self.reach(rows.start).start);
            self.rows(plan, &mut { map }, rows, (output, stride), (patches, padded));
        });
    }

    /// Makes the patches of one image of `count` beside those of the others.
    fn read(&self, plan: &Plan, map: &[f32], (image, count): (usize, usize), patches: &mut Buffer) {
        let Shape { height, width, .. } = self.layer.output;
        let stride = self.patch_stride(plan.isa);
        let len = height * width * stride;
        let patches = &mut patches.at_least(count * len)[image * len..][..len];
        if let Some(depthwise) = &self.depthwise {
            depthwise.rows(plan, &mut self.map(map), 0..height, patches, stride);
        }
    }
}

impl End {
    fn write(self, map: &[f32], sums: &mut Vec<f64>, row: &mut [f32]) {
        match self {
            Self::Pool(features) => {
                sums.resize(features, 0.0);
                pooling::global_average(map, sums, &mut row[..features]);
            }
            Self::Map => row.copy_from_slice(map),
        }
    }
}
