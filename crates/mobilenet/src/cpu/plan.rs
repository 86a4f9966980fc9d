//! Weights as inference reads them: batch normalisation folded into the filters, filters packed.

use half::f16;
use mobilenet_kernels::parallel::chunks;
use mobilenet_kernels::{Buffer, Clamp, Element, Isa, depthwise};

use super::inference::Network;
use super::precision::Number;
use super::{Conv, Stored, centre};
use crate::architecture::{Layer, Operator};

/// Folded and packed weights, as far as they were needed: the first stages, in order, and the
/// classifier. Whoever changes parameters says so with [`super::CpuExecutor::forget_folded`].
#[derive(Debug)]
pub(super) struct Plan<E: Number> {
    pub isa: Isa,
    pub clamp: Clamp,
    pub stages: Vec<Stage<E>>,
    pub classifier: Option<E::Classifier>,
    /// A row of zeros, as long as any row that a depthwise layer reads.
    pub zeros: Buffer<E::Map>,
    /// Whether the stage behind the last one was folded from other parameters than it has now.
    next_has_changed: bool,
}

/// A full convolution, or a depthwise one with the pointwise one behind it.
#[derive(Debug)]
pub(super) struct Stage<E: Number> {
    pub depthwise: Option<Depthwise<E>>,
    /// The layer whose filter is `filter`: `conv_*` or `pointwise_*`.
    pub layer: Layer,
    pub filter: Filter<E>,
    pub bias: Vec<f32>,
    /// The activation, and what the outputs have to be bounded to beside it so that they can be kept.
    pub clamp: Clamp,
    /// What the outputs are kept less, if they are: see `centre.rs`. (The bias has it taken off.)
    pub centre: Option<Vec<f32>>,
}

#[derive(Debug)]
pub(super) struct Depthwise<E: Number> {
    pub layer: Layer,
    /// What each output is multiplied with, a power of two, in everything that follows here. The pointwise filter makes
    /// up for it.
    pub scale: Vec<f32>,
    /// The filter, `[9][channels]`.
    pub taps: Vec<f32>,
    pub bias: Vec<f32>,
    /// The activation.
    pub clamp: Clamp,
    /// As [`Stage::centre`].
    pub centre: Option<Vec<f32>>,
    /// See [`depthwise::RowEpilogue`].
    pub half_sums: bool,
    /// What is around the map that is read, if that is not zero.
    pub outside: Option<Outside<E>>,
}

/// What stands for zeros around a map that is kept less its centre.
#[derive(Debug)]
pub(super) struct Outside<E: Number> {
    /// See [`depthwise::Centring`].
    pub columns: Vec<f32>,
    /// A row of them.
    pub row: Vec<E::Map>,
}

/// A stage's filter: that of a full convolution, or of a pointwise one.
#[derive(Debug)]
pub(super) enum Filter<E: Number> {
    Full(E::ConvFilter),
    Pointwise(E::Packed),
}

impl<E: Number> Plan<E> {
    /// Nothing is folded yet.
    pub fn new(isa: Isa, clamp: Clamp) -> Self {
        let (stages, zeros) = (Vec::new(), Buffer::default());
        Self { isa, clamp, stages, classifier: None, zeros, next_has_changed: false }
    }

    /// Keeps the first `stages` stages only.
    pub fn forget_behind(&mut self, stages: usize) {
        self.stages.truncate(stages);
        self.classifier = None;
        self.next_has_changed = true;
    }

    /// Folds each batch normalisation into the filter before it, in the first `stages` stages, and
    /// packs the filters; also the classifier's, if it is asked for. What is done already stays.
    /// The parts are shared out over the threads.
    pub fn fold(&mut self, network: &mut Network, stages: usize, classifier: bool) {
        let Network { engine, convs, parameters, epsilon, .. } = network;
        let (convs, parameters) = (*convs, *parameters);
        let statistics = Statistics { parameters, epsilon: f64::from(*epsilon), clamp: self.clamp };
        if std::mem::take(&mut self.next_has_changed)
            && let Some(kept) = self.stages.len().checked_sub(1)
            && let Some(group) = Group::all(convs).nth(kept)
        {
            self.stages[kept].clamp = statistics.clamp_before::<E>(&group);
        }
        let groups: Vec<Group> = Group::all(convs).take(stages).skip(self.stages.len()).collect();
        let classifier = Some(network.classifier).filter(|_| classifier && self.classifier.is_none());
        let items = groups.len() + usize::from(classifier.is_some());
        if items == 0 {
            return;
        }
        let mut parts: Vec<Part<E>> = std::iter::repeat_with(|| Part::None).take(items).collect();
        let isa = engine.isa;
        engine.pool.run(items, &mut engine.scratch, chunks(&mut parts, 1), |item, _, part| {
            part[0] = match (groups.get(item), classifier) {
                (Some(group), _) => Stage::folded(isa, group, statistics)
                    .map_or(Part::None, |stage| Part::Stage(Box::new(stage))),
                (None, Some(classifier)) => {
                    let shape = (classifier.outputs, classifier.features);
                    Part::Classifier(E::pack_classifier(isa, shape, &parameters[classifier.weight].value))
                }
                (None, None) => Part::None,
            };
        });
        for part in parts {
            match part {
                Part::Stage(stage) => {
                    self.zeros.at_least(stage.input().width * stage.input_stride());
                    self.stages.push(*stage);
                }
                Part::Classifier(packed) => self.classifier = Some(packed),
                Part::None => {}
            }
        }
    }
}

