//! The protobuf messages of TensorFlow that are read here: graphs (`graph.proto`,
//! `attr_value.proto`, `tensor.proto`), and checkpoints (`tensor_bundle.proto`,
//! `saved_tensor_slice.proto`, `trackable_object_graph.proto`). Fields that are not needed are
//! left out; the decoder skips them.

use std::collections::HashMap;

/// `DataType` (`types.proto`).
pub(super) mod data_type {
    pub(crate) const FLOAT: i32 = 1;
    pub(crate) const DOUBLE: i32 = 2;
    pub(crate) const INT32: i32 = 3;
    pub(crate) const UINT8: i32 = 4;
    pub(crate) const STRING: i32 = 7;
    pub(crate) const INT64: i32 = 9;
    pub(crate) const BFLOAT16: i32 = 14;
    pub(crate) const HALF: i32 = 19;
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GraphDef {
    #[prost(message, repeated, tag = "1")]
    pub(super) node: Vec<NodeDef>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NodeDef {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) op: String,
    #[prost(string, repeated, tag = "3")]
    pub(super) input: Vec<String>,
    #[prost(map = "string, message", tag = "5")]
    pub(super) attr: HashMap<String, AttrValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AttrValue {
    #[prost(message, optional, tag = "1")]
    pub(super) list: Option<ListValue>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) s: Vec<u8>,
    #[prost(int64, optional, tag = "3")]
    pub(super) i: Option<i64>,
    #[prost(float, optional, tag = "4")]
    pub(super) f: Option<f32>,
    #[prost(bool, optional, tag = "5")]
    pub(super) b: Option<bool>,
    #[prost(int32, tag = "6")]
    pub(super) r#type: i32,
    #[prost(message, optional, tag = "7")]
    pub(super) shape: Option<TensorShape>,
    #[prost(message, optional, tag = "8")]
    pub(super) tensor: Option<TensorProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ListValue {
    #[prost(int64, repeated, tag = "3")]
    pub(super) i: Vec<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TensorShape {
    #[prost(message, repeated, tag = "2")]
    pub(super) dim: Vec<Dim>,
    #[prost(bool, tag = "3")]
    pub(super) unknown_rank: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Dim {
    #[prost(int64, tag = "1")]
    pub(super) size: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TensorProto {
    #[prost(int32, tag = "1")]
    pub(super) dtype: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) tensor_shape: Option<TensorShape>,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) tensor_content: Vec<u8>,
    #[prost(float, repeated, tag = "5")]
    pub(super) float_val: Vec<f32>,
    #[prost(double, repeated, tag = "6")]
    pub(super) double_val: Vec<f64>,
    #[prost(int32, repeated, tag = "7")]
    pub(super) int_val: Vec<i32>,
    #[prost(int64, repeated, tag = "10")]
    pub(super) int64_val: Vec<i64>,
    #[prost(int32, repeated, tag = "13")]
    pub(super) half_val: Vec<i32>,
}

/// The head of a version 2 checkpoint's index.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BundleHeader {
    #[prost(int32, tag = "1")]
    pub(super) num_shards: i32,
    /// 0 is little.
    #[prost(int32, tag = "2")]
    pub(super) endianness: i32,
}

/// Where a tensor of a version 2 checkpoint lies.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BundleEntry {
    #[prost(int32, tag = "1")]
    pub(super) dtype: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) shape: Option<TensorShape>,
    #[prost(int32, tag = "3")]
    pub(super) shard_id: i32,
    #[prost(int64, tag = "4")]
    pub(super) offset: i64,
    #[prost(int64, tag = "5")]
    pub(super) size: i64,
    #[prost(fixed32, tag = "6")]
    pub(super) crc32c: u32,
    /// Not empty for a variable that was saved in parts.
    #[prost(message, repeated, tag = "7")]
    pub(super) slices: Vec<TensorSlice>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TensorSlice {
    #[prost(message, repeated, tag = "1")]
    pub(super) extent: Vec<Extent>,
}

/// A range of one dimension; without a length all of it.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Extent {
    #[prost(int64, tag = "1")]
    pub(super) start: i64,
    #[prost(int64, optional, tag = "2")]
    pub(super) length: Option<i64>,
}

/// A value of a version 1 checkpoint's table.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SavedTensorSlices {
    #[prost(message, optional, tag = "1")]
    pub(super) meta: Option<SavedTensorSliceMeta>,
    #[prost(message, optional, tag = "2")]
    pub(super) data: Option<SavedSlice>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SavedTensorSliceMeta {
    #[prost(message, repeated, tag = "1")]
    pub(super) tensor: Vec<SavedSliceMeta>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SavedSliceMeta {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) shape: Option<TensorShape>,
    #[prost(int32, tag = "3")]
    pub(super) r#type: i32,
    #[prost(message, repeated, tag = "4")]
    pub(super) slice: Vec<TensorSlice>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SavedSlice {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "3")]
    pub(super) data: Option<TensorProto>,
}

/// What a TensorFlow 2 checkpoint tells of its objects: the variables' own names.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TrackableObjectGraph {
    #[prost(message, repeated, tag = "1")]
    pub(super) nodes: Vec<TrackableObject>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TrackableObject {
    #[prost(message, repeated, tag = "2")]
    pub(super) attributes: Vec<SerializedTensor>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SerializedTensor {
    #[prost(string, tag = "2")]
    pub(super) full_name: String,
    #[prost(string, tag = "3")]
    pub(super) checkpoint_key: String,
}
