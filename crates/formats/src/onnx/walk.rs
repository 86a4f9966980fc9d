//! Walks the nodes of a graph in their order and recovers the chain of convolutions.
//!
//! Each value of the graph is a constant, the image's data at some stage, or not known. A node over
//! constants is computed; a node over data either renames its axes, adds to the chain, or is refused
//! by name.

use std::collections::HashMap;

use super::array::{self, Array};
use super::attributes::{Attributes, describe, is_standard, short};
use super::fold::{Folder, Unfolded, shape_of};
use super::head::Classifier;
use super::preprocessing::Affine;
use super::proto::{GraphProto, NodeProto, ValueInfoProto, data_type};
use super::step::StepBuilder;
use super::{FORMAT, strangers};
use crate::error::{Error, Result};

/// Labels of axes. Before the first convolution an axis is labelled by its position in the graph's
/// input; the convolution then tells which is which.
pub const BATCH: usize = 0;
/// Channels, as the second axis of `Conv`.
pub const CHANNELS: usize = 1;
/// Rows.
pub const HEIGHT: usize = 2;
/// Columns.
pub const WIDTH: usize = 3;
/// Batch and channels in one.
pub const BATCH_AND_CHANNELS: usize = 4;

/// How far the data have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The image, possibly normalised.
    Input,
    /// After a convolution.
    Body,
    /// After the mean over all pixels.
    Pooled,
    /// Logits.
    Classified,
    /// Probabilities.
    Ended,
}

/// The image's data at some point of the graph.
#[derive(Clone, Debug)]
pub struct Flow {
    /// How far they have come.
    pub stage: Stage,
    /// The label of each axis.
    pub axes: Vec<usize>,
    /// The extent of each axis, where it is known.
    pub extents: Vec<Option<usize>>,
    /// Pixels before and after, by label, that a pad node has put around.
    pub pads: [[usize; 2]; 4],
    /// Which change of the chain made them: only the latest can be carried on.
    pub version: usize,
}

impl Flow {
    /// The extent of the axis with this label.
    pub fn extent(&self, label: usize) -> Option<usize> {
        self.position(label).and_then(|at| self.extents[at])
    }

    /// Where the axis with this label is.
    pub fn position(&self, label: usize) -> Option<usize> {
        self.axes.iter().position(|&axis| axis == label)
    }

    /// Whether a pad node went before.
    pub fn is_padded(&self) -> bool {
        self.pads != [[0, 0]; 4]
    }
}

enum Value {
    Constant(Array),
    Data(Flow),
    /// Why it is not known.
    Unknown(String),
}

/// The state of a walk.
pub struct Walk<'a> {
    graph: &'a GraphProto,
    values: HashMap<&'a str, Value>,
    folder: Folder,
    version: usize,
    /// Whether the input is of bytes (or other integers).
    pub of_bytes: bool,
    /// The extents of the graph's input.
    pub input: Vec<Option<usize>>,
    /// The axes of the graph's input that the first convolution takes as batch, channels, height and
    /// width.
    pub input_axes: Option<[usize; 4]>,
    /// What the nodes before the first convolution do.
    pub normalisation: Vec<Affine>,
    /// The convolutions so far.
    pub steps: Vec<StepBuilder>,
    /// The classifier, once it was met.
    pub classifier: Option<Classifier>,
    /// What the user should know.
    pub notes: Vec<String>,
}

impl<'a> Walk<'a> {
    /// Prepares a walk: constants are decoded, the input is found. `size` is the file's, in bytes; it
    /// bounds what folding may allocate.
    pub fn new(graph: &'a GraphProto, size: usize) -> Result<Self> {
        let mut values = HashMap::with_capacity(graph.node.len() + graph.initializer.len());
        for tensor in &graph.initializer {
            values.insert(tensor.name.as_str(), Value::Constant(array::decode(tensor, &tensor.name)?));
        }
        let mut walk = Self {
            graph,
            values,
            folder: Folder { budget: size.saturating_add(1 << 16) },
            version: 0,
            of_bytes: false,
            input: Vec::new(),
            input_axes: None,
            normalisation: Vec::new(),
            steps: Vec::new(),
            classifier: None,
            notes: Vec::new(),
        };
        walk.find_input()?;
        Ok(walk)
    }

