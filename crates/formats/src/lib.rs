//! Other projects' MobileNet v1 weight files, in and out.
//!
//! A reader turns a file's content into a [`Content`]: either tensors by name ([`StateDict`]) or a
//! network recovered from a graph ([`Chain`]). `assemble` makes a [`mobilenet::Model`] of either.
//! Formats and families are told by content, never by a file's name.

#![forbid(unsafe_code)]

pub mod assemble;
pub mod chain;
pub mod error;
pub mod export;
pub mod family;
mod hdf5;
#[cfg(feature = "hub")]
pub mod hub;
pub mod hub_config;
pub mod keras;
mod numbers;
pub mod onnx;
pub mod pytorch;
pub mod safetensors_file;
pub mod sniff;
pub mod source;
pub mod state_dict;
pub mod tensorflow;
pub mod tflite;

pub use assemble::{Imported, Overrides, assemble};
pub use chain::Chain;
pub use error::{Error, Result};
pub use family::Family;
pub use state_dict::{Hints, StateDict};

/// What a reader found in a file.
#[derive(Clone, Debug)]
pub enum Content {
    /// Tensors by the names that the file gives them, in the file's own layouts.
    StateDict(StateDict),
    /// A network recovered by walking a graph.
    Chain(Chain),
}
