//! A node's settings by name.

use super::array::{self, Array};
use super::proto::{AttributeProto, NodeProto};
use crate::error::Result;

/// The attributes of a node.
#[derive(Clone, Copy)]
pub struct Attributes<'a>(pub &'a [AttributeProto]);

impl<'a> Attributes<'a> {
    fn get(&self, name: &str) -> Option<&'a AttributeProto> {
        self.0.iter().find(|attribute| attribute.name == name)
    }

    /// An integer.
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.get(name).map(|attribute| attribute.i)
    }

    /// A number.
    pub fn float(&self, name: &str) -> Option<f64> {
        self.get(name).map(|attribute| f64::from(attribute.f))
    }

    /// A list of integers.
    pub fn integers(&self, name: &str) -> Option<&'a [i64]> {
        self.get(name).map(|attribute| attribute.ints.as_slice())
    }

    /// A list of numbers; empty where it is left out.
    pub fn floats(&self, name: &str) -> &'a [f32] {
        self.get(name).map_or(&[], |attribute| attribute.floats.as_slice())
    }

    /// A text; "" where it is left out or is no text.
    pub fn text(&self, name: &str) -> &'a str {
        self.get(name).and_then(|attribute| str::from_utf8(&attribute.s).ok()).unwrap_or("")
    }

    /// A tensor.
    pub fn tensor(&self, name: &str) -> Option<Result<Array>> {
        self.get(name)?.t.as_ref().map(|tensor| array::decode(tensor, name))
    }

    /// The value of a `Constant` node; none where it is of no kind that is read.
    pub fn constant(&self) -> Option<Result<Array>> {
        let attribute = self.0.first()?;
        Some(match attribute.name.as_str() {
            "value" => return self.tensor("value"),
            "value_int" => Ok(Array::scalar(attribute.i as f64, true)),
            "value_ints" => Ok(Array::integers(&attribute.ints)),
            "value_float" => Ok(Array::scalar(attribute.f.into(), false)),
            "value_floats" => {
                let values = attribute.floats.iter().map(|&value| value.into()).collect();
                Ok(Array::new(vec![attribute.floats.len()], values, false))
            }
            _ => return None,
        })
    }
}

/// What a node is called in messages: its name, else that of its first output, and its operator.
pub fn describe(node: &NodeProto) -> String {
    let name = [Some(&node.name), node.output.first()].into_iter().flatten().find(|name| !name.is_empty());
    let domain = if is_standard(node) { String::new() } else { format!("{}.", short(&node.domain)) };
    let operator = short(&node.op_type);
    match name {
        Some(name) => format!("node `{}` ({domain}{operator})", short(name)),
        None => format!("a node without a name ({domain}{operator})"),
    }
}

/// The beginning of a name, which may be as long as the file: messages are copied from node to node.
pub fn short(name: &str) -> &str {
    name.char_indices().nth(100).map_or(name, |(end, _)| &name[..end])
}

/// Whether its operator is one of the ONNX standard's.
pub fn is_standard(node: &NodeProto) -> bool {
    matches!(node.domain.as_str(), "" | "ai.onnx")
}
