//! What a model's configuration tells of the network beyond its weights.

use mobilenet::architecture::Operator;
use mobilenet::conventions::{Activation, Padding};
use mobilenet::{Architecture, Body, Preset};
use serde_json::Value;

use super::FORMAT;
use crate::Hints;
use crate::error::{Error, Result};

/// A model's configuration, its sub-models unfolded.
#[derive(Debug)]
pub(super) struct Config {
    /// Names of the model and of the models in it, outermost first.
    pub(super) models: Vec<String>,
    /// Every layer in order; a sub-model's layers stand where it stands.
    layers: Vec<LayerConfig>,
}

#[derive(Debug)]
struct LayerConfig {
    class: String,
    config: Value,
    /// Which of the models in the file it belongs to.
    model: usize,
}

impl LayerConfig {
    fn name(&self) -> &str {
        self.config["name"].as_str().unwrap_or(&self.class)
    }

    /// A pair such as strides.
    fn pair(&self, key: &str) -> Option<[u64; 2]> {
        match &self.config[key] {
            Value::Array(values) => match values.as_slice() {
                [a, b] => Some([a.as_u64()?, b.as_u64()?]),
                _ => None,
            },
            value => value.as_u64().map(|value| [value; 2]),
        }
    }
}

/// Zero pixels around a convolution's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pad {
    Same,
    /// None before and one behind.
    Behind,
    /// One all round.
    Round,
}

