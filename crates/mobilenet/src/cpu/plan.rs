//! Weights as inference reads them: batch normalisation folded into the filters, filters packed.

use mobilenet_kernels::parallel::chunks;
use mobilenet_kernels::{Buffer, Clamp, Isa, depthwise};

use super::inference::Network;
use super::precision::Number;
use super::{Conv, Stored};
use crate::architecture::{Layer, Operator};

/// Folded and packed weights, as far as they were needed: the first stages, in order, and the
/// classifier. Whoever changes parameters says so with [`super::CpuExecutor::forget_folded`].
#[derive(Debug)]
pub(super) struct Plan<E: Number> {
    pub isa: Isa,
    pub clamp: Clamp,
    pub stages: Vec<Stage<E>>,
    pub classifier: Option<E::Packed>,
    /// A row of zeros, as long as any row that a depthwise layer reads.
    pub zeros: Buffer<E>,
}

/// A full convolution, or a depthwise one with the pointwise one behind it.
#[derive(Debug)]
pub(super) struct Stage<E: Number> {
    pub depthwise: Option<Depthwise>,
    /// The layer whose filter is `filter`: `conv_*` or `pointwise_*`.
    pub layer: Layer,
    pub filter: Filter<E>,
    pub bias: Vec<f32>,
}

#[derive(Debug)]
pub(super) struct Depthwise {
    pub layer: Layer,
    pub taps: Vec<f32>,
    pub bias: Vec<f32>,
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
        Self { isa, clamp, stages: Vec::new(), classifier: None, zeros: Buffer::default() }
    }

    /// Folds each batch normalisation into the filter before it, in the first `stages` stages, and
    /// packs the filters; also the classifier's, if it is asked for. What is done already stays.
    /// The parts are shared out over the threads.
    pub fn fold(&mut self, network: &mut Network, stages: usize, classifier: bool) {
        let Network { engine, convs, parameters, epsilon, .. } = network;
        let (convs, parameters) = (*convs, *parameters);
        let ends = |conv: &Conv| conv.layer.operator != Operator::Depthwise;
        let groups: Vec<&[Conv]> = convs.split_inclusive(ends).take(stages).skip(self.stages.len()).collect();
        let classifier = Some(network.classifier).filter(|_| classifier && self.classifier.is_none());
        let items = groups.len() + usize::from(classifier.is_some());
        if items == 0 {
            return;
        }
        let mut parts: Vec<Part<E>> = std::iter::repeat_with(|| Part::None).take(items).collect();
        let (isa, epsilon) = (engine.isa, f64::from(*epsilon));
        engine.pool.run(items, &mut engine.scratch, chunks(&mut parts, 1), |item, _, part| {
            part[0] = match (groups.get(item), classifier) {
                (Some(convs), _) => Stage::folded(isa, convs, parameters, epsilon)
                    .map_or(Part::None, |stage| Part::Stage(Box::new(stage))),
                (None, Some(classifier)) => {
                    let shape = (classifier.outputs, classifier.features);
                    Part::Classifier(E::pack(isa, shape, &parameters[classifier.weight].value, None))
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
    Classifier(E::Packed),
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

impl<E: Number> Stage<E> {
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
        let filter = match layer.operator {
            Operator::Pointwise => {
                let shape = (layer.output.channels, layer.input.channels);
                Filter::Pointwise(E::pack(isa, shape, filter, Some(&scale)))
            }
            _ => Filter::Full(super::forward::pack_conv::<E>(isa, &layer, |at, output| {
                (f64::from(filter[at]) * scale[output]) as f32
            })),
        };
        Some(Self { depthwise, layer, filter, bias })
    }
}