/// What one item of folding makes.
enum Part<E: Number> {
    None,
    Stage(Box<Stage<E>>),
    Classifier(E::Classifier),
}

/// The convolutions of a stage, the one before it and the one behind it.
struct Group<'a> {
    before: Option<&'a Conv>,
    convs: &'a [Conv],
    after: Option<&'a Conv>,
}

impl<'a> Group<'a> {
    /// Those of all stages.
    fn all(convs: &'a [Conv]) -> impl Iterator<Item = Self> {
        let mut end = 0;
        convs.split_inclusive(|conv| conv.layer.operator != Operator::Depthwise).map(move |group| {
            let before = convs[..end].last();
            end += group.len();
            Self { before, convs: group, after: convs.get(end) }
        })
    }
}

/// What says how a convolution's outputs are distributed.
#[derive(Clone, Copy)]
struct Statistics<'a> {
    parameters: &'a [Stored],
    epsilon: f64,
    clamp: Clamp,
}

impl Statistics<'_> {
    /// What the outputs of `conv` are kept less in numbers of type `E`, if a depthwise or a pointwise layer is
    /// to read them. (Of the few that a full convolution or the pool reads it makes no difference.)
    fn centre<E: Number>(&self, conv: &Conv, reader: Option<&Conv>) -> Option<Vec<f32>> {
        let reads =
            |reader: &Conv| matches!(reader.layer.operator, Operator::Depthwise | Operator::Pointwise);
        (E::CENTRED && reader.is_some_and(reads))
            .then(|| centre::of(conv, self.parameters, self.epsilon, self.clamp, E::LARGEST))
    }

    /// The activation of a stage's outputs, and what they have to be bounded to beside it.
    fn clamp_before<E: Number>(&self, group: &Group) -> Clamp {
        let bound = group.after.and_then(|after| self.bound_for_halves::<E>(group.convs.last(), after));
        let bound = bound.unwrap_or(E::LARGEST);
        let Clamp { low, high } = self.clamp;
        Clamp { low: low.max(-bound), high: high.min(bound) }
    }

    /// What the outputs of `before` have to be bounded to, so that the sums of the depthwise layer `conv`, which
    /// reads them, stay within the range of f16; `None` if they cannot be bounded so without changing them,
    /// or if there is nothing to gain.
    fn bound_for_halves<E: Number>(&self, before: Option<&Conv>, conv: &Conv) -> Option<f32> {
        let most = f64::from(E::LARGEST);
        let before = before.filter(|_| most.is_finite() && conv.layer.operator == Operator::Depthwise)?;
        let folding = Folding::of(conv, *self);
        let filter = &self.parameters[conv.weight].value;
        let per_output = filter.len() / folding.scale.len();
        let bound = filter
            .chunks_exact(per_output)
            .zip(folding.scale.iter().zip(&folding.bias))
            .map(|(filter, (scale, bias))| {
                // Values less their centre, and the centre's part of the bias.
                let reach = 2.0 * scale.abs() * filter.iter().map(|&w| f64::from(w.abs())).sum::<f64>();
                (most - bias.abs()) / reach.max(f64::MIN_POSITIVE)
            })
            .fold(f64::INFINITY, f64::min);
        // The filter itself is rounded to f16, too.
        let largest = |(filter, scale): (&[f32], &f64)| {
            filter.iter().map(|&w| (f64::from(w) * scale).abs()).fold(0.0, f64::max)
        };
        let taps = filter.chunks_exact(per_output).zip(&folding.scale).map(largest).fold(0.0, f64::max);
        if taps > f64::from(f16::MAX) {
            return None;
        }
        let needed = self.most(before).min(f64::from(self.clamp.high));
        (bound >= needed && self.most(conv) <= most).then_some(bound.min(most) as f32)
    }

    /// What outputs of `conv` are hardly ever beyond, in absolute value, a value a channel.
    fn reach(&self, conv: &Conv) -> impl Iterator<Item = f32> {
        const DEVIATIONS: f32 = 16.0;
        let (gamma, beta) = (&self.parameters[conv.gamma].value, &self.parameters[conv.beta].value);
        gamma.iter().zip(beta).map(|(gamma, beta)| beta.abs() + DEVIATIONS * gamma.abs())
    }

    /// What no output of `conv` exceeds, in absolute value: very many deviations.
    fn most(&self, conv: &Conv) -> f64 {
        const DEVIATIONS: f64 = 64.0;
        let (gamma, beta) = (&self.parameters[conv.gamma].value, &self.parameters[conv.beta].value);
        let channels = gamma.iter().zip(beta);
        channels
            .map(|(&gamma, &beta)| f64::from(beta.abs()) + DEVIATIONS * f64::from(gamma.abs()))
            .fold(0.0, f64::max)
    }
}

