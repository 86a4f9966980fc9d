//! TensorFlow Lite: models of floats, in and out.

mod file;
mod flatbuffer;
mod read;
mod schema;
mod told;
mod write;

pub use read::read;
pub use write::{Options, write};

const FORMAT: &str = "TFLite";

/// Whether a file that begins so is a TFLite model.
pub fn looks_like(head: &[u8]) -> bool {
    head.get(4..8) == Some(schema::IDENTIFIER.as_bytes())
}
