//! Convolutions and what follows each of them.

use super::array::Array;
use super::attributes::{Attributes, describe};
use super::head::Classifier;
use super::preprocessing::Affine;
use super::proto::NodeProto;
use super::walk::{BATCH, CHANNELS, Flow, HEIGHT, Stage, WIDTH, Walk};
use super::{FORMAT, fold};
use crate::chain::{BatchNorm, Step, StepPadding};
use crate::error::{Error, Result};
use mobilenet::Tensor;
use mobilenet::conventions::Activation;

/// Bounds of a clip beyond which it does not clip f32 (exporters write ±f32::MAX for "none").
const BEYOND: f64 = 1e38;

/// The largest pad, stride or dilation that is looked at.
const LARGEST: usize = 4096;

/// A convolution while the nodes after it are still being read.
pub struct StepBuilder {
    name: String,
    depthwise: bool,
    shape: [usize; 4],
    weight: Vec<f64>,
    bias: Option<Vec<f64>>,
    batch_norm: Option<Normalisation>,
    /// Bounds of the activation.
    low: f64,
    high: f64,
    stride: usize,
    dilation: usize,
    padding: StepPadding,
}

struct Normalisation {
    weight: Vec<f64>,
    bias: Vec<f64>,
    mean: Vec<f64>,
    variance: Vec<f64>,
    epsilon: f64,
}

impl StepBuilder {
    fn channels(&self) -> usize {
        self.shape[0]
    }

    fn is_activated(&self) -> bool {
        self.low > f64::NEG_INFINITY || self.high < f64::INFINITY
    }

    /// Applies `x · scale + shift`, one of each a channel, to what it computes so far.
    fn scale(&mut self, scale: &[f64], shift: &[f64]) {
        let channels = self.channels();
        let through = |values: &mut [f64]| {
            for ((value, scale), shift) in values.iter_mut().zip(scale).zip(shift) {
                *value = *value * scale + shift;
            }
        };
        if let Some(bn) = &mut self.batch_norm {
            bn.weight.iter_mut().zip(scale).for_each(|(weight, scale)| *weight *= scale);
            through(&mut bn.bias);
            return;
        }
        let filter = self.weight.len() / channels.max(1);
        if filter > 0 {
            for (filter, scale) in self.weight.chunks_exact_mut(filter).zip(scale) {
                filter.iter_mut().for_each(|weight| *weight *= scale);
            }
        }
        through(self.bias.get_or_insert_with(|| vec![0.0; channels]));
    }

    /// The finished step.
    ///
    /// # Errors
    /// [`Error::OtherNetwork`] for another activation than ReLU, ReLU6 or none.
    pub fn build(self) -> Result<Step> {
        let activation = match (self.low, self.high) {
            (f64::NEG_INFINITY, f64::INFINITY) => None,
            (0.0, f64::INFINITY) => Some(Activation::Relu),
            (0.0, 6.0) => Some(Activation::Relu6),
            (low, high) => {
                return Err(Error::OtherNetwork(format!(
                    "the output of `{}` is clipped to {low} … {high}; a MobileNet v1 has ReLU or ReLU6 there",
                    self.name
                )));
            }
        };
        let narrow =
            |values: Vec<f64>| -> Vec<f32> { values.into_iter().map(|value| value as f32).collect() };
        Ok(Step {
            name: self.name,
            depthwise: self.depthwise,
            weight: Tensor::new(&self.shape, narrow(self.weight))?,
            bias: self.bias.map(narrow),
            batch_norm: self.batch_norm.map(|bn| BatchNorm {
                weight: narrow(bn.weight),
                bias: narrow(bn.bias),
                mean: narrow(bn.mean),
                variance: narrow(bn.variance),
                epsilon: bn.epsilon as f32,
            }),
            activation,
            stride: self.stride,
            dilation: self.dilation,
            padding: self.padding,
        })
    }
}

