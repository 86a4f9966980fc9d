//! Constants of a graph: shapes, weights, pads.

use std::rc::Rc;

use half::{bf16, f16};

use super::FORMAT;
use super::proto::{TensorProto, data_type};
use crate::error::{Error, Result};

/// The most dimensions that a tensor may have.
pub const MOST_DIMENSIONS: usize = 8;

/// A dense row-major array. All types are held as f64, which is exact for all but huge integers, and
/// lets batch normalisations be folded without further rounding. In shapes, NaN is "not known".
#[derive(Clone, Debug)]
pub struct Array {
    /// The extent of each dimension; none for a scalar.
    pub shape: Vec<usize>,
    /// The values; shared, since many nodes only rename them.
    pub data: Rc<[f64]>,
    /// Whether its type is an integer's, for divisions.
    pub integer: bool,
}

impl Array {
    /// An array of `shape` over as many values.
    pub fn new(shape: Vec<usize>, data: Vec<f64>, integer: bool) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), data.len());
        Self { shape, data: data.into(), integer }
    }

    /// A list of integers.
    pub fn integers(values: &[i64]) -> Self {
        Self::new(vec![values.len()], values.iter().map(|&value| value as f64).collect(), true)
    }

    /// A single number.
    pub fn scalar(value: f64, integer: bool) -> Self {
        Self::new(Vec::new(), vec![value], integer)
    }

    /// The only value of an array that has one.
    pub fn single(&self) -> Option<f64> {
        if self.data.len() == 1 { self.data.first().copied() } else { None }
    }

    /// The values as whole numbers; none where one is not known, or not whole.
    pub fn to_integers(&self) -> Option<Vec<i64>> {
        self.data.iter().map(|&value| (value.fract() == 0.0).then_some(value as i64)).collect()
    }

    /// Distance between neighbours along each dimension.
    pub fn strides(&self) -> Vec<usize> {
        strides(&self.shape)
    }
}

/// Row-major strides.
pub fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// The number of values of a shape; none when it, or that of a part of it, cannot be counted.
pub fn count(shape: &[usize]) -> Option<usize> {
    let product = shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent.max(1)))?;
    Some(if shape.contains(&0) { 0 } else { product })
}

/// Decodes a tensor; `name` is for messages. It never allocates more than the values that the file
/// holds take.
///
/// # Errors
/// [`Error::Refused`] for values in another file or of a type that is not read, [`Error::Damaged`]
/// when there are not as many values as the shape says.
pub fn decode(tensor: &TensorProto, name: &str) -> Result<Array> {
    if tensor.data_location == 1 || !tensor.external_data.is_empty() {
        let file = tensor.external_data.iter().find(|entry| entry.key == "location");
        let file = file.map_or("another file", |entry| entry.value.as_str());
        return Err(Error::refused(
            FORMAT,
            format!(
                "the values of `{name}` lie in {file}; save the model as one file: \
                 torch.onnx.export(..., external_data=False), or onnx.save(onnx.load(path), \"whole.onnx\")"
            ),
        ));
    }
    let damaged = |problem: String| Error::damaged(FORMAT, format!("tensor `{name}`: {problem}"));
    let shape: Option<Vec<usize>> = tensor.dims.iter().map(|&extent| usize::try_from(extent).ok()).collect();
    let shape = shape
        .filter(|shape| shape.len() <= MOST_DIMENSIONS)
        .ok_or_else(|| damaged(format!("its shape is {:?}", tensor.dims)))?;
    let expected = count(&shape).ok_or_else(|| damaged(format!("its shape is {shape:?}")))?;
    let data = values(tensor).ok_or_else(|| {
        Error::refused(
            FORMAT,
            format!(
                "tensor `{name}` has type {} of TensorProto.DataType; floats of 16 to 64 bits and integers \
                 are read (a quantised model must be exported as float)",
                tensor.data_type
            ),
        )
    })?;
    if data.len() != expected {
        return Err(damaged(format!("{} values, but its shape {shape:?} needs {expected}", data.len())));
    }
    let integer = !matches!(
        tensor.data_type,
        data_type::FLOAT | data_type::DOUBLE | data_type::FLOAT16 | data_type::BFLOAT16
    );
    Ok(Array { shape, data: data.into(), integer })
}

