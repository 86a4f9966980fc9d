//! Dense storage: links or attributes in a fractal heap, found through a version 2 B-tree. HDF5
//! uses it for large groups when asked for its latest format.

use super::cursor::{Cursor, encoded_size};
use super::group::MAX_LEVEL;
use super::{File, damaged, refused};
use crate::error::Result;

/// What a B-tree's records index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Index {
    /// Links by name (type 5): a hash, then the heap's identifier.
    LinkNames,
    /// Attributes by name (type 8): the heap's identifier, then flags, order and a hash.
    AttributeNames,
}

/// The objects of the heap at `heap` that the B-tree at `index` lists.
pub(super) fn objects<'a>(file: &File<'a>, heap: u64, index: u64, kind: Index) -> Result<Vec<&'a [u8]>> {
    let heap = FractalHeap::read(file, heap)?;
    let mut records = Vec::new();
    Tree::read(file, index, kind)?.walk(&mut records)?;
    records.into_iter().map(|record| heap.object(file, record)).collect()
}

/// A version 2 B-tree.
struct Tree<'f, 'a> {
    file: &'f File<'a>,
    kind: Index,
    node_size: u64,
    record_size: usize,
    depth: u16,
    root: Option<u64>,
    root_records: u16,
}

impl<'f, 'a> Tree<'f, 'a> {
    fn read(file: &'f File<'a>, address: u64, kind: Index) -> Result<Self> {
        let mut cursor = file.cursor(address, "version 2 B-tree")?;
        cursor.signature(b"BTHD")?;
        cursor.version(0)?;
        let found = cursor.u8()?;
        let expected = if kind == Index::LinkNames { 5 } else { 8 };
        if found != expected {
            return Err(damaged(format!("a version 2 B-tree of type {found}; expected {expected}")));
        }
        let node_size = u64::from(cursor.u32()?);
        let record_size = usize::from(cursor.u16()?);
        let depth = cursor.u16()?;
        cursor.skip(2)?;
        let (root, root_records) = (cursor.address()?, cursor.u16()?);
        let fixed = if kind == Index::LinkNames { 4 } else { 9 };
        if depth > u16::from(MAX_LEVEL) || record_size <= fixed || node_size < 64 {
            return Err(damaged(format!(
                "a version 2 B-tree of depth {depth}, with nodes of {node_size} and records of {record_size} bytes"
            )));
        }
        Ok(Self { file, kind, node_size, record_size, depth, root, root_records })
    }

    /// Collects the heap identifiers of all records.
    fn walk(&self, records: &mut Vec<&'a [u8]>) -> Result<()> {
        // Sizes of the fields beside a child's address, by the child's depth: how many records the
        // child has, and how many there are below it in all.
        let record = self.record_size as u64;
        let leaf = (self.node_size - 10) / record;
        let count_size = encoded_size(leaf);
        let (mut total, mut total_sizes) = (leaf, vec![0]);
        for depth in 1..usize::from(self.depth) {
            let pointer = (self.file.offset_size + count_size + total_sizes[depth - 1]) as u64;
            let most = self.node_size.saturating_sub(10 + pointer) / (record + pointer);
            total = (most + 1).saturating_mul(total).saturating_add(most);
            total_sizes.push(encoded_size(total));
        }
        match self.root {
            Some(root) => self.node(
                root,
                self.root_records.into(),
                self.depth.into(),
                count_size,
                &total_sizes,
                records,
            ),
            None => Ok(()),
        }
    }

    fn node(
        &self,
        address: u64,
        count: u64,
        depth: usize,
        count_size: usize,
        total_sizes: &[usize],
        records: &mut Vec<&'a [u8]>,
    ) -> Result<()> {
        self.file.step(0)?;
        let mut node = self.file.block(address, self.node_size, "version 2 B-tree node")?;
        node.signature(if depth == 0 { b"BTLF" } else { b"BTIN" })?;
        node.version(0)?;
        node.skip(1)?;
        for _ in 0..count {
            self.file.step(0)?;
            let record = node.take(self.record_size)?;
            records.push(match self.kind {
                Index::LinkNames => &record[4..],
                Index::AttributeNames => &record[..self.record_size - 9],
            });
        }
        if depth > 0 {
            for _ in 0..=count {
                let child = node.defined_address("a version 2 B-tree's child")?;
                let below = node.uint(count_size)?;
                node.uint(total_sizes[depth - 1])?;
                self.node(child, below, depth - 1, count_size, total_sizes, records)?;
            }
        }
        Ok(())
    }
}

/// A fractal heap: blocks that double in size, in rows of a table.
#[derive(Debug)]
struct FractalHeap {
    table_width: u64,
    starting_size: u64,
    max_direct_size: u64,
    /// Bytes of an offset within the heap.
    offset_size: usize,
    /// Bytes of an object's length.
    length_size: usize,
    root: Option<u64>,
    /// Rows of the root; 0 where the root is the only block.
    root_rows: u64,
}

