//! The links of a group, old style (symbol table) and new (link messages, dense links).

use super::cursor::Cursor;
use super::header::{self, Header};
use super::heap::{self, LocalHeap};
use super::{File, damaged, dense};
use crate::error::Result;

/// B-trees deeper than this are damaged: each level has dozens of children.
pub(super) const MAX_LEVEL: u8 = 16;

/// A hard link.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) address: u64,
}

/// Every hard link of the group with this header.
pub(super) fn links(file: &File<'_>, header: &Header<'_>) -> Result<Vec<Link>> {
    file.step(0)?;
    let mut links = Vec::new();
    if let Some(message) = header.find(header::SYMBOL_TABLE) {
        let mut body = message.body("symbol table")?;
        let tree = body.defined_address("a group's B-tree")?;
        let heap = LocalHeap::read(file, body.defined_address("a group's local heap")?)?;
        symbol_tree(file, tree, &heap, None, &mut links)?;
    }
    for message in header.all(header::LINK) {
        links.extend(link_message(file, message.body("link")?)?);
    }
    if let Some(message) = header.find(header::LINK_INFO) {
        let mut body = message.body("link info")?;
        body.version(0)?;
        let flags = body.u8()?;
        if flags & 1 != 0 {
            body.skip(8)?;
        }
        let (heap, index) = (body.address()?, body.address()?);
        if let (Some(heap), Some(index)) = (heap, index) {
            for bytes in dense::objects(file, heap, index, dense::Index::LinkNames)? {
                links.extend(link_message(file, Cursor::new(file, bytes, 0, "link"))?);
            }
        }
    }
    Ok(links)
}

/// Walks a B-tree of version 1 over symbol tables. `parent` is the level above.
fn symbol_tree(
    file: &File<'_>,
    address: u64,
    heap: &LocalHeap<'_>,
    parent: Option<u8>,
    links: &mut Vec<Link>,
) -> Result<()> {
    file.step(0)?;
    let mut node = file.cursor(address, "group B-tree")?;
    let (level, count) = tree_node(&mut node, 0, parent)?;
    for _ in 0..count {
        // The key before each child: where the least name is.
        node.length()?;
        let child = node.defined_address("a group B-tree's child")?;
        if level > 0 {
            symbol_tree(file, child, heap, Some(level), links)?;
            continue;
        }
        let mut table = file.cursor(child, "symbol table node")?;
        table.signature(b"SNOD")?;
        table.version(1)?;
        table.skip(1)?;
        for _ in 0..table.u16()? {
            file.step(0)?;
            let name_at = table.address()?;
            let address = table.address()?;
            let cache_type = table.u32()?;
            table.skip(4 + 16)?;
            // Cache type 2 is a soft link.
            if let (Some(name_at), Some(address), true) = (name_at, address, cache_type != 2) {
                links.push(Link { name: heap.name(file, name_at)?, address });
            }
        }
    }
    Ok(())
}

/// The head of a node of a version 1 B-tree: its level and its number of children.
pub(super) fn tree_node(node: &mut Cursor<'_>, kind: u8, parent: Option<u8>) -> Result<(u8, u16)> {
    node.signature(b"TREE")?;
    let (found, level) = (node.u8()?, node.u8()?);
    if found != kind {
        return Err(damaged(format!("a B-tree of kind {found} where kind {kind} is expected")));
    }
    if parent.map_or(level > MAX_LEVEL, |parent| level.checked_add(1) != Some(parent)) {
        return Err(damaged(format!("a B-tree node of level {level} under level {parent:?}")));
    }
    let count = node.u16()?;
    node.address()?;
    node.address()?;
    Ok((level, count))
}

/// A link message; none if the link is soft or external.
fn link_message(file: &File<'_>, mut body: Cursor<'_>) -> Result<Option<Link>> {
    body.version(1)?;
    let flags = body.u8()?;
    let kind = if flags & 0x08 != 0 { body.u8()? } else { 0 };
    if flags & 0x04 != 0 {
        body.skip(8)?;
    }
    if flags & 0x10 != 0 {
        body.skip(1)?;
    }
    let length = usize::try_from(body.uint(1 << (flags & 3))?).unwrap_or(usize::MAX);
    let name = body.take(length)?;
    file.step(length)?;
    if kind != 0 {
        return Ok(None);
    }
    Ok(Some(Link { name: heap::text(name)?, address: body.defined_address("a link's object")? }))
}
