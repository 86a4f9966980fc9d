//! safetensors files without this project's metadata, in and out.

use std::collections::BTreeMap;

use mobilenet::Tensor;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::error::{Error, Result};
use crate::state_dict::{Hints, StateDict};
use crate::{Content, numbers};

const FORMAT: &str = "safetensors";

/// Whether a file that begins with `head` can be safetensors: the length of a JSON object, then
/// its brace.
pub fn could_be(head: &[u8]) -> bool {
    let Some((length, rest)) = head.split_first_chunk() else { return false };
    (2..=100_000_000).contains(&u64::from_le_bytes(*length)) && rest.first() == Some(&b'{')
}

/// Every tensor of floating-point values, as f32; integer tensors (`num_batches_tracked`) are left
/// out.
///
/// # Errors
/// [`Error::Damaged`] when the bytes are not what the format allows, [`Error::Refused`] for a
/// floating-point type that is not read (8-bit floats).
pub fn read(bytes: &[u8]) -> Result<Content> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| Error::damaged(FORMAT, error.to_string()))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let values = match view.dtype() {
            Dtype::F64 => numbers::from_f64(view.data()),
            Dtype::F32 => numbers::from_f32(view.data()),
            Dtype::F16 => numbers::from_f16(view.data()),
            Dtype::BF16 => numbers::from_bf16(view.data()),
            Dtype::I8
            | Dtype::U8
            | Dtype::I16
            | Dtype::U16
            | Dtype::I32
            | Dtype::U32
            | Dtype::I64
            | Dtype::U64
            | Dtype::BOOL => continue,
            other => {
                return Err(Error::refused(
                    FORMAT,
                    format!("`{name}` is stored as {other:?}; F64, F32, F16 and BF16 are read"),
                ));
            }
        };
        tensors.insert(name.trim_start_matches("module.").to_owned(), Tensor::new(view.shape(), values)?);
    }
    Ok(Content::StateDict(StateDict { tensors, hints: Hints::default() }))
}

/// The bytes of a file with these f32 tensors, and `{"format": "pt"}` as metadata, which
/// transformers asks for. Each batch normalisation gets the `num_batches_tracked` (0) that
/// PyTorch's own files have: transformers warns of newly initialised parameters without it.
///
/// # Errors
/// [`Error::Unsupported`] when the format cannot hold them (it always can what a model has).
pub fn write(tensors: &[(String, &Tensor)]) -> Result<Vec<u8>> {
    let unsupported = |error: safetensors::SafeTensorError| Error::Unsupported(error.to_string());
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, tensor)| numbers::to_le_bytes(tensor.data())).collect();
    let mut views = Vec::with_capacity(tensors.len());
    for ((name, tensor), bytes) in tensors.iter().zip(&bytes) {
        let view = TensorView::new(Dtype::F32, tensor.shape().to_vec(), bytes).map_err(unsupported)?;
        views.push((name.clone(), view));
        if let Some(layer) = name.strip_suffix(".running_var") {
            let view = TensorView::new(Dtype::I64, Vec::new(), &[0; 8]).map_err(unsupported)?;
            views.push((format!("{layer}.num_batches_tracked"), view));
        }
    }
    let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).map_err(unsupported)
}
