//! Sorted string tables (LevelDB's `table_format.md`): the index of a version 2 checkpoint, and the
//! whole of a version 1 one.

use super::{FORMAT, crc32c, snappy};
use crate::error::{Error, Result};

/// The last eight bytes of a table.
const MAGIC: u64 = 0xdb47_7524_8b80_fb57;
/// Two block handles, padded, and the magic number.
const FOOTER: usize = 48;
/// A block's kind of compression and its checksum follow it.
const TRAILER: usize = 5;

/// Whether a file's end is a table's.
pub(super) fn is_table(bytes: &[u8]) -> bool {
    bytes.len() >= FOOTER && bytes.ends_with(&MAGIC.to_le_bytes())
}

/// Calls `entry` for each key and value in order.
///
/// # Errors
/// [`Error::Damaged`] for wrong lengths, checksums or compression, and what `entry` returns.
pub(super) fn each(bytes: &[u8], mut entry: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
    if !is_table(bytes) {
        return Err(damaged("expected a table that ends in its magic number; the file may be cut short"));
    }
    let mut footer = &bytes[bytes.len() - FOOTER..bytes.len() - 8];
    let _metaindex = handle(&mut footer)?;
    let index = block(bytes, handle(&mut footer)?)?;
    let mut end = 0;
    // Keys share beginnings, so that a small file could spell out very much; real ones do not.
    let mut spelled = 64 * bytes.len();
    let mut entry = |key: &[u8], value: &[u8]| {
        spelled = spelled
            .checked_sub(key.len())
            .ok_or_else(|| damaged("its names are longer than the file allows"))?;
        entry(key, value)
    };
    entries(&index, &mut |_, mut value| {
        let (offset, size) = handle(&mut value)?;
        // Blocks lie one after the other, so each byte of the file is decompressed once at most.
        if offset < end {
            return Err(damaged(format!("block at byte {offset} overlaps the one before it")));
        }
        end = offset.saturating_add(size);
        let data = block(bytes, (offset, size))?;
        entries(&data, &mut entry)
    })
}

fn damaged(problem: impl Into<String>) -> Error {
    Error::damaged(FORMAT, problem)
}

fn varint(bytes: &mut &[u8]) -> Result<usize> {
    let mut value = 0_u64;
    for shift in (0..63).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or_else(|| damaged("a table's number is cut short"))?;
        *bytes = rest;
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return usize::try_from(value).map_err(|_| damaged("a table's number is too large"));
        }
    }
    Err(damaged("a table's number does not end"))
}

/// Offset and size of a block.
fn handle(bytes: &mut &[u8]) -> Result<(usize, usize)> {
    Ok((varint(bytes)?, varint(bytes)?))
}

fn block(bytes: &[u8], (offset, size): (usize, usize)) -> Result<std::borrow::Cow<'_, [u8]>> {
    let whole = size
        .checked_add(TRAILER)
        .and_then(|size| bytes.get(offset..)?.get(..size))
        .ok_or_else(|| damaged(format!("a block of {size} bytes at byte {offset} of {}", bytes.len())))?;
    let (content, trailer) = whole.split_at(size);
    let &[kind, a, b, c, d] = trailer else { return Err(damaged("a block without its trailer")) };
    if u32::from_le_bytes([a, b, c, d]) != crc32c::masked(&[content, &[kind]]) {
        return Err(damaged(format!("the checksum of the block at byte {offset} is wrong")));
    }
    match kind {
        0 => Ok(content.into()),
        1 => snappy::decompress(content)
            .map(Into::into)
            .map_err(|problem| damaged(format!("block at byte {offset}: {problem}"))),
        kind => Err(damaged(format!("block at byte {offset}: unknown compression {kind}"))),
    }
}

