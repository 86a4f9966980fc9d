//! From the path of a graph to a [`Chain`]: each layer takes in what follows it.

use mobilenet::Tensor;
use mobilenet::conventions::Activation;

use super::constant::Constants;
use super::filter;
use super::front;
use super::network::{Convolution, Network, Node, Op};
use super::path;
use crate::chain::{BatchNorm, Chain, Step, StepPadding};
use crate::error::{Error, Result};

/// No MobileNet v1 has more convolutions (it has 27).
const MOST_STEPS: usize = 128;
/// Linear layers one after the other that are multiplied into one classifier.
const MOST_HEADS: usize = 3;

/// The network of a graph.
///
/// # Errors
/// [`Error::OtherNetwork`] when the graph is not a chain of convolutions; [`Error::Refused`] when it
/// still has variables in place of constants; [`Error::Tensors`] when shapes do not fit.
pub(crate) fn chain(network: &Network, format: &'static str) -> Result<Chain> {
    let order = path::order(network);
    let constants = Constants::new(network, &order, format);
    let path = path::find(network, &order, &constants, format)?;
    let front = front::read(network, &constants, &path.front)?;
    let mut walk = Walk {
        constants: &constants,
        steps: Vec::new(),
        pads: front.pads,
        scale: None,
        pooled: false,
        heads: 0,
        classifier: None,
    };
    for &index in &path.layers {
        walk.node(&network.nodes[index])?;
    }
    walk.flush()?;
    let mut hints = front.hints;
    if walk.heads > 1 {
        hints.notes.push(format!(
            "the graph ends in {} linear layers one on the other; they are multiplied into one classifier",
            walk.heads
        ));
    }
    if walk.classifier.is_some() && !path.other_heads.is_empty() {
        let names: Vec<&str> = path.other_heads.iter().map(|&i| network.nodes[i].name.as_str()).collect();
        let used = path.layers.iter().rfind(|&&i| network.nodes[i].op.is_layer());
        hints.notes.push(format!(
            "the classifier is `{}`, the last in the file; left out: `{}`",
            used.map_or("", |&i| network.nodes[i].name.as_str()),
            names.join("`, `")
        ));
    }
    Ok(Chain { steps: walk.steps, classifier: walk.classifier, input_size: front.size, hints })
}

/// The scale of a batch normalisation that is written out: γ · 1/√(σ² + ε).
struct Scale {
    node: usize,
    gamma: Option<usize>,
    variance: usize,
    epsilon: f32,
}

struct Walk<'a> {
    constants: &'a Constants<'a>,
    steps: Vec<Step>,
    /// Of a pad node: before and after, for each of four dimensions.
    pads: Option<[[usize; 2]; 4]>,
    /// Seen, and not yet known to be a batch normalisation's.
    scale: Option<(Scale, String)>,
    pooled: bool,
    heads: usize,
    classifier: Option<(Tensor, Vec<f32>)>,
}

