//! Inference: batch normalisation folded into the filters, one pass over each block.
//!
//! A depthwise output never reaches memory: a strip of its rows is computed into the cache and goes
//! from there into the product with the pointwise filter. The first stages, whose maps are large, are
//! taken depth first (`strip.rs`). With many images every thread takes a few whole ones through all
//! layers; with few, each layer of an image is shared out over them (`inference/single.rs`).

mod single;

use half::bf16;
use mobilenet_kernels::gemm::{self, Epilogue, MatrixMut, MatrixRef};
use mobilenet_kernels::parallel::{Shares, chunks, ranges};
use mobilenet_kernels::{Buffer, Clamp, Element, Isa, element, pooling};

pub(super) use single::has_few_pixels;
use single::spread_image;

use super::plan::{Plan, Stage};
use super::precision::{Next, Number, Precision};
use super::stage::{self, Copied};
use super::strip::{self, Kept, depth_first, output_stride};
use super::timing::{CLASSIFIER, Pass, Timing};
use super::{Classifier, Conv, CpuExecutor, Engine, Images, Input, Stored};
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

/// What a pass needs of the executor.
pub(super) struct Network<'a> {
    pub engine: &'a mut Engine,
    pub timing: &'a mut Timing,
    pub convs: &'a [Conv],
    pub parameters: &'a [Stored],
    pub classifier: &'a Classifier,
    pub epsilon: f32,
}

/// Inference in the precision that was asked for.
#[derive(Debug)]
pub(super) enum Inference {
    F32(InferenceIn<f32>),
    Bf16(InferenceIn<bf16>),
}

/// Calls a method of whichever it is.
macro_rules! in_either {
    ($inference:expr, $name:ident => $body:expr) => {
        match $inference {
            Inference::F32($name) => $body,
            Inference::Bf16($name) => $body,
        }
    };
}

/// Folded weights, and the memory of a pass, in one precision.
#[derive(Debug)]
pub(super) struct InferenceIn<E: Number> {
    plan: Plan<E>,
    /// Feature maps between stages of the images that all threads share.
    maps: [Buffer<E::Map>; 2],
    /// What the classifier reads.
    pooled: Buffer<E>,
    /// The parts of one image's logits that some features each have.
    partial: Buffer,
    /// One a thread.
    memory: Vec<Memory<E>>,
    /// The threads' shares of each stage's work on one image (of those taken depth first, with the last one's).
    shares: Vec<Shares>,
    /// Where the groups of whole images of the last batch ended.
    groups: Vec<usize>,
    /// The pass that memory was last taken for.
    room: Option<Room>,
}

/// A pass, as far as its threads' memory depends on it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Room {
    stages: usize,
    /// Of these, taken depth first.
    first: usize,
    /// Images that a thread takes together.
    together: usize,
    /// Whether some images are shared out over the threads.
    shared: bool,
}

/// One thread's memory for inference.
#[derive(Debug)]
struct Memory<E: Number> {
    /// Of the stages that are taken depth first.
    kept: Vec<Kept<E>>,
    /// Feature maps between the others.
    maps: [Buffer<E::Map>; 2],
    patches: Buffer<E>,
    /// Patches of several images.
    gathered: Buffer<E>,
    copied: Copied<E>,
    end: Mean,
}

/// Memory of what becomes of an image's last map: its mean, or the map itself.
#[derive(Debug, Default)]
struct Mean {
    sums: Vec<f64>,
    values: Vec<f32>,
}

impl<E: Number> Default for Memory<E> {
    fn default() -> Self {
        Self {
            kept: Vec::new(),
            maps: Default::default(),
            patches: Buffer::default(),
            gathered: Buffer::default(),
            copied: Copied::default(),
            end: Mean::default(),
        }
    }
}

impl<E: Number> Memory<E> {
    /// Takes what a thread needs for `stages`, the `first` of them depth first, of one image, or of as many as it takes
    /// `together`.
    fn reserve(&mut self, plan: &Plan<E>, stages: &[Stage<E>], first: usize, together: usize) {
        let Self { kept, maps, patches, gathered, copied, end } = self;
        strip::reserve(plan, &stages[..first], kept);
        for stage in stages {
            patches.at_least(stage.most_patches(plan.isa));
            copied.reserve(stage);
        }
        // A last product's columns for the classifier, and their means.
        let Some(last) = stages.last().filter(|last| last.depthwise.is_some()) else { return };
        let Shape { channels, .. } = last.layer.output;
        if let Some(block) = E::classifier_block(channels) {
            maps[0].at_least(last.layer.output.pixels() * block);
            gathered.at_least(block);
        }
        end.reserve(channels);
        if together > 0 {
            reserve_group(plan, (stages, first), together, maps, gathered);
        }
    }
}

