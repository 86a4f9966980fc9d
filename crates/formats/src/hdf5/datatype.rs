//! Datatypes and dataspaces: what a value is, and how many there are.

use half::{bf16, f16};

use super::cursor::Cursor;
use super::{damaged, refused};
use crate::error::Result;

/// Dimensions of a dataset at most, as in HDF5 itself.
const MAX_RANK: u8 = 32;

/// What one value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datatype {
    /// A floating-point number.
    Float {
        /// Its format.
        format: FloatFormat,
        /// Whether its most significant byte is first.
        big_endian: bool,
    },
    /// Text of that many bytes, padded.
    FixedString(usize),
    /// Text of any length, in a global heap.
    VariableString,
    /// Anything else: its class (0 = integer …) and bytes.
    Other {
        /// The class.
        class: u8,
        /// Bytes of a value.
        size: usize,
    },
}

/// The floating-point formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloatFormat {
    /// IEEE 754 half.
    F16,
    /// The upper half of a single.
    Bf16,
    /// IEEE 754 single.
    F32,
    /// IEEE 754 double.
    F64,
}

impl Datatype {
    /// Reads a datatype message.
    pub(super) fn read(cursor: &mut Cursor<'_>, offset_size: usize) -> Result<Self> {
        let class_and_version = cursor.u8()?;
        let bits = cursor.uint(3)?;
        let size = cursor.u32()? as usize;
        match class_and_version & 15 {
            1 => {
                cursor.skip(2)?;
                let precision = cursor.u16()?;
                cursor.skip(1)?;
                let exponent = cursor.u8()?;
                cursor.skip(1)?;
                let mantissa = cursor.u8()?;
                let format = match (size, precision, exponent, mantissa) {
                    (2, 16, 5, 10) => FloatFormat::F16,
                    (2, 16, 8, 7) => FloatFormat::Bf16,
                    (4, 32, 8, 23) => FloatFormat::F32,
                    (8, 64, 11, 52) => FloatFormat::F64,
                    _ => {
                        return Err(refused(format!(
                            "floating-point numbers of {size} bytes with {exponent} bits of exponent and \
                             {mantissa} of mantissa; 16, 32 and 64 bits are read"
                        )));
                    }
                };
                if bits & 0x40 != 0 {
                    return Err(refused("floating-point numbers in VAX byte order"));
                }
                Ok(Self::Float { format, big_endian: bits & 1 != 0 })
            }
            3 if size > 0 => Ok(Self::FixedString(size)),
            // The reference: a length of 4 bytes, an address and an index of 4 bytes.
            9 if bits & 15 == 1 && size == 8 + offset_size => Ok(Self::VariableString),
            class => Ok(Self::Other { class, size }),
        }
    }

    /// Bytes of a value in a file whose addresses have `offset_size` bytes.
    pub(super) fn size(self, offset_size: usize) -> usize {
        match self {
            Self::Float { format: FloatFormat::F16 | FloatFormat::Bf16, .. } => 2,
            Self::Float { format: FloatFormat::F32, .. } => 4,
            Self::Float { format: FloatFormat::F64, .. } => 8,
            Self::FixedString(size) | Self::Other { size, .. } => size,
            Self::VariableString => 8 + offset_size,
        }
    }
}

/// The floats that `bytes` hold, as f32. A rest that is no whole value is dropped.
pub(super) fn floats(bytes: &[u8], format: FloatFormat, big_endian: bool) -> Vec<f32> {
    /// The values of `N` bytes each.
    fn map<const N: usize>(bytes: &[u8], big_endian: bool, convert: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        let (values, _) = bytes.as_chunks::<N>();
        let native = |value: &[u8; N]| {
            let mut value = *value;
            if big_endian {
                value.reverse();
            }
            convert(value)
        };
        values.iter().map(native).collect()
    }
    match format {
        FloatFormat::F16 => map(bytes, big_endian, |b| f16::from_le_bytes(b).to_f32()),
        FloatFormat::Bf16 => map(bytes, big_endian, |b| bf16::from_le_bytes(b).to_f32()),
        FloatFormat::F32 => map(bytes, big_endian, f32::from_le_bytes),
        FloatFormat::F64 => map(bytes, big_endian, |b| f64::from_le_bytes(b) as f32),
    }
}

/// Reads a dataspace message: the extent of each dimension; `[0]` for a null dataspace.
pub(super) fn dataspace(cursor: &mut Cursor<'_>) -> Result<Vec<usize>> {
    let version = cursor.u8()?;
    let rank = cursor.u8()?;
    cursor.skip(1)?;
    match version {
        1 => cursor.skip(5)?,
        2 if cursor.u8()? == 2 => return Ok(vec![0]),
        2 => {}
        other => return Err(refused(format!("a dataspace of version {other}; versions 1 and 2 are read"))),
    }
    if rank > MAX_RANK {
        return Err(damaged(format!("a dataspace of {rank} dimensions; at most {MAX_RANK} are allowed")));
    }
    let extents = (0..rank).map(|_| cursor.length()).collect::<Result<Vec<_>>>()?;
    extents
        .iter()
        .map(|&extent| usize::try_from(extent).ok())
        .collect::<Option<Vec<_>>>()
        .filter(|extents| extents.iter().try_fold(1usize, |a, &b| a.checked_mul(b)).is_some())
        .ok_or_else(|| damaged(format!("a dataspace of {extents:?} values")))
}