/// The values of a tensor, however it stores them; none for a type that is not read.
fn values(tensor: &TensorProto) -> Option<Vec<f64>> {
    let raw = tensor.raw_data.as_slice();
    let is_raw = !raw.is_empty();
    macro_rules! raw {
        ($type:ty, $to_f64:expr) => {
            raw.as_chunks().0.iter().map(|&bytes| $to_f64(<$type>::from_le_bytes(bytes))).collect()
        };
    }
    fn typed<T: Copy>(data: &[T], to_f64: impl Fn(T) -> f64) -> Vec<f64> {
        data.iter().map(|&value| to_f64(value)).collect()
    }
    let narrow = &tensor.int32_data;
    Some(match tensor.data_type {
        data_type::FLOAT if is_raw => raw!(f32, f64::from),
        data_type::FLOAT => typed(&tensor.float_data, f64::from),
        data_type::DOUBLE if is_raw => raw!(f64, |value| value),
        data_type::DOUBLE => tensor.double_data.clone(),
        data_type::FLOAT16 if is_raw => raw!(f16, f64::from),
        data_type::FLOAT16 => typed(narrow, |bits| f16::from_bits(bits as u16).into()),
        data_type::BFLOAT16 if is_raw => raw!(bf16, f64::from),
        data_type::BFLOAT16 => typed(narrow, |bits| bf16::from_bits(bits as u16).into()),
        data_type::INT64 if is_raw => raw!(i64, |value| value as f64),
        data_type::INT64 => typed(&tensor.int64_data, |value| value as f64),
        data_type::INT32 if is_raw => raw!(i32, f64::from),
        data_type::UINT32 if is_raw => raw!(u32, f64::from),
        data_type::UINT64 if is_raw => raw!(u64, |value| value as f64),
        data_type::INT16 if is_raw => raw!(i16, f64::from),
        data_type::UINT16 if is_raw => raw!(u16, f64::from),
        data_type::INT8 if is_raw => raw!(i8, f64::from),
        data_type::UINT8 | data_type::BOOL if is_raw => raw!(u8, f64::from),
        data_type::INT32
        | data_type::INT16
        | data_type::UINT16
        | data_type::INT8
        | data_type::UINT8
        | data_type::BOOL => typed(narrow, f64::from),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(data_type: i32, dims: &[i64]) -> TensorProto {
        TensorProto { data_type, dims: dims.to_vec(), ..TensorProto::default() }
    }

    #[test]
    fn values_are_read_from_whichever_field_holds_them() {
        let raw =
            |data_type, raw_data: &[u8]| TensorProto { raw_data: raw_data.into(), ..tensor(data_type, &[2]) };
        let typed =
            |data_type, bits: [i32; 2]| TensorProto { int32_data: bits.into(), ..tensor(data_type, &[2]) };
        let cases = [
            raw(data_type::FLOAT, &[0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]),
            TensorProto { float_data: vec![1.0, -2.0], ..tensor(data_type::FLOAT, &[2]) },
            TensorProto { double_data: vec![1.0, -2.0], ..tensor(data_type::DOUBLE, &[2]) },
            raw(data_type::FLOAT16, &[0, 0x3c, 0, 0xc0]),
            typed(data_type::FLOAT16, [0x3c00, 0xc000]),
            raw(data_type::BFLOAT16, &[0x80, 0x3f, 0, 0xc0]),
            typed(data_type::BFLOAT16, [0x3f80, 0xc000]),
            raw(data_type::INT8, &[1, 0xfe]),
            typed(data_type::INT32, [1, -2]),
            TensorProto { int64_data: vec![1, -2], ..tensor(data_type::INT64, &[2]) },
        ];
        for case in cases {
            assert_eq!(*decode(&case, "w").unwrap().data, [1.0, -2.0], "{case:?}");
        }
    }

    #[test]
    fn lying_shapes_and_foreign_values_are_refused() {
        let error = |tensor: TensorProto| decode(&tensor, "w").unwrap_err().to_string();
        let long = TensorProto { float_data: vec![1.0], ..tensor(data_type::FLOAT, &[1 << 40, 1 << 40]) };
        assert!(error(long).contains("its shape is"), "the product overflows");
        let short = TensorProto { float_data: vec![1.0], ..tensor(data_type::FLOAT, &[1 << 40]) };
        assert!(error(short).contains("1 values"));
        assert!(error(tensor(data_type::FLOAT, &[-1])).contains("[-1]"));
        assert!(error(tensor(8, &[1])).contains("type 8"));
        let location = super::super::proto::StringStringEntryProto {
            key: "location".into(),
            value: "weights.data".into(),
        };
        let external =
            TensorProto { data_location: 1, external_data: vec![location], ..tensor(data_type::FLOAT, &[1]) };
        assert!(error(external).contains("lie in weights.data"));
    }
}
