//! Checkpoints: version 2 (an index and shards of data), version 1 (one table).

use std::collections::{BTreeMap, BTreeSet};

use mobilenet::Tensor;
use prost::Message;

use super::proto::{
    BundleEntry, BundleHeader, SavedSliceMeta, SavedTensorSlices, TensorShape, TrackableObjectGraph,
    data_type,
};
use super::{FORMAT, crc32c, table, tensor, variables};
use crate::Content;
use crate::error::{Error, Result};
use crate::state_dict::{Hints, StateDict};

/// The entry that names the objects of a TensorFlow 2 checkpoint.
const OBJECTS: &str = "_CHECKPOINTABLE_OBJECT_GRAPH";

fn damaged(problem: impl Into<String>) -> Error {
    Error::damaged(FORMAT, problem)
}

fn partitioned(name: &str) -> Error {
    Error::refused(
        FORMAT,
        format!(
            "variable `{name}` was saved in parts (a partitioned variable); load the checkpoint in \
             TensorFlow and save it without a partitioner"
        ),
    )
}

/// Reads a version 2 checkpoint from its `.index` file; `shard` gives the content of the data file
/// of that number (from 0) among so many.
///
/// Names are the file's own (`MobilenetV1/Conv2d_0/weights`; for an object checkpoint of TensorFlow
/// 2 the variables' own: `conv1/kernel`). Moving averages take the place of what they average;
/// optimizers' variables and integers are left out.
///
/// # Errors
/// [`Error::Damaged`] for wrong lengths and checksums, [`Error::Refused`] for partitioned variables
/// and big-endian files, and what `shard` returns.
pub fn read_checkpoint_v2(
    index: &[u8],
    shard: &mut dyn FnMut(usize, usize) -> Result<Vec<u8>>,
) -> Result<Content> {
    let mut header = None;
    let mut entries: BTreeMap<String, BundleEntry> = BTreeMap::new();
    table::each(index, |key, value| {
        if key.is_empty() {
            header = BundleHeader::decode(value).ok();
        } else if let Ok(name) = std::str::from_utf8(key) {
            let entry =
                BundleEntry::decode(value).map_err(|e| damaged(format!("index entry `{name}`: {e}")))?;
            entries.insert(name.to_owned(), entry);
        }
        // A key that is not text is a part of a partitioned variable, which its own entry tells.
        Ok(())
    })?;
    let header = header.ok_or_else(|| {
        damaged("the index has no header; a version 1 checkpoint is a single file and not an .index")
    })?;
    if header.endianness != 0 {
        return Err(Error::refused(FORMAT, "the checkpoint was saved on a big-endian machine"));
    }
    let shards = usize::try_from(header.num_shards)
        .ok()
        .filter(|&n| n > 0)
        .ok_or_else(|| damaged(format!("{} data files; expected 1 or more", header.num_shards)))?;
    let mut files: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
    let mut bytes_of = |name: &str, entry: &BundleEntry| -> Result<Vec<u8>> {
        let number = usize::try_from(entry.shard_id)
            .ok()
            .filter(|&n| n < shards)
            .ok_or_else(|| damaged(format!("`{name}` is in data file {} of {shards}", entry.shard_id)))?;
        let file = match files.entry(number) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(shard(number, shards)?),
        };
        let range = usize::try_from(entry.offset).ok().zip(usize::try_from(entry.size).ok());
        let bytes = range.and_then(|(at, size)| file.get(at..)?.get(..size)).ok_or_else(|| {
            damaged(format!(
                "`{name}`: {} bytes at byte {} of a data file of {}; is it cut short?",
                entry.size,
                entry.offset,
                file.len()
            ))
        })?;
        if entry.dtype != data_type::STRING && crc32c::masked(&[bytes]) != entry.crc32c {
            return Err(damaged(format!("the checksum of `{name}` is wrong")));
        }
        Ok(bytes.to_vec())
    };

    let mut full_names = BTreeMap::new();
    if let Some(entry) = entries.remove(OBJECTS) {
        full_names = object_names(&bytes_of(OBJECTS, &entry)?)?;
    }
    let names: BTreeSet<String> = entries
        .iter()
        .filter(|(_, entry)| tensor::is_float(entry.dtype))
        .map(|(name, _)| name.clone())
        .collect();
    let selection = variables::select(&names, &full_names);
    let mut dict = StateDict::default();
    // Entries may lie on each other in a hostile file; what is taken from a file may not be more
    // than it holds.
    let (mut taken, held) = (0_usize, files_len(&entries));
    for (name, given) in selection.names {
        let entry = &entries[&name];
        if !entry.slices.is_empty() {
            return Err(partitioned(&name));
        }
        let bytes = bytes_of(&name, entry)?;
        taken += bytes.len();
        let (sides, count) = sides(&name, entry.shape.as_ref())?;
        let values = tensor::values(entry.dtype, &bytes).filter(|values| values.len() == count);
        let values =
            values.ok_or_else(|| damaged(format!("`{name}`: {} bytes for shape {sides:?}", bytes.len())))?;
        dict.tensors.insert(given, Tensor::new(&sides, values)?);
        if taken > held {
            return Err(damaged("its tensors lie on each other"));
        }
    }
    finish(dict, selection.notes)
}