/// A batch normalisation by its running statistics: what each output's filter is multiplied with,
/// and the bias.
struct Folding {
    scale: Vec<f64>,
    bias: Vec<f64>,
}

impl Folding {
    fn of(conv: &Conv, Statistics { parameters, epsilon, .. }: Statistics) -> Self {
        let (gamma, beta) = (&parameters[conv.gamma].value, &parameters[conv.beta].value);
        let variances = conv.running_var.iter().map(|&variance| (f64::from(variance) + epsilon).sqrt());
        let scale: Vec<f64> =
            gamma.iter().zip(variances).map(|(&g, deviation)| f64::from(g) / deviation).collect();
        let shift = conv.running_mean.iter().zip(&scale).map(|(&mean, scale)| f64::from(mean) * scale);
        let bias = beta.iter().zip(shift).map(|(&beta, shift)| f64::from(beta) - shift).collect();
        Self { scale, bias }
    }

    /// The bias, and what each output is kept less taken off.
    fn bias(&self, centre: Option<&[f32]>) -> Vec<f32> {
        let less = |output: usize| centre.map_or(0.0, |centre| f64::from(centre[output]));
        self.bias.iter().enumerate().map(|(output, bias)| (bias - less(output)) as f32).collect()
    }
}

impl<E: Number> Stage<E> {
    /// The stage of a full convolution, or of a depthwise one and a pointwise one.
    fn folded(isa: Isa, group: &Group, statistics: Statistics) -> Option<Self> {
        let (last, before) = group.convs.split_last()?;
        let depthwise = before.last().map(|conv| {
            let read = group.before.and_then(|before| statistics.centre::<E>(before, Some(conv)));
            let half_sums = statistics.bound_for_halves::<E>(group.before, conv).is_some();
            let centre = statistics.centre::<E>(conv, Some(last));
            Depthwise::folded(conv, read, centre, half_sums, statistics)
        });
        let layer = last.layer.clone();
        let mut folding = Folding::of(last, statistics);
        let filter = &statistics.parameters[last.weight].value;
        let unscaled: Vec<f32>;
        let filter = match &depthwise {
            Some(depthwise) if depthwise.scale.iter().any(|&scale| scale != 1.0) => {
                let rows = filter.chunks_exact(depthwise.scale.len());
                unscaled = rows
                    .flat_map(|row| row.iter().zip(&depthwise.scale).map(|(w, scale)| w / scale))
                    .collect();
                &unscaled
            }
            _ => filter,
        };
        if let Some(centre) = depthwise.as_ref().and_then(|depthwise| depthwise.centre.as_ref()) {
            let rows = filter.chunks_exact(centre.len());
            for ((bias, scale), row) in folding.bias.iter_mut().zip(&folding.scale).zip(rows) {
                *bias += scale * dot(row, centre);
            }
        }
        let centre = statistics.centre::<E>(last, group.after);
        let bias = folding.bias(centre.as_deref());
        let filter = match layer.operator {
            Operator::Pointwise => {
                let shape = (layer.output.channels, layer.input.channels);
                Filter::Pointwise(E::pack(isa, shape, filter, Some(&folding.scale)))
            }
            _ => Filter::Full(super::forward::pack_conv::<E>(isa, &layer, |at, output| {
                (f64::from(filter[at]) * folding.scale[output]) as f32
            })),
        };
        let clamp = statistics.clamp_before::<E>(group);
        Some(Self { depthwise, layer, filter, bias, clamp, centre })
    }
}