impl Mean {
    fn reserve(&mut self, features: usize) {
        self.sums.resize(features.max(self.sums.len()), 0.0);
        self.values.reserve(features.saturating_sub(self.values.len()));
    }
}

impl Inference {
    /// Nothing is folded yet.
    pub fn new(precision: Precision, isa: Isa, clamp: Clamp, threads: usize) -> Self {
        match precision {
            Precision::F32 => Self::F32(InferenceIn::new(isa, clamp, threads)),
            Precision::Bf16 => Self::Bf16(InferenceIn::new(isa, clamp, threads)),
        }
    }

    /// The precision.
    pub fn precision(&self) -> Precision {
        match self {
            Self::F32(_) => Precision::F32,
            Self::Bf16(_) => Precision::Bf16,
        }
    }
}

impl CpuExecutor {
    /// The parts of an executor that inference works with.
    fn inference(&mut self) -> (Network<'_>, &mut Inference) {
        let Self { architecture, engine, timing, convs, parameters, classifier, inference, .. } = self;
        let epsilon = architecture.conventions.bn_epsilon;
        (Network { engine, timing, convs, parameters, classifier, epsilon }, inference)
    }

    /// Drops what was folded from parameters that may have changed: all but the frozen stages.
    pub(super) fn forget_folded(&mut self) {
        let frozen = self.frozen.stages;
        in_either!(&mut self.inference, inference => inference.forget_behind(frozen));
    }

    /// Drops everything that was folded.
    pub(super) fn forget_all_folded(&mut self) {
        in_either!(&mut self.inference, inference => inference.forget_behind(0));
    }

    /// Logits `[N, outputs]` of a batch of images, or of features that [`CpuExecutor::run_features`]
    /// gave.
    pub(super) fn run_inference(&mut self, input: Input) -> Tensor {
        let (mut network, inference) = self.inference();
        in_either!(inference, inference => inference.logits(&mut network, input))
    }

    /// Pooled features `[N, features]` of a batch of images.
    pub(super) fn run_features(&mut self, images: Images) -> Tensor {
        let features = self.classifier.features;
        let mut pooled = Tensor::zeros(&[images.count(), features]);
        self.pool_rows(Input::Images(images), pooled.data_mut(), features);
        pooled
    }

    /// The activated feature maps behind the stem and `blocks` blocks, `[N, h, w, channels]`.
    pub(super) fn run_maps(&mut self, images: Images, blocks: usize) -> Tensor {
        let ends = self.convs.iter().filter(|conv| conv.layer.operator != Operator::Depthwise);
        let last = ends.take(blocks + 1).last().map(|conv| conv.layer.output);
        let Shape { height, width, channels } = last.unwrap_or(self.architecture.input_shape());
        let mut maps = Tensor::zeros(&[images.count(), height, width, channels]);
        self.run_stages(images, blocks + 1, End::Map, maps.data_mut(), height * width * channels);
        maps
    }

    /// Writes what the classifier reads to rows of `output` that are `stride` apart.
    pub(super) fn pool_rows(&mut self, input: Input, output: &mut [f32], stride: usize) {
        let (mut network, inference) = self.inference();
        in_either!(inference, inference => inference.pool(&mut network, input, (output, stride)));
    }

    /// Takes each image through the first `stages` stages (at least one) and writes what `end` says
    /// to rows of `output` that are `stride` apart.
    pub(super) fn run_stages<O: Element>(
        &mut self,
        images: Images,
        stages: usize,
        end: End,
        output: &mut [O],
        stride: usize,
    ) {
        let (mut network, inference) = self.inference();
        in_either!(inference, inference => inference.run(&mut network, images, stages, end, (output, stride)));
    }
}

impl Network<'_> {
    /// Number of stages: the stem, and one a block.
    fn stages(&self) -> usize {
        self.convs.iter().filter(|conv| conv.layer.operator != Operator::Depthwise).count()
    }
}