    /// The one input that is an image.
    fn find_input(&mut self) -> Result<()> {
        // Old files list constants as inputs too.
        let open = |input: &&ValueInfoProto| !self.values.contains_key(input.name.as_str());
        let inputs: Vec<&'a ValueInfoProto> = self.graph.input.iter().filter(open).collect();
        let images: Vec<&&ValueInfoProto> = inputs.iter().filter(|input| extents(input).len() == 4).collect();
        let [image] = images.as_slice() else {
            let found: Vec<String> =
                inputs.iter().take(8).map(|input| format!("`{}` {:?}", input.name, extents(input))).collect();
            return Err(Error::refused(
                FORMAT,
                format!(
                    "expected one input of four dimensions, an image; found {}",
                    if found.is_empty() { "no input".into() } else { found.join(", ") }
                ),
            ));
        };
        let image: &'a ValueInfoProto = image;
        let tensor = image.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
        let element = tensor.map_or(data_type::FLOAT, |tensor| tensor.elem_type);
        self.of_bytes = !matches!(
            element,
            0 | data_type::FLOAT | data_type::DOUBLE | data_type::FLOAT16 | data_type::BFLOAT16
        );
        self.input = extents(image);
        let flow = Flow {
            stage: Stage::Input,
            axes: vec![0, 1, 2, 3],
            extents: self.input.clone(),
            pads: [[0, 0]; 4],
            version: 0,
        };
        self.values.insert(&image.name, Value::Data(flow));
        for input in inputs.iter().filter(|input| input.name != image.name) {
            let why = format!("it is the input `{}`", short(&input.name));
            self.values.insert(&input.name, Value::Unknown(why));
        }
        Ok(())
    }

    /// Goes through all nodes.
    pub fn run(&mut self) -> Result<()> {
        for node in &self.graph.node {
            self.visit(node)?;
        }
        Ok(())
    }

    fn visit(&mut self, node: &'a NodeProto) -> Result<()> {
        let outputs = || node.output.iter().map(String::as_str).filter(|name| !name.is_empty());
        if let Some(name) = outputs().find(|name| self.values.contains_key(name)) {
            let problem = format!("{} writes `{name}`, which there is already", describe(node));
            return Err(Error::damaged(FORMAT, problem));
        }
        let value = self.evaluate(node)?;
        let mut outputs = outputs();
        // Further outputs are masks and statistics of training.
        if let Some(first) = outputs.next() {
            self.values.insert(first, value);
        }
        for name in outputs {
            let why = format!("it is another output of {}", describe(node));
            self.values.insert(name, Value::Unknown(why));
        }
        Ok(())
    }

    fn evaluate(&mut self, node: &'a NodeProto) -> Result<Value> {
        let attributes = Attributes(&node.attribute);
        if node.op_type == "Constant" && is_standard(node) {
            return Ok(match attributes.constant() {
                Some(array) => Value::Constant(array?),
                None => Value::Unknown(format!("{} has a value of a kind that is not read", describe(node))),
            });
        }
        for name in node.input.iter().filter(|name| !name.is_empty()) {
            if !self.values.contains_key(name.as_str()) {
                let problem = format!("{} reads `{name}`, which no earlier node writes", describe(node));
                return Err(Error::damaged(FORMAT, problem));
            }
        }
        let data =
            node.input.iter().position(|name| matches!(self.values.get(name.as_str()), Some(Value::Data(_))));
        // The other input of CastLike only tells a type.
        let data = data.filter(|&at| at == 0 || node.op_type != "CastLike");
        let Some(at) = data else { return self.constant(node, attributes) };
        let Some(Value::Data(flow)) = self.values.get(node.input[at].as_str()) else {
            unreachable!("its position was just found")
        };
        let flow = flow.clone();
        if node.op_type == "Shape" {
            let extents = flow.extents.iter().map(|extent| extent.map_or(f64::NAN, |extent| extent as f64));
            return Ok(Value::Constant(shape_of(extents, &attributes)));
        }
        let stage = flow.stage;
        let flow = match self.over_data(node, at, flow)? {
            Some(flow) => flow,
            None if stage >= Stage::Classified => {
                let what = describe(node);
                self.note(format!("{what} comes after the classifier and is left out"));
                return Ok(Value::Unknown(format!("{what} was left out")));
            }
            None => return Err(self.stranger(node, "is not read in a MobileNet v1")),
        };
        Ok(Value::Data(flow))
    }

    /// A node without data among its inputs.
    fn constant(&mut self, node: &NodeProto, attributes: Attributes<'_>) -> Result<Value> {
        let mut inputs = Vec::with_capacity(node.input.len());
        let last = if node.op_type == "CastLike" { 1 } else { node.input.len() };
        for name in node.input.iter().take(last) {
            inputs.push(match self.values.get(name.as_str()) {
                Some(Value::Constant(array)) => Some(array),
                Some(Value::Unknown(why)) => return Ok(Value::Unknown(why.clone())),
                _ => None,
            });
        }
        if !is_standard(node) || inputs.is_empty() {
            return Ok(Value::Unknown(format!("it is computed by {}, which is not read", describe(node))));
        }
        match self.folder.fold(&node.op_type, &attributes, &inputs) {
            Ok(array) => Ok(Value::Constant(array)),
            Err(Unfolded::Unknown) => {
                Ok(Value::Unknown(format!("it is computed by {}, which is not read", describe(node))))
            }
            Err(Unfolded::TooLarge) => Err(Error::refused(
                FORMAT,
                format!("{} would make a constant far larger than the file", describe(node)),
            )),
        }
    }

