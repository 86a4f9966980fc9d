//! A network that is small enough to be trained at every step of a test, and data for it.
#![allow(dead_code, reason = "every test uses a part of it")]

use std::sync::Arc;

use mobilenet::image::Image;
use mobilenet::rng::Rng;
use mobilenet::{Architecture, Executor, Model, Parameter, Role, Tensor, Weights};
use mobilenet_train::data::{Dataset, Result as DataResult, Splits};

/// Softmax regression on some pixels of the image, with the tensors of a real architecture:
/// only the classifier learns. It has what makes resuming hard: a running statistic, and dropout
/// from a seed.
pub struct Regression {
    architecture: Architecture,
    tensors: Vec<(String, Role, Tensor, Tensor)>,
    seed: u64,
    kept: Option<Tensor>,
    /// After so many forward passes the logits are NaN.
    pub breaks_after: Option<usize>,
    passes: usize,
    frozen: bool,
}

impl Regression {
    pub fn new(model: &Model) -> Self {
        let specs = model.architecture.tensors().unwrap();
        let tensors = specs.into_iter().map(|spec| {
            let value = model.weights.get(&spec.name).unwrap().clone();
            (spec.name, spec.role, value, Tensor::zeros(&spec.shape))
        });
        let tensors = tensors.collect();
        let architecture = model.architecture.clone();
        Self { architecture, tensors, seed: 0, kept: None, breaks_after: None, passes: 0, frozen: false }
    }

    fn tensor(&self, name: &str) -> &Tensor {
        &self.tensors.iter().find(|tensor| tensor.0 == name).unwrap().2
    }

    /// `[N, features]`: pixels at even distances; features stay what they are.
    fn pixels(&self, images: &Tensor) -> Tensor {
        if images.shape().len() == 2 {
            return images.clone();
        }
        let features = self.tensor("classifier.weight").shape()[1];
        let values = images
            .rows()
            .flat_map(|image| (0..features).map(move |i| image[(2 * i + 1) * image.len() / (2 * features)]));
        Tensor::new(&[images.shape()[0], features], values.collect()).unwrap()
    }

    fn logits(&self, features: &Tensor) -> Tensor {
        let (weight, bias) = (self.tensor("classifier.weight"), self.tensor("classifier.bias"));
        let dot = |w: &[f32], x: &[f32]| w.iter().zip(x).map(|(w, x)| w * x).sum::<f32>();
        let row =
            |x: &[f32]| -> Vec<f32> { weight.rows().zip(bias.data()).map(|(w, b)| b + dot(w, x)).collect() };
        let data: Vec<f32> = features.rows().flat_map(row).collect();
        Tensor::new(&[features.shape()[0], bias.data().len()], data).unwrap()
    }
}

impl Executor for Regression {
    fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    fn infer(&mut self, images: &Tensor) -> mobilenet::Result<Tensor> {
        Ok(self.logits(&self.pixels(images)))
    }

    fn features(&mut self, images: &Tensor) -> mobilenet::Result<Tensor> {
        Ok(self.pixels(images))
    }

    fn freeze(&mut self, blocks: Option<usize>) -> mobilenet::Result<()> {
        self.frozen = blocks.is_some();
        Ok(())
    }

    fn forward(&mut self, images: &Tensor) -> mobilenet::Result<Tensor> {
        let mut features = self.pixels(images);
        let mean = features.data().iter().sum::<f32>() / features.data().len() as f32;
        for (name, _, value, _) in &mut self.tensors {
            if !self.frozen && name == "conv_0.bn.running_mean" {
                value.data_mut().iter_mut().for_each(|m| *m += 0.1 * (mean - *m));
            }
        }
        let mut rng = Rng::keyed(self.seed, &[]);
        for x in features.data_mut() {
            *x *= if rng.uniform() < 0.2 { 0.0 } else { 1.25 };
        }
        let mut logits = self.logits(&features);
        self.kept = Some(features);
        self.passes += 1;
        if self.breaks_after.is_some_and(|passes| self.passes > passes) {
            logits.data_mut()[0] = f32::NAN;
        }
        Ok(logits)
    }

