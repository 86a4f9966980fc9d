//! The messages of `onnx.proto` (ONNX IR), with the fields that are used here; others are skipped.
//!
//! None of them contains itself (attributes hold no subgraphs), so that decoding cannot recurse.

use prost::Message;

use super::FORMAT;
use crate::error::{Error, Result};

/// The most messages that a file may have: real MobileNets have some hundred nodes. An empty message
/// takes two bytes in the file and a hundred in memory, so that their number is to be bounded.
const MOST_MESSAGES: usize = 200_000;

/// A file.
#[derive(Clone, PartialEq, Message)]
pub struct ModelProto {
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    #[prost(string, tag = "2")]
    pub producer_name: String,
    #[prost(string, tag = "3")]
    pub producer_version: String,
    #[prost(string, tag = "6")]
    pub doc_string: String,
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
    #[prost(message, repeated, tag = "14")]
    pub metadata_props: Vec<StringStringEntryProto>,
}

/// The version of a domain's operators.
#[derive(Clone, PartialEq, Message)]
pub struct OperatorSetIdProto {
    #[prost(string, tag = "1")]
    pub domain: String,
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// One entry of a dictionary.
#[derive(Clone, PartialEq, Message)]
pub struct StringStringEntryProto {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

/// Nodes in topological order, and their constants.
#[derive(Clone, PartialEq, Message)]
pub struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
}

/// An operator with the names of its inputs ("" where one is left out) and outputs.
#[derive(Clone, PartialEq, Message)]
pub struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(string, tag = "4")]
    pub op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
    #[prost(string, tag = "7")]
    pub domain: String,
}

/// A setting of a node.
#[derive(Clone, PartialEq, Message)]
pub struct AttributeProto {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(float, tag = "2")]
    pub f: f32,
    #[prost(int64, tag = "3")]
    pub i: i64,
    #[prost(bytes = "vec", tag = "4")]
    pub s: Vec<u8>,
    #[prost(message, optional, tag = "5")]
    pub t: Option<TensorProto>,
    #[prost(float, repeated, tag = "7")]
    pub floats: Vec<f32>,
    #[prost(int64, repeated, tag = "8")]
    pub ints: Vec<i64>,
    #[prost(int32, tag = "20")]
    pub r#type: i32,
}

/// `AttributeProto.AttributeType`.
pub mod attribute_type {
    pub const FLOAT: i32 = 1;
    pub const INT: i32 = 2;
    pub const INTS: i32 = 7;
}

/// A constant.
#[derive(Clone, PartialEq, Message)]
pub struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    /// Integers of up to 32 bits, and the bits of f16 and bf16.
    #[prost(int32, repeated, tag = "5")]
    pub int32_data: Vec<i32>,
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    #[prost(string, tag = "8")]
    pub name: String,
    /// Little-endian, in place of the typed fields.
    #[prost(bytes = "vec", tag = "9")]
    pub raw_data: Vec<u8>,
    #[prost(double, repeated, tag = "10")]
    pub double_data: Vec<f64>,
    /// Where the values lie if in another file (`location`, `offset`, `length`).
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<StringStringEntryProto>,
    /// 1: in another file.
    #[prost(int32, tag = "14")]
    pub data_location: i32,
}

/// `TensorProto.DataType`.
pub mod data_type {
    pub const FLOAT: i32 = 1;
    pub const UINT8: i32 = 2;
    pub const INT8: i32 = 3;
    pub const UINT16: i32 = 4;
    pub const INT16: i32 = 5;
    pub const INT32: i32 = 6;
    pub const INT64: i32 = 7;
    pub const BOOL: i32 = 9;
    pub const FLOAT16: i32 = 10;
    pub const DOUBLE: i32 = 11;
    pub const UINT32: i32 = 12;
    pub const UINT64: i32 = 13;
    pub const BFLOAT16: i32 = 16;
}

/// The type and shape of an input or output.
#[derive(Clone, PartialEq, Message)]
pub struct ValueInfoProto {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
}

/// A type; only tensors are looked at.
#[derive(Clone, PartialEq, Message)]
pub struct TypeProto {
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorType>,
}