impl Config {
    /// Parses the JSON of a model.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text)
            .map_err(|error| Error::damaged(FORMAT, format!("the model's configuration: {error}")))?;
        let mut config = Self { models: Vec::new(), layers: Vec::new() };
        config.add(&value);
        if config.layers.is_empty() {
            return Err(Error::damaged(FORMAT, "the model's configuration lists no layers"));
        }
        Ok(config)
    }

    /// Unfolds a model. Its depth is bounded by the JSON parser.
    fn add(&mut self, model: &Value) {
        let number = self.models.len();
        let inner = &model["config"];
        self.models.push(inner["name"].as_str().unwrap_or_default().to_owned());
        // Keras 1's and early 2's Sequential models are the list itself.
        let layers = inner["layers"].as_array().or(inner.as_array());
        for layer in layers.map(Vec::as_slice).unwrap_or_default() {
            if layer["config"]["layers"].is_array() {
                self.add(layer);
                continue;
            }
            let class = layer["class_name"].as_str().unwrap_or_default().to_owned();
            self.layers.push(LayerConfig { class, config: layer["config"].clone(), model: number });
        }
    }

    /// What it tells.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the network computes what this project's cannot.
    pub(super) fn hints(&self) -> Result<Hints> {
        let depthwise = self.of("DepthwiseConv2D");
        let Some(&first) = depthwise.first() else {
            return Err(Error::OtherNetwork(format!(
                "the Keras model `{}` has no depthwise convolutions; a MobileNet v1 has 13",
                self.models[0]
            )));
        };
        let body = self.layers[first].model;
        let mut hints = Hints {
            padding: self.padding(&depthwise)?,
            activation: self.activation(body)?,
            bn_epsilon: self.agreed(body, "epsilon")?,
            bn_momentum: self.agreed(body, "momentum")?.map(|decay| 1.0 - decay),
            width_multiplier: self.models.iter().find_map(|name| alpha(name)),
            ..Hints::default()
        };
        self.check_strides(&depthwise)?;
        if let Some(&pool) = self.of("GlobalMaxPooling2D").first() {
            return Err(Error::Unsupported(format!(
                "layer `{}` takes the maximum of the features; a MobileNet v1 averages them",
                self.layers[pool].name()
            )));
        }
        let rate = self.of("Dropout").last().and_then(|&at| self.layers[at].config["rate"].as_f64());
        hints.dropout = rate.map(|rate| rate as f32);
        self.resolution(&mut hints);
        self.preprocessing(&mut hints)?;
        Ok(hints)
    }

    /// Indices of the layers of a class.
    fn of(&self, class: &str) -> Vec<usize> {
        (0..self.layers.len()).filter(|&at| self.layers[at].class == class).collect()
    }

    /// A value that every batch normalisation of the body must have alike.
    fn agreed(&self, body: usize, key: &str) -> Result<Option<f32>> {
        let mut agreed: Option<f64> = None;
        for at in self.of("BatchNormalization") {
            let layer = &self.layers[at];
            let (Some(value), true) = (layer.config[key].as_f64(), layer.model == body) else {
                continue;
            };
            match agreed {
                Some(other) if other != value => {
                    return Err(Error::Unsupported(format!(
                        "{}: {key} {value}, elsewhere {other}; one value for all is expected",
                        layer.name()
                    )));
                }
                _ => agreed = Some(value),
            }
        }
        Ok(agreed.map(|value| value as f32))
    }

    fn activation(&self, body: usize) -> Result<Option<Activation>> {
        let mut agreed = None;
        for layer in self.layers.iter().filter(|layer| layer.model == body) {
            let config = &layer.config;
            let unsupported = |what: String| {
                Err(Error::Unsupported(format!("{}: {what}; expected ReLU or ReLU6", layer.name())))
            };
            let found = match layer.class.as_str() {
                "ReLU" => {
                    if ["negative_slope", "threshold"]
                        .iter()
                        .any(|key| config[key].as_f64().unwrap_or(0.0) != 0.0)
                    {
                        return unsupported("a ReLU with a slope or a threshold".into());
                    }
                    match config["max_value"].as_f64() {
                        None => Activation::Relu,
                        Some(6.0) => Activation::Relu6,
                        Some(other) => return unsupported(format!("a ReLU up to {other}")),
                    }
                }
                "Activation" => {
                    let name = config["activation"].as_str().or(config["activation"]["config"].as_str());
                    match name.unwrap_or_default() {
                        "relu6" => Activation::Relu6,
                        "relu" => Activation::Relu,
                        // The classifier's.
                        "softmax" | "sigmoid" | "linear" => continue,
                        other => return unsupported(format!("the activation `{other}`")),
                    }
                }
                _ => continue,
            };
            match agreed {
                Some(other) if other != found => {
                    return unsupported(format!("{found:?} where other layers have {other:?}"));
                }
                _ => agreed = Some(found),
            }
        }
        Ok(agreed)
    }

    /// How the convolution at `at` pads, itself or by a layer before it; none if it does not.
    fn pad(&self, at: usize) -> Option<Pad> {
        let layer = &self.layers[at];
        if layer.config["padding"] == "same" {
            return Some(Pad::Same);
        }
        let before = &self.layers[at.checked_sub(1)?];
        if before.class != "ZeroPadding2D" {
            return None;
        }
        // `1`, `[1, 1]` or `[[0, 1], [0, 1]]`.
        let padding = &before.config["padding"];
        let side = |axis: usize| match &padding[axis] {
            Value::Array(sides) => Some([sides.first()?.as_u64()?, sides.get(1)?.as_u64()?]),
            value => value.as_u64().or(padding.as_u64()).map(|value| [value; 2]),
        };
        match (side(0)?, side(1)?) {
            ([0, 1], [0, 1]) => Some(Pad::Behind),
            ([1, 1], [1, 1]) => Some(Pad::Round),
            _ => None,
        }
    }

    fn padding(&self, depthwise: &[usize]) -> Result<Option<Padding>> {
        let strided = |at: usize| self.layers[at].pair("strides") == Some([2, 2]);
        let mut found: Option<Pad> = None;
        for &at in depthwise {
            let unsupported = |what: String| {
                Err(Error::Unsupported(format!(
                    "{}: {what}; expected TensorFlow's or Keras' padding, or 1",
                    self.layers[at].name()
                )))
            };
            let Some(pad) = self.pad(at) else {
                return unsupported("its input is not padded in a way that is known".into());
            };
            match (strided(at), pad, found) {
                (false, Pad::Behind, _) => {
                    return unsupported("its input is padded on one side only at stride 1".into());
                }
                (true, pad, Some(other)) if pad != other => {
                    return unsupported(format!("padded `{pad:?}`, others of stride 2 `{other:?}`"));
                }
                (true, pad, _) => found = Some(pad),
                (false, ..) => {}
            }
        }
        let stem = self.of("Conv2D").first().and_then(|&at| self.pad(at));
        // At even sizes a stem that pads behind is one that pads SAME.
        match (found, stem) {
            (Some(Pad::Same), Some(Pad::Same)) => Ok(Some(Padding::Same)),
            (Some(Pad::Behind), Some(Pad::Same | Pad::Behind)) => Ok(Some(Padding::Keras)),
            (Some(Pad::Round), Some(Pad::Round)) => Ok(Some(Padding::Fixed)),
            (None, _) => Ok(None),
            (Some(other), stem) => Err(Error::Unsupported(format!(
                "the first convolution is padded `{stem:?}`, the depthwise ones of stride 2 `{other:?}`; \
                 expected the same for both"
            ))),
        }
    }

    /// Strides, dilations and multipliers are those of the network.
    fn check_strides(&self, depthwise: &[usize]) -> Result<()> {
        let body = if depthwise.len() == 8 { Body::Shallow } else { Body::Separable };
        let layers = Architecture { body, ..Architecture::default() }.layers()?;
        let expected = layers.iter().filter(|layer| layer.operator == Operator::Depthwise);
        let stem = self.of("Conv2D").first().copied();
        let expected = stem
            .map(|at| (at, layers[0].stride))
            .into_iter()
            .chain(depthwise.iter().copied().zip(expected.map(|layer| layer.stride)));
        for (at, stride) in expected {
            let layer = &self.layers[at];
            let found = layer.pair("strides").unwrap_or([1, 1]);
            if found != [stride as u64; 2] {
                return Err(Error::Unsupported(format!(
                    "{}: strides {found:?}; expected {stride} as in MobileNet v1",
                    layer.name()
                )));
            }
            if layer.pair("dilation_rate").is_some_and(|rate| rate != [1, 1]) {
                return Err(Error::Unsupported(format!("{}: dilated; expected no dilation", layer.name())));
            }
            let multiplier = layer.config["depth_multiplier"].as_u64().unwrap_or(1);
            if multiplier != 1 {
                return Err(Error::Unsupported(format!(
                    "{}: depth_multiplier {multiplier}; expected one filter a channel",
                    layer.name()
                )));
            }
        }
        Ok(())
    }

    /// Height and width of the outermost input that tells them.
    fn resolution(&self, hints: &mut Hints) {
        let keys = ["batch_shape", "batch_input_shape"];
        let shapes =
            self.layers.iter().filter_map(|layer| keys.iter().find_map(|&key| layer.config[key].as_array()));
        let mut sizes = shapes.filter_map(|shape| match shape.as_slice() {
            [_, height, width, _] => Some((height.as_u64()?, width.as_u64()?)),
            _ => None,
        });
        match sizes.next() {
            Some((height, width)) if height == width => hints.resolution = usize::try_from(height).ok(),
            Some((height, width)) => hints.notes.push(format!(
                "the Keras model reads {height}×{width} pixels; here inputs are square (--resolution)"
            )),
            None => {}
        }
    }

    /// Keras' `Rescaling` layer tells how 0…255 becomes the input.
    fn preprocessing(&self, hints: &mut Hints) -> Result<()> {
        if let Some(&at) = self.of("Normalization").first() {
            return Err(Error::Unsupported(format!(
                "layer `{}` normalises the input with statistics of its own; save the model without it and \
                 give them with --mean and --std",
                self.layers[at].name()
            )));
        }
        let [at] = self.of("Rescaling")[..] else {
            return Ok(());
        };
        let config = &self.layers[at].config;
        let number =
            |key: &str, default| if config[key].is_null() { Some(default) } else { config[key].as_f64() };
        let (Some(scale), Some(offset)) = (number("scale", 1.0), number("offset", 0.0)) else {
            hints.notes.push(format!(
                "layer `{}` scales each channel of the input for itself, which is not taken over (--mean, --std)",
                self.layers[at].name()
            ));
            return Ok(());
        };
        if !(scale > 0.0 && scale.is_finite() && offset.is_finite()) {
            return Err(Error::Unsupported(format!(
                "{}: scale {scale}, offset {offset}",
                self.layers[at].name()
            )));
        }
        // scale · 255x + offset = (x − mean) / std for x in [0, 1].
        let std = 1.0 / (255.0 * scale);
        let mut preprocessing = Preset::Keras.conventions().preprocessing;
        preprocessing.mean.fill((-offset * std) as f32);
        preprocessing.std.fill(std as f32);
        hints.preprocessing = Some(preprocessing);
        Ok(())
    }
}

/// α from a name such as `mobilenet_0.25_224`, where two digits tell it.
fn alpha(name: &str) -> Option<f64> {
    let (alpha, _) = name.strip_prefix("mobilenet_")?.split_once('_')?;
    alpha.parse().ok().filter(|alpha: &f64| *alpha > 0.0 && *alpha <= 2.0)
}
