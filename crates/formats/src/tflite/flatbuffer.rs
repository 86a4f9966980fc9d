//! FlatBuffers, read without trusting an offset: every access is checked against the file's bytes.
//!
//! A table begins with the distance back to its vtable, which holds the place of each field within
//! the table. Offsets to strings, vectors and other tables point forward from where they stand.

use super::FORMAT;
use crate::error::{Error, Result};

/// A table of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<'a> {
    bytes: &'a [u8],
    at: usize,
    vtable: usize,
    /// Bytes of the vtable.
    size: usize,
}

/// A vector of a file: `length` items from byte `start`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vector<'a> {
    bytes: &'a [u8],
    start: usize,
    length: usize,
}

fn damaged(at: usize) -> Error {
    Error::damaged(FORMAT, format!("an offset or length at byte {at} leads outside the file"))
}

fn fixed<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or_else(|| damaged(at))
}

/// Where the offset at `at` leads.
fn follow(bytes: &[u8], at: usize) -> Result<usize> {
    let offset = u32::from_le_bytes(fixed(bytes, at)?) as usize;
    at.checked_add(offset).filter(|&to| to > at && to < bytes.len()).ok_or_else(|| damaged(at))
}

impl<'a> Table<'a> {
    /// The table that a file begins with.
    pub(super) fn root(bytes: &'a [u8]) -> Result<Self> {
        Self::at(bytes, follow(bytes, 0)?)
    }

    fn at(bytes: &'a [u8], at: usize) -> Result<Self> {
        let back = i64::from(i32::from_le_bytes(fixed(bytes, at)?));
        let vtable = i64::try_from(at).ok().and_then(|at| usize::try_from(at - back).ok());
        let vtable = vtable.ok_or_else(|| damaged(at))?;
        let size = usize::from(u16::from_le_bytes(fixed(bytes, vtable)?));
        if size < 4 || vtable.checked_add(size).is_none_or(|end| end > bytes.len()) {
            return Err(damaged(vtable));
        }
        Ok(Self { bytes, at, vtable, size })
    }

    /// Where a field is; none where the file leaves it at its default.
    fn field(&self, id: usize) -> Result<Option<usize>> {
        let entry = 4 + 2 * id;
        if entry + 2 > self.size {
            return Ok(None);
        }
        let offset = usize::from(u16::from_le_bytes(fixed(self.bytes, self.vtable + entry)?));
        Ok((offset > 0).then_some(self.at + offset))
    }

    /// A byte.
    pub(super) fn byte(&self, id: usize, default: u8) -> Result<u8> {
        Ok(match self.field(id)? {
            Some(at) => fixed::<1>(self.bytes, at)?[0],
            None => default,
        })
    }

    /// A number of four bytes.
    pub(super) fn int(&self, id: usize, default: i32) -> Result<i32> {
        Ok(match self.field(id)? {
            Some(at) => i32::from_le_bytes(fixed(self.bytes, at)?),
            None => default,
        })
    }

    /// Another table.
    pub(super) fn table(&self, id: usize) -> Result<Option<Table<'a>>> {
        match self.field(id)? {
            Some(at) => Table::at(self.bytes, follow(self.bytes, at)?).map(Some),
            None => Ok(None),
        }
    }

    /// A vector whose items take `width` bytes; empty where it is left out.
    pub(super) fn vector(&self, id: usize, width: usize) -> Result<Vector<'a>> {
        let Some(at) = self.field(id)? else {
            return Ok(Vector { bytes: self.bytes, start: 0, length: 0 });
        };
        let at = follow(self.bytes, at)?;
        let length = u32::from_le_bytes(fixed(self.bytes, at)?) as usize;
        let end = length.checked_mul(width).and_then(|size| (at + 4).checked_add(size));
        if end.is_none_or(|end| end > self.bytes.len()) {
            return Err(damaged(at));
        }
        Ok(Vector { bytes: self.bytes, start: at + 4, length })
    }

    /// Text, at most its first 200 bytes: names are for messages, and several may share one place.
    pub(super) fn name(&self, id: usize) -> Result<String> {
        let bytes = self.vector(id, 1)?.bytes();
        Ok(String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned())
    }
}

impl<'a> Vector<'a> {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// The bytes of a vector of bytes.
    pub(super) fn bytes(&self) -> &'a [u8] {
        &self.bytes[self.start..self.start + self.length]
    }

    /// The item of a vector of numbers of four bytes.
    pub(super) fn int(&self, index: usize) -> Result<Option<i32>> {
        if index >= self.length {
            return Ok(None);
        }
        fixed(self.bytes, self.start + 4 * index).map(|bytes| Some(i32::from_le_bytes(bytes)))
    }

    /// The item of a vector of tables.
    pub(super) fn table(&self, index: usize) -> Result<Option<Table<'a>>> {
        if index >= self.length {
            return Ok(None);
        }
        Table::at(self.bytes, follow(self.bytes, self.start + 4 * index)?).map(Some)
    }
}