/// `TypeProto.Tensor`.
#[derive(Clone, PartialEq, Message)]
pub struct TensorType {
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// A shape.
#[derive(Clone, PartialEq, Message)]
pub struct TensorShapeProto {
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<Dimension>,
}

/// A dimension: a number, or a name for what is open.
#[derive(Clone, PartialEq, Message)]
pub struct Dimension {
    #[prost(int64, optional, tag = "1")]
    pub dim_value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    pub dim_param: Option<String>,
}

/// Decodes a file.
///
/// # Errors
/// [`Error::Damaged`] when the bytes are not a message, [`Error::Refused`] when there are more
/// messages in it than any network has.
pub fn decode(bytes: &[u8]) -> Result<ModelProto> {
    let mut messages = 0;
    census(bytes, Level::Model, &mut messages)
        .ok_or_else(|| Error::damaged(FORMAT, "its protobuf is cut short or damaged"))?;
    if messages > MOST_MESSAGES {
        return Err(Error::refused(
            FORMAT,
            format!("its graph has more than {MOST_MESSAGES} parts; a MobileNet v1 has some hundred"),
        ));
    }
    ModelProto::decode(bytes)
        .map_err(|error| Error::damaged(FORMAT, format!("its protobuf cannot be decoded: {error}")))
}

/// Whether `bytes` are, field for field, what an ONNX file has at its top level. It is cheap: the
/// graph is skipped. A file that is cut short within its graph is one as well.
pub fn could_be_model(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let mut first = true;
    while !rest.is_empty() {
        let Some((field, payload)) = next_field(&mut rest) else { return false };
        match (field, payload) {
            (1, Payload::Number(1..=100)) => {}
            // What comes before `ir_version` in other formats of protobuf is not ONNX.
            _ if first => return false,
            (5, Payload::Number(_)) => {}
            (7, Payload::Bytes(_) | Payload::CutShort) => return true,
            (2 | 3 | 4 | 6 | 8 | 14 | 20 | 25 | 26, Payload::Bytes(_)) => {}
            _ => return false,
        }
        first = false;
    }
    false
}

/// Which message is being looked at, for the [`census`].
#[derive(Clone, Copy)]
enum Level {
    Model,
    Graph,
    Node,
    Value,
    Type,
    Tensor,
    Leaf,
}

/// What a field of this number holds.
fn level_of(level: Level, field: u64) -> Option<Level> {
    Some(match (level, field) {
        (Level::Model, 7) => Level::Graph,
        (Level::Model, 8 | 14) => Level::Leaf,
        (Level::Graph, 1) => Level::Node,
        (Level::Graph, 5) => Level::Leaf,
        (Level::Graph, 11 | 12) => Level::Value,
        (Level::Node, 5) => Level::Leaf,
        (Level::Value, 2) => Level::Type,
        (Level::Type, 1) => Level::Tensor,
        // Shapes: few of them are looked into, all are counted.
        (Level::Tensor, 2) => Level::Value,
        _ => return None,
    })
}

/// Counts the messages that decoding would allocate; none when the framing is damaged. It stops
/// where there are too many.
fn census(mut bytes: &[u8], level: Level, messages: &mut usize) -> Option<()> {
    while !bytes.is_empty() && *messages <= MOST_MESSAGES {
        let (field, payload) = next_field(&mut bytes)?;
        match payload {
            Payload::CutShort => return None,
            Payload::Number(_) => {}
            Payload::Bytes(inner) => {
                // Names of inputs, dimensions and external locations are small and many as well.
                let weighs = matches!(level, Level::Node | Level::Value | Level::Leaf);
                if let Some(next) = level_of(level, field) {
                    *messages += 1;
                    census(inner, next, messages)?;
                } else if weighs {
                    *messages += 1;
                }
            }
        }
    }
    Some(())
}

enum Payload<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Says to be longer than what is left.
    CutShort,
}

/// Takes a field off the front; none when it is no field.
fn next_field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Payload<'a>)> {
    let key = varint(bytes)?;
    let mut take = |length: usize| {
        let (taken, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        Some(taken)
    };
    let payload = match key & 7 {
        0 => Payload::Number(varint(bytes)?),
        1 => Payload::Bytes(take(8)?),
        5 => Payload::Bytes(take(4)?),
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            match bytes.split_at_checked(length) {
                None => {
                    *bytes = &[];
                    Payload::CutShort
                }
                Some((taken, rest)) => {
                    *bytes = rest;
                    Payload::Bytes(taken)
                }
            }
        }
        _ => return None,
    };
    Some((key >> 3, payload))
}

/// Takes a varint of at most ten bytes off the front.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
