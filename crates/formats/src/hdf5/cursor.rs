//! Reading little-endian fields off a slice that may end at any moment.

use super::{File, damaged};
use crate::error::Result;

/// A place in a slice of the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where `bytes` starts in the file, for errors.
    start: usize,
    what: &'static str,
    offset_size: usize,
    length_size: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(file: &File<'_>, bytes: &'a [u8], start: usize, what: &'static str) -> Self {
        Self { bytes, at: 0, start, what, offset_size: file.offset_size, length_size: file.length_size }
    }

    /// Takes the sizes of addresses and lengths from `file`, once they are known.
    pub(super) fn set_sizes(&mut self, file: &File<'_>) {
        (self.offset_size, self.length_size) = (file.offset_size, file.length_size);
    }

    /// Where the next byte is in the file.
    pub(super) fn position(&self) -> usize {
        self.start + self.at
    }

    /// Bytes that have been read.
    pub(super) fn consumed(&self) -> usize {
        self.at
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// All that is left.
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        if count > self.remaining() {
            return Err(damaged(format!(
                "{} at byte {}: {count} bytes expected, {} left; is the file cut short?",
                self.what,
                self.position(),
                self.remaining()
            )));
        }
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    pub(super) fn skip(&mut self, count: usize) -> Result<()> {
        self.take(count).map(drop)
    }

    /// An unsigned number of 1 to 8 bytes.
    pub(super) fn uint(&mut self, size: usize) -> Result<u64> {
        debug_assert!(size <= 8);
        let bytes = self.take(size)?;
        Ok(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        Ok(self.uint(2)? as u16)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(self.uint(4)? as u32)
    }

    pub(super) fn length(&mut self) -> Result<u64> {
        self.uint(self.length_size)
    }

    /// An address; none where it is undefined (all ones).
    pub(super) fn address(&mut self) -> Result<Option<u64>> {
        let size = self.offset_size;
        let value = self.uint(size)?;
        Ok((value != u64::MAX >> (64 - 8 * size)).then_some(value))
    }

    pub(super) fn defined_address(&mut self, of: &str) -> Result<u64> {
        let at = self.position();
        self.address()?
            .ok_or_else(|| damaged(format!("{} at byte {at}: the address of {of} is undefined", self.what)))
    }

    /// Four letters that must be there.
    pub(super) fn signature(&mut self, expected: &[u8; 4]) -> Result<()> {
        let at = self.position();
        let found = self.take(4)?;
        if found == expected {
            return Ok(());
        }
        Err(damaged(format!(
            "{} at byte {at}: expected \"{}\", found \"{}\"",
            self.what,
            expected.escape_ascii(),
            found.escape_ascii()
        )))
    }

    /// A version that must be `expected`.
    pub(super) fn version(&mut self, expected: u8) -> Result<()> {
        let found = self.u8()?;
        if found == expected {
            return Ok(());
        }
        Err(super::refused(format!("{} of version {found}; version {expected} is read", self.what)))
    }
}

/// Bytes that the format uses for numbers up to `limit`.
pub(super) fn encoded_size(limit: u64) -> usize {
    limit.max(1).ilog2() as usize / 8 + 1
}
