//! Google's MobileNet v1 1.0-224, trained on ImageNet, as part of the program.
//!
//! ```
//! # fn main() -> mobilenet::Result<()> {
//! # let photo = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/photos/coffee.png");
//! let mut classifier = mobilenet::Classifier::new(mobilenet_imagenet::model()?)?;
//! let best = &classifier.classify_file(photo, 1)?[0];
//! assert_eq!(best.label, "espresso");
//! # Ok(())
//! # }
//! ```
//!
//! The weights are Google's, under the Apache License 2.0; where they come from is written in this
//! crate's `README.md`.

#![forbid(unsafe_code)]

use mobilenet::conventions::ResizeMode;
use mobilenet::{Architecture, Model, Preset, Result};

/// The model file: 1.0 MobileNet-224 in TF-slim's conventions, large filters as 16-bit floats.
const FILE: &[u8] = include_bytes!("../model.safetensors");

/// The class names, one a line.
const LABELS: &str = include_str!("../labels.txt");

/// The model: 1000 classes and a background class, 224×224 RGB, ReLU6, TensorFlow's SAME padding.
///
/// TF-slim publishes 70.9 % top-1 and 89.9 % top-5 on ImageNet's validation images for the float32
/// weights; most are rounded to 16 bits here, which moves logits by at most a few hundredths.
///
/// # Errors
/// None that a caller could cause: the bytes are part of the program.
pub fn model() -> Result<Model> {
    Model::from_bytes(FILE, "the embedded ImageNet model")
}

/// The model's architecture: TF-slim's conventions, but photos keep their aspect ratio (the short edge
/// to 256, then the centre), as Hugging Face prepares them for the same weights. For
/// whoever prepares its input while the model itself is opened.
pub fn architecture() -> Architecture {
    let mut conventions = Preset::TfSlim.conventions();
    conventions.preprocessing.resize = ResizeMode::ShortEdge;
    Architecture { conventions, ..Architecture::default() }
}

/// ImageNet's 1000 class names in the usual order (0 is the tench), as the model's labels have them.
pub fn labels() -> impl ExactSizeIterator<Item = &'static str> {
    LABELS.lines().collect::<Vec<_>>().into_iter()
}
