//! HDF5 files, as far as Keras uses them: a reader that trusts nothing and a small writer.
//!
//! Read are superblocks 0, 2 and 3, object headers 1 and 2, groups of both styles (symbol tables,
//! link messages, dense links in a fractal heap), attributes (compact and dense) and datasets that
//! are contiguous, compact or chunked, with the filters deflate, shuffle and fletcher32. What is
//! not read is refused by name. Source: the HDF5 File Format Specification, version 3.0.
//!
//! What a file can make the reader do is bounded by its size: every structure that is read takes
//! from [`File::step`], every decoded value from [`File::claim`].

mod attribute;
mod chunked;
mod cursor;
mod dataset;
mod datatype;
mod dense;
mod filter;
mod group;
mod header;
mod heap;
mod writer;

use std::cell::Cell;

use crate::error::{Error, Result};

pub use attribute::Attribute;
pub use dataset::Dataset;
pub use datatype::Datatype;
pub use writer::{Group as NewGroup, to_bytes};

use cursor::Cursor;
use header::Header;

/// The name of the format in errors.
const FORMAT: &str = "HDF5";
/// The first bytes of a superblock.
const SIGNATURE: [u8; 8] = *b"\x89HDF\r\n\x1a\n";
/// Decoded bytes for each byte of the file at most: weights hardly compress, but constants do.
const MAX_EXPANSION: u64 = 32;
/// Groups within groups at most.
pub const MAX_DEPTH: usize = 32;

/// An HDF5 file in memory.
#[derive(Debug)]
pub struct File<'a> {
    /// From the superblock on; addresses count from there.
    bytes: &'a [u8],
    /// Bytes of an address.
    offset_size: usize,
    /// Bytes of a length.
    length_size: usize,
    root: u64,
    steps: Cell<u64>,
    claims: Cell<u64>,
}

/// An object: a group or a dataset, with its attributes.
#[derive(Debug)]
pub struct Object<'f, 'a> {
    file: &'f File<'a>,
    /// Where its header is: an object's identity.
    pub address: u64,
    header: Header<'a>,
}

/// Whether these bytes are an HDF5 file, perhaps behind a user block.
pub fn is_hdf5(bytes: &[u8]) -> bool {
    superblock_at(bytes).is_some()
}

/// Where the superblock is: at 0, 512, 1024 and so on, doubling.
fn superblock_at(bytes: &[u8]) -> Option<usize> {
    let candidates = std::iter::once(0).chain((9..40).map(|power| 1usize << power));
    candidates.take_while(|&at| at < bytes.len()).find(|&at| bytes[at..].starts_with(&SIGNATURE))
}

impl<'a> File<'a> {
    /// Reads the superblock.
    ///
    /// # Errors
    /// When the bytes are no HDF5 file, or of a version that is not read.
    pub fn open(bytes: &'a [u8]) -> Result<Self> {
        let at = superblock_at(bytes)
            .ok_or_else(|| damaged("no HDF5 signature at byte 0, 512, 1024 …; expected \"\\x89HDF\""))?;
        let bytes = &bytes[at..];
        let length = bytes.len() as u64;
        let mut file = Self {
            bytes,
            offset_size: 8,
            length_size: 8,
            root: 0,
            steps: Cell::new(length / 4 + 100_000),
            claims: Cell::new(length.saturating_mul(MAX_EXPANSION).max(1 << 16)),
        };
        let mut cursor = file.cursor(8, "superblock")?;
        let version = cursor.u8()?;
        match version {
            0 | 1 => {
                cursor.skip(4)?;
                file.set_sizes(cursor.u8()?, cursor.u8()?)?;
                cursor.skip(1)?;
                // Ranks of the group B-trees, flags, and in version 1 the rank of chunk B-trees.
                cursor.skip(if version == 0 { 8 } else { 12 })?;
                cursor.set_sizes(&file);
                // Base address, free space, end of file, driver block; then the root's entry.
                for _ in 0..4 {
                    cursor.address()?;
                }
                cursor.address()?;
                file.root = cursor.defined_address("the root group")?;
            }
            2 | 3 => {
                file.set_sizes(cursor.u8()?, cursor.u8()?)?;
                cursor.skip(1)?;
                cursor.set_sizes(&file);
                for _ in 0..3 {
                    cursor.address()?;
                }
                file.root = cursor.defined_address("the root group")?;
            }
            other => {
                return Err(refused(format!("superblock version {other}; versions 0 to 3 are read")));
            }
        }
        Ok(file)
    }