impl<E: Number> Depthwise<E> {
    /// The layer of `conv`, which reads a map that is kept less `read`, and whose outputs are kept less
    /// `centre`.
    fn folded(
        conv: &Conv,
        read: Option<Vec<f32>>,
        centre: Option<Vec<f32>>,
        half_sums: bool,
        statistics: Statistics,
    ) -> Self {
        let layer = conv.layer.clone();
        let mut folding = Folding::of(conv, statistics);
        let filter = &statistics.parameters[conv.weight].value;
        let per_output = filter.len() / folding.scale.len();
        let scaled: Vec<f32> = filter
            .chunks_exact(per_output)
            .zip(&folding.scale)
            .flat_map(|(filter, scale)| filter.iter().map(move |&w| (f64::from(w) * scale) as f32))
            .collect();
        let mut taps = vec![0.0; scaled.len()];
        depthwise::by_tap(&scaled, layer.output.channels, &mut taps);
        let outside = read.map(|read| {
            for ((bias, filter), &read) in folding.bias.iter_mut().zip(scaled.chunks(per_output)).zip(&read) {
                *bias += filter.iter().map(|&w| f64::from(w)).sum::<f64>() * f64::from(read);
            }
            let channels = read.len();
            let stride = E::pixel_stride(channels);
            let mut row = vec![E::Map::default(); layer.input.width * stride];
            for to in row.chunks_exact_mut(stride) {
                for (to, &value) in to.iter_mut().zip(&read) {
                    *to = E::Map::from_f32(-value);
                }
            }
            let tap = |tap: usize, channel: usize| f64::from(taps[tap * channels + channel]);
            let columns = (0..3).flat_map(|kx| {
                let column = move |c: usize| tap(kx, c) + tap(3 + kx, c) + tap(6 + kx, c);
                read.iter().enumerate().map(move |(c, &read)| (column(c) * f64::from(-read)) as f32)
            });
            Outside { columns: columns.collect(), row }
        });
        let bias = folding.bias(centre.as_deref());
        let channels = bias.len();
        let clamp = statistics.clamp;
        let mut depthwise =
            Self { layer, scale: vec![1.0; channels], taps, bias, clamp, centre, half_sums, outside };
        if half_sums {
            depthwise.scale_to(E::DEPTHWISE_BOUND, statistics.reach(conv));
        }
        depthwise
    }

    /// Scales outputs so that they are expected within ±`bound`, where `reach` says how far from zero they may be
    /// expected before their centre is taken off. (A power of two changes nothing but the exponents.)
    fn scale_to(&mut self, bound: f32, reach: impl Iterator<Item = f32>) {
        /// The least scale.
        const LEAST: f32 = 1.0 / 4096.0;
        let Self { clamp, centre, scale, .. } = self;
        for (channel, (scale, reach)) in scale.iter_mut().zip(reach).enumerate() {
            let centre = centre.as_ref().map_or(0.0, |centre| centre[channel]);
            let most = reach.min((clamp.high - centre).max(centre - clamp.low));
            while *scale * most > bound && *scale > LEAST {
                *scale /= 2.0;
            }
        }
        // Bounds that change with the scale have to be the same for all channels.
        if ![clamp.low, clamp.high].iter().all(|bound| *bound == 0.0 || bound.is_infinite()) {
            let least = scale.iter().copied().fold(1.0, f32::min);
            scale.fill(least);
            *clamp = Clamp { low: clamp.low * least, high: clamp.high * least };
        }
        let Self { scale, taps, bias, centre, outside, .. } = self;
        let columns = outside.as_mut().map(|outside| &mut outside.columns);
        for values in [Some(taps), Some(bias), centre.as_mut(), columns].into_iter().flatten() {
            for row in values.chunks_exact_mut(scale.len()) {
                row.iter_mut().zip(&*scale).for_each(|(value, scale)| *value *= scale);
            }
        }
    }
}

/// Σ a·b in f64, in several sums, which are faster than one.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    const SUMS: usize = 8;
    let mut sums = [0.0; SUMS];
    for (a, b) in a.chunks(SUMS).zip(b.chunks(SUMS)) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum += f64::from(a) * f64::from(b);
        }
    }
    sums.iter().sum()
}
