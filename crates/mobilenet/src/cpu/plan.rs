//! Weights as inference reads them: batch normalisation folded into the filters, filters packed.

use mobilenet_kernels::gemm::PackedB;
use mobilenet_kernels::parallel::chunks;
use mobilenet_kernels::{Buffer, Clamp, Isa, depthwise};

use super::{Conv, CpuExecutor, Stored};
use crate::architecture::{Layer, Operator};

/// Folded and packed weights, as far as they were needed: the first stages, in order, and the
/// classifier. Whoever changes parameters says so with [`CpuExecutor::forget_folded`].
#[derive(Debug)]
pub(super) struct Plan {
    pub isa: Isa,
    pub clamp: Clamp,
    pub stages: Vec<Stage>,
    pub classifier: Option<PackedB>,
    /// A row of zeros, as long as any row that a depthwise layer reads.
    pub zeros: Buffer,
}

/// A full convolution, or a depthwise one with the pointwise one behind it.
#[derive(Debug)]
pub(super) struct Stage {
    pub depthwise: Option<Depthwise>,
    /// The layer whose filter is `packed`: `conv_*` or `pointwise_*`.
    pub layer: Layer,
    pub packed: PackedB,
    pub bias: Vec<f32>,
}

#[derive(Debug)]
pub(super) struct Depthwise {
    pub layer: Layer,
    pub taps: Vec<f32>,
    pub bias: Vec<f32>,
}

impl CpuExecutor {
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
    pub(super) fn fold(&mut self, stages: usize, classifier: bool) {
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
                Part::Stage(stage) => {
                    plan.zeros.at_least(stage.input().width * stage.input_stride());
                    plan.stages.push(*stage);
                }
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
        Self { isa, clamp, stages: Vec::new(), classifier: None, zeros: Buffer::default() }
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
}
