//! From the last feature map to the logits: the mean over all pixels, changes of shape, the
//! classifier.

use mobilenet::Tensor;

use super::array::Array;
use super::attributes::{Attributes, describe};
use super::proto::NodeProto;
use super::walk::{BATCH, BATCH_AND_CHANNELS, CHANNELS, Flow, HEIGHT, Stage, WIDTH, Walk};
use super::{FORMAT, fold};
use crate::error::{Error, Result};

/// The classifier while the nodes after it are still being read.
pub struct Classifier {
    /// Number of outputs.
    pub outputs: usize,
    /// Number of features.
    pub features: usize,
    /// `[outputs, features]`
    pub weight: Vec<f64>,
    /// `[outputs]`
    pub bias: Vec<f64>,
}

impl Classifier {
    /// Applies `x · scale + shift`, one of each an output.
    pub fn scale(&mut self, scale: &[f64], shift: &[f64]) {
        for (row, scale) in self.weight.chunks_exact_mut(self.features).zip(scale) {
            row.iter_mut().for_each(|weight| *weight *= scale);
        }
        for ((bias, scale), shift) in self.bias.iter_mut().zip(scale).zip(shift) {
            *bias = *bias * scale + shift;
        }
    }

    /// Weight and bias.
    ///
    /// # Errors
    /// None that can happen: the parts fit.
    pub fn build(self) -> Result<(Tensor, Vec<f32>)> {
        let narrow =
            |values: Vec<f64>| -> Vec<f32> { values.into_iter().map(|value| value as f32).collect() };
        Ok((Tensor::new(&[self.outputs, self.features], narrow(self.weight))?, narrow(self.bias)))
    }
}

