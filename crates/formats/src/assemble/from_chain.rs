//! From the convolutions of a graph.

use mobilenet::architecture::{Layer, Operator};
use mobilenet::conventions::{Activation, Padding};
use mobilenet::{Architecture, Conventions, Model, Preset, Tensor, Weights};

use super::{Imported, Overrides, check, conventions, labels, no_classifier, width};
use crate::chain::{Chain, Step, StepPadding};
use crate::error::{Error, Result};

pub(super) fn assemble(chain: Chain, overrides: &Overrides) -> Result<Imported> {
    let Chain { steps, classifier, input_size, mut hints } = chain;
    let mut notes = std::mem::take(&mut hints.notes);
    let Some(stem) = steps.first() else {
        return Err(Error::OtherNetwork("its graph has no convolutions".into()));
    };
    let full = steps.len() == 14 && steps.iter().all(|step| !step.depthwise);
    for (index, step) in steps.iter().enumerate() {
        check_shape(index, step, full)?;
    }
    let ends = steps.iter().enumerate().filter(|(index, _)| full || index % 2 == 0);
    let channels: Vec<usize> = ends.map(|(_, step)| step.weight.shape()[0]).collect();
    let input_channels = stem.weight.shape()[1];
    if !matches!(input_channels, 1 | 3) {
        return Err(Error::OtherNetwork(format!(
            "`{}` reads {input_channels} channels; expected 3, or 1 for grey",
            stem.name
        )));
    }

    hints.activation = Some(activation(&steps)?);
    let epsilon = steps.iter().find_map(|step| step.batch_norm.as_ref()).map(|bn| bn.epsilon);
    hints.bn_epsilon = hints.bn_epsilon.or(epsilon);
    let [height, width] = input_size;
    if height != width {
        return Err(Error::Unsupported(format!(
            "the graph's input is {height}×{width} pixels; only square inputs are read"
        )));
    }
    hints.resolution = hints.resolution.or((height > 0).then_some(height));
    let outputs = classifier.as_ref().map(|(weight, _)| weight.shape()[0]);

    let resolution = overrides.resolution.or(hints.resolution).unwrap_or(224);
    let mut architecture = Architecture { resolution, input_channels, ..Architecture::default() };
    // A grey image has one mean; which it is comes later.
    let p = &mut architecture.conventions.preprocessing;
    p.mean.truncate(input_channels);
    p.std.truncate(input_channels);
    // Where the graph's own size is known its pads are judged at that size.
    let judged_at = if height > 0 { height } else { resolution };
    let padding = settle_geometry(&mut architecture, &steps, &channels, full, judged_at, &hints)?;
    hints.padding = Some(padding);

    let preset = preset(padding, hints.activation, outputs);
    let conventions = conventions(preset, preset.name(), &hints, overrides, input_channels, &mut notes);
    let rounding = architecture.conventions.width_rounding;
    architecture.conventions = Conventions { width_rounding: rounding, ..conventions };

    let features = channels[channels.len() - 1];
    let (weight, bias) = match classifier {
        Some(classifier) => classifier,
        None => no_classifier(features, overrides, &hints, &mut notes),
    };
    let (labels, background) =
        labels(weight.shape()[0], preset.conventions().background_class, &hints, overrides, &mut notes)?;
    architecture.classes = labels.len();
    architecture.conventions.background_class = background;

    let mut weights = Weights::new();
    let layers = architecture.layers()?;
    for (layer, step) in layers.iter().zip(steps) {
        insert(&mut weights, layer, step, architecture.conventions.bn_epsilon)?;
    }
    weights.insert("classifier.weight", weight);
    weights.insert("classifier.bias", Tensor::new(&[bias.len()], bias)?);
    check(&architecture, &weights, Vec::new())?;
    Ok(Imported { model: Model { architecture, labels, weights }, family: None, notes })
}

/// That the step at `index` is what a MobileNet v1 has there.
fn check_shape(index: usize, step: &Step, full: bool) -> Result<()> {
    let depthwise = !full && index % 2 == 1;
    let kernel = if full || index == 0 || depthwise { 3 } else { 1 };
    let expected = match (depthwise, kernel) {
        (true, _) => "a depthwise 3×3 convolution",
        (false, 1) => "a 1×1 convolution",
        (false, _) => "a full 3×3 convolution",
    };
    let shape = step.weight.shape();
    let fits = shape.len() == 4 && shape[2..] == [kernel, kernel] && step.depthwise == depthwise;
    if fits && (!depthwise || shape[1] == 1) {
        return Ok(());
    }
    let kind = if step.depthwise { "depthwise" } else { "full" };
    Err(Error::OtherNetwork(format!(
        "convolution {index} (`{}`) is {kind} with a filter of {shape:?}; a MobileNet v1 has {expected} there",
        step.name
    )))
}

/// The one non-linearity of all steps.
fn activation(steps: &[Step]) -> Result<Activation> {
    let first = steps[0].activation;
    if let Some(odd) = steps.iter().find(|step| step.activation.is_none() || step.activation != first) {
        let name = |activation: Option<Activation>| activation.map_or("none".into(), |a| format!("{a:?}"));
        return Err(Error::OtherNetwork(format!(
            "the activation after `{}` is {}, after the first convolution {}; a MobileNet v1 has ReLU or \
             ReLU6 after every convolution",
            odd.name,
            name(odd.activation),
            name(first)
        )));
    }
    Ok(first.expect("checked just above"))
}