/// The furthest byte that any entry names, over all data files.
fn files_len(entries: &BTreeMap<String, BundleEntry>) -> usize {
    let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
    for entry in entries.values() {
        let end = ends.entry(entry.shard_id).or_default();
        *end = (*end).max(entry.offset.saturating_add(entry.size));
    }
    usize::try_from(ends.values().fold(0_i64, |sum, &end| sum.saturating_add(end))).unwrap_or(0)
}

/// From an object checkpoint's keys to the variables' own names. The entry is a string tensor of one
/// element: its length, a checksum of the length, the text.
fn object_names(bytes: &[u8]) -> Result<BTreeMap<String, String>> {
    let mut rest = bytes;
    let length = prost::encoding::decode_varint(&mut rest).ok().and_then(|n| usize::try_from(n).ok());
    let text = length.and_then(|length| rest.get(4..)?.get(..length));
    let text = text.ok_or_else(|| damaged(format!("`{OBJECTS}` is cut short")))?;
    let graph = TrackableObjectGraph::decode(text).map_err(|e| damaged(format!("`{OBJECTS}`: {e}")))?;
    let tensors = graph.nodes.into_iter().flat_map(|node| node.attributes);
    Ok(tensors
        .filter(|tensor| !tensor.full_name.is_empty())
        .map(|tensor| (tensor.checkpoint_key, tensor.full_name))
        .collect())
}

/// Reads a version 1 checkpoint: one file, as `Saver(write_version=V1)` and TensorFlow before 1.0
/// write it. What is taken and left is as for [`read_checkpoint_v2`].
///
/// # Errors
/// [`Error::Damaged`] for wrong lengths and checksums, [`Error::Refused`] for partitioned variables.
pub fn read_checkpoint_v1(bytes: &[u8]) -> Result<Content> {
    let mut metas: BTreeMap<String, SavedSliceMeta> = BTreeMap::new();
    let mut selection = None;
    let mut dict = StateDict::default();
    table::each(bytes, |key, value| {
        let mut message = SavedTensorSlices::decode(value)
            .map_err(|e| damaged(format!("an entry of the table is not a saved tensor: {e}")))?;
        if let (true, Some(meta)) = (key.is_empty(), message.meta.take()) {
            metas = meta.tensor.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
            let names = metas.values().filter(|meta| tensor::is_float(meta.r#type));
            selection =
                Some(variables::select(&names.map(|meta| meta.name.clone()).collect(), &BTreeMap::new()));
            return Ok(());
        }
        // The empty key sorts first, so what to read is known when tensors come.
        let selection = selection.as_ref().ok_or_else(|| {
            damaged("the table does not list its tensors; the .index of a version 2 checkpoint?")
        })?;
        let Some(saved) = message.data else { return Ok(()) };
        let Some(given) = selection.names.get(&saved.name) else { return Ok(()) };
        let meta =
            metas.get(&saved.name).ok_or_else(|| damaged(format!("`{}` is not listed", saved.name)))?;
        let whole = |extent: &super::proto::Extent| extent.start == 0 && extent.length.is_none();
        if meta.slice.len() > 1 || !meta.slice.iter().all(|slice| slice.extent.iter().all(whole)) {
            return Err(partitioned(&saved.name));
        }
        let mut data = saved.data.ok_or_else(|| damaged(format!("`{}` has no values", saved.name)))?;
        // The values' own message leaves the type out.
        data.dtype = meta.r#type;
        let (sides, count) = sides(&saved.name, meta.shape.as_ref())?;
        let value = tensor::read(&data, meta.shape.as_ref(), &mut 0).map_err(|problem| match problem {
            tensor::NotATensor::Type => damaged(format!("`{}`: data type {}", saved.name, data.dtype)),
            tensor::NotATensor::Length { found } => damaged(format!(
                "`{}`: expected {count} values for shape {sides:?}, found {found}",
                saved.name
            )),
        })?;
        dict.tensors.insert(given.clone(), value);
        Ok(())
    })?;
    let selection = selection.ok_or_else(|| damaged("the table does not list its tensors"))?;
    if let Some(name) =
        selection.names.iter().find_map(|(from, to)| (!dict.tensors.contains_key(to)).then_some(from))
    {
        return Err(damaged(format!("`{name}` is listed and not there")));
    }
    finish(dict, selection.notes)
}

fn sides(name: &str, shape: Option<&TensorShape>) -> Result<(Vec<usize>, usize)> {
    tensor::sides(shape).ok_or_else(|| damaged(format!("`{name}` has no usable shape")))
}

fn finish(mut dict: StateDict, notes: Vec<String>) -> Result<Content> {
    if dict.tensors.is_empty() {
        return Err(Error::Tensors("the TensorFlow checkpoint holds no floating-point variable".into()));
    }
    dict.hints = Hints { notes, ..Hints::default() };
    Ok(Content::StateDict(dict))
}
