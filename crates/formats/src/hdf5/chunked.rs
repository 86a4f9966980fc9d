//! Chunked datasets: finding the chunks and putting them together.

use super::cursor::Cursor;
use super::filter::{self, Filter};
use super::{File, damaged, group, refused};
use crate::error::Result;

/// The chunks of a dataset.
#[derive(Debug)]
pub(super) struct Chunks {
    /// Values in each dimension of a chunk.
    extents: Vec<usize>,
    /// Bytes of a chunk before filters.
    bytes: usize,
    /// Where the index is; nowhere if no value was written.
    address: Option<u64>,
    index: Index,
}

/// How chunks are found.
#[derive(Clone, Copy, Debug)]
enum Index {
    /// A version 1 B-tree by offset.
    Tree,
    /// There is one chunk; with its stored bytes and the filters that it skipped.
    Single(u64, u32),
    /// One after the other.
    Implicit,
    /// An array of addresses, without pages up to 2 to the power of `page_bits` chunks.
    FixedArray { page_bits: u8 },
}

impl Chunks {
    /// With a version 1 B-tree as index; the last of `extents` is the size of a value.
    pub(super) fn tree(address: Option<u64>, extents: &[u32], shape: &[usize], size: usize) -> Result<Self> {
        let extents: Vec<u64> = extents.iter().map(|&extent| extent.into()).collect();
        Self::new(address, &extents, shape, size, Index::Tree)
    }

    /// As a layout message of version 4 states them.
    pub(super) fn latest(
        body: &mut Cursor<'_>,
        shape: &[usize],
        size: usize,
        filters: &[Filter],
    ) -> Result<Self> {
        let flags = body.u8()?;
        let rank = body.u8()?;
        let width = usize::from(body.u8()?);
        if !(1..=8).contains(&width) {
            return Err(damaged(format!("chunk extents of {width} bytes; expected 1 to 8")));
        }
        let extents = (0..rank).map(|_| body.uint(width)).collect::<Result<Vec<_>>>()?;
        let index = match body.u8()? {
            1 if flags & 2 != 0 => Index::Single(body.length()?, body.u32()?),
            1 if filters.is_empty() => Index::Single(u64::MAX, 0),
            2 if filters.is_empty() => Index::Implicit,
            3 => Index::FixedArray { page_bits: body.u8()? },
            kind => {
                let kind = match kind {
                    4 => "extensible array",
                    5 => "version 2 B-tree",
                    _ => "filtered or unknown",
                };
                return Err(refused(format!(
                    "a resizable dataset whose chunks have an index of kind {kind}; save the file anew with Keras"
                )));
            }
        };
        let address = body.address()?;
        Self::new(address, &extents, shape, size, index)
    }

    fn new(
        address: Option<u64>,
        extents: &[u64],
        shape: &[usize],
        size: usize,
        index: Index,
    ) -> Result<Self> {
        let wrong =
            || damaged(format!("chunks of {extents:?} (with the bytes of a value) for shape {shape:?}"));
        let (&value, extents) = extents.split_last().ok_or_else(wrong)?;
        let extents: Vec<usize> =
            extents.iter().map(|&extent| usize::try_from(extent).unwrap_or(usize::MAX)).collect();
        if value != size as u64 || extents.len() != shape.len() || extents.contains(&0) {
            return Err(wrong());
        }
        let bytes = extents.iter().try_fold(size, |bytes, &extent| bytes.checked_mul(extent));
        Ok(Self { bytes: bytes.ok_or_else(wrong)?, extents, address, index })
    }

    /// All values of a dataset of `shape`: `total` bytes, `size` each.
    pub(super) fn read(
        &self,
        file: &File<'_>,
        shape: &[usize],
        size: usize,
        total: usize,
        filters: &[Filter],
    ) -> Result<Vec<u8>> {
        let address = self.address.ok_or_else(|| {
            damaged(format!("a dataset of shape {shape:?} whose values were never written"))
        })?;
        let grid: Vec<usize> = shape.iter().zip(&self.extents).map(|(&s, &e)| s.div_ceil(e)).collect();
        let count = grid.iter().product::<usize>();
        let mut out = Output { chunks: self, shape, size, filters, data: vec![0; total], written: 0 };
        match self.index {
            Index::Tree => self.walk(file, address, None, &mut out)?,
            Index::Single(stored, skipped) => {
                let stored = if stored == u64::MAX { self.bytes as u64 } else { stored };
                out.put(file, address, stored, skipped, &vec![0; shape.len()])?;
            }
            Index::Implicit => {
                for number in 0..count {
                    let at =
                        (self.bytes as u64).checked_mul(number as u64).and_then(|n| n.checked_add(address));
                    let at = at.ok_or_else(|| damaged("a chunk beyond the file"))?;
                    out.put(file, at, self.bytes as u64, 0, &self.offset(number, &grid))?;
                }
            }
            Index::FixedArray { page_bits } => self.fixed_array(file, address, page_bits, &grid, &mut out)?,
        }
        if out.written != count {
            return Err(damaged(format!("{} chunks of {count} are there", out.written)));
        }
        Ok(out.data)
    }

