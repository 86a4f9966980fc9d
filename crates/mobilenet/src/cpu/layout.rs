//! Where a training step keeps what it remembers: one block of memory for all raw outputs and for the
//! gradients that go back through them.
//!
//! The raw outputs stand in the order of the layers. On the way back those behind the layer at work are
//! no longer needed, and the gradients of two neighbouring activated outputs, which are all that live at
//! a time, lie there: by turns at the block's end and right behind what is still kept.
//!
//! With [`recompute`](super::CpuOptions::recompute) a depthwise layer's raw output is not kept. It is
//! computed into memory that all of them share, once on the way forward and once on the way back.

use std::ops::Range;

use super::Conv;
use crate::architecture::Operator;

/// Where a layer's raw output is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Place {
    /// In the block, to stay.
    Kept(Range<usize>),
    /// In the shared memory, until the next such layer: so many values.
    Shared(usize),
}

/// The places of a pass over some layers, by their indices from the first one on.
#[derive(Clone, Debug, Default)]
pub(super) struct Layout {
    /// Of the raw outputs.
    pub outputs: Vec<Place>,
    /// Where the raw outputs up to each layer end.
    pub kept: Vec<usize>,
    /// Of the gradients of the activated outputs.
    pub gradients: Vec<Range<usize>>,
    /// Of the gradient of what the first layer reads (empty when it needs none).
    pub input_gradient: Range<usize>,
    /// Values of the block.
    pub len: usize,
    /// Values of the shared memory.
    pub shared: usize,
}

impl Layout {
    /// Plans a pass of `batch` images through `convs`.
    pub fn new(convs: &[Conv], batch: usize, recompute: bool) -> Self {
        let mut layout = Self::default();
        let mut end = 0;
        for (index, conv) in convs.iter().enumerate() {
            let len = batch * conv.layer.output.len();
            // (What is computed again must be computed from what is kept.)
            let from_kept = index == 0 || matches!(layout.outputs[index - 1], Place::Kept(_));
            if recompute && from_kept && conv.layer.operator == Operator::Depthwise {
                layout.shared = layout.shared.max(len);
                layout.outputs.push(Place::Shared(len));
            } else {
                layout.outputs.push(Place::Kept(end..end + len));
                end = lines(end + len);
            }
            layout.kept.push(end);
        }
        // Gradients, from the last layer's on: lengths first, then places.
        let mut lens: Vec<usize> = convs.iter().rev().map(|conv| batch * conv.layer.output.len()).collect();
        let first = convs.first().filter(|conv| conv.layer.operator != Operator::Conv);
        lens.push(first.map_or(0, |conv| batch * conv.layer.input.len()));
        // What is kept while gradient `turn` is written: all up to the layer that it comes back through.
        let kept = |turn: usize| layout.kept[convs.len() - turn.max(1)];
        let at_end = |turn: usize| turn.is_multiple_of(2);
        layout.len = (1..lens.len())
            .map(|turn| {
                let behind = if at_end(turn) { kept(turn - 1) } else { kept(turn) };
                behind + lines(lens[turn]) + lines(lens[turn - 1])
            })
            .max()
            .unwrap_or(0);
        let mut gradients: Vec<_> = (0..lens.len())
            .map(|turn| {
                let len = lens[turn];
                let start = if at_end(turn) { layout.len - lines(len) } else { kept(turn) };
                start..start + len
            })
            .collect();
        layout.input_gradient = gradients.pop().unwrap_or_default();
        gradients.reverse();
        layout.gradients = gradients;
        layout
    }

    /// Whether layer `index` leaves its raw output in the shared memory.
    pub fn is_shared(&self, index: usize) -> bool {
        matches!(self.outputs[index], Place::Shared(_))
    }

