//! The filters of chunked datasets, undone.

use std::io::Read;

use super::cursor::Cursor;
use super::{damaged, refused};
use crate::error::Result;

/// A filter of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    /// zlib.
    Deflate,
    /// First bytes of all values, then second bytes, and so on; with the bytes of a value.
    Shuffle(usize),
    /// A checksum of four bytes behind the data.
    Fletcher32,
}

/// Reads a filter pipeline message.
pub(super) fn read(body: &mut Cursor<'_>) -> Result<Vec<Filter>> {
    let version = body.u8()?;
    let count = body.u8()?;
    match version {
        1 => body.skip(6)?,
        2 => {}
        other => return Err(refused(format!("filters of version {other}; versions 1 and 2 are read"))),
    }
    let mut filters = Vec::new();
    for _ in 0..count {
        let id = body.u16()?;
        let mut name_length = if version == 1 || id >= 256 { usize::from(body.u16()?) } else { 0 };
        body.skip(2)?;
        let values = body.u16()?;
        if version == 1 {
            name_length = name_length.next_multiple_of(8);
        }
        let name = body.take(name_length)?;
        let mut first = None;
        for _ in 0..values {
            let value = body.u32()?;
            first.get_or_insert(value);
        }
        if version == 1 && values % 2 == 1 {
            body.skip(4)?;
        }
        filters.push(match (id, first) {
            (1, _) => Filter::Deflate,
            (2, Some(size @ 1..=16)) => Filter::Shuffle(size as usize),
            (3, _) => Filter::Fletcher32,
            _ => {
                return Err(refused(format!(
                    "a dataset with filter {id} \"{}\"; deflate, shuffle and fletcher32 are read",
                    name.escape_ascii()
                )));
            }
        });
    }
    Ok(filters)
}

/// Undoes `filters` on a chunk that should become `expected` bytes. A bit in `skipped` says that
/// the filter of that index was not applied.
pub(super) fn undo(stored: &[u8], filters: &[Filter], skipped: u32, expected: usize) -> Result<Vec<u8>> {
    let mut data = stored.to_vec();
    for (index, filter) in filters.iter().enumerate().rev() {
        if index < 32 && skipped >> index & 1 != 0 {
            continue;
        }
        data = match *filter {
            Filter::Deflate => {
                // A checksum may have been added before the compression.
                let most = expected as u64 + 4;
                let mut inflated = Vec::new();
                flate2::read::ZlibDecoder::new(&data[..])
                    .take(most + 1)
                    .read_to_end(&mut inflated)
                    .map_err(|error| damaged(format!("a chunk cannot be decompressed: {error}")))?;
                if inflated.len() as u64 > most {
                    return Err(damaged(format!("a chunk of {expected} bytes decompresses to more")));
                }
                inflated
            }
            Filter::Shuffle(size) => unshuffle(&data, size),
            Filter::Fletcher32 => {
                let kept = data
                    .len()
                    .checked_sub(4)
                    .ok_or_else(|| damaged("a chunk is too short for its checksum"))?;
                data.truncate(kept);
                data
            }
        };
    }
    if data.len() != expected {
        return Err(damaged(format!("a chunk of {} bytes; expected {expected}", data.len())));
    }
    Ok(data)
}

/// Byte `j` of value `i` is at `j · values + i`; bytes beyond the last whole value stay.
fn unshuffle(data: &[u8], size: usize) -> Vec<u8> {
    let values = data.len() / size;
    let mut out = data.to_vec();
    for (j, plane) in data[..values * size].chunks_exact(values.max(1)).enumerate() {
        for (i, &byte) in plane.iter().enumerate() {
            out[i * size + j] = byte;
        }
    }
    out
}