fn entries(block: &[u8], entry: &mut impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
    let cut = || damaged("a table's block is cut short");
    // Restart points, for searching, end the block.
    let (rest, count) = block.split_last_chunk::<4>().ok_or_else(cut)?;
    let restarts = (u32::from_le_bytes(*count) as usize).checked_mul(4).ok_or_else(cut)?;
    let mut rest = rest.get(..rest.len().checked_sub(restarts).ok_or_else(cut)?).ok_or_else(cut)?;
    let mut key = Vec::new();
    while !rest.is_empty() {
        let (shared, unshared, size) = (varint(&mut rest)?, varint(&mut rest)?, varint(&mut rest)?);
        if shared > key.len() {
            return Err(damaged(format!("a key shares {shared} bytes with one of {}", key.len())));
        }
        key.truncate(shared);
        let (suffix, after) = rest.split_at_checked(unshared).ok_or_else(cut)?;
        key.extend_from_slice(suffix);
        let (value, after) = after.split_at_checked(size).ok_or_else(cut)?;
        rest = after;
        entry(&key, value)?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A table of one block; `compress` says how its content is stored.
    pub(crate) fn write(items: &[(&[u8], &[u8])], kind: u8, compress: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let varint = |mut value: usize, out: &mut Vec<u8>| {
            while value > 127 {
                out.push(value as u8 | 128);
                value >>= 7;
            }
            out.push(value as u8);
        };
        let content = |items: &[(&[u8], &[u8])]| {
            let mut out = Vec::new();
            let mut before: &[u8] = &[];
            for &(key, value) in items {
                let shared = key.iter().zip(before).take_while(|(a, b)| a == b).count();
                varint(shared, &mut out);
                varint(key.len() - shared, &mut out);
                varint(value.len(), &mut out);
                out.extend_from_slice(&key[shared..]);
                out.extend_from_slice(value);
                before = key;
            }
            out.extend([0, 0, 0, 0, 1, 0, 0, 0]);
            out
        };
        let mut file = Vec::new();
        let block = |file: &mut Vec<u8>, content: Vec<u8>, kind: u8| {
            let mut handle = Vec::new();
            varint(file.len(), &mut handle);
            varint(content.len(), &mut handle);
            let checksum = crc32c::masked(&[&content, &[kind]]);
            file.extend(content);
            file.push(kind);
            file.extend(checksum.to_le_bytes());
            handle
        };
        let data = block(&mut file, compress(&content(items)), kind);
        let meta = block(&mut file, content(&[]), 0);
        let index = block(&mut file, content(&[(b"~", &data)]), 0);
        let mut footer = [meta, index].concat();
        footer.resize(FOOTER - 8, 0);
        file.extend(footer);
        file.extend(MAGIC.to_le_bytes());
        file
    }

    /// Snappy without compression: literals of up to 60 bytes, and a copy where bytes repeat.
    pub(crate) fn snappy(content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut length = content.len();
        while length > 127 {
            out.push(length as u8 | 128);
            length >>= 7;
        }
        out.push(length as u8);
        let mut at = 0;
        while at < content.len() {
            let run = content[at..].iter().take(64).take_while(|&&b| at > 0 && b == content[at - 1]).count();
            if run >= 4 {
                out.extend([(run as u8 - 1) << 2 | 2, 1, 0]);
                at += run;
                continue;
            }
            let literal = &content[at..content.len().min(at + 60)];
            let until = literal
                .windows(5)
                .position(|w| w.iter().all(|&b| b == w[0]))
                .map_or(literal.len(), |p| p + 1);
            out.push((until as u8 - 1) << 2);
            out.extend(&literal[..until]);
            at += until;
        }
        out
    }

    #[test]
    fn keys_share_beginnings_and_blocks_may_be_compressed() {
        let items: [(&[u8], &[u8]); 3] = [(b"conv", b"1"), (b"conv/weights", &[0; 300]), (b"logits", b"")];
        for file in [write(&items, 0, <[u8]>::to_vec), write(&items, 1, snappy)] {
            let mut found = Vec::new();
            each(&file, |key, value| {
                found.push((key.to_vec(), value.to_vec()));
                Ok(())
            })
            .unwrap();
            assert!(found.iter().map(|(k, v)| (&k[..], &v[..])).eq(items));
            let mut broken = file.clone();
            broken[3] ^= 1;
            assert!(each(&broken, |_, _| Ok(())).unwrap_err().to_string().contains("checksum"));
        }
    }
}