impl<E: Number> InferenceIn<E> {
    fn new(isa: Isa, clamp: Clamp, threads: usize) -> Self {
        Self {
            plan: Plan::new(isa, clamp),
            maps: Default::default(),
            pooled: Buffer::default(),
            partial: Buffer::default(),
            memory: std::iter::repeat_with(Memory::default).take(threads).collect(),
            shares: Vec::new(),
            groups: Vec::new(),
            room: None,
        }
    }

    /// Keeps the first `stages` stages only of what was folded.
    fn forget_behind(&mut self, stages: usize) {
        self.plan.forget_behind(stages);
    }

    /// Takes the memory of every thread for a pass, so that none is taken while it runs, whoever does what.
    fn reserve(&mut self, room: Room) {
        if self.room == Some(room) {
            return;
        }
        let Room { stages, first, together, shared } = room;
        let (plan, stages) = (&self.plan, &self.plan.stages[..stages]);
        for memory in &mut self.memory {
            memory.reserve(plan, stages, first, together);
        }
        if shared {
            reserve_maps((stages, first), |_| 1, &mut self.maps);
        }
        self.shares.resize_with(stages.len().max(self.shares.len()), Shares::default);
        self.room = Some(room);
    }

    fn logits(&mut self, network: &mut Network, input: Input) -> Tensor {
        let stride = E::padded_stride(network.engine.isa, network.classifier.features);
        let batch = input.batch();
        let stages = if matches!(input, Input::Images(_)) { network.stages() } else { 0 };
        self.plan.fold(network, stages, true);
        if let Input::Images(image) = input
            && batch == 1
            && let Some(logits) = self.logits_of_one(network, image)
        {
            return logits;
        }
        let mut pooled = std::mem::take(&mut self.pooled);
        let rows = &mut pooled.at_least(batch * stride)[..batch * stride];
        self.pool(network, input, (rows, stride));
        let Network { engine, timing, parameters, classifier, .. } = network;
        let packed = self.plan.classifier.as_ref().expect("it has been folded");
        let start = timing.start();
        let bias = &parameters[classifier.bias].value;
        let logits = classify::<E>(engine, (rows, stride), classifier, packed, bias);
        timing.stop(start, Pass::Infer, CLASSIFIER);
        self.pooled = pooled;
        logits
    }

    /// Writes what the classifier reads to rows of `output` that are `stride` apart.
    fn pool<O: Element>(&mut self, network: &mut Network, input: Input, (output, stride): (&mut [O], usize)) {
        let features = network.classifier.features;
        match input {
            Input::Images(images) => {
                let stages = network.stages();
                self.run(network, images, stages, End::Pool(features), (output, stride));
            }
            Input::Features(values, _) => {
                for (to, from) in output.chunks_exact_mut(stride).zip(values.chunks_exact(features)) {
                    element::convert(self.plan.isa, from, &mut to[..features]);
                }
            }
        }
    }

    /// See [`CpuExecutor::run_stages`].
    fn run<O: Element>(
        &mut self,
        network: &mut Network,
        images: Images,
        stages: usize,
        end: End,
        (output, stride): (&mut [O], usize),
    ) {
        self.plan.fold(network, stages, false);
        let Network { engine, timing, .. } = network;
        let batch = images.count();
        let threads = engine.pool.threads();
        let first = depth_first(&self.plan.stages[..stages]);
        // Whole images for each thread as long as there are enough for all. (Layers can be told apart only where one
        // follows the other.)
        let each = if timing.is_on() { 0 } else { batch / threads };
        let done = each * threads;
        let together = each.min(group_of(&self.plan.stages[..stages]));
        self.reserve(Room { stages, first, together, shared: done < batch });
        let Self { plan, maps, memory, shares, groups, .. } = self;
        let plan = &*plan;
        let stages = &plan.stages[..stages];
        if each > 0 {
            group_ends(each, group_of(stages), threads, groups);
            let groups = &groups[..];
            let rows = ranges(chunks(&mut output[..done * stride], stride), groups);
            engine.pool.run(groups.len(), memory, rows, |item, memory, rows| {
                let end_image = groups[item];
                let images = images.some(end_image - rows.len() / stride..end_image);
                run_group(plan, stages, first, images, memory, |index, map, mean| {
                    let map = (map, stages.last().and_then(|stage| stage.centre.as_deref()));
                    end.write(plan.isa, map, mean, &mut rows[index * stride..][..stride]);
                });
            });
        }
        for image in done..batch {
            spread_image(
                plan,
                (stages, stages.len()),
                (&mut engine.pool, shares, memory),
                timing,
                images.one(image),
                maps,
            );
            let current = &maps[0];
            let (last, centre) =
                stages.last().map_or((0, None), |stage| (stage.layer.output.len(), stage.centre.as_deref()));
            let row = &mut output[image * stride..][..stride];
            end.write(plan.isa, (&current[..last], centre), &mut memory[0].end, row);
        }
    }
}