    fn backward(&mut self, d_logits: &Tensor) -> mobilenet::Result<()> {
        let features = self.kept.take().expect("backward follows forward");
        for (name, _, value, grad) in &mut self.tensors {
            let width = value.shape().last().copied().unwrap_or(1);
            for (d, x) in d_logits.rows().zip(features.rows()) {
                if name == "classifier.weight" {
                    for (grad, d) in grad.data_mut().chunks_exact_mut(width).zip(d) {
                        grad.iter_mut().zip(x).for_each(|(g, x)| *g += d * x);
                    }
                } else if name == "classifier.bias" {
                    grad.data_mut().iter_mut().zip(d).for_each(|(g, d)| *g += d);
                }
            }
        }
        Ok(())
    }

    fn zero_grad(&mut self) {
        self.tensors.iter_mut().for_each(|tensor| tensor.3.data_mut().fill(0.0));
    }

    fn parameters(&mut self) -> Vec<Parameter<'_>> {
        let frozen = self.frozen;
        let trainable = self.tensors.iter_mut().filter(move |(name, role, ..)| {
            role.is_trainable() && (!frozen || name.starts_with("classifier."))
        });
        trainable
            .map(|(name, role, value, grad)| Parameter {
                name,
                role: *role,
                value: value.data_mut(),
                grad: grad.data_mut(),
            })
            .collect()
    }

    fn seed_dropout(&mut self, seed: u64) {
        self.seed = seed;
    }

    fn weights(&self) -> Weights {
        let mut weights = Weights::new();
        self.tensors.iter().for_each(|(name, _, value, _)| weights.insert(name.clone(), value.clone()));
        weights
    }

    fn set_weights(&mut self, weights: &Weights) -> mobilenet::Result<()> {
        weights.check(&self.architecture)?;
        for (name, _, value, _) in &mut self.tensors {
            value.clone_from(weights.get(name).unwrap());
        }
        Ok(())
    }
}

/// Noisy grey images, each class with stripes of its own.
pub struct Stripes {
    classes: Vec<String>,
    images: usize,
    seed: u64,
}

impl Stripes {
    pub const EDGE: usize = 12;

    pub fn splits(train: usize, held_out: usize) -> Splits {
        let classes: Vec<String> = ["eins", "zwei <b>", "三"].map(str::to_owned).to_vec();
        let part =
            |images, seed| -> Arc<dyn Dataset> { Arc::new(Self { classes: classes.clone(), images, seed }) };
        Splits {
            train: part(train, 1),
            held_out: part(held_out, 2),
            skipped: Vec::new(),
            description: "stripes & noise".into(),
        }
    }
}

impl Dataset for Stripes {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn len(&self) -> usize {
        self.images
    }

    fn label(&self, index: usize) -> usize {
        index % self.classes.len()
    }

    fn name(&self, index: usize) -> String {
        format!("stripes#{index}")
    }

    fn image(&self, index: usize, channels: usize) -> DataResult<Arc<Image>> {
        let mut rng = Rng::keyed(self.seed, &[index as u64]);
        let label = self.label(index);
        let mut data = Vec::new();
        for pixel in 0..Self::EDGE * Self::EDGE {
            let stripe = if (pixel / 9) % self.classes.len() == label { 130.0 } else { 20.0 };
            data.extend(vec![(stripe + 90.0 * rng.uniform()) as u8; channels]);
        }
        Ok(Arc::new(Image::new(Self::EDGE, Self::EDGE, channels, data)?))
    }

    fn size(&self, _: usize) -> (usize, usize) {
        (Self::EDGE, Self::EDGE)
    }

    fn is_grey(&self) -> bool {
        true
    }
}