impl Walk<'_> {
    fn node(&mut self, node: &Node) -> Result<()> {
        if let Some((scale, _)) = &self.scale
            && matches!(node.op, Op::Add)
            && let Some(offset) = self.other(node)
            && let Some(batch_norm) = self.written_out(scale, offset, &node.name)?
        {
            self.scale = None;
            return self.normalise(batch_norm, &node.name);
        }
        self.flush()?;
        match &node.op {
            Op::Convolution(convolution) if self.pooled => self.pointwise_classifier(node, convolution),
            Op::Convolution(convolution) => self.convolution(node, convolution),
            Op::MatMul { transposed } => self.mat_mul(node, *transposed),
            Op::BatchNorm { epsilon } => {
                let channels = self.channels();
                let vector = |number: usize| {
                    let input = node.inputs.get(number).copied().unwrap_or(usize::MAX);
                    self.constants.vector(input, channels, &node.name)
                };
                let (weight, bias, mean, variance) = (vector(1)?, vector(2)?, vector(3)?, vector(4)?);
                let batch_norm = BatchNorm { weight, bias, mean, variance, epsilon: *epsilon };
                self.normalise(batch_norm, &node.name)
            }
            Op::Add | Op::Subtract | Op::Multiply | Op::Divide => self.arithmetic(node),
            Op::Activation(activation) => self.activate(*activation, &node.name),
            Op::Maximum | Op::Minimum => self.clamp(node),
            Op::Pad => {
                self.pads = Some(front::pads(self.constants, node)?);
                Ok(())
            }
            Op::Pool => {
                self.pooled = true;
                Ok(())
            }
            Op::Identity | Op::Cast { .. } | Op::Reshape | Op::Transpose | Op::Softmax => {
                if matches!(node.op, Op::Softmax) {
                    return Err(other(node, "a softmax lies between its layers"));
                }
                Ok(())
            }
            _ => Err(other(node, "MobileNet v1 has no such operation between its layers")),
        }
    }

    /// Channels of what was computed last.
    fn channels(&self) -> usize {
        match (&self.classifier, self.steps.last()) {
            (Some((_, bias)), _) => bias.len(),
            (None, Some(step)) => step.weight.shape()[0],
            (None, None) => 0,
        }
    }

    /// The constant among the two inputs of a binary node.
    fn other(&self, node: &Node) -> Option<usize> {
        node.inputs.iter().take(2).rev().copied().find(|&input| self.constants.is_constant(input))
    }

    fn convolution(&mut self, node: &Node, convolution: &Convolution) -> Result<()> {
        if self.steps.len() == MOST_STEPS {
            return Err(other(node, "there are more convolutions than any MobileNet v1 has"));
        }
        let weight = self.filter(node, convolution)?;
        let bias = match node.inputs.get(2) {
            Some(&input) => Some(self.constants.vector(input, weight.shape()[0], &node.name)?),
            None => None,
        };
        let ([stride, columns], [dilation, across]) = (convolution.stride, convolution.dilation);
        if stride != columns || dilation != across {
            return Err(other(node, "its stride or dilation differs between rows and columns"));
        }
        let padding = match (self.pads.take(), convolution.padding) {
            (None, padding) => padding,
            (Some(pads), StepPadding::Explicit { top, bottom, left, right }) => {
                let [images, rows, columns, channels] = match pads {
                    [n, c, rows, columns] if convolution.channels_first => [n, rows, columns, c],
                    pads => pads,
                };
                if images != [0, 0] || channels != [0, 0] {
                    return Err(other(node, "a pad before it adds images or channels"));
                }
                StepPadding::Explicit {
                    top: top + rows[0],
                    bottom: bottom + rows[1],
                    left: left + columns[0],
                    right: right + columns[1],
                }
            }
            (Some(_), StepPadding::Same) => {
                return Err(other(node, "it pads (SAME) what is already padded"));
            }
        };
        self.steps.push(Step {
            name: node.name.clone(),
            depthwise: filter::is_depthwise(convolution.layout),
            weight,
            bias,
            batch_norm: None,
            activation: None,
            stride,
            dilation,
            padding,
        });
        Ok(())
    }

    fn filter(&self, node: &Node, convolution: &Convolution) -> Result<Tensor> {
        let input = node.inputs.get(1).copied().unwrap_or(usize::MAX);
        let value = self.constants.value(input, &node.name)?;
        filter::to_pytorch(&value, convolution.layout).ok_or_else(|| {
            Error::Tensors(format!(
                "{}: a filter of shape {:?}; expected four dimensions and, depthwise, one filter a channel",
                node.name,
                value.shape()
            ))
        })
    }

    fn pointwise_classifier(&mut self, node: &Node, convolution: &Convolution) -> Result<()> {
        let filter = self.filter(node, convolution)?;
        let &[outputs, features, 1, 1] = filter.shape() else {
            return Err(other(node, "a convolution larger than 1×1 follows the pooling"));
        };
        if filter::is_depthwise(convolution.layout) {
            return Err(other(node, "a depthwise convolution follows the pooling"));
        }
        let bias = match node.inputs.get(2) {
            Some(&input) => self.constants.vector(input, outputs, &node.name)?,
            None => vec![0.0; outputs],
        };
        let weight = Tensor::new(&[outputs, features], filter.into_data())?;
        self.head(node, weight, bias)
    }

    fn mat_mul(&mut self, node: &Node, transposed: bool) -> Result<()> {
        if !self.pooled {
            return Err(other(node, "a fully connected layer follows a feature map that was not pooled"));
        }
        let value = self.constants.value(node.inputs.get(1).copied().unwrap_or(usize::MAX), &node.name)?;
        let &[rows, columns] = value.shape() else {
            return Err(Error::Tensors(format!(
                "{}: a weight of shape {:?}; expected two dimensions",
                node.name,
                value.shape()
            )));
        };
        let weight = if transposed {
            value
        } else {
            let data = value.data();
            let turned = (0..columns).flat_map(|o| (0..rows).map(move |i| data[i * columns + o])).collect();
            Tensor::new(&[columns, rows], turned)?
        };
        let outputs = weight.shape()[0];
        let bias = match node.inputs.get(2) {
            Some(&input) => self.constants.vector(input, outputs, &node.name)?,
            None => vec![0.0; outputs],
        };
        self.head(node, weight, bias)
    }

    /// A linear layer after the pooling; a second one is multiplied in, since nothing non-linear
    /// lies between (`retrain` scripts put theirs on the logits of the old one).
    fn head(&mut self, node: &Node, weight: Tensor, bias: Vec<f32>) -> Result<()> {
        let inputs = self.channels();
        let &[outputs, features] = weight.shape() else { return Ok(()) };
        if features != inputs {
            return Err(Error::Tensors(format!(
                "{}: expected a weight for {inputs} features, found shape {:?}",
                node.name,
                weight.shape()
            )));
        }
        self.heads += 1;
        let Some((before, before_bias)) = self.classifier.take() else {
            self.classifier = Some((weight, bias));
            return Ok(());
        };
        let width = before.shape()[1];
        let work = outputs.saturating_mul(inputs).saturating_mul(width);
        if self.heads > MOST_HEADS || work > 1 << 33 {
            return Err(other(node, "it has several large fully connected layers"));
        }
        let mut product = Vec::with_capacity(outputs * width);
        let mut offsets = Vec::with_capacity(outputs);
        for (row, bias) in weight.rows().zip(bias) {
            let mut sums = vec![0.0_f64; width];
            let mut offset = f64::from(bias);
            for ((&factor, line), &b) in row.iter().zip(before.rows()).zip(&before_bias) {
                let factor = f64::from(factor);
                offset += factor * f64::from(b);
                sums.iter_mut().zip(line).for_each(|(sum, &value)| *sum += factor * f64::from(value));
            }
            product.extend(sums.into_iter().map(|sum| sum as f32));
            offsets.push(offset as f32);
        }
        self.classifier = Some((Tensor::new(&[outputs, width], product)?, offsets));
        Ok(())
    }

    fn normalise(&mut self, batch_norm: BatchNorm, name: &str) -> Result<()> {
        match self.steps.last_mut() {
            Some(step)
                if step.batch_norm.is_none()
                    && step.activation.is_none()
                    && self.classifier.is_none()
                    && !self.pooled =>
            {
                step.batch_norm = Some(batch_norm);
                Ok(())
            }
            _ => Err(Error::OtherNetwork(format!(
                "node `{name}` normalises what is not the output of a convolution"
            ))),
        }
    }

    /// A sum, difference, product or quotient with a constant.
    fn arithmetic(&mut self, node: &Node) -> Result<()> {
        let Some(input) = self.other(node) else {
            return Err(other(node, "it joins two branches"));
        };
        if let (Op::Multiply, Some(scale)) = (&node.op, self.scale_of(input)) {
            self.scale = Some((scale, node.name.clone()));
            return Ok(());
        }
        let values = self.constants.vector(input, self.channels(), &node.name)?;
        match node.op {
            Op::Add => self.shift(values, &node.name),
            Op::Subtract => self.shift(values.into_iter().map(|v| -v).collect(), &node.name),
            Op::Multiply => self.multiply(&values, &node.name),
            _ => self.multiply(&values.iter().map(|v| 1.0 / v).collect::<Vec<_>>(), &node.name),
        }
    }

    fn shift(&mut self, values: Vec<f32>, name: &str) -> Result<()> {
        let add = |to: &mut [f32]| to.iter_mut().zip(&values).for_each(|(to, value)| *to += value);
        if let Some((_, bias)) = &mut self.classifier {
            add(bias);
            return Ok(());
        }
        let step = self.open_step(name)?;
        match (&mut step.batch_norm, &mut step.bias) {
            (Some(batch_norm), _) => add(&mut batch_norm.bias),
            (None, Some(bias)) => add(bias),
            (None, none) => *none = Some(values),
        }
        Ok(())
    }

    fn multiply(&mut self, values: &[f32], name: &str) -> Result<()> {
        let scale = |to: &mut [f32]| to.iter_mut().zip(values).for_each(|(to, value)| *to *= value);
        let rows = |weight: &mut Tensor| {
            let width = weight.data().len() / values.len().max(1);
            for (row, value) in weight.data_mut().chunks_exact_mut(width.max(1)).zip(values) {
                row.iter_mut().for_each(|v| *v *= value);
            }
        };
        if let Some((weight, bias)) = &mut self.classifier {
            rows(weight);
            scale(bias);
            return Ok(());
        }
        let step = self.open_step(name)?;
        if let Some(batch_norm) = &mut step.batch_norm {
            scale(&mut batch_norm.weight);
            scale(&mut batch_norm.bias);
        } else {
            rows(&mut step.weight);
            step.bias.iter_mut().for_each(|bias| scale(bias));
        }
        Ok(())
    }

    /// The last convolution while its non-linearity has not come.
    fn open_step(&mut self, name: &str) -> Result<&mut Step> {
        let pooled = self.pooled;
        self.steps.last_mut().filter(|step| step.activation.is_none() && !pooled).ok_or_else(|| {
            Error::OtherNetwork(format!("node `{name}` scales or shifts what is not a convolution's output"))
        })
    }

    fn activate(&mut self, activation: Activation, name: &str) -> Result<()> {
        if self.classifier.is_some() || self.pooled {
            return Err(Error::OtherNetwork(format!(
                "node `{name}` is a non-linearity after the pooling, where MobileNet v1 has only a classifier"
            )));
        }
        if let Some(step) = self.steps.last_mut() {
            // ReLU and a minimum of 6 come as two nodes from old Keras.
            let six = step.activation == Some(Activation::Relu6) || activation == Activation::Relu6;
            step.activation = Some(if six { Activation::Relu6 } else { Activation::Relu });
        }
        Ok(())
    }

    fn clamp(&mut self, node: &Node) -> Result<()> {
        let bound = match self.other(node) {
            Some(input) => self.constants.vector(input, 1, &node.name)?[0],
            None => return Err(other(node, "it joins two branches")),
        };
        let before = self.steps.last().and_then(|step| step.activation);
        match (&node.op, bound, before) {
            (Op::Maximum, 0.0, _) => self.activate(before.unwrap_or(Activation::Relu), &node.name),
            (Op::Minimum, 6.0, Some(_)) => self.activate(Activation::Relu6, &node.name),
            _ => Err(other(node, &format!("it is bounded by {bound}, and not by 0 and 6 as ReLU6 is"))),
        }
    }

    /// `γ · 1/√(σ² + ε)` or `1/√(σ² + ε)`, if that is what a constant is made of.
    fn scale_of(&self, index: usize) -> Option<Scale> {
        let root = |index: usize| {
            let node = self.constants.behind(index).filter(|node| matches!(node.op, Op::ReciprocalRoot))?;
            let sum = self.constants.behind(*node.inputs.first()?).filter(|n| matches!(n.op, Op::Add))?;
            let &[variance, epsilon] = sum.inputs.as_slice() else { return None };
            let epsilon = self.constants.value(epsilon, &sum.name).ok()?;
            let &[epsilon] = epsilon.data() else { return None };
            Some((variance, epsilon))
        };
        if let Some((variance, epsilon)) = root(index) {
            return Some(Scale { node: index, gamma: None, variance, epsilon });
        }
        let product = self.constants.behind(index).filter(|node| matches!(node.op, Op::Multiply))?;
        let &[a, b] = product.inputs.as_slice() else { return None };
        let ((variance, epsilon), gamma) = root(a).zip(Some(b)).or_else(|| root(b).zip(Some(a)))?;
        Some(Scale { node: index, gamma: Some(gamma), variance, epsilon })
    }

    /// The batch normalisation whose scale is known, if `offset` is `β − mean · scale`.
    fn written_out(&self, scale: &Scale, offset: usize, name: &str) -> Result<Option<BatchNorm>> {
        let same = |a: usize, b: usize| {
            a == b
                || match (self.constants.behind(a), self.constants.behind(b)) {
                    (Some(a), Some(b)) => std::ptr::eq(a, b),
                    _ => false,
                }
        };
        let find = || {
            let difference = self.constants.behind(offset).filter(|n| matches!(n.op, Op::Subtract))?;
            let &[beta, product] = difference.inputs.as_slice() else { return None };
            let product = self.constants.behind(product).filter(|n| matches!(n.op, Op::Multiply))?;
            let &[a, b] = product.inputs.as_slice() else { return None };
            let mean = if same(b, scale.node) { a } else { b };
            (same(a, scale.node) || same(b, scale.node)).then_some((beta, mean))
        };
        let Some((beta, mean)) = find() else { return Ok(None) };
        let channels = self.channels();
        let vector = |index| self.constants.vector(index, channels, name);
        let weight = scale.gamma.map_or_else(|| Ok(vec![1.0; channels]), vector)?;
        Ok(Some(BatchNorm {
            weight,
            bias: vector(beta)?,
            mean: vector(mean)?,
            variance: vector(scale.variance)?,
            epsilon: scale.epsilon,
        }))
    }

    /// A scale that turned out not to be a batch normalisation's is a mere product.
    fn flush(&mut self) -> Result<()> {
        let Some((scale, name)) = self.scale.take() else { return Ok(()) };
        let values = self.constants.vector(scale.node, self.channels(), &name)?;
        self.multiply(&values, &name)
    }
}

fn other(node: &Node, why: &str) -> Error {
    let kind = match &node.op {
        Op::Other(op) => format!(" ({op})"),
        _ => String::new(),
    };
    Error::OtherNetwork(format!("node `{}`{kind} of the graph: {why}", node.name))
}