/// Logits from rows of features that are `stride` apart, shared out by columns: rows are few.
pub(super) fn classify<E: Number>(
    engine: &mut Engine,
    (rows, stride): (&[E], usize),
    classifier: &Classifier,
    packed: &E::Classifier,
    bias: &[f32],
) -> Tensor {
    let (batch, features, outputs) = (rows.len() / stride, classifier.features, classifier.outputs);
    let mut logits = Tensor::zeros(&[batch, outputs]);
    let epilogue = Epilogue { bias: Some(bias), clamp: None, lowered: None };
    let block = (64usize).next_multiple_of(E::column_step(engine.isa));
    let columns = gemm::column_blocks(logits.data_mut(), (outputs, outputs), block);
    engine.pool.run(outputs.div_ceil(block), &mut engine.scratch, columns, |item, _, output| {
        let a = MatrixRef::new(rows, batch, features, stride);
        E::classify(a, packed, item * block, output, epilogue);
    });
    logits
}

/// How many images to take through the last stages together.
fn group_of<E: Number>(stages: &[Stage<E>]) -> usize {
    /// Pixels that are worth reading a panel of weights for.
    const PIXELS: usize = 196;
    const MOST: usize = 8;
    match stages.last() {
        Some(last) if last.depthwise.is_some() => (PIXELS / last.layer.output.pixels()).clamp(1, MOST),
        _ => 1,
    }
}

/// Cuts `each` images for each of `threads` into groups of at most `most`, smaller ones last: a thread that is done
/// takes what another has left, and the less that is, the less the others wait for it.
fn group_ends(each: usize, most: usize, threads: usize, ends: &mut Vec<usize>) {
    ends.clear();
    for thread in 0..threads {
        let (mut end, all) = (thread * each, (thread + 1) * each);
        while end < all {
            end += (all - end).div_ceil(3).min(most);
            ends.push(end);
        }
    }
}

/// Stages that a group's images go through alone, of which there are `count`.
fn alone<E: Number>(stages: &[Stage<E>], first: usize, count: usize) -> usize {
    // From here on the product's rows are those of all images.
    let few = |stage: &Stage<E>| stage.is_small() && stage.depthwise.is_some();
    match stages.iter().rposition(|stage| !few(stage)) {
        Some(last) if count > 1 => (last + 1).max(first),
        _ => stages.len(),
    }
}

/// Takes the memory that [`run_group`] needs for up to `most` images.
fn reserve_group<E: Number>(
    plan: &Plan<E>,
    (stages, first): (&[Stage<E>], usize),
    most: usize,
    maps: &mut [Buffer<E::Map>; 2],
    gathered: &mut Buffer<E>,
) {
    // (One image goes through all stages alone, and then through none with others.)
    let alone = alone(stages, first, most);
    reserve_maps((stages, first), |index| if index < alone { 1 } else { most }, maps);
    for stage in &stages[alone..] {
        gathered.at_least(most * stage.layer.output.pixels() * stage.patch_stride(plan.isa));
    }
}

/// Takes the memory of the maps between stages of `count(stage)` images. (Which of the two a stage writes depends on
/// how many there are.)
fn reserve_maps<E: Number>(
    (stages, first): (&[Stage<E>], usize),
    count: impl Fn(usize) -> usize,
    maps: &mut [Buffer<E::Map>; 2],
) {
    for (index, stage) in stages.iter().enumerate().skip(first - 1) {
        let stride = output_stride(stage, stages.get(index + 1));
        for map in &mut *maps {
            map.at_least(count(index) * stage.layer.output.pixels() * stride);
        }
    }
}

