//! A whole network: convolutions, each with batch normalisation and ReLU, then the mean over
//! pixels and the classifier.

use crate::activation::{relu, relu_backward};
use crate::batch_norm::{self, Statistics};
use crate::{Geometry, Pads, conv, dense};

/// What a layer computes before its batch normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Full convolution, weight `[out, in, k, k]`.
    Conv,
    /// Depthwise convolution, weight `[C, 1, k, k]`.
    Depthwise,
    /// 1×1 convolution, weight `[out, in, 1, 1]`.
    Pointwise,
}

/// One convolution with its batch normalisation and activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// What it computes.
    pub operator: Operator,
    /// Channels that it reads.
    pub inputs: usize,
    /// Channels that it writes.
    pub outputs: usize,
    /// Rows that it reads.
    pub height: usize,
    /// Columns that it reads.
    pub width: usize,
    /// Height and width of its filter.
    pub kernel: usize,
    /// Stride.
    pub stride: usize,
    /// Dilation.
    pub dilation: usize,
    /// Zero padding.
    pub pads: Pads,
}

/// A network without its numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// The convolutions in order.
    pub layers: Vec<Layer>,
    /// Outputs of the classifier.
    pub classes: usize,
    /// Upper limit of the activation: 6 for ReLU6.
    pub limit: Option<f64>,
    /// Added to variances.
    pub epsilon: f64,
    /// Weight of the new batch in the running statistics.
    pub momentum: f64,
}

/// The numbers of one [`Layer`], or their gradients.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerParameters {
    /// Filter.
    pub weight: Vec<f64>,
    /// BN's γ.
    pub gamma: Vec<f64>,
    /// BN's β.
    pub beta: Vec<f64>,
    /// BN's running statistics (the variance unbiased); empty among gradients.
    pub running: Statistics,
}

/// The numbers of a [`Network`], or their gradients.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters {
    /// One for each layer.
    pub layers: Vec<LayerParameters>,
    /// `[classes, features]`.
    pub classifier_weight: Vec<f64>,
    /// `[classes]`.
    pub classifier_bias: Vec<f64>,
}

/// What a forward pass in training mode keeps of one layer.
#[derive(Clone, Debug)]
pub struct LayerTrace {
    /// What the layer read.
    pub input: Vec<f64>,
    /// The convolution's output.
    pub raw: Vec<f64>,
    /// Mean and variance of that.
    pub statistics: Statistics,
    /// What the activation read.
    pub normalised: Vec<f64>,
}

/// What a forward pass in training mode keeps.
#[derive(Clone, Debug)]
pub struct Trace {
    /// One for each layer.
    pub layers: Vec<LayerTrace>,
    /// `[N, features]`: what the classifier read.
    pub features: Vec<f64>,
    /// `[N, classes]`.
    pub logits: Vec<f64>,
}

impl Layer {
    /// Its filter over a batch.
    pub fn geometry(&self, batch: usize) -> Geometry {
        Geometry {
            batch,
            height: self.height,
            width: self.width,
            kernel: self.kernel,
            stride: self.stride,
            dilation: self.dilation,
            pads: self.pads,
        }
    }

    /// Number of values of its filter.
    pub fn weights(&self) -> usize {
        match self.operator {
            Operator::Depthwise => self.inputs * self.kernel * self.kernel,
            Operator::Conv | Operator::Pointwise => self.inputs * self.outputs * self.kernel * self.kernel,
        }
    }

    /// Multiplications for one image, those with padding included.
    pub fn mult_adds(&self) -> u64 {
        (self.weights() * self.geometry(1).output_pixels()) as u64
    }

    fn convolve(&self, x: &[f64], weight: &[f64], batch: usize) -> Vec<f64> {
        match self.operator {
            Operator::Conv => conv::conv2d(x, weight, self.inputs, self.outputs, &self.geometry(batch)),
            Operator::Depthwise => conv::depthwise(x, weight, self.inputs, &self.geometry(batch)),
            Operator::Pointwise => dense::pointwise(x, weight, self.inputs, self.outputs),
        }
    }