    /// What layer `index` reads, given what the first one reads, and its raw output, to be written.
    pub fn forward<'a, E>(
        &self,
        index: usize,
        input: &'a [E],
        block: &'a mut [E],
        shared: &'a mut [E],
    ) -> (&'a [E], &'a mut [E]) {
        match (index.checked_sub(1).map(|before| &self.outputs[before]), &self.outputs[index]) {
            (None, Place::Kept(output)) => (input, &mut block[output.clone()]),
            (None, Place::Shared(len)) => (input, &mut shared[..*len]),
            (Some(Place::Kept(source)), Place::Shared(len)) => (&block[source.clone()], &mut shared[..*len]),
            (Some(Place::Shared(len)), Place::Kept(output)) => (&shared[..*len], &mut block[output.clone()]),
            (Some(Place::Kept(source)), Place::Kept(output)) => {
                let (before, rest) = block.split_at_mut(output.start);
                (&before[source.clone()], &mut rest[..output.len()])
            }
            (Some(Place::Shared(_)), Place::Shared(_)) => unreachable!("`new` keeps what is read"),
        }
    }

    /// For the way back through layer `index`: what it reads, its raw output, the gradient of its
    /// activated output, and that of what it reads, to be written.
    pub fn backward<'a, E>(
        &self,
        index: usize,
        input: &'a [E],
        block: &'a mut [E],
        shared: &'a [E],
    ) -> (&'a [E], &'a [E], &'a [E], &'a mut [E]) {
        let end = self.kept[index];
        let (kept, behind) = block.split_at_mut(end);
        let kept = &*kept;
        let values = |place: &Place| match place {
            Place::Kept(range) => &kept[range.clone()],
            Place::Shared(len) => &shared[..*len],
        };
        let (source, to) = match index.checked_sub(1) {
            Some(before) => (values(&self.outputs[before]), &self.gradients[before]),
            None => (input, &self.input_gradient),
        };
        let from = &self.gradients[index];
        let (from, to) = (from.start - end..from.end - end, to.start - end..to.end - end);
        let (d_output, d_input) = if from.end <= to.start {
            let (left, right) = behind.split_at_mut(to.start);
            (&left[from], &mut right[..to.len()])
        } else {
            let (left, right) = behind.split_at_mut(from.start);
            (&right[..from.len()], &mut left[to])
        };
        (source, values(&self.outputs[index]), d_output, d_input)
    }
}

/// The values of whole cache lines that hold `len` values, be they of 32 bits or 16.
fn lines(len: usize) -> usize {
    len.next_multiple_of(32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::{Architecture, Body};
    use crate::cpu::{CpuExecutor, CpuOptions};
    use crate::weights::Weights;

    /// All places of a pass hold what they should while they should.
    #[test]
    fn nothing_that_is_needed_is_overwritten() {
        for (body, width, batch) in
            [(Body::Separable, 0.25, 3), (Body::Shallow, 0.3, 1), (Body::Full, 0.5, 2)]
        {
            let architecture =
                Architecture { body, width_multiplier: width, resolution: 48, ..Architecture::default() };
            let weights = Weights::random(&architecture, 1).unwrap();
            let executor = CpuExecutor::new(&architecture, &weights, &CpuOptions::default()).unwrap();
            for (first, recompute) in [(0, false), (0, true), (1, true), (3, false), (5, true)] {
                let convs = &executor.convs[first..];
                let layout = Layout::new(convs, batch, recompute);
                let mut block = vec![f32::NAN; layout.len];
                let mut shared = vec![f32::NAN; layout.shared];
                let input = vec![-1.0; batch * convs[0].layer.input.len()];
                for (index, conv) in convs.iter().enumerate() {
                    let (source, output) = layout.forward(index, &input, &mut block, &mut shared);
                    assert_eq!(source.len(), batch * conv.layer.input.len());
                    assert_eq!(output.len(), batch * conv.layer.output.len());
                    assert!(source.iter().all(|&v| v == index as f32 - 1.0));
                    output.fill(index as f32);
                }
                block[layout.gradients.last().unwrap().clone()].fill(1000.0 + convs.len() as f32 - 1.0);
                for index in (0..convs.len()).rev() {
                    // What is not kept is computed again.
                    for again in [index.checked_sub(1), Some(index)].into_iter().flatten() {
                        if let Place::Shared(len) = layout.outputs[again] {
                            shared[..len].fill(again as f32);
                        }
                    }
                    let (source, z, d, d_input) = layout.backward(index, &input, &mut block, &shared);
                    assert!(source.iter().all(|&v| v == index as f32 - 1.0));
                    assert!(z.iter().all(|&v| v == index as f32));
                    assert!(d.iter().all(|&v| v == 1000.0 + index as f32), "layer {index}");
                    let wanted = if index > 0 || convs[0].layer.operator != Operator::Conv {
                        batch * convs[index].layer.input.len()
                    } else {
                        0
                    };
                    assert_eq!(d_input.len(), wanted);
                    d_input.fill(1000.0 + index as f32 - 1.0);
                }
            }
        }
    }

    #[test]
    fn gradients_take_little_beside_the_outputs() {
        let architecture = Architecture::default();
        let weights = Weights::random(&architecture, 1).unwrap();
        let executor = CpuExecutor::new(&architecture, &weights, &CpuOptions::default()).unwrap();
        let outputs: usize = executor.convs.iter().map(|conv| conv.layer.output.len()).sum();
        let layout = Layout::new(&executor.convs, 1, false);
        assert!(layout.len < outputs + outputs / 25, "{} beside {outputs}", layout.len);
        let without = Layout::new(&executor.convs, 1, true);
        assert!(without.len + without.shared < outputs * 3 / 4, "{} and {}", without.len, without.shared);
    }
}
