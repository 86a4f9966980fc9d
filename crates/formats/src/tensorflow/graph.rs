//! From a GraphDef to the [`Network`] that `path` and `walk` walk.

use std::collections::HashMap;

use mobilenet::conventions::Activation;

use super::FORMAT;
use super::network::{Convolution, FilterLayout, MISSING, Network, Node, Op};
use super::proto::{AttrValue, GraphDef, NodeDef, data_type};
use super::tensor;
use crate::chain::StepPadding;
use crate::error::{Error, Result};

/// Attributes of a node by name.
struct Attributes<'a>(&'a HashMap<String, AttrValue>);

impl<'a> Attributes<'a> {
    fn text(&self, name: &str) -> &'a str {
        self.0.get(name).map_or("", |value| std::str::from_utf8(&value.s).unwrap_or(""))
    }

    fn flag(&self, name: &str, default: bool) -> bool {
        self.0.get(name).and_then(|value| value.b).unwrap_or(default)
    }

    fn number(&self, name: &str, default: f32) -> f32 {
        self.0.get(name).and_then(|value| value.f).unwrap_or(default)
    }

    fn list(&self, name: &str) -> &'a [i64] {
        self.0.get(name).and_then(|value| value.list.as_ref()).map_or(&[], |list| &list.i)
    }

    fn data_type(&self, name: &str) -> i32 {
        self.0.get(name).map_or(0, |value| value.r#type)
    }

    fn channels_first(&self) -> bool {
        self.text("data_format") == "NCHW"
    }

    /// Rows' and columns' entries of a list with one for each dimension; 1 where it is empty.
    fn spatial(&self, name: &str, node: &str) -> Result<[usize; 2]> {
        let list = self.list(name);
        if list.is_empty() {
            return Ok([1, 1]);
        }
        let first = if self.channels_first() { 2 } else { 1 };
        let side =
            |at: usize| list.get(at).and_then(|&v| usize::try_from(v).ok()).filter(|&v| v > 0 && v < 64);
        match (side(first), side(first + 1)) {
            (Some(rows), Some(columns)) => Ok([rows, columns]),
            _ => Err(Error::damaged(
                FORMAT,
                format!("node `{node}`: {name} {list:?}; expected four numbers from 1"),
            )),
        }
    }
}

/// The nodes of a graph.
pub(super) fn lower(graph: GraphDef, size: usize) -> Result<Network> {
    let names: HashMap<&str, usize> =
        graph.node.iter().enumerate().rev().map(|(i, node)| (node.name.as_str(), i)).collect();
    let inputs: Vec<Vec<usize>> = graph.node.iter().map(|node| inputs(node, &names)).collect();
    // Values that a constant may leave out (γ of ones is one number) beyond what the file holds.
    let mut spread = size + (1 << 20);
    let mut nodes = Vec::with_capacity(graph.node.len());
    for (node, mut inputs) in graph.node.iter().zip(inputs) {
        let op = operator(node, &mut inputs, &mut spread)?;
        nodes.push(Node { name: node.name.clone(), op, inputs });
    }
    Ok(Network { nodes })
}

/// A node's inputs without those that only order execution. Outputs beyond a node's first are
/// nothing that inference needs.
fn inputs(node: &NodeDef, names: &HashMap<&str, usize>) -> Vec<usize> {
    let data = node.input.iter().filter(|input| !input.starts_with('^'));
    data.map(|input| {
        let name = input.strip_suffix(":0").unwrap_or(input);
        names.get(name).copied().unwrap_or(MISSING)
    })
    .collect()
}

