//! MobileNet v1 (Howard et al. 2017, arXiv 1704.04861).
//!
//! [`Architecture`] describes a network as data; [`Weights`] are its named tensors; an
//! [`Executor`] runs the one with the other. [`Model`] bundles them with class labels and is
//! what a file holds; a [`Classifier`] asks it what image files show.

#![forbid(unsafe_code)]

pub mod activation_map;
pub mod architecture;
pub mod atomic_file;
pub mod classifier;
pub mod conventions;
pub mod cost;
pub mod cpu;
pub mod error;
pub mod executor;
pub mod image;
pub mod model;
pub mod preprocess;
pub mod rng;
pub mod tensor;
pub mod weights;

pub use activation_map::ActivationMap;
pub use architecture::{Architecture, Body};
pub use classifier::{Classifier, Prediction};
pub use conventions::{Conventions, Preset};
pub use error::{Error, Result};
pub use executor::{Executor, Parameter};
pub use model::Model;
pub use tensor::Tensor;
pub use weights::{Role, TensorSpec, Weights};
