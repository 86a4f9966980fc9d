//! What differs between the families of MobileNet v1 weights, as data.
//!
//! A model file carries these, so that training, evaluation and classification cannot disagree.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How a 3×3 convolution is padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Padding {
    /// One pixel all round (PyTorch's `padding=1`), times the dilation.
    Fixed,
    /// TensorFlow's SAME: the output has ⌈input / stride⌉ pixels and the surplus pad is behind.
    Same,
    /// Keras' MobileNet: in blocks of stride 2 no pixel before and one behind; SAME in the stem and
    /// at stride 1. Equal to [`Padding::Same`] on even sizes.
    Keras,
}

/// The non-linearity after each batch normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// max(x, 0)
    Relu,
    /// min(max(x, 0), 6)
    Relu6,
}

/// How a thinned layer's number of channels is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WidthRounding {
    /// `int(α·c)` (Keras).
    Truncate,
    /// `max(int(α·c), 8)` (TF-slim, Hugging Face).
    AtLeast8,
    /// To the nearest multiple of 8, never below 90 % of α·c (timm's `make_divisible`).
    MultipleOf8,
}

/// How an image becomes square.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResizeMode {
    /// The short edge to `resolution / crop_fraction`, then the centre crop.
    ShortEdge,
    /// Both edges to `resolution / crop_fraction`, without regard for the aspect ratio, then the
    /// centre crop (Keras' loaders with a crop fraction of 1, TF-slim's evaluation with 0.875).
    Squash,
}

/// The filter used when an image is resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interpolation {
    /// Triangle filter, antialiased when shrinking (Pillow's BILINEAR).
    Bilinear,
    /// Catmull–Rom-like cubic, antialiased when shrinking (Pillow's BICUBIC).
    Bicubic,
}

/// How a decoded image becomes the network's input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// Subtracted from each channel after scaling to `[0, 1]`; one value a channel.
    pub mean: Vec<f32>,
    /// Divides each channel after the mean is subtracted; one value a channel.
    pub std: Vec<f32>,
    /// How the image becomes square.
    pub resize: ResizeMode,
    /// The share of the resized short edge (or of both edges) that the centre crop keeps, 0.25 to 1.
    pub crop_fraction: f64,
    /// The resize filter.
    pub interpolation: Interpolation,
}

/// Everything about a network that its rows of layers do not tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conventions {
    /// Padding of the 3×3 convolutions.
    pub padding: Padding,
    /// The non-linearity.
    pub activation: Activation,
    /// Added to the variance in batch normalisation.
    pub bn_epsilon: f32,
    /// The weight of the *new* batch in the running statistics (PyTorch's meaning;
    /// TensorFlow's decay is 1 − this).
    pub bn_momentum: f32,
    /// How thinned channel counts are rounded.
    pub width_rounding: WidthRounding,
    /// Whether output 0 is a background class that no label uses.
    pub background_class: bool,
    /// The probability with which a pooled feature is *dropped* in training (PyTorch's
    /// meaning; TensorFlow's keep probability is 1 − this).
    pub dropout: f32,
    /// How an image becomes the input.
    pub preprocessing: Preprocessing,
}

/// The known families of weights (see `docs/conventions.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// The PyTorch form: padding 1, ReLU, epsilon 1e-5.
    Reference,
    /// Google's TF-slim.
    TfSlim,
    /// keras.applications.
    Keras,
    /// timm's `mobilenetv1_100`.
    Timm,
    /// Hugging Face's `google/mobilenet_v1_*`.
    Hf,
}

impl Preset {
    /// Every preset, in the order in which help lists them.
    pub const ALL: [Self; 5] = [Self::Reference, Self::TfSlim, Self::Keras, Self::Timm, Self::Hf];

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::TfSlim => "tf-slim",
            Self::Keras => "keras",
            Self::Timm => "timm",
            Self::Hf => "hf",
        }
    }

    /// The preset's values.
    pub fn conventions(self) -> Conventions {
        let half = Preprocessing {
            mean: vec![0.5; 3],
            std: vec![0.5; 3],
            resize: ResizeMode::ShortEdge,
            crop_fraction: 0.875,
            interpolation: Interpolation::Bilinear,
        };
        let reference = Conventions {
            padding: Padding::Fixed,
            activation: Activation::Relu,
            bn_epsilon: 1e-5,
            bn_momentum: 0.1,
            width_rounding: WidthRounding::AtLeast8,
            background_class: false,
            dropout: 0.0,
            preprocessing: Preprocessing {
                mean: vec![0.485, 0.456, 0.406],
                std: vec![0.229, 0.224, 0.225],
                ..half.clone()
            },
        };
        let tf_slim = Conventions {
            padding: Padding::Same,
            activation: Activation::Relu6,
            bn_epsilon: 1e-3,
            bn_momentum: 0.0003,
            background_class: true,
            dropout: 0.001,
            preprocessing: Preprocessing { resize: ResizeMode::Squash, ..half.clone() },
            ..reference.clone()
        };
        match self {
            Self::Reference => reference,
            Self::TfSlim => tf_slim,
            Self::Keras => Conventions {
                padding: Padding::Keras,
                bn_momentum: 0.01,
                width_rounding: WidthRounding::Truncate,
                background_class: false,
                preprocessing: Preprocessing { crop_fraction: 1.0, ..tf_slim.preprocessing },
                ..tf_slim
            },
            Self::Timm => Conventions {
                activation: Activation::Relu6,
                width_rounding: WidthRounding::MultipleOf8,
                preprocessing: Preprocessing { interpolation: Interpolation::Bicubic, ..half },
                ..reference
            },
            Self::Hf => Conventions { preprocessing: half, ..tf_slim },
        }
    }
}

impl std::str::FromStr for Preset {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|preset| preset.name() == name)
            .ok_or_else(|| Error::unknown_name("convention", name, &Self::ALL.map(Self::name)))
    }
}