/// Takes images through all stages on one thread: each alone as long as its maps are large, then all
/// together. Calls `finish(index, last map, memory)` for each.
fn run_group<E: Number>(
    plan: &Plan<E>,
    stages: &[Stage<E>],
    first: usize,
    images: Images,
    memory: &mut Memory<E>,
    mut finish: impl FnMut(usize, &[E::Map], &mut Mean),
) {
    let Memory { kept, maps: [current, next], patches, gathered, copied, end } = memory;
    let count = images.count();
    let together = alone(stages, first, count);
    let stride_of = |index: usize| output_stride(&stages[index], stages.get(index + 1));
    for image in 0..count {
        let Shape { height, width, .. } = stages[first - 1].layer.output;
        let stride = stride_of(first - 1);
        let map = next.at_least(height * width * stride);
        strip::rows(plan, &stages[..first], kept, images.one(image), 0..height, (map, stride));
        std::mem::swap(current, next);
        for (index, stage) in stages.iter().enumerate().take(together).skip(first) {
            let Shape { height, width, .. } = stage.layer.output;
            let stride = stride_of(index);
            let output = next.at_least(height * width * stride);
            copied.start(0);
            let mut map = stage.map(current);
            let input = stage::Input::Rows(&mut map);
            stage.rows(plan, input, 0..height, (output, stride), (&mut *patches, &mut *copied));
            std::mem::swap(current, next);
        }
        match stages.get(together) {
            Some(stage) => stage.read(plan, current, (image, count), gathered),
            None => finish(image, &current[..stages[stages.len() - 1].layer.output.len()], end),
        }
    }
    for (index, stage) in stages.iter().enumerate().skip(together) {
        let Shape { height, width, channels } = stage.layer.output;
        let (pixels, stride) = (count * height * width, stride_of(index));
        let output = next.at_least(pixels * stride);
        let output = MatrixMut::new(output, pixels, channels, stride);
        stage.multiply(plan, gathered, pixels, (0, output), Next::default());
        std::mem::swap(current, next);
        for (image, map) in current[..pixels * stride].chunks_exact(height * width * stride).enumerate() {
            match stages.get(index + 1) {
                Some(next) => next.read(plan, map, (image, count), gathered),
                None => finish(image, map, end),
            }
        }
    }
}

impl<E: Number> Stage<E> {
    /// Makes the patches of one image of `count` beside those of the others.
    fn read(&self, plan: &Plan<E>, map: &[E::Map], (image, count): (usize, usize), patches: &mut Buffer<E>) {
        let Shape { height, width, .. } = self.layer.output;
        let stride = self.patch_stride(plan.isa);
        let len = height * width * stride;
        let patches = &mut patches.at_least(count * len)[image * len..][..len];
        if let Some(depthwise) = &self.depthwise {
            depthwise.rows(plan, &mut self.map(map), 0..height, (patches, stride), &[]);
        }
    }
}

impl End {
    /// Writes what becomes of a map that is kept less `centre`, if it is.
    fn write<E: Element, O: Element>(
        self,
        isa: Isa,
        (map, centre): (&[E], Option<&[f32]>),
        Mean { sums, values }: &mut Mean,
        row: &mut [O],
    ) {
        match (self, centre) {
            (Self::Pool(features), _) => {
                sums.resize(features, 0.0);
                values.resize(features, 0.0);
                pooling::global_average(isa, map, sums, values);
            }
            (Self::Map, None) => return element::convert(isa, map, row),
            (Self::Map, Some(_)) => {
                values.resize(map.len(), 0.0);
                element::convert(isa, map, values);
            }
        }
        if let Some(centre) = centre {
            for pixel in values.chunks_exact_mut(centre.len()) {
                pixel.iter_mut().zip(centre).for_each(|(value, centre)| *value += centre);
            }
        }
        element::convert(isa, values, &mut row[..values.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::group_ends;

    #[test]
    fn groups_of_images_end_small_and_every_thread_has_as_many() {
        let mut ends = vec![7];
        group_ends(16, 4, 2, &mut ends);
        assert_eq!(ends, [4, 8, 11, 13, 14, 15, 16, 20, 24, 27, 29, 30, 31, 32]);
        for (each, most, threads) in [(1, 4, 3), (2, 1, 2), (5, 8, 1), (100, 4, 7)] {
            group_ends(each, most, threads, &mut ends);
            assert!(ends.len().is_multiple_of(threads));
            assert_eq!(ends.last(), Some(&(each * threads)));
            assert!(
                ends.iter().zip(std::iter::once(&0).chain(&ends)).all(|(end, start)| end - start <= most)
            );
            assert!((1..=threads).all(|thread| ends.contains(&(thread * each))));
        }
    }
}
