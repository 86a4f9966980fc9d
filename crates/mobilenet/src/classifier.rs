//! From image files to class names: a model, ready to be asked.

use std::path::Path;

use serde::Serialize;

use crate::architecture::Architecture;
use crate::cpu::{CpuExecutor, CpuOptions};
use crate::error::Result;
use crate::executor::Executor;
use crate::image::{DecodeLimits, Image, decode_file};
use crate::model::Model;

/// A class and how likely it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// Index of the label.
    pub class: usize,
    /// The class's name.
    pub label: String,
    /// Its share of the softmax over all outputs, 0 to 1.
    pub probability: f64,
}

/// A model with an executor.
///
/// ```no_run
/// use mobilenet::{Classifier, Model};
/// # fn main() -> mobilenet::Result<()> {
/// let mut classifier = Classifier::new(Model::load("runs/photos")?)?;
/// for prediction in classifier.classify_file("cat.jpg", 3)? {
///     println!("{:.1} % {}", 100.0 * prediction.probability, prediction.label);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Classifier {
    model: Model,
    executor: CpuExecutor,
}

impl Classifier {
    /// A classifier that uses every core.
    ///
    /// # Errors
    /// As [`CpuExecutor::new`].
    pub fn new(model: Model) -> Result<Self> {
        Self::with_options(model, &CpuOptions::default())
    }

    /// A classifier with the threads and instruction set of `options`.
    ///
    /// # Errors
    /// As [`CpuExecutor::new`].
    pub fn with_options(model: Model, options: &CpuOptions) -> Result<Self> {
        let executor = CpuExecutor::new(&model.architecture, &model.weights, options)?;
        Ok(Self { model, executor })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The executor.
    pub fn executor(&mut self) -> &mut CpuExecutor {
        &mut self.executor
    }

    /// The `top_k` likeliest classes of an image file, likeliest first.
    ///
    /// # Errors
    /// When the file cannot be read or is not an image.
    pub fn classify_file(&mut self, path: impl AsRef<Path>, top_k: usize) -> Result<Vec<Prediction>> {
        let channels = self.model.architecture.input_channels;
        let image = decode_file(path.as_ref(), channels, &DecodeLimits::default())?;
        self.classify(&image, top_k)
    }

    /// The `top_k` likeliest classes of a decoded image, likeliest first.
    ///
    /// # Errors
    /// When the image has another number of channels than the network's input.
    pub fn classify(&mut self, image: &Image, top_k: usize) -> Result<Vec<Prediction>> {
        let logits = self.executor.infer_pixels(&pixels(&self.model.architecture, image)?)?;
        Ok(likeliest(&self.model, logits.data(), top_k))
    }
}

/// An image as the network reads it: resized, cropped and normalised, `[H, W, C]`.
///
/// # Errors
/// When the image has another number of channels than the network's input.
pub fn input(architecture: &Architecture, image: &Image) -> Result<Vec<f32>> {
    let mut input = vec![0.0; architecture.input_shape().len()];
    architecture.conventions.preprocessing.apply(image, architecture.resolution, &mut input)?;
    Ok(input)
}

/// An image as [`Executor::infer_pixels`] reads it: resized and cropped, 8 bits a value, `[H, W, C]`.
///
/// # Errors
/// As [`input`].
pub fn pixels(architecture: &Architecture, image: &Image) -> Result<Vec<u8>> {
    let preprocessing = &architecture.conventions.preprocessing;
    preprocessing.check_channels(image.channels())?;
    let mut pixels = vec![0; architecture.input_shape().len()];
    preprocessing.resize_into(image, architecture.resolution, &mut pixels)?;
    Ok(pixels)
}

/// The `top_k` likeliest classes for the logits of one image; a background class takes its probability
/// but is no answer.
pub fn likeliest(model: &Model, logits: &[f32], top_k: usize) -> Vec<Prediction> {
    let background = usize::from(model.architecture.conventions.background_class);
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp: Vec<f64> = logits.iter().map(|&logit| f64::from(logit - largest).exp()).collect();
    let sum: f64 = exp.iter().sum();
    let mut outputs: Vec<usize> = (background..exp.len()).collect();
    outputs.sort_by(|&a, &b| exp[b].total_cmp(&exp[a]).then(a.cmp(&b)));
    let prediction = |output: usize| Prediction {
        class: output - background,
        label: model.label(output).unwrap_or_default().to_owned(),
        probability: exp[output] / sum,
    };
    outputs.into_iter().take(top_k).map(prediction).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Preset;

    fn model(preset: Preset) -> Model {
        let architecture = Architecture {
            width_multiplier: 0.25,
            classes: 3,
            conventions: preset.conventions(),
            ..Architecture::default()
        };
        Model::random(architecture, ["a", "b", "c"].map(String::from).to_vec(), 0).unwrap()
    }

    #[test]
    fn the_likeliest_come_first_and_ties_in_order() {
        let found = likeliest(&model(Preset::Reference), &[0.0, 2.0, 0.0], 2);
        let names: Vec<_> = found.iter().map(|p| (p.class, p.label.as_str())).collect();
        assert_eq!(names, [(1, "b"), (0, "a")]);
        let sum = 2.0 + 2f64.exp();
        assert!((found[0].probability - 2f64.exp() / sum).abs() < 1e-12);
        assert_eq!(likeliest(&model(Preset::Reference), &[1e30, -1e30, 0.0], 9).len(), 3);
    }

    #[test]
    fn a_background_class_takes_its_probability_but_is_no_answer() {
        let found = likeliest(&model(Preset::TfSlim), &[3.0, 1.0, 2.0, 0.0], 5);
        let names: Vec<_> = found.iter().map(|p| (p.class, p.label.as_str())).collect();
        assert_eq!(names, [(1, "b"), (0, "a"), (2, "c")]);
        assert!(found.iter().map(|p| p.probability).sum::<f64>() < 0.5);
    }
}
