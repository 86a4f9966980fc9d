//! Datasets: where their values are, and the values.

use std::borrow::Cow;

use super::cursor::Cursor;
use super::datatype::{Datatype, dataspace, floats};
use super::filter::Filter;
use super::header::{self, Header};
use super::{File, chunked, damaged, filter, refused};
use crate::error::Result;

/// A dataset, its values still where they are.
#[derive(Debug)]
pub struct Dataset<'f, 'a> {
    file: &'f File<'a>,
    /// What a value is.
    pub datatype: Datatype,
    /// The extent of each dimension.
    pub shape: Vec<usize>,
    layout: Layout<'a>,
    filters: Vec<Filter>,
}

/// Where the values are.
#[derive(Debug)]
enum Layout<'a> {
    /// In the header itself.
    Compact(&'a [u8]),
    /// In one piece; nowhere if they were never written.
    Contiguous(Option<u64>),
    Chunked(chunked::Chunks),
}

impl<'f, 'a> Dataset<'f, 'a> {
    pub(super) fn read(file: &'f File<'a>, header: &Header<'a>) -> Result<Self> {
        let datatype = Datatype::read(&mut header.require(header::DATATYPE, "datatype")?, file.offset_size)?;
        let shape = dataspace(&mut header.require(header::DATASPACE, "dataspace")?)?;
        if header.find(header::EXTERNAL_FILES).is_some() {
            return Err(refused("a dataset whose values are in other files; save it in one file"));
        }
        let filters = match header.find(header::FILTERS) {
            Some(message) => filter::read(&mut message.body("filter")?)?,
            None => Vec::new(),
        };
        let size = datatype.size(file.offset_size);
        let layout = layout(header.require(header::LAYOUT, "layout")?, &shape, size, &filters)?;
        Ok(Self { file, datatype, shape, layout, filters })
    }

    /// Its values as f32, row-major.
    ///
    /// # Errors
    /// When they are not floating-point numbers, or are damaged or not there.
    pub fn floats(&self) -> Result<Vec<f32>> {
        let Datatype::Float { format, big_endian } = self.datatype else {
            return Err(refused(format!("values of {:?}; floating-point numbers are read", self.datatype)));
        };
        Ok(floats(&self.bytes()?, format, big_endian))
    }

    /// Its values as they are stored, filters undone.
    fn bytes(&self) -> Result<Cow<'a, [u8]>> {
        let size = self.datatype.size(self.file.offset_size);
        let bytes = self.shape.iter().try_fold(size, |bytes, &extent| bytes.checked_mul(extent));
        let bytes = bytes.ok_or_else(|| damaged(format!("a dataset of {:?} values", self.shape)))?;
        if bytes == 0 {
            return Ok(Cow::Borrowed(&[]));
        }
        self.file.claim(bytes as u64)?;
        match &self.layout {
            Layout::Compact(data) => data.get(..bytes).map(Cow::Borrowed).ok_or_else(|| {
                damaged(format!("a dataset of {bytes} bytes is kept in {} bytes", data.len()))
            }),
            Layout::Contiguous(None) => {
                Err(damaged(format!("a dataset of shape {:?} whose values were never written", self.shape)))
            }
            Layout::Contiguous(Some(address)) => {
                Ok(Cow::Borrowed(self.file.block(*address, bytes as u64, "dataset")?.rest()))
            }
            Layout::Chunked(chunks) => {
                chunks.read(self.file, &self.shape, size, bytes, &self.filters).map(Cow::Owned)
            }
        }
    }
}

/// Reads a layout message; `size` is that of a value.
fn layout<'a>(mut body: Cursor<'a>, shape: &[usize], size: usize, filters: &[Filter]) -> Result<Layout<'a>> {
    let version = body.u8()?;
    if matches!(version, 1 | 2) {
        let rank = body.u8()?;
        let class = body.u8()?;
        body.skip(5)?;
        let address = if class == 0 { None } else { body.address()? };
        let extents = (0..rank).map(|_| body.u32()).collect::<Result<Vec<_>>>()?;
        return match class {
            0 => {
                let length = body.u32()? as usize;
                Ok(Layout::Compact(body.take(length)?))
            }
            1 => Ok(Layout::Contiguous(address)),
            // The size of a value is the last extent here as in version 3.
            2 => Ok(Layout::Chunked(chunked::Chunks::tree(address, &extents, shape, size)?)),
            other => Err(refused(format!("a dataset of layout class {other}; 0 to 2 are read"))),
        };
    }
    if !matches!(version, 3 | 4) {
        return Err(refused(format!("a dataset layout of version {version}; versions 1 to 4 are read")));
    }
    match body.u8()? {
        0 => {
            let length = body.u16()?.into();
            Ok(Layout::Compact(body.take(length)?))
        }
        1 => Ok(Layout::Contiguous(body.address()?)),
        2 if version == 3 => {
            let rank = body.u8()?;
            let address = body.address()?;
            let extents = (0..rank).map(|_| body.u32()).collect::<Result<Vec<_>>>()?;
            Ok(Layout::Chunked(chunked::Chunks::tree(address, &extents, shape, size)?))
        }
        2 => Ok(Layout::Chunked(chunked::Chunks::latest(&mut body, shape, size, filters)?)),
        3 => Err(refused("a virtual dataset, whose values are in other files")),
        other => Err(refused(format!("a dataset of layout class {other}; 0 to 2 are read"))),
    }
}