impl Walk<'_> {
    /// Takes in the classifier, whose outputs take the place of the channels.
    pub fn classify(
        &mut self,
        node: &NodeProto,
        flow: Flow,
        head: Classifier,
        version: usize,
    ) -> Result<Flow> {
        if flow.stage != Stage::Pooled || self.classifier.is_some() {
            return Err(
                self.stranger(node, "comes where no classifier does; a MobileNet v1 has one, after the mean")
            );
        }
        let Some(at) = flow.position(CHANNELS) else {
            return Err(self.stranger(node, "is given no channels"));
        };
        if flow.extents[at].is_some_and(|found| found != head.features) {
            let problem = format!("reads {} features but is given {:?}", head.features, flow.extents[at]);
            return Err(self.stranger(node, &problem));
        }
        let mut extents = flow.extents;
        extents[at] = Some(head.outputs);
        self.classifier = Some(head);
        Ok(Flow { stage: Stage::Classified, extents, version, ..flow })
    }

    /// `Gemm` or `MatMul`.
    pub fn dense(&mut self, node: &NodeProto, flow: Flow) -> Result<Flow> {
        let version = self.advance(node, &flow)?;
        let matrix = self.required(node, 1)?;
        let bias = self.constant_at(node, 2)?;
        let attributes = Attributes(&node.attribute);
        let is_gemm = node.op_type == "Gemm";
        let &[rows, columns] = matrix.shape.as_slice() else {
            return Err(
                self.stranger(node, &format!("multiplies with {:?}; expected two dimensions", matrix.shape))
            );
        };
        let last = flow.axes.last() == Some(&CHANNELS);
        if !last || (is_gemm && (flow.axes.len() != 2 || attributes.integer("transA").unwrap_or(0) != 0)) {
            return Err(self.stranger(node, "multiplies along another axis than the channels"));
        }
        let transposed = is_gemm && attributes.integer("transB").unwrap_or(0) != 0;
        let (outputs, features) = if transposed { (rows, columns) } else { (columns, rows) };
        if outputs == 0 || features == 0 {
            return Err(Error::damaged(
                FORMAT,
                format!("{} has a matrix of {:?}", describe(node), matrix.shape),
            ));
        }
        let factor = |name: &str| if is_gemm { attributes.float(name).unwrap_or(1.0) } else { 1.0 };
        let (alpha, beta) = (factor("alpha"), factor("beta"));
        let weight = if transposed {
            matrix.data.iter().map(|value| value * alpha).collect()
        } else {
            let value = |at: usize| matrix.data[at % features * columns + at / features] * alpha;
            (0..matrix.data.len()).map(value).collect()
        };
        let bias = match bias.as_ref().filter(|_| is_gemm).map(|bias| &bias.data[..]) {
            None => vec![0.0; outputs],
            Some(&[value]) => vec![value * beta; outputs],
            Some(values) if values.len() == outputs => values.iter().map(|value| value * beta).collect(),
            Some(values) => {
                let problem = format!("{} has {} biases for {outputs} outputs", describe(node), values.len());
                return Err(Error::damaged(FORMAT, problem));
            }
        };
        self.classify(node, flow, Classifier { outputs, features, weight, bias }, version)
    }

    /// The mean over all pixels, in one node or one along each axis.
    pub fn pool(&mut self, node: &NodeProto, flow: Flow) -> Result<Flow> {
        let attributes = Attributes(&node.attribute);
        let rank = flow.axes.len();
        let mut keeps = true;
        let positions: Vec<usize> = match node.op_type.as_str() {
            "ReduceMean" => {
                keeps = attributes.integer("keepdims").unwrap_or(1) != 0;
                let axes = match self.constant_at(node, 1)? {
                    Some(axes) => axes.to_integers().unwrap_or_default(),
                    None => attributes.integers("axes").unwrap_or_default().to_vec(),
                };
                axes.iter().filter_map(|&axis| fold::wrap(axis, rank)).collect()
            }
            "AveragePool" => {
                self.check_covers_all(node, &attributes, &flow)?;
                vec![2, 3]
            }
            _ => vec![2, 3],
        };
        let labels: Vec<usize> = positions.iter().filter_map(|&at| flow.axes.get(at).copied()).collect();
        let over_pixels = !labels.is_empty() && labels.iter().all(|label| matches!(*label, HEIGHT | WIDTH));
        if flow.stage != Stage::Body || !over_pixels {
            return Err(self.stranger(node, "is no mean over all pixels after the last convolution"));
        }
        let version = self.advance(node, &flow)?;
        let mut flow = Flow { version, ..flow };
        for label in labels {
            let Some(at) = flow.position(label) else { continue };
            if keeps {
                flow.extents[at] = Some(1);
            } else {
                flow.axes.remove(at);
                flow.extents.remove(at);
            }
        }
        Ok(pooled(flow))
    }

    /// That an `AveragePool` has a window as large as the map.
    fn check_covers_all(&mut self, node: &NodeProto, attributes: &Attributes<'_>, flow: &Flow) -> Result<()> {
        let window: Vec<i64> = attributes.integers("kernel_shape").unwrap_or_default().to_vec();
        let pads = attributes.integers("pads").unwrap_or_default();
        let map = [flow.extent(HEIGHT), flow.extent(WIDTH)];
        let fits = match (window.as_slice(), map) {
            (&[high, wide], [Some(height), Some(width)]) => [high, wide] == [height as i64, width as i64],
            (&[high, wide], _) => {
                self.notes.push(format!(
                    "the graph leaves the input's size open; its mean over {high}×{wide} pixels is taken to be over all"
                ));
                true
            }
            _ => false,
        };
        if !fits || pads.iter().any(|&pad| pad != 0) || attributes.text("auto_pad").starts_with("SAME") {
            let problem = format!(
                "takes the mean over {window:?} pixels of a map of {map:?}; expected the mean over all"
            );
            return Err(self.stranger(node, &problem));
        }
        Ok(())
    }

    /// `Transpose`.
    pub fn transpose(&mut self, node: &NodeProto, flow: Flow) -> Result<Flow> {
        let perm = Attributes(&node.attribute).integers("perm");
        let Some(perm) = fold::permutation(perm, flow.axes.len()) else {
            let problem = format!("{} permutes {perm:?} of {} axes", describe(node), flow.axes.len());
            return Err(Error::damaged(FORMAT, problem));
        };
        let axes = perm.iter().map(|&at| flow.axes[at]).collect();
        let extents = perm.iter().map(|&at| flow.extents[at]).collect();
        Ok(Flow { axes, extents, ..flow })
    }

    /// Changes of shape, which after the mean can only add or drop axes of one.
    pub fn reshape(&mut self, node: &NodeProto, flow: Flow) -> Result<Flow> {
        let flow = pooled(flow);
        let renamed = match node.op_type.as_str() {
            _ if flow.stage < Stage::Pooled => None,
            "Flatten" => flatten(&flow, Attributes(&node.attribute).integer("axis").unwrap_or(1)),
            "Squeeze" => self.axes_of(node)?.and_then(|axes| squeeze(&flow, axes.as_deref())),
            "Unsqueeze" => self.axes_of(node)?.and_then(|axes| unsqueeze(&flow, &axes?)),
            _ => {
                let target = match self.constant_at(node, 1)? {
                    Some(shape) => shape.data.to_vec(),
                    // Opset 1.
                    None => {
                        Array::integers(Attributes(&node.attribute).integers("shape").unwrap_or_default())
                            .data
                            .to_vec()
                    }
                };
                let literal_zero = Attributes(&node.attribute).integer("allowzero").unwrap_or(0) != 0;
                reshape(&flow, &target, literal_zero)
            }
        };
        renamed.ok_or_else(|| self.stranger(node, "changes the shape where a MobileNet v1 does not"))
    }

    /// The axes that a node names, as input or attribute: none where it names none, and nothing at all
    /// where they are not known.
    #[expect(clippy::option_option, reason = "not told and not known are two things")]
    fn axes_of(&self, node: &NodeProto) -> Result<Option<Option<Vec<i64>>>> {
        Ok(match self.constant_at(node, 1)? {
            Some(axes) => axes.to_integers().map(Some),
            None => Some(Attributes(&node.attribute).integers("axes").map(<[i64]>::to_vec)),
        })
    }

    /// `Gather` of every value in order, as torch.onnx writes a view of a flattened tensor.
    pub fn gather_all(&mut self, node: &NodeProto, flow: Flow) -> Result<Flow> {
        let indices = self.required(node, 1)?;
        let in_order = indices.data.iter().enumerate().all(|(at, &index)| index == at as f64);
        let all = flow.extents[0].is_none_or(|extent| extent == indices.data.len());
        let target: Vec<f64> = indices.shape.iter().map(|&extent| extent as f64).collect();
        let renamed = if in_order && all { reshape(&flow, &target, false) } else { None };
        renamed.ok_or_else(|| self.stranger(node, "picks some of the values"))
    }
}