impl Walk<'_> {
    /// `Conv`: a step of the chain, or after the pool the classifier.
    pub fn conv(&mut self, node: &NodeProto, flow: Flow) -> Result<Flow> {
        let version = self.advance(node, &flow)?;
        let weight = self.required(node, 1)?;
        let bias = self.constant_at(node, 2)?;
        let &[outputs, inputs_of_group, height, width] = weight.shape.as_slice() else {
            return Err(
                self.stranger(node, &format!("has a filter of {:?}; expected four dimensions", weight.shape))
            );
        };
        let attributes = Attributes(&node.attribute);
        let group = attributes.integer("group").and_then(|group| usize::try_from(group).ok()).unwrap_or(1);
        let channels = inputs_of_group.saturating_mul(group);
        let damaged = |problem: String| Error::damaged(FORMAT, format!("{} {problem}", describe(node)));
        if [outputs, inputs_of_group, height, width, group].contains(&0) {
            return Err(damaged(format!("has a filter of {:?} in {group} groups", weight.shape)));
        }
        if let Some(bias) = &bias
            && bias.data.len() != outputs
        {
            return Err(damaged(format!("has {} biases for {outputs} channels", bias.data.len())));
        }
        if flow.axes.len() != 4 || flow.stage >= Stage::Classified {
            return Err(self.stranger(node, "comes where no convolution does"));
        }
        if let Some(found) = flow.extents[1]
            && found != channels
        {
            return Err(self.stranger(node, &format!("reads {channels} channels but is given {found}")));
        }
        match flow.stage {
            Stage::Input => {
                let axes = [flow.axes[0], flow.axes[1], flow.axes[2], flow.axes[3]];
                self.input_axes = Some(axes);
            }
            _ if flow.axes != [BATCH, CHANNELS, HEIGHT, WIDTH] => {
                return Err(
                    self.stranger(node, "has the channels in another place than the convolutions before")
                );
            }
            _ => {}
        }
        if flow.stage == Stage::Pooled {
            if [group, height, width] != [1, 1, 1] || flow.is_padded() {
                return Err(self.stranger(node, "comes after the mean over all pixels"));
            }
            let bias = bias.map_or_else(|| vec![0.0; outputs], |bias| bias.data.to_vec());
            let head = Classifier { outputs, features: channels, weight: weight.data.to_vec(), bias };
            return self.classify(node, flow, head, version);
        }
        let depthwise = group > 1;
        if depthwise && (group != outputs || inputs_of_group != 1) {
            return Err(self.stranger(
                node,
                &format!(
                    "has {group} groups over {channels} channels into {outputs}; expected 1, or one a channel"
                ),
            ));
        }
        let stride = self.equal(node, &attributes, "strides")?;
        let dilation = self.equal(node, &attributes, "dilations")?;
        let padding = self.padding(node, &attributes, &flow)?;
        let mut extents = vec![flow.extents[0], Some(outputs), None, None];
        for (axis, kernel) in [(HEIGHT, height), (WIDTH, width)] {
            let Some(size) = flow.extents[axis] else { continue };
            let reach = (kernel - 1).saturating_mul(dilation).saturating_add(1);
            extents[axis] = match padding {
                StepPadding::Same => Some(size.div_ceil(stride)),
                StepPadding::Explicit { top, bottom, left, right } => {
                    let pads = if axis == HEIGHT { top + bottom } else { left + right };
                    let rest = (size + pads).checked_sub(reach).ok_or_else(|| {
                        damaged(format!("has a filter of {height}×{width} over a map of {size} pixels"))
                    })?;
                    Some(rest / stride + 1)
                }
            };
        }
        self.steps.push(StepBuilder {
            name: if node.name.is_empty() {
                node.output.first().cloned().unwrap_or_default()
            } else {
                node.name.clone()
            },
            depthwise,
            shape: [outputs, inputs_of_group, height, width],
            weight: weight.data.to_vec(),
            bias: bias.map(|bias| bias.data.to_vec()),
            batch_norm: None,
            low: f64::NEG_INFINITY,
            high: f64::INFINITY,
            stride,
            dilation,
            padding,
        });
        let axes = vec![BATCH, CHANNELS, HEIGHT, WIDTH];
        Ok(Flow { stage: Stage::Body, axes, extents, pads: [[0, 0]; 4], version })
    }

    /// A stride or dilation, which must be the same along both axes.
    fn equal(&self, node: &NodeProto, attributes: &Attributes<'_>, name: &str) -> Result<usize> {
        let values = attributes.integers(name).unwrap_or(&[1, 1]);
        match values {
            &[along, across] if along == across && (1..=LARGEST as i64).contains(&along) => {
                Ok(along as usize)
            }
            _ => {
                Err(self.stranger(node, &format!("has {name} {values:?}; expected the same along both axes")))
            }
        }
    }

    /// The padding of a convolution with that of a pad node before it.
    fn padding(&self, node: &NodeProto, attributes: &Attributes<'_>, flow: &Flow) -> Result<StepPadding> {
        let own = match attributes.text("auto_pad") {
            "" | "NOTSET" => attributes.integers("pads").unwrap_or(&[0; 4]),
            "VALID" => &[0; 4],
            "SAME_UPPER" if !flow.is_padded() => return Ok(StepPadding::Same),
            other => {
                return Err(self.stranger(node, &format!("has auto_pad {other}, which is not read here")));
            }
        };
        let sides: Option<Vec<usize>> =
            own.iter().map(|&pad| usize::try_from(pad).ok().filter(|&pad| pad <= LARGEST)).collect();
        let Some(&[top, left, bottom, right]) = sides.as_deref() else {
            return Err(self.stranger(node, &format!("has pads {own:?}; expected four from 0 to {LARGEST}")));
        };
        let around = |position: usize| flow.pads[flow.axes[position]];
        if [around(0), around(1)] != [[0, 0]; 2] {
            return Err(self.stranger(node, "follows a pad of batch or channels"));
        }
        let ([above, below], [before, after]) = (around(2), around(3));
        Ok(StepPadding::Explicit {
            top: top + above,
            bottom: bottom + below,
            left: left + before,
            right: right + after,
        })
    }

    /// `Pad` with zeros.
    pub fn pad(&mut self, node: &NodeProto, mut flow: Flow) -> Result<Flow> {
        let attributes = Attributes(&node.attribute);
        let rank = flow.axes.len();
        let pads = match self.constant_at(node, 1)? {
            Some(pads) => pads.to_integers().ok_or_else(|| {
                self.stranger(
                    node,
                    "has pads that depend on the input's size, which the graph leaves open; export it with a fixed size",
                )
            })?,
            None => attributes.integers("pads").or(attributes.integers("paddings")).unwrap_or_default().to_vec(),
        };
        let value = match self.constant_at(node, 2)? {
            Some(value) => value.single(),
            None => Some(attributes.float("value").unwrap_or(0.0)),
        };
        if !matches!(attributes.text("mode"), "" | "constant") || value != Some(0.0) {
            return Err(self.stranger(node, "pads with something else than zeros"));
        }
        let axes = match self.constant_at(node, 3)? {
            Some(axes) => axes.to_integers().unwrap_or_default(),
            None => (0..rank as i64).collect(),
        };
        if pads.len() != 2 * axes.len() {
            return Err(Error::damaged(FORMAT, format!("{} has {} pads", describe(node), pads.len())));
        }
        for (index, &axis) in axes.iter().enumerate() {
            let ends = [pads[index], pads[index + axes.len()]];
            let position = fold::wrap(axis, rank);
            let (Some(at), true) = (position, ends.iter().all(|pad| (0..=LARGEST as i64).contains(pad)))
            else {
                return Err(
                    self.stranger(node, &format!("has pads {pads:?}; expected four from 0 to {LARGEST}"))
                );
            };
            if ends == [0, 0] {
                continue;
            }
            let label = flow.axes[at];
            if flow.stage > Stage::Body || label >= flow.pads.len() || flow.pads[label] != [0, 0] {
                return Err(self.stranger(node, "pads where only a convolution is expected"));
            }
            // The extent stays that of the map itself: the convolution adds the pads.
            flow.pads[label] = ends.map(|pad| pad as usize);
        }
        Ok(flow)
    }

    /// `BatchNormalization`, with its running statistics.
    pub fn batch_norm(&mut self, node: &NodeProto, flow: Flow) -> Result<Flow> {
        let epsilon = Attributes(&node.attribute).float("epsilon").unwrap_or(1e-5);
        let mut parts = Vec::with_capacity(4);
        for at in 1..5 {
            parts.push(self.required(node, at)?.data.to_vec());
        }
        let Ok([weight, bias, mean, variance]) = <[Vec<f64>; 4]>::try_from(parts) else {
            unreachable!("four parts were read")
        };
        let channels = weight.len();
        if [bias.len(), mean.len(), variance.len()] != [channels; 3] || flow.axes.len() < 2 {
            return Err(Error::damaged(FORMAT, format!("{} has parts of different lengths", describe(node))));
        }
        let label = flow.axes[1];
        let following = flow.stage == Stage::Body && label == CHANNELS;
        if following
            && let Some(step) = self.steps.last()
            && !step.is_activated()
            && step.batch_norm.is_none()
            && step.channels() == channels
        {
            let version = self.advance(node, &flow)?;
            if let Some(step) = self.steps.last_mut() {
                step.batch_norm = Some(Normalisation { weight, bias, mean, variance, epsilon });
            }
            return Ok(Flow { version, ..flow });
        }
        let scale: Vec<f64> = weight.iter().zip(&variance).map(|(w, v)| w / (v + epsilon).sqrt()).collect();
        let shift = bias.iter().zip(&mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
        self.affine(node, flow, Affine { axis: Some(label), scale, shift })
    }

    /// `Add`, `Sub`, `Mul` or `Div` with a constant.
    pub fn elementwise(&mut self, node: &NodeProto, at: usize, flow: Flow) -> Result<Flow> {
        let constant = self.required(node, 1 - at.min(1))?;
        let Some((axis, values)) = along_axis(&constant, &flow) else {
            let problem =
                format!("has a constant of {:?}; expected one value a channel, or one", constant.shape);
            return Err(self.stranger(node, &problem));
        };
        let (ones, zeros) = (vec![1.0; values.len()], vec![0.0; values.len()]);
        let negative = |values: Vec<f64>| values.into_iter().map(|value| -value).collect::<Vec<_>>();
        let (scale, shift) = match (node.op_type.as_str(), at) {
            ("Add", _) => (ones, values),
            ("Mul", _) => (values, zeros),
            ("Sub", 0) => (ones, negative(values)),
            ("Sub", _) => (negative(ones), values),
            ("Div", 0) => (values.into_iter().map(|value| 1.0 / value).collect(), zeros),
            _ => return Err(self.stranger(node, "divides by the image's data")),
        };
        self.affine(node, flow, Affine { axis, scale, shift })
    }

    fn affine(&mut self, node: &NodeProto, flow: Flow, affine: Affine) -> Result<Flow> {
        let version = self.advance(node, &flow)?;
        let spread = |channels: usize, affine: &Affine| -> Option<[Vec<f64>; 2]> {
            let fit = |values: &[f64]| match affine.axis {
                Some(CHANNELS) if values.len() == channels => Some(values.to_vec()),
                None if values.len() == 1 => Some(vec![values[0]; channels]),
                _ => None,
            };
            Some([fit(&affine.scale)?, fit(&affine.shift)?])
        };
        match flow.stage {
            Stage::Input => self.normalisation.push(affine),
            Stage::Body => {
                let fitting = self.steps.last().filter(|step| !step.is_activated());
                let parts = fitting.and_then(|step| spread(step.channels(), &affine));
                let Some(([scale, shift], step)) = parts.zip(self.steps.last_mut()) else {
                    return Err(
                        self.stranger(node, "is no part of a batch normalisation after a convolution")
                    );
                };
                step.scale(&scale, &shift);
            }
            Stage::Classified => {
                let parts = self.classifier.as_ref().and_then(|head| spread(head.outputs, &affine));
                let Some(([scale, shift], head)) = parts.zip(self.classifier.as_mut()) else {
                    return Err(self.stranger(node, "does not fit the classifier before it"));
                };
                head.scale(&scale, &shift);
            }
            Stage::Pooled | Stage::Ended => {
                return Err(self.stranger(node, "stands between the mean over all pixels and the classifier"));
            }
        }
        Ok(Flow { version, ..flow })
    }

    /// `Relu`, `Clip`, and `Min` and `Max` with a number.
    pub fn activation(&mut self, node: &NodeProto, at: usize, flow: Flow) -> Result<Flow> {
        let attributes = Attributes(&node.attribute);
        let (none_below, none_above) = (f64::NEG_INFINITY, f64::INFINITY);
        let (low, high) = match node.op_type.as_str() {
            "Relu" => (0.0, none_above),
            "Clip" => {
                let bound = |at: usize, name: &str| -> Result<Option<f64>> {
                    Ok(match self.constant_at(node, at)? {
                        Some(bound) => bound.single(),
                        None => attributes.float(name),
                    })
                };
                (bound(1, "min")?.unwrap_or(none_below), bound(2, "max")?.unwrap_or(none_above))
            }
            operator => {
                let other = self.required(node, 1 - at.min(1))?;
                // A list of equal numbers is one as well.
                let bound = other.data.first().copied().filter(|first| other.data.iter().all(|v| v == first));
                match bound {
                    Some(bound) if node.input.len() == 2 && operator == "Max" => (bound, none_above),
                    Some(bound) if node.input.len() == 2 => (none_below, bound),
                    _ => return Err(self.stranger(node, "compares with more than one number")),
                }
            }
        };
        self.clip(node, flow, low, high)
    }

    /// The activation of ONNX Runtime's `FusedConv`.
    pub fn fused_activation(&mut self, node: &NodeProto, flow: Flow) -> Result<Flow> {
        let attributes = Attributes(&node.attribute);
        match attributes.text("activation") {
            "" => Ok(flow),
            "Relu" => self.clip(node, flow, 0.0, f64::INFINITY),
            "Clip" => match attributes.floats("activation_params") {
                &[low, high] => self.clip(node, flow, low.into(), high.into()),
                found => Err(self.stranger(node, &format!("clips to {found:?}; expected two numbers"))),
            },
            other => Err(self.stranger(node, &format!("has the activation {other}"))),
        }
    }

    fn clip(&mut self, node: &NodeProto, flow: Flow, low: f64, high: f64) -> Result<Flow> {
        let version = self.advance(node, &flow)?;
        let low = if low < -BEYOND { f64::NEG_INFINITY } else { low };
        let high = if high > BEYOND { f64::INFINITY } else { high };
        let step = if flow.stage == Stage::Body { self.steps.last_mut() } else { None };
        let Some(step) = step else {
            return Err(self.stranger(node, "is an activation where no convolution went before"));
        };
        // clip(clip(x)) is one clip, provided that the ranges overlap.
        (step.low, step.high) = (step.low.max(low), step.high.min(high));
        Ok(Flow { version, ..flow })
    }
}

/// The values of a constant that is broadcast over `flow`, and the label of the axis along which they
/// differ; none when there is more than one such axis.
fn along_axis(constant: &Array, flow: &Flow) -> Option<(Option<usize>, Vec<f64>)> {
    if let Some(value) = constant.single() {
        return Some((None, vec![value]));
    }
    let (rank, own) = (flow.axes.len(), constant.shape.len());
    let mut long = constant.shape.iter().enumerate().filter(|&(_, &extent)| extent != 1);
    let (axis, _) = long.next().filter(|_| long.next().is_none())?;
    let position = (axis + rank).checked_sub(own)?;
    Some((Some(flow.axes[position]), constant.data.to_vec()))
}
