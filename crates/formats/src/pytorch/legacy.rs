//! What `torch.save` wrote before PyTorch 1.6, and still does on request: four pickles in a row (a
//! magic number, the protocol's version, the machine's sizes, the object), the list of storages,
//! then their numbers.

use std::borrow::Cow;
use std::collections::HashMap;

use super::FORMAT;
use super::machine::Machine;
use super::tensor::Storages;
use super::value::{Id, Kind, Value};
use crate::error::{Error, Result};

/// The first pickle's number.
pub const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
const PROTOCOL: i128 = 1001;

/// An open file.
pub struct Legacy<'a> {
    bytes: &'a [u8],
    /// Where each storage's numbers begin and end.
    storages: HashMap<String, (usize, usize)>,
    big_endian: bool,
}

fn damaged(problem: impl Into<String>) -> Error {
    Error::damaged(FORMAT, problem)
}

/// Opens a file: the machine with what the pickles built, the object, and the storages.
///
/// # Errors
/// [`Error::Damaged`] if it is no such file or cut short; [`Error::Refused`] if a pickle wants to
/// call a function.
pub fn open(bytes: &[u8]) -> Result<(Machine<'_>, Id, Legacy<'_>)> {
    let mut machine = Machine::new(bytes);
    let magic = machine.run()?;
    match machine.values.get(magic) {
        Value::Int(MAGIC) => {}
        Value::Instance(class) => return Err(super::container::whole_network(class)),
        _ => {
            return Err(damaged(
                "a pickle that torch.save did not write; save the network's state_dict with torch.save",
            ));
        }
    }
    let protocol = machine.run()?;
    if !matches!(machine.values.get(protocol), Value::Int(PROTOCOL)) {
        return Err(damaged("a version of the old format other than 1001, the only one there was"));
    }
    let system = machine.run()?;
    let big_endian = match machine.values.get(system) {
        Value::Dict(pairs) => machine
            .values
            .lookup(pairs, "little_endian")
            .is_some_and(|little| matches!(machine.values.get(little), Value::Bool(false))),
        _ => return Err(damaged("the sizes of the machine are no dictionary")),
    };
    let before = machine.values.len();
    let root = machine.run()?;
    let described = machine.values.storages_since(before);
    let keys = machine.run()?;
    let keys = machine.values.list(keys).ok_or_else(|| damaged("the list of storages is no list"))?;

    let mut at = machine.position();
    let mut storages = HashMap::new();
    for key in keys {
        let key = machine.values.text(*key).ok_or_else(|| damaged("a storage's key is no text"))?;
        let Some(kind) = described.get(key).copied() else {
            return Err(damaged(format!("storage {key:?} is listed, but no tensor uses it")));
        };
        let left = &bytes[at..];
        let Some((count, left)) = left.split_first_chunk::<8>() else {
            return Err(damaged(format!("cut short before storage {key:?}")));
        };
        let count = if big_endian { i64::from_be_bytes(*count) } else { i64::from_le_bytes(*count) };
        // An untyped storage's length is in bytes.
        let size = usize::try_from(count)
            .ok()
            .and_then(|count| count.checked_mul(kind.map_or(1, Kind::size)))
            .filter(|size| *size <= left.len())
            .ok_or_else(|| {
                damaged(format!("storage {key:?}: {count} numbers stated, {} bytes are left", left.len()))
            })?;
        at += 8;
        storages.insert(key.to_owned(), (at, at + size));
        at += size;
    }
    Ok((machine, root, Legacy { bytes, storages, big_endian }))
}

impl Storages for Legacy<'_> {
    fn bytes(&self, key: &str, needed: usize) -> Result<Cow<'_, [u8]>> {
        let Some(&(start, end)) = self.storages.get(key) else {
            return Err(damaged(format!("storage {key:?} is used, but the file does not have it")));
        };
        if end - start < needed {
            return Err(damaged(format!(
                "storage {key:?}: {needed} bytes needed, the file has {}",
                end - start
            )));
        }
        Ok(Cow::Borrowed(&self.bytes[start..end]))
    }

    fn big_endian(&self) -> bool {
        self.big_endian
    }

    fn total(&self) -> usize {
        self.bytes.len()
    }
}