    /// A node over data at input `at`; none when its operator is not read.
    fn over_data(&mut self, node: &NodeProto, at: usize, flow: Flow) -> Result<Option<Flow>> {
        let operator = node.op_type.as_str();
        if matches!((node.domain.as_str(), operator), ("com.microsoft", "FusedConv")) {
            let flow = self.conv(node, flow)?;
            return self.fused_activation(node, flow).map(Some);
        }
        if !is_standard(node) {
            return Ok(None);
        }
        if at > 0 && !matches!(operator, "Add" | "Sub" | "Mul" | "Max" | "Min") {
            return Ok(None);
        }
        let moves_axes =
            matches!(operator, "Identity" | "Dropout" | "Cast" | "CastLike" | "Transpose" | "Pad");
        if flow.is_padded() && !moves_axes && operator != "Conv" {
            return Err(self.stranger(node, "follows a pad; only a convolution can"));
        }
        let flow = match operator {
            "Identity" | "Dropout" | "Cast" | "CastLike" => flow,
            "Transpose" => self.transpose(node, flow)?,
            "Pad" => self.pad(node, flow)?,
            "Conv" => self.conv(node, flow)?,
            "BatchNormalization" => self.batch_norm(node, flow)?,
            "Relu" | "Clip" | "Min" | "Max" => self.activation(node, at, flow)?,
            "Add" | "Sub" | "Mul" | "Div" => self.elementwise(node, at, flow)?,
            "GlobalAveragePool" | "AveragePool" | "ReduceMean" => self.pool(node, flow)?,
            "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" => self.reshape(node, flow)?,
            "Gather" if flow.axes == [BATCH_AND_CHANNELS] => self.gather_all(node, flow)?,
            "Gemm" | "MatMul" => self.dense(node, flow)?,
            "Softmax" | "LogSoftmax" | "Sigmoid" if flow.stage == Stage::Classified => {
                self.note(format!(
                    "the graph ends in {operator}, which is left out: a model here gives logits"
                ));
                Flow { stage: Stage::Ended, ..flow }
            }
            _ => return Ok(None),
        };
        Ok(Some(flow))
    }

    fn note(&mut self, note: String) {
        // The same operator may come many times after the classifier.
        if self.notes.len() < 8 && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// The constant at an input; none where it is left out.
    ///
    /// # Errors
    /// When it is computed from the image or by what is not read.
    pub fn constant_at(&self, node: &NodeProto, at: usize) -> Result<Option<Array>> {
        let Some(name) = node.input.get(at).filter(|name| !name.is_empty()) else { return Ok(None) };
        match self.values.get(name.as_str()) {
            Some(Value::Constant(array)) => Ok(Some(array.clone())),
            Some(Value::Unknown(why)) => {
                Err(self.stranger(node, &format!("needs the constant `{name}`, but {why}")))
            }
            Some(Value::Data(_)) => {
                Err(self.stranger(node, &format!("reads `{name}`, which branches off from the image's data")))
            }
            None => Ok(None),
        }
    }

    /// As [`Self::constant_at`], for one that must be there.
    pub fn required(&self, node: &NodeProto, at: usize) -> Result<Array> {
        self.constant_at(node, at)?.ok_or_else(|| {
            Error::damaged(FORMAT, format!("{} has no input {at}; it must have one", describe(node)))
        })
    }

    /// That `flow` is the end of the chain so far, and not an earlier part of it from which a branch
    /// goes off; returns the version that comes after.
    pub fn advance(&mut self, node: &NodeProto, flow: &Flow) -> Result<usize> {
        if flow.version != self.version {
            return Err(self.stranger(node, "is on a branch; the layers of a MobileNet v1 are one chain"));
        }
        self.version += 1;
        Ok(self.version)
    }

    /// The error for a node that no MobileNet v1 has there: what the network seems to be, or the node
    /// and the problem.
    pub fn stranger(&self, node: &NodeProto, problem: &str) -> Error {
        const QUANTISED: [&str; 5] =
            ["QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "DynamicQuantizeLinear"];
        if let Some(quantised) = self.graph.node.iter().find(|n| QUANTISED.contains(&n.op_type.as_str())) {
            return Error::refused(
                FORMAT,
                format!("a quantised model ({}); export the float model instead", describe(quantised)),
            );
        }
        let what = describe(node);
        match strangers::seems_to_be(&self.graph.node) {
            Some(network) => Error::OtherNetwork(format!("it seems to be {network}; {what} {problem}")),
            None => Error::refused(
                FORMAT,
                format!(
                    "{what} {problem}; a MobileNet v1 is a chain of convolutions, a mean and a classifier"
                ),
            ),
        }
    }
}

/// The extents of an input; of no dimensions where the file does not tell.
fn extents(input: &ValueInfoProto) -> Vec<Option<usize>> {
    let tensor = input.r#type.as_ref().and_then(|r#type| r#type.tensor_type.as_ref());
    let Some(shape) = tensor.and_then(|tensor| tensor.shape.as_ref()) else { return Vec::new() };
    let extent = |value: i64| usize::try_from(value).ok().filter(|extent| (1..=65_536).contains(extent));
    shape.dim.iter().map(|dimension| dimension.dim_value.and_then(extent)).collect()
}
