//! TensorFlow: frozen graphs (`.pb`) and checkpoints.
//!
//! A graph is walked by what its nodes do, never by what they are called, and becomes a
//! [`crate::Chain`]; a checkpoint has variables by name and becomes a [`crate::StateDict`].

mod checkpoint;
pub(crate) mod constant;
mod crc32c;
mod files;
pub(crate) mod filter;
pub(crate) mod front;
mod graph;
pub(crate) mod network;
pub(crate) mod path;
mod proto;
mod snappy;
mod table;
mod tensor;
mod variables;
pub(crate) mod walk;

#[cfg(test)]
mod tests;

use prost::Message;

pub use checkpoint::{read_checkpoint_v1, read_checkpoint_v2};
pub use files::{find_checkpoint_index, load_checkpoint};

use crate::Content;
use crate::error::{Error, Result};

const FORMAT: &str = "TensorFlow";

/// Reads a frozen GraphDef, also one that `retrain` scripts have added nodes to.
///
/// A normalisation in front of the network becomes its preprocessing; a second fully connected layer
/// on the logits is multiplied into the classifier. γ, β, mean and variance are kept where the
/// graph has them, fused or written out.
///
/// # Errors
/// [`Error::Refused`] for a SavedModel and for a graph with variables in place of constants, with
/// what to do; [`Error::OtherNetwork`] when the graph is not a chain of convolutions;
/// [`Error::Damaged`] when it is no protobuf message of that kind.
pub fn read_graph(bytes: &[u8]) -> Result<Content> {
    if looks_like_saved_model(bytes) {
        return Err(Error::refused(
            FORMAT,
            "this is a SavedModel, whose weights lie in its folder variables/; give \
             variables/variables.index, or freeze it into a graph \
             (convert_variables_to_constants_v2) and give that",
        ));
    }
    let graph = proto::GraphDef::decode(bytes)
        .map_err(|e| Error::damaged(FORMAT, format!("not a GraphDef ({e}); the file may be cut short")))?;
    if graph.node.is_empty() {
        return Err(Error::damaged(FORMAT, "a GraphDef without nodes"));
    }
    let network = graph::lower(graph, bytes.len())?;
    walk::chain(&network, FORMAT).map(Content::Chain)
}

/// Whether a file that begins so may be a GraphDef: its first field is a node with a name and then
/// an operation.
pub fn looks_like_graph(head: &[u8]) -> bool {
    let mut rest = head;
    let mut field = |tag: u8| {
        let (&first, mut after) = rest.split_first()?;
        let length = (first == tag).then(|| prost::encoding::decode_varint(&mut after).ok()).flatten()?;
        rest = after;
        usize::try_from(length).ok()
    };
    let (Some(node), Some(name)) = (field(0x0A), field(0x0A)) else { return false };
    let Some((name, after)) = rest.split_at_checked(name) else { return false };
    node > name.len()
        && !name.is_empty()
        && name.iter().all(|b| b.is_ascii_graphic())
        && after.first().is_some_and(|&tag| tag == 0x12)
}

/// Whether a file that begins so may be a `saved_model.pb`: a schema version of 1, then a graph.
pub fn looks_like_saved_model(head: &[u8]) -> bool {
    // ONNX files begin alike, with a version of theirs that has been above 1 since 2017, and a
    // producer's name, which is short; a meta graph is not.
    let Some(mut rest) = head.strip_prefix(&[0x08, 0x01, 0x12]) else { return false };
    prost::encoding::decode_varint(&mut rest).is_ok_and(|length| length > 127)
}

/// Whether these are the bytes of a table: a version 1 checkpoint or a version 2 `.index`. Looks at
/// the end, so all of the file is wanted.
pub fn looks_like_checkpoint(bytes: &[u8]) -> bool {
    table::is_table(bytes)
}

/// Whether a table is a version 2 `.index`: a version 1 file starts with the list of its tensors.
pub fn looks_like_checkpoint_index(bytes: &[u8]) -> bool {
    let mut index = false;
    // The first entry tells; the error only ends the walk.
    let _ = table::each(bytes, |key, value| {
        let bundle = |value| proto::BundleHeader::decode(value).is_ok_and(|header| header.num_shards > 0);
        index = key.is_empty() && bundle(value);
        Err(Error::damaged(FORMAT, ""))
    });
    index
}