/// Finds the strides, the dilations and the padding with which every layer is as in the graph.
fn settle_geometry(
    architecture: &mut Architecture,
    steps: &[Step],
    channels: &[usize],
    full: bool,
    judged_at: usize,
    hints: &crate::Hints,
) -> Result<Padding> {
    let all_same = steps.iter().all(|step| step.padding == StepPadding::Same);
    let one_sided = steps.iter().skip(1).any(|step| {
        step.stride == 2 && matches!(step.padding, StepPadding::Explicit { top: 0, bottom: 1, .. })
    });
    let order = match (all_same, one_sided) {
        (true, _) => [Padding::Same, Padding::Keras, Padding::Fixed],
        (_, true) => [Padding::Keras, Padding::Same, Padding::Fixed],
        _ => [Padding::Fixed, Padding::Same, Padding::Keras],
    };
    let asked = architecture.resolution;
    let (mut nearest, mut unfit): (Option<String>, Option<Error>) = (None, None);
    for padding in hints.padding.into_iter().chain(order) {
        for (stem_stride, output_stride) in [(2, 32), (1, 32), (1, 16), (2, 16), (2, 8), (1, 8)] {
            architecture.conventions.padding = padding;
            (architecture.stem_stride, architecture.output_stride) = (stem_stride, output_stride);
            architecture.resolution = judged_at;
            // It fails as well where this padding leaves no feature map; another may.
            if let Err(error) = width::fit(architecture, channels, full, hints.width_multiplier) {
                unfit = unfit.or(Some(error));
                continue;
            }
            let Ok(layers) = architecture.layers() else { continue };
            match layers.iter().zip(steps).find_map(|(layer, step)| difference(layer, step)) {
                None => {
                    architecture.resolution = asked;
                    return Ok(padding);
                }
                Some(found) => nearest = nearest.or(Some(found)),
            }
        }
    }
    if let (None, Some(error)) = (&nearest, unfit) {
        return Err(error);
    }
    Err(Error::OtherNetwork(format!(
        "no MobileNet v1's strides and padding fit: {}",
        nearest.unwrap_or_else(|| format!("at {judged_at} pixels no feature map is left"))
    )))
}

/// In what a layer of ours and a step of the graph differ.
fn difference(layer: &Layer, step: &Step) -> Option<String> {
    let (stride, dilation) = (step.stride, step.dilation);
    if (layer.stride, layer.dilation) != (stride, dilation) {
        let (expected, rate) = (layer.stride, layer.dilation);
        return Some(format!(
            "`{}` has stride {stride} and dilation {dilation}, expected {expected} and {rate}",
            step.name
        ));
    }
    let ours = [layer.pads.top, layer.pads.bottom, layer.pads.left, layer.pads.right];
    let theirs = match step.padding {
        StepPadding::Explicit { top, bottom, left, right } => [top, bottom, left, right],
        StepPadding::Same => {
            let along = |size: usize| {
                let reach = (layer.kernel - 1) * dilation + 1;
                let total = ((size.div_ceil(stride) - 1) * stride + reach).saturating_sub(size);
                [total / 2, total - total / 2]
            };
            let ([top, bottom], [left, right]) = (along(layer.input.height), along(layer.input.width));
            [top, bottom, left, right]
        }
    };
    (ours != theirs).then(|| {
        format!(
            "`{}` pads {theirs:?} (top, bottom, left, right) a map of {}×{}, expected {ours:?}",
            step.name, layer.input.height, layer.input.width
        )
    })
}

/// The family that computes like this, for what a graph does not tell (its preprocessing).
fn preset(padding: Padding, activation: Option<Activation>, outputs: Option<usize>) -> Preset {
    match (padding, activation) {
        (Padding::Fixed, Some(Activation::Relu6)) => Preset::Timm,
        (Padding::Fixed, _) => Preset::Reference,
        (Padding::Keras, _) => Preset::Keras,
        (Padding::Same, _) if outputs == Some(1000) => Preset::Keras,
        (Padding::Same, _) => Preset::TfSlim,
    }
}

/// Puts a step's tensors in, with its bias and its ε brought into the form that all layers share.
fn insert(weights: &mut Weights, layer: &Layer, step: Step, epsilon: f32) -> Result<()> {
    let channels = step.weight.shape()[0];
    let bias = step.bias.unwrap_or_else(|| vec![0.0; channels]);
    let [gamma, beta, mean, variance] = match step.batch_norm {
        // Folded: γ/√(σ² + ε) = 1, so that BN adds the bias and nothing else.
        None => [vec![1.0; channels], bias, vec![0.0; channels], vec![1.0 - epsilon; channels]],
        Some(bn) => {
            if [bn.weight.len(), bn.bias.len(), bn.mean.len(), bn.variance.len(), bias.len()] != [channels; 5]
            {
                return Err(Error::Tensors(format!(
                    "`{}`: its batch normalisation and bias must have {channels} values each, as its convolution has channels",
                    step.name
                )));
            }
            // (x + b − μ) normalises as (x − (μ − b)); another ε moves into σ².
            let mean = bn.mean.iter().zip(&bias).map(|(mean, bias)| mean - bias).collect();
            let variance = bn.variance.iter().map(|variance| variance + (bn.epsilon - epsilon)).collect();
            [bn.weight, bn.bias, mean, variance]
        }
    };
    if beta.len() != channels {
        return Err(Error::Tensors(format!(
            "`{}`: {} biases for {channels} channels",
            step.name,
            beta.len()
        )));
    }
    debug_assert!(!matches!(layer.operator, Operator::Classifier | Operator::GlobalPool));
    weights.insert(format!("{}.weight", layer.name), step.weight);
    let parts = [("weight", gamma), ("bias", beta), ("running_mean", mean), ("running_var", variance)];
    for (part, values) in parts {
        weights.insert(format!("{}.bn.{part}", layer.name), Tensor::new(&[channels], values)?);
    }
    Ok(())
}
