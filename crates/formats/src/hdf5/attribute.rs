//! Attributes: text about an object.

use super::cursor::Cursor;
use super::datatype::{Datatype, dataspace};
use super::header::{self, Header};
use super::{File, damaged, dense, heap, refused};
use crate::error::Result;

/// An attribute, its values still encoded.
#[derive(Debug)]
pub struct Attribute<'f, 'a> {
    file: &'f File<'a>,
    datatype: Datatype,
    shape: Vec<usize>,
    data: Cursor<'a>,
}

/// The attribute of that name.
pub(super) fn find<'f, 'a>(
    file: &'f File<'a>,
    header: &Header<'a>,
    name: &str,
) -> Result<Option<Attribute<'f, 'a>>> {
    for message in header.all(header::ATTRIBUTE) {
        if let Some(attribute) = read(file, message.body("attribute")?, name)? {
            return Ok(Some(attribute));
        }
    }
    if let Some(message) = header.find(header::ATTRIBUTE_INFO) {
        let mut body = message.body("attribute info")?;
        body.version(0)?;
        let flags = body.u8()?;
        if flags & 1 != 0 {
            body.skip(2)?;
        }
        if let (Some(heap), Some(index)) = (body.address()?, body.address()?) {
            for bytes in dense::objects(file, heap, index, dense::Index::AttributeNames)? {
                if let Some(attribute) = read(file, Cursor::new(file, bytes, 0, "attribute"), name)? {
                    return Ok(Some(attribute));
                }
            }
        }
    }
    Ok(None)
}

/// Reads an attribute message; none if the attribute has another name than `wanted`.
fn read<'f, 'a>(file: &'f File<'a>, mut body: Cursor<'a>, wanted: &str) -> Result<Option<Attribute<'f, 'a>>> {
    file.step(0)?;
    let version = body.u8()?;
    let flags = body.u8()?;
    if !(1..=3).contains(&version) {
        return Err(refused(format!("an attribute of version {version}; versions 1 to 3 are read")));
    }
    let sizes = [body.u16()?, body.u16()?, body.u16()?].map(usize::from);
    if version == 3 {
        body.skip(1)?;
    }
    // In version 1 each part is padded to a multiple of 8.
    let mut part = |size: usize| -> Result<(usize, &'a [u8])> {
        let start = body.position();
        let bytes = body.take(size)?;
        if version == 1 {
            body.skip((size.next_multiple_of(8) - size).min(body.remaining()))?;
        }
        Ok((start, bytes))
    };
    let (_, name) = part(sizes[0])?;
    let (type_at, type_bytes) = part(sizes[1])?;
    let (space_at, space_bytes) = part(sizes[2])?;
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    if name != wanted.as_bytes() {
        return Ok(None);
    }
    if version > 1 && flags & 3 != 0 {
        return Err(refused(format!("attribute `{wanted}` with a shared datatype")));
    }
    let datatype = Datatype::read(&mut Cursor::new(file, type_bytes, type_at, "datatype"), file.offset_size)?;
    let shape = dataspace(&mut Cursor::new(file, space_bytes, space_at, "dataspace"))?;
    Ok(Some(Attribute { file, datatype, shape, data: body }))
}

impl Attribute<'_, '_> {
    /// The texts that it holds.
    ///
    /// # Errors
    /// When it holds something else, or is damaged.
    pub fn strings(&self) -> Result<Vec<String>> {
        let count: usize = self.shape.iter().product();
        let size = self.datatype.size(self.file.offset_size);
        // h5py writes an empty list as no values of f64.
        if count == 0 {
            return Ok(Vec::new());
        }
        if count.checked_mul(size).is_none_or(|bytes| bytes > self.data.remaining()) {
            return Err(damaged(format!(
                "an attribute of {count} values of {size} bytes in {} bytes",
                self.data.remaining()
            )));
        }
        let mut data = self.data;
        let mut strings = Vec::with_capacity(count);
        for _ in 0..count {
            let bytes = match self.datatype {
                Datatype::FixedString(size) => data.take(size)?,
                Datatype::VariableString => heap::variable(self.file, &mut data)?,
                other => return Err(refused(format!("an attribute of {other:?} where text is expected"))),
            };
            self.file.claim(bytes.len() as u64)?;
            let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            strings.push(heap::text(&bytes[..end])?);
        }
        Ok(strings)
    }

    /// The one text that it holds.
    ///
    /// # Errors
    /// As [`Attribute::strings`], and when there is not exactly one.
    pub fn string(&self) -> Result<String> {
        let mut strings = self.strings()?;
        match (strings.pop(), strings.len()) {
            (Some(string), 0) => Ok(string),
            _ => Err(damaged(format!("an attribute of shape {:?} where one text is expected", self.shape))),
        }
    }
}
