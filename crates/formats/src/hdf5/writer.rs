//! A small writer: groups, datasets of f32 and attributes of text, in the oldest form of the
//! format (superblock 0, symbol tables, contiguous data), which every reader understands.

use std::collections::BTreeMap;

use super::{FORMAT, SIGNATURE};
use crate::error::{Error, Result};

/// An address that leads nowhere.
const UNDEFINED: u64 = u64::MAX;
/// Bytes of the superblock with the root's entry.
const SUPERBLOCK: usize = 96;
/// Half the entries of a symbol table node (the format's default).
const LEAF_K: usize = 4;
/// Half the children of a B-tree node (the format's default).
const INTERNAL_K: usize = 16;

/// A group to be written.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// One text each.
    texts: Vec<(String, String)>,
    /// Lists of texts.
    lists: Vec<(String, Vec<String>)>,
    members: BTreeMap<String, Member>,
}

#[derive(Clone, Debug)]
enum Member {
    Group(Group),
    Dataset(Vec<usize>, Vec<f32>),
}

impl Group {
    /// Adds an attribute of one text.
    pub fn text(&mut self, name: &str, value: &str) {
        self.texts.push((name.into(), value.into()));
    }

    /// Adds an attribute that is a list of texts, which must not be empty.
    pub fn list(&mut self, name: &str, values: Vec<String>) {
        debug_assert!(!values.is_empty());
        self.lists.push((name.into(), values));
    }

    /// Whether there is a member of that name.
    pub fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    /// The group at `path` below this one; it and those on the way are made if need be.
    ///
    /// # Errors
    /// When a dataset is in the way.
    pub fn group(&mut self, path: &str) -> Result<&mut Self> {
        path.split('/').try_fold(self, |group, name| {
            match group.members.entry(name.into()).or_insert_with(|| Member::Group(Self::default())) {
                Member::Group(group) => Ok(group),
                Member::Dataset(..) => Err(unsupported(format!("{path}: `{name}` is a dataset"))),
            }
        })
    }

    /// Adds a dataset of this shape, row-major.
    ///
    /// # Errors
    /// When there are not as many values as the shape says, or the name is taken.
    pub fn dataset(&mut self, name: &str, shape: &[usize], data: Vec<f32>) -> Result<()> {
        if shape.iter().product::<usize>() != data.len() {
            return Err(unsupported(format!("{name}: {} values for shape {shape:?}", data.len())));
        }
        match self.members.insert(name.into(), Member::Dataset(shape.to_vec(), data)) {
            None => Ok(()),
            Some(_) => Err(unsupported(format!("two members are named `{name}`"))),
        }
    }
}

/// The file whose root is `root`. The same content always gives the same bytes.
///
/// # Errors
/// When a group has more than 256 members, or an attribute more than 64 KiB.
pub fn to_bytes(root: &Group) -> Result<Vec<u8>> {
    let mut file = Writer { bytes: vec![0; SUPERBLOCK] };
    let root = file.group(root)?;
    let mut head = Vec::with_capacity(SUPERBLOCK);
    head.extend_from_slice(&SIGNATURE);
    // Versions of superblock, free space, root entry and shared messages; bytes of addresses and
    // lengths.
    head.extend_from_slice(&[0, 0, 0, 0, 0, 8, 8, 0]);
    head.extend_from_slice(&(LEAF_K as u16).to_le_bytes());
    head.extend_from_slice(&(INTERNAL_K as u16).to_le_bytes());
    head.extend_from_slice(&[0; 4]);
    for address in [0, UNDEFINED, file.bytes.len() as u64, UNDEFINED] {
        head.extend_from_slice(&address.to_le_bytes());
    }
    head.extend_from_slice(&entry(0, root));
    file.bytes[..SUPERBLOCK].copy_from_slice(&head);
    Ok(file.bytes)
}

/// Where a written object is.
#[derive(Clone, Copy)]
struct Written {
    header: u64,
    /// B-tree and local heap of a group.
    table: Option<(u64, u64)>,
}

/// An entry of a symbol table: 40 bytes.
fn entry(name_at: u64, object: Written) -> [u8; 40] {
    let mut entry = [0; 40];
    entry[..8].copy_from_slice(&name_at.to_le_bytes());
    entry[8..16].copy_from_slice(&object.header.to_le_bytes());
    if let Some((tree, heap)) = object.table {
        entry[16] = 1;
        entry[24..32].copy_from_slice(&tree.to_le_bytes());
        entry[32..].copy_from_slice(&heap.to_le_bytes());
    }
    entry
}

struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Puts a block at the next multiple of 8.
    fn put(&mut self, block: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let address = self.bytes.len() as u64;
        self.bytes.extend_from_slice(block);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        address
    }

    fn group(&mut self, group: &Group) -> Result<Written> {
        // Names and objects, in the order of the names' bytes.
        let mut entries = Vec::with_capacity(group.members.len());
        let mut names = vec![0; 8];
        for (name, member) in &group.members {
            let object = match member {
                Member::Group(group) => self.group(group)?,
                Member::Dataset(shape, data) => self.dataset(shape, data)?,
            };
            entries.push(entry(names.len() as u64, object));
            names.extend_from_slice(name.as_bytes());
            // At least one zero ends the name.
            names.resize((names.len() + 1).next_multiple_of(8), 0);
        }
        if entries.len() > 2 * LEAF_K * 2 * INTERNAL_K {
            return Err(unsupported(format!(
                "a group of {} members; at most 256 are written",
                entries.len()
            )));
        }
        let tree = self.symbol_tree(&entries);
        let data = self.put(&names);
        let mut heap = b"HEAP\0\0\0\0".to_vec();
        // The size of the data, no free space (1), where the data is.
        for value in [names.len() as u64, 1, data] {
            heap.extend_from_slice(&value.to_le_bytes());
        }
        let heap = self.put(&heap);

        let mut messages = vec![message(0x11, &[tree.to_le_bytes(), heap.to_le_bytes()].concat())?];
        for (name, value) in &group.texts {
            messages.push(attribute(name, std::slice::from_ref(value), true)?);
        }
        for (name, values) in &group.lists {
            messages.push(attribute(name, values, false)?);
        }
        Ok(Written { header: self.header(&messages), table: Some((tree, heap)) })
    }

    /// A B-tree of one node over as many symbol tables as it takes.
    fn symbol_tree(&mut self, entries: &[[u8; 40]]) -> u64 {
        let mut children = Vec::new();
        for entries in entries.chunks(2 * LEAF_K) {
            let mut table = b"SNOD\x01\0".to_vec();
            table.extend_from_slice(&(entries.len() as u16).to_le_bytes());
            table.extend(entries.iter().flatten());
            // Nodes are read whole.
            table.resize(8 + 2 * LEAF_K * 40, 0);
            children.push((self.put(&table), &entries[entries.len() - 1][..8]));
        }
        let mut node = b"TREE\0\0".to_vec();
        node.extend_from_slice(&(children.len() as u16).to_le_bytes());
        node.extend_from_slice(&[UNDEFINED.to_le_bytes(), UNDEFINED.to_le_bytes(), [0; 8]].concat());
        for (address, greatest_name) in children {
            node.extend_from_slice(&address.to_le_bytes());
            node.extend_from_slice(greatest_name);
        }
        node.resize(24 + (4 * INTERNAL_K + 1) * 8, 0);
        self.put(&node)
    }

    fn dataset(&mut self, shape: &[usize], data: &[f32]) -> Result<Written> {
        let values: Vec<u8> = data.iter().flat_map(|value| value.to_le_bytes()).collect();
        let length = values.len() as u64;
        let address = if values.is_empty() { UNDEFINED } else { self.put(&values) };
        // IEEE 754 single: sign at bit 31, 8 bits of exponent at 23, 23 of mantissa at 0, bias 127.
        let float = [0x11, 0x20, 0x1f, 0, 4, 0, 0, 0, 0, 0, 32, 0, 23, 8, 0, 23, 127, 0, 0, 0];
        let mut layout = vec![3, 1];
        layout.extend_from_slice(&address.to_le_bytes());
        layout.extend_from_slice(&length.to_le_bytes());
        let messages = [
            message(0x01, &dataspace(shape))?,
            message(0x03, &float)?,
            // The fill value: version 2, allocated late, written if set, zero.
            message(0x05, &[2, 2, 2, 1, 0, 0, 0, 0])?,
            message(0x08, &layout)?,
        ];
        Ok(Written { header: self.header(&messages), table: None })
    }

    /// An object header of version 1.
    fn header(&mut self, messages: &[Vec<u8>]) -> u64 {
        let size: usize = messages.iter().map(Vec::len).sum();
        let mut header = vec![1, 0];
        header.extend_from_slice(&(messages.len() as u16).to_le_bytes());
        header.extend_from_slice(&1u32.to_le_bytes());
        header.extend_from_slice(&(size as u32).to_le_bytes());
        header.extend_from_slice(&[0; 4]);
        header.extend(messages.iter().flatten());
        self.put(&header)
    }
}

/// A header message, padded to a multiple of 8.
fn message(kind: u16, body: &[u8]) -> Result<Vec<u8>> {
    let length = body.len().next_multiple_of(8);
    let size = u16::try_from(length)
        .map_err(|_| unsupported(format!("an attribute of {length} bytes; at most 64 KiB can be written")))?;
    let mut message = kind.to_le_bytes().to_vec();
    message.extend_from_slice(&size.to_le_bytes());
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(body);
    message.resize(8 + length, 0);
    Ok(message)
}

/// Version 1, without greatest extents.
fn dataspace(shape: &[usize]) -> Vec<u8> {
    let mut space = vec![1, shape.len() as u8, 0, 0, 0, 0, 0, 0];
    space.extend(shape.iter().flat_map(|&extent| (extent as u64).to_le_bytes()));
    space
}

/// An attribute of version 1: text of fixed length, padded with zeros.
fn attribute(name: &str, values: &[String], scalar: bool) -> Result<Vec<u8>> {
    let longest = values.iter().map(String::len).max().unwrap_or(0).max(1);
    let mut datatype = vec![0x13, 1, 0, 0];
    datatype.extend_from_slice(&(longest as u32).to_le_bytes());
    let space = if scalar { dataspace(&[]) } else { dataspace(&[values.len()]) };
    let name = [name.as_bytes(), b"\0"].concat();
    let mut body = vec![1, 0];
    for size in [name.len(), datatype.len(), space.len()] {
        body.extend_from_slice(&(size as u16).to_le_bytes());
    }
    body.extend_from_slice(&name);
    body.resize(body.len().next_multiple_of(8), 0);
    body.extend_from_slice(&datatype);
    body.extend_from_slice(&space);
    for value in values {
        let end = body.len() + longest;
        body.extend_from_slice(value.as_bytes());
        body.resize(end, 0);
    }
    message(0x0c, &body)
}

fn unsupported(problem: String) -> Error {
    Error::Unsupported(format!("{FORMAT}: {problem}"))
}
