//! One image: the rows (or, where those are few, the output channels) of each layer are shared out over the
//! threads, to each as many as it is fast.

use mobilenet_kernels::Buffer;
use mobilenet_kernels::gemm::{self, Epilogue, MatrixMut, MatrixRef};
use mobilenet_kernels::parallel::{Pool, Shares, chunks};

use super::{End, InferenceIn, Memory, Network, Room};
use crate::architecture::Shape;
use crate::cpu::Images;
use crate::cpu::plan::{Plan, Stage};
use crate::cpu::precision::{Next, Number};
use crate::cpu::stage::{self, Later};
use crate::cpu::strip::{self, depth_first, output_stride};
use crate::cpu::timing::{Pass, Timing};
use crate::tensor::Tensor;

/// What several threads work with: their pool, how the work at hand is shared out, and each one's memory.
type Threads<'a, E> = (&'a mut Pool, &'a mut Shares, &'a mut [Memory<E>]);

/// Rows of a map that are shared out together: groups of rows cost less than single ones, and every thread
/// should have several.
fn rows_of_share(height: usize, threads: usize) -> usize {
    /// Groups for each thread.
    const GROUPS: usize = 7;
    (height / (GROUPS * threads)).max(1)
}

/// Takes one image through the first `end` of some stages, each shared out over the threads. The last map is then in
/// the first of `maps`.
pub(super) fn spread_image<E: Number>(
    plan: &Plan<E>,
    (stages, end): (&[Stage<E>], usize),
    (pool, shares, memory): (&mut Pool, &mut [Shares], &mut [Memory<E>]),
    timing: &mut Timing,
    image: Images,
    [current, next]: &mut [Buffer<E::Map>; 2],
) {
    let stride_of = |index: usize| output_stride(&stages[index], stages.get(index + 1));
    // Layers can be told apart only where one follows the other.
    let first = if timing.is_on() { 1 } else { depth_first(&stages[..end]) };
    for index in first - 1..end {
        let start = timing.start();
        let (threads, output) =
            ((&mut *pool, &mut shares[index], &mut *memory), (&mut *next, stride_of(index)));
        if index < first {
            spread_strip(plan, &stages[..first], threads, image, output);
        } else {
            stages[index].spread(plan, threads, current, output);
        }
        timing.stop(start, Pass::Infer, &stages[index].layer.name);
        std::mem::swap(current, next);
    }
}

/// Takes one image through the stages, the output rows of the last one shared out over the threads. At the
/// seams each thread makes the few rows before that it needs itself.
fn spread_strip<E: Number>(
    plan: &Plan<E>,
    stages: &[Stage<E>],
    (pool, shares, memory): Threads<E>,
    image: Images,
    (output, stride): (&mut Buffer<E::Map>, usize),
) {
    let Some(last) = stages.last() else { return };
    let Shape { height, width, .. } = last.layer.output;
    let rows = rows_of_share(height, pool.threads());
    let parts = chunks(output.at_least(height * width * stride), rows * width * stride);
    pool.run_shares(shares, height.div_ceil(rows), memory, parts, |share, memory, output| {
        let rows = share.start * rows..height.min(share.end * rows);
        strip::rows(plan, stages, &mut memory.kept, image, rows, (output, stride));
    });
}

/// Of maps of so few pixels a thread takes a share of the channels, not of the rows: a few rows would waste
/// most of a tile, and take as many weights as many would.
const SHARED_BY_CHANNELS: usize = 49;

/// Whether a thread's share of a stage are channels.
pub(in crate::cpu) fn has_few_pixels<E: Number>(stage: &Stage<E>) -> bool {
    stage.layer.output.pixels() <= SHARED_BY_CHANNELS
}