    /// Gradients with respect to the convolution's input and weight.
    fn convolve_backward(
        &self,
        x: &[f64],
        weight: &[f64],
        d_y: &[f64],
        batch: usize,
    ) -> (Vec<f64>, Vec<f64>) {
        let (inputs, outputs, geometry) = (self.inputs, self.outputs, self.geometry(batch));
        match self.operator {
            Operator::Conv => (
                conv::conv2d_d_input(d_y, weight, inputs, outputs, &geometry),
                conv::conv2d_d_weight(x, d_y, inputs, outputs, &geometry),
            ),
            Operator::Depthwise => (
                conv::depthwise_d_input(d_y, weight, inputs, &geometry),
                conv::depthwise_d_weight(x, d_y, inputs, &geometry),
            ),
            Operator::Pointwise => (
                dense::pointwise_d_input(d_y, weight, inputs, outputs),
                dense::pointwise_d_weight(x, d_y, inputs, outputs),
            ),
        }
    }
}

impl Network {
    /// Channels that the classifier reads.
    pub fn features(&self) -> usize {
        self.layers.last().map_or(0, |layer| layer.outputs)
    }

    /// Number of trainable values.
    pub fn trainable(&self) -> usize {
        let convolutions: usize = self.layers.iter().map(|layer| layer.weights() + 2 * layer.outputs).sum();
        convolutions + self.classes * (self.features() + 1)
    }

    /// Multiplications for one image.
    pub fn mult_adds(&self) -> u64 {
        self.layers.iter().map(Layer::mult_adds).sum::<u64>() + (self.classes * self.features()) as u64
    }

    /// Logits `[N, classes]` with the running statistics.
    pub fn infer(&self, parameters: &Parameters, images: &[f64], batch: usize) -> Vec<f64> {
        self.infer_disturbed(parameters, images, batch, |_, _| {})
    }

    /// [`Network::infer`], where `disturb` may change the output of each convolution, which it
    /// gets with the number of channels: a way to learn what rounding errors lead to.
    pub fn infer_disturbed(
        &self,
        parameters: &Parameters,
        images: &[f64],
        batch: usize,
        mut disturb: impl FnMut(&mut [f64], usize),
    ) -> Vec<f64> {
        let mut x = images.to_vec();
        for (layer, p) in self.layers.iter().zip(&parameters.layers) {
            let mut raw = layer.convolve(&x, &p.weight, batch);
            disturb(&mut raw, layer.outputs);
            let normalised = batch_norm::normalise(&raw, &p.running, &p.gamma, &p.beta, self.epsilon);
            x = relu(&normalised, self.limit);
        }
        self.classify(parameters, &x, batch).1
    }

    /// Training mode: batch statistics, which update the running ones.
    pub fn forward(&self, parameters: &mut Parameters, images: &[f64], batch: usize) -> Trace {
        self.forward_disturbed(parameters, images, batch, |_, _| {})
    }

    /// [`Network::forward`], where `disturb` may change the output of each convolution, which it
    /// gets with the number of channels.
    pub fn forward_disturbed(
        &self,
        parameters: &mut Parameters,
        images: &[f64],
        batch: usize,
        disturb: impl FnMut(&mut [f64], usize),
    ) -> Trace {
        self.forward_with(parameters, images, batch, disturb, |_, _| {})
    }

    /// Shifts each β by the least that leaves no pre-activation of this batch in training mode
    /// nearer to a kink of the activation than `margin` (or as far off as β within ±0.5 allows).
    ///
    /// A comparison of gradients means nothing where rounding decides on which side of a kink a
    /// value lies: one value of a thousand that does changes a gradient by a thousandth.
    pub fn avoid_kinks(&self, parameters: &mut Parameters, images: &[f64], batch: usize, margin: f64) {
        let running: Vec<_> = parameters.layers.iter().map(|layer| layer.running.clone()).collect();
        self.forward_with(
            parameters,
            images,
            batch,
            |_, _| {},
            |beta, normalised| {
                let channels = beta.len();
                for (c, beta) in beta.iter_mut().enumerate() {
                    let clearance = |shift: f64| {
                        let values = normalised.iter().skip(c).step_by(channels);
                        values
                            .map(|v| {
                                (v + shift)
                                    .abs()
                                    .min(self.limit.map_or(f64::MAX, |six| (v + shift - six).abs()))
                            })
                            .fold(f64::MAX, f64::min)
                    };
                    // 0, then alternating outward.
                    let shifts = (0..400)
                        .map(|i| f64::from((i + 1) / 2) / 400.0 * if i % 2 == 0 { 1.0 } else { -1.0 });
                    let mut best = (f64::MIN, 0.0);
                    for shift in shifts {
                        let found = clearance(shift);
                        if found > best.0 {
                            best = (found, shift);
                        }
                        if found >= margin {
                            break;
                        }
                    }
                    // f32, so that the network under test can have exactly this β.
                    *beta = f64::from((*beta + best.1) as f32);
                }
            },
        );
        for (layer, running) in parameters.layers.iter_mut().zip(running) {
            layer.running = running;
        }
    }