    /// The root group.
    ///
    /// # Errors
    /// When its header is damaged.
    pub fn root(&self) -> Result<Object<'_, 'a>> {
        self.object(self.root)
    }

    /// The object whose header is at `address`.
    fn object(&self, address: u64) -> Result<Object<'_, 'a>> {
        Ok(Object { file: self, address, header: Header::read(self, address)? })
    }

    fn set_sizes(&mut self, offset: u8, length: u8) -> Result<()> {
        for (what, size) in [("addresses", offset), ("lengths", length)] {
            if !matches!(size, 2 | 4 | 8) {
                return Err(damaged(format!("superblock: {what} of {size} bytes; expected 2, 4 or 8")));
            }
        }
        (self.offset_size, self.length_size) = (offset.into(), length.into());
        Ok(())
    }

    /// A cursor from `address` to the file's end.
    fn cursor(&self, address: u64, what: &'static str) -> Result<Cursor<'a>> {
        let at = usize::try_from(address).ok().filter(|&at| at <= self.bytes.len()).ok_or_else(|| {
            damaged(format!(
                "{what} at byte {address}, but the file has {}; is it cut short?",
                self.bytes.len()
            ))
        })?;
        Ok(Cursor::new(self, &self.bytes[at..], at, what))
    }

    /// A cursor over `length` bytes at `address`.
    fn block(&self, address: u64, length: u64, what: &'static str) -> Result<Cursor<'a>> {
        let mut cursor = self.cursor(address, what)?;
        let start = cursor.position();
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        Ok(Cursor::new(self, cursor.take(length)?, start, what))
    }

    /// Pays for reading one structure, and for `bytes` bytes of names; fails in a file that leads
    /// in circles.
    fn step(&self, bytes: usize) -> Result<()> {
        let cost = 1 + bytes as u64 / 16;
        let left = self.steps.get().checked_sub(cost).ok_or_else(|| {
            damaged("its structures lead to more work than a file of this size can need; are there cycles?")
        })?;
        self.steps.set(left);
        Ok(())
    }

    /// Pays for `bytes` decoded bytes.
    fn claim(&self, bytes: u64) -> Result<()> {
        let left = self.claims.get().checked_sub(bytes).ok_or_else(|| {
            damaged(format!(
                "its datasets are more than {MAX_EXPANSION} times as large as the file ({} bytes)",
                self.bytes.len()
            ))
        })?;
        self.claims.set(left);
        Ok(())
    }
}

impl<'f, 'a> Object<'f, 'a> {
    /// Whether this is a dataset; otherwise a group.
    pub fn is_dataset(&self) -> bool {
        self.header.find(header::LAYOUT).is_some()
    }

    /// A group's members by name, in the order in which the file lists them. Soft and external
    /// links are left out.
    ///
    /// # Errors
    /// When the group is damaged.
    pub fn members(&self) -> Result<Vec<(String, Object<'f, 'a>)>> {
        let links = group::links(self.file, &self.header)?;
        links.into_iter().map(|link| Ok((link.name, self.file.object(link.address)?))).collect()
    }

    /// The member of that name, if there is one.
    ///
    /// # Errors
    /// As [`Object::members`].
    pub fn member(&self, name: &str) -> Result<Option<Object<'f, 'a>>> {
        let links = group::links(self.file, &self.header)?;
        let link = links.into_iter().find(|link| link.name == name);
        link.map(|link| self.file.object(link.address)).transpose()
    }

    /// The attribute of that name, if there is one.
    ///
    /// # Errors
    /// When the attributes are damaged.
    pub fn attribute(&self, name: &str) -> Result<Option<Attribute<'f, 'a>>> {
        attribute::find(self.file, &self.header, name)
    }

    /// What a dataset's header says of it.
    ///
    /// # Errors
    /// When it is no dataset, is damaged, or uses what is not read.
    pub fn dataset(&self) -> Result<Dataset<'f, 'a>> {
        Dataset::read(self.file, &self.header)
    }
}

fn damaged(problem: impl Into<String>) -> Error {
    Error::damaged(FORMAT, problem)
}

fn refused(problem: impl Into<String>) -> Error {
    Error::refused(FORMAT, problem)
}

#[cfg(test)]
mod tests;
