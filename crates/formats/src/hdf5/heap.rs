//! Local heaps (names of old groups) and global heaps (strings of variable length).

use super::cursor::Cursor;
use super::{File, damaged};
use crate::error::Result;

/// The names of an old-style group.
#[derive(Debug)]
pub(super) struct LocalHeap<'a> {
    data: &'a [u8],
}

impl<'a> LocalHeap<'a> {
    pub(super) fn read(file: &File<'a>, address: u64) -> Result<Self> {
        let mut cursor = file.cursor(address, "local heap")?;
        cursor.signature(b"HEAP")?;
        cursor.version(0)?;
        cursor.skip(3)?;
        let size = cursor.length()?;
        cursor.length()?;
        let at = cursor.defined_address("a local heap's data")?;
        Ok(Self { data: file.block(at, size, "local heap")?.rest() })
    }

    /// The name that starts at `offset` and ends before a zero.
    pub(super) fn name(&self, file: &File<'_>, offset: u64) -> Result<String> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.data.get(at..));
        let length = rest.and_then(|rest| rest.iter().take(MAX_NAME).position(|&byte| byte == 0));
        let (Some(rest), Some(length)) = (rest, length) else {
            return Err(damaged(format!(
                "a link's name at {offset} of a local heap of {} bytes has no end",
                self.data.len()
            )));
        };
        file.step(length)?;
        text(&rest[..length])
    }
}

/// Bytes of a name at most.
const MAX_NAME: usize = 4096;

/// UTF-8 text.
pub(super) fn text(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec())
        .map_err(|_| damaged(format!("\"{}\" is not UTF-8", bytes[..bytes.len().min(64)].escape_ascii())))
}

/// The bytes that a reference of variable length means: its length, a global heap's address and
/// an index in it.
pub(super) fn variable<'a>(file: &File<'a>, reference: &mut Cursor<'_>) -> Result<&'a [u8]> {
    let length = reference.u32()? as usize;
    let address = reference.address()?;
    let index = reference.u32()?;
    let Some(address) = address.filter(|_| length > 0) else {
        return Ok(&[]);
    };
    let mut cursor = file.cursor(address, "global heap")?;
    cursor.signature(b"GCOL")?;
    cursor.version(1)?;
    cursor.skip(3)?;
    let size = cursor.length()?;
    let mut heap = file.block(address, size, "global heap")?;
    heap.skip(cursor.consumed())?;
    while heap.remaining() >= 8 {
        file.step(0)?;
        let found = heap.u16()?;
        heap.skip(6)?;
        let size = usize::try_from(heap.length()?).unwrap_or(usize::MAX);
        if found == 0 {
            break;
        }
        let data = heap.take(size)?;
        if u32::from(found) == index {
            return data.get(..length).ok_or_else(|| {
                damaged(format!("a string of {length} bytes is kept in {size} bytes of a global heap"))
            });
        }
        heap.skip((size.next_multiple_of(8) - size).min(heap.remaining()))?;
    }
    Err(damaged(format!("the global heap at byte {address} has no object {index}")))
}