    /// [`Network::forward_disturbed`], where `adjust` may change each β after seeing what it leads
    /// to.
    fn forward_with(
        &self,
        parameters: &mut Parameters,
        images: &[f64],
        batch: usize,
        mut disturb: impl FnMut(&mut [f64], usize),
        mut adjust: impl FnMut(&mut [f64], &[f64]),
    ) -> Trace {
        let mut x = images.to_vec();
        let mut layers = Vec::with_capacity(self.layers.len());
        for (layer, p) in self.layers.iter().zip(&mut parameters.layers) {
            let mut raw = layer.convolve(&x, &p.weight, batch);
            disturb(&mut raw, layer.outputs);
            let statistics = batch_norm::statistics(&raw, layer.outputs);
            let rows = raw.len() / layer.outputs;
            batch_norm::update_running(&mut p.running, &statistics, rows, self.momentum);
            let first = batch_norm::normalise(&raw, &statistics, &p.gamma, &p.beta, self.epsilon);
            adjust(&mut p.beta, &first);
            let normalised = batch_norm::normalise(&raw, &statistics, &p.gamma, &p.beta, self.epsilon);
            let y = relu(&normalised, self.limit);
            layers.push(LayerTrace { input: std::mem::replace(&mut x, y), raw, statistics, normalised });
        }
        let (features, logits) = self.classify(parameters, &x, batch);
        Trace { layers, features, logits }
    }

    /// Pool and classifier: features and logits.
    fn classify(&self, parameters: &Parameters, x: &[f64], batch: usize) -> (Vec<f64>, Vec<f64>) {
        let features = dense::global_average_pool(x, batch, self.features());
        let Parameters { classifier_weight, classifier_bias, .. } = parameters;
        let logits = dense::linear(&features, classifier_weight, classifier_bias, self.features());
        (features, logits)
    }

    /// Gradients of every trainable value, given the loss's gradient with respect to the logits
    /// of `trace`.
    pub fn backward(&self, parameters: &Parameters, trace: &Trace, d_logits: &[f64]) -> Parameters {
        let (features, batch) = (self.features(), d_logits.len() / self.classes);
        let mut gradients = Parameters {
            layers: vec![LayerParameters::default(); self.layers.len()],
            classifier_weight: dense::pointwise_d_weight(&trace.features, d_logits, features, self.classes),
            classifier_bias: dense::linear_d_bias(d_logits, self.classes),
        };
        let d_features =
            dense::pointwise_d_input(d_logits, &parameters.classifier_weight, features, self.classes);
        let pixels = trace.layers.last().map_or(1, |last| last.raw.len() / (batch * features));
        let mut d = dense::global_average_pool_backward(&d_features, pixels, features);
        for (i, layer) in self.layers.iter().enumerate().rev() {
            let (p, kept) = (&parameters.layers[i], &trace.layers[i]);
            let d_normalised = relu_backward(&kept.normalised, &d, self.limit);
            let bn = batch_norm::backward(&kept.raw, &kept.statistics, &p.gamma, self.epsilon, &d_normalised);
            let (d_input, d_weight) = layer.convolve_backward(&kept.input, &p.weight, &bn.d_x, batch);
            gradients.layers[i] = LayerParameters {
                weight: d_weight,
                gamma: bn.d_gamma,
                beta: bn.d_beta,
                running: Statistics::default(),
            };
            d = d_input;
        }
        gradients
    }
}