fn operator(node: &NodeDef, inputs: &mut Vec<usize>, spread: &mut usize) -> Result<Op> {
    let attributes = Attributes(&node.attr);
    Ok(match node.op.as_str() {
        "Placeholder" => {
            let shape = node.attr.get("shape").and_then(|value| value.shape.as_ref());
            let dims = shape.map_or(&[][..], |shape| &shape.dim);
            Op::Input {
                shape: dims.iter().take(8).map(|dim| usize::try_from(dim.size).unwrap_or(0)).collect(),
                integer: is_integer(attributes.data_type("dtype")),
            }
        }
        "DecodeJpeg" | "DecodePng" | "DecodeImage" | "DecodeBmp" => {
            inputs.clear();
            Op::Input { shape: Vec::new(), integer: true }
        }
        "Const" => constant(node, spread),
        "Identity"
        | "PlaceholderWithDefault"
        | "StopGradient"
        | "PreventGradient"
        | "CheckNumerics"
        | "Snapshot"
        | "EnsureShape" => Op::Identity,
        "Cast" => Op::Cast { integer: is_integer(attributes.data_type("SrcT")) },
        "Conv2D" => Op::Convolution(convolution(node, FilterLayout::Hwio)?),
        "DepthwiseConv2dNative" => Op::Convolution(convolution(node, FilterLayout::Hwcm)?),
        "FusedBatchNorm" | "FusedBatchNormV2" | "FusedBatchNormV3" => {
            if attributes.flag("is_training", true) {
                Op::Other(format!("{} in training mode; export the graph for inference", node.op))
            } else {
                Op::BatchNorm { epsilon: attributes.number("epsilon", 1e-4) }
            }
        }
        "BatchNormWithGlobalNormalization" if inputs.len() == 5 => {
            // Its order is data, mean, variance, β, γ.
            if !attributes.flag("scale_after_normalization", true) {
                return Ok(Op::Other(format!("{} without scale", node.op)));
            }
            *inputs = vec![inputs[0], inputs[4], inputs[3], inputs[1], inputs[2]];
            Op::BatchNorm { epsilon: attributes.number("variance_epsilon", 1e-3) }
        }
        "BiasAdd" | "BiasAddV1" | "Add" | "AddV2" => Op::Add,
        "Sub" => Op::Subtract,
        "Mul" => Op::Multiply,
        "RealDiv" | "Div" => Op::Divide,
        "Minimum" => Op::Minimum,
        "Maximum" => Op::Maximum,
        "Rsqrt" => Op::ReciprocalRoot,
        "Relu" => Op::Activation(Activation::Relu),
        "Relu6" => Op::Activation(Activation::Relu6),
        "Pad" => Op::Pad,
        "AvgPool" | "Mean" => Op::Pool,
        "Reshape" | "Squeeze" | "ExpandDims" | "Flatten" => Op::Reshape,
        "Transpose" => Op::Transpose,
        "MatMul" if !attributes.flag("transpose_a", false) => {
            Op::MatMul { transposed: attributes.flag("transpose_b", false) }
        }
        "Softmax" | "LogSoftmax" => Op::Softmax,
        "ResizeBilinear" | "ResizeBicubic" | "ResizeArea" | "ResizeNearestNeighbor" => Op::Resize,
        other => Op::Other(other.chars().take(80).collect()),
    })
}

fn is_integer(data_type: i32) -> bool {
    matches!(data_type, data_type::UINT8 | data_type::INT32 | data_type::INT64)
}

/// A constant; text and what is too large to be a weight here is of no use, and no error where it is
/// not used.
fn constant(node: &NodeDef, spread: &mut usize) -> Op {
    let Some(tensor) = node.attr.get("value").and_then(|value| value.tensor.as_ref()) else {
        return Op::Other("Const without a value".into());
    };
    match tensor::read(tensor, tensor.tensor_shape.as_ref(), spread) {
        Ok(tensor) => Op::Constant(tensor),
        Err(tensor::NotATensor::Type) => Op::Other(format!("Const of data type {}", tensor.dtype)),
        Err(tensor::NotATensor::Length { found }) => {
            Op::Other(format!("Const whose shape does not fit its {found} values"))
        }
    }
}

fn convolution(node: &NodeDef, layout: FilterLayout) -> Result<Convolution> {
    let attributes = Attributes(&node.attr);
    let channels_first = attributes.channels_first();
    let padding = match attributes.text("padding") {
        "SAME" => StepPadding::Same,
        "VALID" => StepPadding::Explicit { top: 0, bottom: 0, left: 0, right: 0 },
        "EXPLICIT" => {
            let list = attributes.list("explicit_paddings");
            let first = if channels_first { 4 } else { 2 };
            let pads: Vec<usize> =
                list.iter().skip(first).take(4).filter_map(|&v| usize::try_from(v).ok()).collect();
            let &[top, bottom, left, right] = pads.as_slice() else {
                return Err(Error::damaged(
                    FORMAT,
                    format!(
                        "node `{}`: explicit_paddings {list:?}; expected eight numbers from 0",
                        node.name
                    ),
                ));
            };
            StepPadding::Explicit { top, bottom, left, right }
        }
        other => {
            return Err(Error::damaged(
                FORMAT,
                format!("node `{}`: padding `{other}`; expected SAME, VALID or EXPLICIT", node.name),
            ));
        }
    };
    Ok(Convolution {
        layout,
        stride: attributes.spatial("strides", &node.name)?,
        dilation: attributes.spatial("dilations", &node.name)?,
        padding,
        channels_first,
    })
}