impl<E: Number> InferenceIn<E> {
    /// The logits of one image, where that is the faster way: the classifier takes the features of some channels as
    /// soon as the last product has given these. Its weights are many beside its arithmetic; so they come from
    /// memory while a product is at work, which leaves that idle, and there are few enough of them at a time to stay
    /// in the cache until they are read.
    pub(super) fn logits_of_one(&mut self, network: &mut Network, image: Images) -> Option<Tensor> {
        let Network { engine, timing, parameters, classifier, .. } = network;
        let stages = self.plan.stages.len();
        let last = stages.checked_sub(1)?;
        let block = E::classifier_block(classifier.features)?;
        let first = depth_first(&self.plan.stages);
        // (Layers can be told apart only where one follows the other.)
        if timing.is_on() || !has_few_pixels(&self.plan.stages[last]) || first > last {
            return None;
        }
        self.reserve(Room { stages, first, together: 0, shared: true });
        let Self { plan, maps, partial, memory, shares, .. } = self;
        let (stage, packed) = (&plan.stages[last], plan.classifier.as_ref()?);
        let depthwise = stage.depthwise.as_ref()?;
        spread_image(plan, (&plan.stages, last), (&mut engine.pool, shares, memory), timing, image, maps);
        let (outputs, blocks) = (classifier.outputs, E::classifier_blocks(packed));
        let partial = &mut partial.at_least(blocks.len() * outputs)[..blocks.len() * outputs];
        let Shape { height, width, channels } = stage.layer.output;
        let (pixels, map) = (height * width, stage.map(&maps[0]));
        let parts = chunks(&mut *partial, outputs);
        engine.pool.run_shares(&mut shares[last], blocks.len(), memory, parts, |share, memory, partial| {
            let Memory { patches, gathered, maps: [output, _], end, .. } = memory;
            let first = share.start * block;
            let patches = stage.make_patches(plan, depthwise, &mut { map }, 0..height, first, patches);
            for (at, partial) in share.clone().zip(partial.chunks_exact_mut(outputs)) {
                let columns = at * block..channels.min((at + 1) * block);
                let output = &mut output.at_least(pixels * block)[..pixels * columns.len()];
                let c = MatrixMut::new(&mut *output, pixels, columns.len(), columns.len());
                let next = Next { weights: E::panels(&blocks[at], 0), map: &[], columns: at + 1 < share.end };
                stage.multiply(plan, patches, pixels, (columns.start, c), next);
                let centre = stage.centre.as_deref().map(|centre| &centre[columns.clone()]);
                let features = &mut gathered.at_least(block)[..columns.len()];
                End::Pool(columns.len()).write(plan.isa, (output, centre), end, features);
                let a = MatrixRef::new(features, 1, columns.len(), columns.len());
                let c = MatrixMut::new(partial, 1, outputs, outputs);
                E::multiply_to_f32(a, &blocks[at], 0, c, Epilogue::default());
            }
        });
        let mut parts = partial.chunks_exact(outputs);
        let mut logits = parts.next()?.to_vec();
        for part in parts.chain([&parameters[classifier.bias].value[..]]) {
            logits.iter_mut().zip(part).for_each(|(logit, part)| *logit += part);
        }
        Some(Tensor::new(&[1, outputs], logits).expect("as many logits as outputs"))
    }
}

impl<E: Number> Stage<E> {
    /// Shares one image's stage out over the threads.
    fn spread(
        &self,
        plan: &Plan<E>,
        (pool, shares, memory): Threads<E>,
        input: &[E::Map],
        (output, stride): (&mut Buffer<E::Map>, usize),
    ) {
        let Shape { height, width, channels } = self.layer.output;
        let output = output.at_least(height * width * stride);
        let threads = pool.threads();
        let map = self.map(input);
        if threads > 1 && has_few_pixels(self) {
            let block = E::column_step(plan.isa);
            let columns = gemm::column_blocks(output, (channels, stride), block);
            pool.run_shares(shares, channels.div_ceil(block), memory, columns, |share, memory, output| {
                let Memory { patches, copied, .. } = memory;
                copied.start(0);
                let mut map = map;
                let input = stage::Input::Rows(&mut map);
                let rows = (0..height, Later::Values(&[]));
                self.product(plan, input, rows, (share.start * block, output), (patches, copied));
            });
            return;
        }
        let rows = rows_of_share(height, threads);
        let parts = chunks(output, rows * width * stride);
        pool.run_shares(shares, height.div_ceil(rows), memory, parts, |share, memory, output| {
            let Memory { patches, copied, .. } = memory;
            let rows = share.start * rows..height.min(share.end * rows);
            copied.start(self.reach(rows.start).start);
            let mut map = map;
            self.rows(plan, stage::Input::Rows(&mut map), rows, (output, stride), (patches, copied));
        });
    }
}