/// A map of a single pixel is its own mean.
fn pooled(flow: Flow) -> Flow {
    let single = |label| flow.position(label).is_none_or(|at| flow.extents[at] == Some(1));
    if flow.stage == Stage::Body && single(HEIGHT) && single(WIDTH) {
        return Flow { stage: Stage::Pooled, ..flow };
    }
    flow
}

/// The same data with other axes; extents are those of the labels.
fn relabel(flow: &Flow, axes: Vec<usize>) -> Flow {
    let extents = axes
        .iter()
        .map(|&label| match label {
            BATCH | CHANNELS => flow.extent(label),
            BATCH_AND_CHANNELS => {
                flow.extent(BATCH).zip(flow.extent(CHANNELS)).and_then(|(n, c)| n.checked_mul(c))
            }
            _ => Some(1),
        })
        .collect();
    Flow { axes, extents, ..flow.clone() }
}

fn flatten(flow: &Flow, axis: i64) -> Option<Flow> {
    let first = flow.axes.first() == Some(&BATCH);
    let fits = first && fold::wrap(axis, flow.axes.len()) == Some(1) && flow.position(CHANNELS).is_some();
    fits.then(|| relabel(flow, vec![BATCH, CHANNELS]))
}

fn squeeze(flow: &Flow, axes: Option<&[i64]>) -> Option<Flow> {
    let rank = flow.axes.len();
    let dropped: Vec<usize> = match axes {
        Some(axes) => axes.iter().map(|&axis| fold::wrap(axis, rank)).collect::<Option<_>>()?,
        None => (0..rank).filter(|&at| flow.extents[at] == Some(1) && flow.axes[at] != CHANNELS).collect(),
    };
    let fits = dropped.iter().all(|&at| flow.extents[at] == Some(1) && flow.axes[at] != CHANNELS);
    let kept = (0..rank).filter(|at| !dropped.contains(at)).map(|at| flow.axes[at]).collect();
    fits.then(|| relabel(flow, kept))
}

fn unsqueeze(flow: &Flow, axes: &[i64]) -> Option<Flow> {
    let rank = flow.axes.len() + axes.len().min(4);
    let added: Vec<usize> = axes.iter().map(|&axis| fold::wrap(axis, rank)).collect::<Option<_>>()?;
    let mut old = flow.axes.iter().copied();
    let mut new = [HEIGHT, WIDTH, BATCH].into_iter().filter(|label| !flow.axes.contains(label));
    let axes: Option<Vec<usize>> =
        (0..rank).map(|at| if added.contains(&at) { new.next() } else { old.next() }).collect();
    axes.filter(|axes| flow.axes.iter().all(|label| axes.contains(label))).map(|axes| relabel(flow, axes))
}

/// `Reshape` to `target`, in which NaN is not known, of data whose only long axes are batch and
/// channels.
fn reshape(flow: &Flow, target: &[f64], literal_zero: bool) -> Option<Flow> {
    if !(1..=4).contains(&target.len()) {
        return None;
    }
    let known = flow.axes == [BATCH_AND_CHANNELS];
    let channels = flow.extent(CHANNELS);
    let mut extents = Vec::with_capacity(target.len());
    for (at, &extent) in target.iter().enumerate() {
        extents.push(match extent {
            0.0 if !literal_zero => *flow.extents.get(at)?,
            extent if (1.0..=1e9).contains(&extent) => Some(extent as usize),
            _ => None,
        });
    }
    if extents.len() == 1 {
        return (!known).then(|| relabel(flow, vec![BATCH_AND_CHANNELS]));
    }
    let rest = 1..extents.len();
    let at = rest
        .clone()
        .find(|&at| extents[at].is_some() && extents[at] == channels)
        .or_else(|| rest.clone().find(|&at| extents[at].is_none()))
        .or_else(|| rest.clone().find(|&at| known && extents[at] != Some(1)))?;
    if rest.clone().any(|other| other != at && extents[other] != Some(1)) {
        return None;
    }
    let mut pixels = [HEIGHT, WIDTH].into_iter();
    let axes: Option<Vec<usize>> = (0..extents.len())
        .map(|position| match position {
            0 => Some(BATCH),
            _ if position == at => Some(CHANNELS),
            _ => pixels.next(),
        })
        .collect();
    let mut new = relabel(flow, axes?);
    if known {
        // Channels were merged with the batch: the target tells them apart.
        new.extents[0] = extents[0];
        new.extents[at] = extents[at];
    }
    Some(new)
}
