//! Little-endian numbers to and from f32.

use half::{bf16, f16};

/// Of little-endian f32 bytes; a rest of fewer than four is left out.
pub fn from_f32(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect()
}

/// Of little-endian f64 bytes, rounded.
pub fn from_f64(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&value| f64::from_le_bytes(value) as f32).collect()
}

/// Of little-endian IEEE half-precision bytes.
pub fn from_f16(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&value| f16::from_le_bytes(value).to_f32()).collect()
}

/// Of little-endian bfloat16 bytes.
pub fn from_bf16(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&value| bf16::from_le_bytes(value).to_f32()).collect()
}

/// The little-endian bytes of f32 values.
pub fn to_le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
