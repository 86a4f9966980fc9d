//! Tensors of protobuf messages and of checkpoints as f32.

use half::{bf16, f16};
use mobilenet::Tensor;

use super::proto::{TensorProto, TensorShape, data_type};

/// The sides of a shape, if all are known and their product is a sane number.
pub(super) fn sides(shape: Option<&TensorShape>) -> Option<(Vec<usize>, usize)> {
    let Some(shape) = shape else { return Some((Vec::new(), 1)) };
    if shape.unknown_rank || shape.dim.len() > 8 {
        return None;
    }
    let sides: Option<Vec<usize>> = shape.dim.iter().map(|dim| usize::try_from(dim.size).ok()).collect();
    let sides = sides?;
    let count = sides.iter().try_fold(1_usize, |product, &side| product.checked_mul(side))?;
    Some((sides, count))
}

/// Bytes a value of a type takes; none for types that are not numbers read here.
pub(super) fn width(data_type: i32) -> Option<usize> {
    Some(match data_type {
        data_type::FLOAT | data_type::INT32 => 4,
        data_type::DOUBLE | data_type::INT64 => 8,
        data_type::HALF | data_type::BFLOAT16 => 2,
        data_type::UINT8 => 1,
        _ => return None,
    })
}

/// Whether a type is a floating-point one.
pub(super) fn is_float(data_type: i32) -> bool {
    matches!(data_type, data_type::FLOAT | data_type::DOUBLE | data_type::HALF | data_type::BFLOAT16)
}

/// Little-endian values as f32; the length must be a multiple of [`width`].
pub(super) fn values(data_type: i32, bytes: &[u8]) -> Option<Vec<f32>> {
    fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Option<Vec<f32>> {
        let (chunks, rest) = bytes.as_chunks::<N>();
        rest.is_empty().then(|| chunks.iter().map(|&chunk| value(chunk)).collect())
    }
    match data_type {
        data_type::FLOAT => each(bytes, f32::from_le_bytes),
        data_type::INT32 => each(bytes, |b| i32::from_le_bytes(b) as f32),
        data_type::DOUBLE => each(bytes, |b| f64::from_le_bytes(b) as f32),
        data_type::INT64 => each(bytes, |b| i64::from_le_bytes(b) as f32),
        data_type::HALF => each(bytes, |b| f16::from_le_bytes(b).to_f32()),
        data_type::BFLOAT16 => each(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        data_type::UINT8 => each(bytes, |[b]: [u8; 1]| f32::from(b)),
        _ => None,
    }
}

/// Why a message is not a tensor of numbers.
#[derive(Debug)]
pub(super) enum NotATensor {
    /// Text, complex or quantized numbers.
    Type,
    /// More or fewer values than the shape has.
    Length {
        /// The values that there are.
        found: usize,
    },
}

/// A message's tensor. Its last value stands for those that it leaves out, as long as no more than
/// `spread` are left out; those are taken off `spread`.
pub(super) fn read(
    tensor: &TensorProto,
    shape: Option<&TensorShape>,
    spread: &mut usize,
) -> Result<Tensor, NotATensor> {
    let (sides, count) = sides(shape).ok_or(NotATensor::Length { found: 0 })?;
    let bits = |values: &[i32], value: fn(u16) -> f32| values.iter().map(|&v| value(v as u16)).collect();
    let mut data: Vec<f32> = if tensor.tensor_content.is_empty() {
        match tensor.dtype {
            data_type::FLOAT => tensor.float_val.clone(),
            data_type::DOUBLE => tensor.double_val.iter().map(|&v| v as f32).collect(),
            data_type::INT32 | data_type::UINT8 => tensor.int_val.iter().map(|&v| v as f32).collect(),
            data_type::INT64 => tensor.int64_val.iter().map(|&v| v as f32).collect(),
            data_type::HALF => bits(&tensor.half_val, |v| f16::from_bits(v).to_f32()),
            data_type::BFLOAT16 => bits(&tensor.half_val, |v| bf16::from_bits(v).to_f32()),
            _ => return Err(NotATensor::Type),
        }
    } else {
        let width = width(tensor.dtype).ok_or(NotATensor::Type)?;
        let found = NotATensor::Length { found: tensor.tensor_content.len() / width };
        values(tensor.dtype, &tensor.tensor_content).ok_or(found)?
    };
    let wrong = NotATensor::Length { found: data.len() };
    if data.len() < count {
        let (Some(&last), Some(left)) = (data.last(), spread.checked_sub(count - data.len())) else {
            return Err(wrong);
        };
        *spread = left;
        data.resize(count, last);
    }
    Tensor::new(&sides, data).map_err(|_| wrong)
}