    /// Where chunk `number` starts, in values.
    fn offset(&self, mut number: usize, grid: &[usize]) -> Vec<usize> {
        let mut offset = vec![0; grid.len()];
        for axis in (0..grid.len()).rev() {
            offset[axis] = number % grid[axis] * self.extents[axis];
            number /= grid[axis];
        }
        offset
    }

    fn walk(&self, file: &File<'_>, address: u64, parent: Option<u8>, out: &mut Output<'_>) -> Result<()> {
        file.step(0)?;
        let mut node = file.cursor(address, "chunk B-tree")?;
        let (level, count) = group::tree_node(&mut node, 1, parent)?;
        for _ in 0..count {
            file.step(0)?;
            let (stored, skipped) = (node.u32()?, node.u32()?);
            let mut offset = Vec::with_capacity(self.extents.len());
            for _ in 0..self.extents.len() {
                offset.push(usize::try_from(node.uint(8)?).unwrap_or(usize::MAX));
            }
            node.skip(8)?;
            let child = node.defined_address("a chunk")?;
            if level > 0 {
                self.walk(file, child, Some(level), out)?;
            } else {
                out.put(file, child, stored.into(), skipped, &offset)?;
            }
        }
        Ok(())
    }

    fn fixed_array(
        &self,
        file: &File<'_>,
        address: u64,
        page_bits: u8,
        grid: &[usize],
        out: &mut Output<'_>,
    ) -> Result<()> {
        let mut header = file.cursor(address, "fixed array")?;
        header.signature(b"FAHD")?;
        header.version(0)?;
        let filtered = header.u8()? == 1;
        let entry = usize::from(header.u8()?);
        header.skip(1)?;
        let count = header.length()?;
        let at = header.defined_address("a fixed array's block")?;
        let expected = grid.iter().product::<usize>() as u64;
        if count != expected {
            return Err(damaged(format!("a fixed array of {count} chunks; expected {expected}")));
        }
        if page_bits >= 64 || count > 1 << page_bits {
            return Err(refused(format!("a dataset of {count} chunks, in pages; use larger chunks")));
        }
        let size_bytes = entry.checked_sub(file.offset_size + 4).filter(|&bytes| (1..=8).contains(&bytes));
        let mut block = file.cursor(at, "fixed array block")?;
        block.signature(b"FADB")?;
        block.version(0)?;
        block.skip(1)?;
        block.address()?;
        for number in 0..count as usize {
            file.step(0)?;
            let chunk = block.defined_address("a chunk")?;
            let (stored, skipped) = match (filtered, size_bytes) {
                (true, Some(bytes)) => (block.uint(bytes)?, block.u32()?),
                (true, None) => return Err(damaged(format!("a fixed array with entries of {entry} bytes"))),
                (false, _) => (self.bytes as u64, 0),
            };
            out.put(file, chunk, stored, skipped, &self.offset(number, grid))?;
        }
        Ok(())
    }
}

/// The dataset being put together.
struct Output<'o> {
    chunks: &'o Chunks,
    shape: &'o [usize],
    size: usize,
    filters: &'o [Filter],
    data: Vec<u8>,
    written: usize,
}

impl Output<'_> {
    /// Decodes the chunk of `stored` bytes at `address` and copies what of it lies inside the
    /// dataset; `offset` is its first value.
    fn put(
        &mut self,
        file: &File<'_>,
        address: u64,
        stored: u64,
        skipped: u32,
        offset: &[usize],
    ) -> Result<()> {
        file.step(0)?;
        let extents = &self.chunks.extents;
        let fits = offset.iter().zip(self.shape).zip(extents).all(|((o, s), e)| o < s && o % e == 0);
        if !fits {
            return Err(damaged(format!("a chunk at {offset:?} of a dataset of shape {:?}", self.shape)));
        }
        file.claim(self.chunks.bytes as u64)?;
        let stored = file.block(address, stored, "chunk")?.rest();
        let data = filter::undo(stored, self.filters, skipped, self.chunks.bytes)?;
        self.written += 1;
        let Some(last) = extents.len().checked_sub(1) else {
            self.data.copy_from_slice(&data);
            return Ok(());
        };
        let kept: Vec<usize> =
            offset.iter().zip(self.shape).zip(extents).map(|((&o, &s), &e)| e.min(s - o)).collect();
        let run = kept[last] * self.size;
        // Rows of the last dimension, counted by `index` over the others.
        let mut index = vec![0; last];
        loop {
            let place = |extents: &[usize], start: &[usize]| {
                let row = (0..last).fold(0, |at, axis| at * extents[axis] + start[axis] + index[axis]);
                (row * extents[last] + start[last]) * self.size
            };
            let to = place(self.shape, offset);
            let from = place(extents, &vec![0; extents.len()]);
            self.data[to..to + run].copy_from_slice(&data[from..from + run]);
            let Some(axis) = (0..last).rev().find(|&axis| index[axis] + 1 < kept[axis]) else {
                return Ok(());
            };
            index[axis] += 1;
            index[axis + 1..].fill(0);
        }
    }
}
