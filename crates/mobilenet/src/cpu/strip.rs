//! The first stages of an image depth first: a row of a large feature map is made when the next stage
//! needs it, and only the few rows that its filter reaches over are kept. So these maps, each larger
//! than the second-level cache, never leave it.

use std::ops::Range;

use mobilenet_kernels::Buffer;

use super::images::Images;
use super::plan::{Plan, Stage};
use super::precision::Number;
use super::stage::{Copied, Input, Rows};

/// How many of `stages` to take depth first: those up to the last that writes a large map, at least one.
pub(super) fn depth_first<E: Number>(stages: &[Stage<E>]) -> usize {
    stages.iter().rposition(|stage| stage.layer.output.len() > E::LARGE_MAP).map_or(1, |last| last + 1)
}

/// Rows of a stage that are made at a time.
const STEP: usize = 4;

/// What one stage keeps while an image's rows are made.
#[derive(Debug)]
pub(super) struct Kept<E: Number> {
    /// Its last few output rows.
    rows: Buffer<E::Map>,
    slots: usize,
    row_len: usize,
    /// The next output row to make,
    next: usize,
    /// and the one behind the last.
    end: usize,
    /// What its product reads.
    patches: Buffer<E>,
    /// What it reads, if it is a full convolution.
    copied: Copied<E>,
}

impl<E: Number> Default for Kept<E> {
    fn default() -> Self {
        Self {
            rows: Buffer::default(),
            slots: 0,
            row_len: 0,
            next: 0,
            end: 0,
            patches: Buffer::default(),
            copied: Copied::default(),
        }
    }
}

impl<E: Number> Kept<E> {
    /// Rows of `stage` that are kept for `next`, and their length. (Rows are made so many at a time, and as many lie
    /// between what is made and what is read.)
    fn room(stage: &Stage<E>, next: &Stage<E>) -> (usize, usize) {
        let slots = (next.reaches_over() + STEP - 1).next_multiple_of(STEP);
        (slots, stage.layer.output.width * next.input_stride())
    }
}

/// Takes the memory for `stages`, depth first.
pub(super) fn reserve<E: Number>(plan: &Plan<E>, stages: &[Stage<E>], kept: &mut Vec<Kept<E>>) {
    kept.resize_with(stages.len().max(kept.len()), Kept::default);
    for (index, (stage, kept)) in stages.iter().zip(kept).enumerate() {
        if let Some(next) = stages.get(index + 1) {
            let (slots, row_len) = Kept::room(stage, next);
            kept.rows.at_least(slots * row_len);
        }
        kept.patches.at_least(stage.most_patches(plan.isa));
        kept.copied.reserve(stage);
    }
}

/// Makes rows of the last of some stages, and of those before it what these need.
struct Strip<'a, E: Number> {
    plan: &'a Plan<E>,
    stages: &'a [Stage<E>],
    kept: &'a mut [Kept<E>],
    image: Images<'a>,
}

/// Takes an image through `stages`, as far as the output rows `rows` of the last one need it. Their
/// pixels are `stride` apart in `output`.
pub(super) fn rows<E: Number>(
    plan: &Plan<E>,
    stages: &[Stage<E>],
    kept: &mut [Kept<E>],
    image: Images,
    rows: Range<usize>,
    output: (&mut [E::Map], usize),
) {
    let Some((last, before)) = stages.split_last() else { return };
    let (kept_before, kept_last) = kept.split_at_mut(before.len());
    let mut start = last.reach(rows.start).start;
    let mut end = last.reach(rows.end.max(1) - 1).end;
    kept_last[0].copied.start(start);
    for ((index, stage), kept) in before.iter().enumerate().zip(kept_before.iter_mut()).rev() {
        let next = &stages[index + 1];
        (kept.slots, kept.row_len) = Kept::room(stage, next);
        kept.next = start;
        kept.end = end;
        start = stage.reach(start).start;
        end = stage.reach(end.max(1) - 1).end;
        kept.copied.start(start);
    }
    let Kept { patches, copied, .. } = &mut kept_last[0];
    let mut strip = Strip { plan, stages: before, kept: kept_before, image };
    let input = if before.is_empty() { Input::Image(image) } else { Input::Rows(&mut strip) };
    last.rows(plan, input, rows, output, (patches, copied));
}

impl<E: Number> Rows<E::Map> for Strip<'_, E> {
    fn make(&mut self, end: usize) {
        let (Some((stage, stages)), Some((last, kept))) =
            (self.stages.split_last(), self.kept.split_last_mut())
        else {
            return;
        };
        let (plan, image) = (self.plan, self.image);
        let stride = last.row_len / stage.layer.output.width;
        let end = end.next_multiple_of(STEP).min(last.end);
        while last.next < end {
            let (y, slot) = (last.next, last.next % last.slots);
            let count = (end - y).min(last.slots - slot);
            let output = &mut last.rows[slot * last.row_len..][..count * last.row_len];
            let mut strip = Strip { plan, stages, kept: &mut *kept, image };
            let input = if stages.is_empty() { Input::Image(image) } else { Input::Rows(&mut strip) };
            stage.rows(plan, input, y..y + count, (output, stride), (&mut last.patches, &mut last.copied));
            last.next += count;
        }
    }

    fn row(&self, y: usize) -> &[E::Map] {
        let last = &self.kept[self.kept.len() - 1];
        &last.rows[y % last.slots * last.row_len..][..last.row_len]
    }
}

/// The pixel stride at which the stage before `next` writes, `None` being the end.
pub(super) fn output_stride<E: Number>(stage: &Stage<E>, next: Option<&Stage<E>>) -> usize {
    let channels = stage.layer.output.channels;
    next.map_or(channels, |next| match next.depthwise {
        Some(_) => E::pixel_stride(channels),
        None => channels,
    })
}