impl FractalHeap {
    fn read(file: &File<'_>, address: u64) -> Result<Self> {
        file.step(0)?;
        let mut cursor = file.cursor(address, "fractal heap")?;
        cursor.signature(b"FRHP")?;
        cursor.version(0)?;
        cursor.skip(2)?;
        if cursor.u16()? != 0 {
            return Err(refused("a fractal heap with filters; save the file anew with Keras"));
        }
        cursor.skip(1)?;
        let max_object = u64::from(cursor.u32()?);
        // Huge objects, free space and statistics.
        for is_address in [false, true, false, true] {
            if is_address {
                cursor.address()?;
            } else {
                cursor.length()?;
            }
        }
        for _ in 0..8 {
            cursor.length()?;
        }
        let table_width = u64::from(cursor.u16()?);
        let (starting_size, max_direct_size) = (cursor.length()?, cursor.length()?);
        let max_bits = cursor.u16()?;
        cursor.skip(2)?;
        let (root, root_rows) = (cursor.address()?, u64::from(cursor.u16()?));
        let powers = [table_width, starting_size, max_direct_size].iter().all(|n| n.is_power_of_two());
        let sane = powers && max_direct_size >= starting_size && max_direct_size <= u32::MAX.into();
        if !sane || max_bits == 0 || max_bits > 64 || root_rows > 64 {
            return Err(damaged(format!(
                "a fractal heap of width {table_width}, blocks of {starting_size} to {max_direct_size} bytes, \
                 {max_bits} bits and {root_rows} rows"
            )));
        }
        let length_size = encoded_size(max_direct_size).min(encoded_size(max_object));
        Ok(Self {
            table_width,
            starting_size,
            max_direct_size,
            offset_size: usize::from(max_bits).div_ceil(8),
            length_size,
            root,
            root_rows,
        })
    }

    /// The object that a heap identifier means.
    fn object<'a>(&self, file: &File<'a>, id: &'a [u8]) -> Result<&'a [u8]> {
        let mut id = Cursor::new(file, id, 0, "fractal heap identifier");
        let flags = id.u8()?;
        match flags >> 4 & 3 {
            0 => {
                let (offset, length) = (id.uint(self.offset_size)?, id.uint(self.length_size)?);
                let root = self.root.ok_or_else(|| damaged("an object in an empty fractal heap"))?;
                self.managed(file, root, self.root_rows, offset, length)
            }
            2 => id.take(usize::from(flags & 15) + 1),
            kind => Err(refused(format!(
                "an object of kind {kind} (huge) in a fractal heap; save the file anew with Keras"
            ))),
        }
    }

    /// Bytes of a block in row `row`.
    fn block_size(&self, row: u64) -> Option<u64> {
        self.starting_size.checked_shl(u32::try_from(row.saturating_sub(1)).ok()?).filter(|&size| size > 0)
    }

    /// `length` bytes at `offset` below the block at `address`, which has `rows` rows (0: data).
    fn managed<'a>(
        &self,
        file: &File<'a>,
        mut address: u64,
        mut rows: u64,
        mut offset: u64,
        length: u64,
    ) -> Result<&'a [u8]> {
        let outside = || damaged("an object lies outside its fractal heap");
        // Each turn goes into a smaller block.
        while rows > 0 {
            file.step(0)?;
            let (mut row, mut row_start) = (0, 0u64);
            let size = loop {
                let size = self.block_size(row).filter(|_| row < rows).ok_or_else(outside)?;
                let row_size = size.checked_mul(self.table_width).ok_or_else(outside)?;
                if offset - row_start < row_size {
                    break size;
                }
                row_start = row_start.checked_add(row_size).ok_or_else(outside)?;
                row += 1;
            };
            let column = (offset - row_start) / size;
            let child = (row * self.table_width + column) as usize;
            let mut block = file.cursor(address, "fractal heap block")?;
            block.signature(b"FHIB")?;
            block.version(0)?;
            block.address()?;
            block.skip(self.offset_size)?;
            block.skip(child.checked_mul(file.offset_size).ok_or_else(outside)?)?;
            address = block.defined_address("a fractal heap's block")?;
            offset = (offset - row_start) % size;
            rows = if size <= self.max_direct_size {
                0
            } else {
                let first_row = u64::from((self.starting_size * self.table_width).ilog2());
                (u64::from(size.ilog2()) + 1).checked_sub(first_row).ok_or_else(outside)?
            };
        }
        let start = address.checked_add(offset).ok_or_else(outside)?;
        Ok(file.block(start, length, "fractal heap object")?.rest())
    }
}
