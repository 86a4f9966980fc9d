//! The network as data: one row a block (paper, Table 1), and the layers that follow from it.

use serde::{Deserialize, Serialize};

use crate::conventions::{Conventions, Padding, Preset, WidthRounding};
use crate::error::{Error, Result};

/// Channels of the stem before the width multiplier (paper, Table 1).
const STEM_CHANNELS: usize = 32;

/// The thirteen blocks before the width multiplier: output channels and stride (paper, Table 1;
/// the last stride is 1, where the paper prints 2 against its own count of multiply-adds).
const BLOCKS: [(usize, usize); 13] = [
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
];

/// The rows of [`BLOCKS`] that the shallow body leaves out (paper, Table 5).
const SHALLOW_LEAVES_OUT: std::ops::Range<usize> = 6..11;

/// What a block is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Body {
    /// Depthwise 3×3 then pointwise 1×1 (the paper's network).
    #[default]
    Separable,
    /// One full 3×3 convolution a block (paper, Table 4, "Conv MobileNet").
    Full,
    /// Separable without the five 512 → 512 blocks (paper, Table 5).
    Shallow,
}

impl Body {
    /// Every body, in the order in which help lists them.
    pub const ALL: [Self; 3] = [Self::Separable, Self::Full, Self::Shallow];

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Separable => "separable",
            Self::Full => "full",
            Self::Shallow => "shallow",
        }
    }
}

impl std::str::FromStr for Body {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|body| body.name() == name)
            .ok_or_else(|| Error::unknown_name("body", name, &Self::ALL.map(Self::name)))
    }
}

/// A MobileNet v1, complete but for its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// What a block is made of.
    pub body: Body,
    /// α in (0, 2]: thins every layer.
    pub width_multiplier: f64,
    /// Height and width of the input in pixels, at least 32 (smaller is allowed down to 8 for
    /// small-image data; see [`Architecture::validate`]).
    pub resolution: usize,
    /// Stride of the first convolution: 2, or 1 for small images.
    pub stem_stride: usize,
    /// The most by which the last feature map may be smaller than the input: 8, 16 or 32.
    /// What would stride further dilates instead (as TF-slim does).
    pub output_stride: usize,
    /// Number of classes that labels use (without a background class).
    pub classes: usize,
    /// 1 (grey) or 3 (RGB).
    pub input_channels: usize,
    /// Everything else.
    pub conventions: Conventions,
}

/// Height, width and channels of a feature map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels.
    pub channels: usize,
}

impl Shape {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Whether it holds no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of pixels.
    pub fn pixels(&self) -> usize {
        self.height * self.width
    }
}

/// What a layer computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operator {
    /// Full 3×3 convolution, then batch normalisation and activation.
    Conv,
    /// Depthwise 3×3 convolution, then batch normalisation and activation.
    Depthwise,
    /// 1×1 convolution, then batch normalisation and activation.
    Pointwise,
    /// Mean over all pixels.
    GlobalPool,
    /// Fully connected, with bias.
    Classifier,
}

/// Zero pixels around a convolution's input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pads {
    /// Rows above.
    pub top: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns to the left.
    pub left: usize,
    /// Columns to the right.
    pub right: usize,
}

/// One layer with its shapes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// `conv_0`, `depthwise_1`, `pointwise_1`, … `pool`, `classifier`: the prefix of its
    /// parameters' names.
    pub name: String,
    /// What it computes.
    pub operator: Operator,
    /// The shape that it reads.
    pub input: Shape,
    /// The shape that it writes.
    pub output: Shape,
    /// Height and width of the filter (1 for pointwise and classifier, 0 for the pool).
    pub kernel: usize,
    /// Stride.
    pub stride: usize,
    /// Dilation.
    pub dilation: usize,
    /// Zero padding.
    pub pads: Pads,
}

impl Default for Architecture {
    /// The reference network: α = 1, 224×224, 1000 classes.
    fn default() -> Self {
        Self {
            body: Body::Separable,
            width_multiplier: 1.0,
            resolution: 224,
            stem_stride: 2,
            output_stride: 32,
            classes: 1000,
            input_channels: 3,
            conventions: Preset::Reference.conventions(),
        }
    }
}

impl Architecture {
    /// Checks every setting; the error names the first that is out of range.
    ///
    /// The paper's resolutions are 128 to 224; anything from 8 pixels on is computed, so that
    /// 28×28 images need not be enlarged.
    pub fn validate(&self) -> Result<()> {
        let wrong = |what, found: String, expected: &str| {
            Err(Error::Architecture { what, found, expected: expected.to_owned() })
        };
        let alpha = self.width_multiplier;
        if !(alpha > 0.0 && alpha <= 2.0) {
            return wrong("width multiplier", alpha.to_string(), "a number above 0 and at most 2");
        }
        if !(8..=4096).contains(&self.resolution) {
            return wrong("resolution", self.resolution.to_string(), "8 to 4096 pixels");
        }
        if !matches!(self.stem_stride, 1 | 2) {
            return wrong("stem stride", self.stem_stride.to_string(), "1 or 2");
        }
        if !matches!(self.output_stride, 8 | 16 | 32) {
            return wrong("output stride", self.output_stride.to_string(), "8, 16 or 32");
        }
        if self.classes == 0 || self.classes > 1_000_000 {
            return wrong("classes", self.classes.to_string(), "1 to 1000000");
        }
        if !matches!(self.input_channels, 1 | 3) {
            return wrong("input channels", self.input_channels.to_string(), "1 (grey) or 3 (RGB)");
        }
        let c = &self.conventions;
        if !(c.bn_epsilon > 0.0 && c.bn_epsilon.is_finite()) {
            return wrong("BN epsilon", c.bn_epsilon.to_string(), "a number above 0");
        }
        if !(c.bn_momentum >= 0.0 && c.bn_momentum <= 1.0) {
            return wrong("BN momentum", c.bn_momentum.to_string(), "0 to 1: the weight of the new batch");
        }
        if !(c.dropout >= 0.0 && c.dropout < 1.0) {
            return wrong("dropout", c.dropout.to_string(), "0 to below 1: the probability to drop");
        }
        let p = &c.preprocessing;
        for (what, values) in [("preprocessing mean", &p.mean), ("preprocessing std", &p.std)] {
            if values.len() != self.input_channels || values.iter().any(|v| !v.is_finite()) {
                return wrong(what, format!("{values:?}"), "one finite value for each input channel");
            }
        }
        if p.std.iter().any(|&v| v <= 0.0) {
            return wrong("preprocessing std", format!("{:?}", p.std), "values above 0");
        }
        if !(0.25..=1.0).contains(&p.crop_fraction) {
            return wrong("crop fraction", p.crop_fraction.to_string(), "0.25 to 1");
        }
        if self.thin(STEM_CHANNELS) == 0 {
            return wrong(
                "width multiplier",
                alpha.to_string(),
                "large enough to leave every layer a channel",
            );
        }
        Ok(())
    }

    /// The settings in which `other` differs, conventions and preprocessing included.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let mut differences = Vec::new();
        if let (Ok(ours), Ok(theirs)) = (serde_json::to_value(self), serde_json::to_value(other)) {
            compare("", &ours, &theirs, &mut differences);
        }
        differences
    }

    /// Number of outputs: the classes, and the background class if there is one.
    pub fn outputs(&self) -> usize {
        self.classes + usize::from(self.conventions.background_class)
    }

    /// Number of blocks between the first convolution and the pool.
    pub fn blocks(&self) -> usize {
        match self.body {
            Body::Separable | Body::Full => BLOCKS.len(),
            Body::Shallow => BLOCKS.len() - SHALLOW_LEAVES_OUT.len(),
        }
    }

    /// The shape of one input image.
    pub fn input_shape(&self) -> Shape {
        Shape { height: self.resolution, width: self.resolution, channels: self.input_channels }
    }

    /// How many images `[N, H, W, C]` of 8-bit pixels there are.
    ///
    /// # Errors
    /// When these are not one or more whole images, or the conventions have not one mean and one deviation
    /// a channel.
    pub fn count_pixels(&self, pixels: &[u8]) -> Result<usize> {
        let Shape { height, width, channels } = self.input_shape();
        self.conventions.preprocessing.check_channels(channels)?;
        let image = height * width * channels;
        if pixels.is_empty() || !pixels.len().is_multiple_of(image) {
            return Err(Error::Input {
                what: "8-bit pixels".into(),
                expected: format!("whole images of {height}×{width}×{channels} = {image} bytes"),
                found: format!("{} bytes", pixels.len()),
            });
        }
        Ok(pixels.len() / image)
    }

    /// Channels of a layer after the width multiplier.
    fn thin(&self, channels: usize) -> usize {
        let exact = self.width_multiplier * channels as f64;
        match self.conventions.width_rounding {
            WidthRounding::Truncate => exact as usize,
            WidthRounding::AtLeast8 => (exact as usize).max(8),
            WidthRounding::MultipleOf8 => {
                let rounded = ((exact + 4.0) as usize / 8 * 8).max(8);
                if (rounded as f64) < 0.9 * exact { rounded + 8 } else { rounded }
            }
        }
    }

    /// Every layer in order, from the stem to the classifier, with its shapes.
    pub fn layers(&self) -> Result<Vec<Layer>> {
        self.validate()?;
        let mut builder = Builder {
            layers: Vec::with_capacity(2 * BLOCKS.len() + 3),
            shape: self.input_shape(),
            padding: self.conventions.padding,
        };
        builder.push("conv_0".into(), Operator::Conv, self.thin(STEM_CHANNELS), self.stem_stride, 1)?;

        let (mut total_stride, mut dilation) = (self.stem_stride, 1);
        let rows = BLOCKS
            .iter()
            .enumerate()
            .filter(|(i, _)| self.body != Body::Shallow || !SHALLOW_LEAVES_OUT.contains(i));
        for (number, (_, &(channels, block_stride))) in (1..).zip(rows) {
            // The block whose stride is given up still looks at its undilated neighbours;
            // those after it dilate (TF-slim's `mobilenet_v1_base`).
            let (stride, rate) = if total_stride >= self.output_stride {
                let rate = dilation;
                dilation *= block_stride;
                (1, rate)
            } else {
                total_stride *= block_stride;
                (block_stride, 1)
            };
            let channels = self.thin(channels);
            match self.body {
                Body::Full => {
                    builder.push(format!("conv_{number}"), Operator::Conv, channels, stride, rate)?
                }
                Body::Separable | Body::Shallow => {
                    let same = builder.shape.channels;
                    builder.push(format!("depthwise_{number}"), Operator::Depthwise, same, stride, rate)?;
                    builder.push(format!("pointwise_{number}"), Operator::Pointwise, channels, 1, 1)?;
                }
            }
        }
        builder.push("pool".into(), Operator::GlobalPool, builder.shape.channels, 1, 1)?;
        builder.push("classifier".into(), Operator::Classifier, self.outputs(), 1, 1)?;
        Ok(builder.layers)
    }
}

/// A setting in which two architectures differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its name: `width_multiplier`, `conventions.padding` …
    pub setting: String,
    /// The one's value.
    pub found: String,
    /// The other's value.
    pub expected: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: found {}, expected {}", self.setting, self.found, self.expected)
    }
}

/// Collects the leaves in which two JSON values differ. Both come from one type, so they have the
/// same keys.
fn compare(
    setting: &str,
    found: &serde_json::Value,
    expected: &serde_json::Value,
    into: &mut Vec<Difference>,
) {
    if let (Some(ours), Some(theirs)) = (found.as_object(), expected.as_object()) {
        for (key, value) in ours {
            let setting = if setting.is_empty() { key.clone() } else { format!("{setting}.{key}") };
            compare(&setting, value, &theirs[key], into);
        }
    } else if found != expected {
        let (found, expected) = (found.to_string(), expected.to_string());
        into.push(Difference { setting: setting.to_owned(), found, expected });
    }
}

struct Builder {
    layers: Vec<Layer>,
    shape: Shape,
    padding: Padding,
}

impl Builder {
    fn push(
        &mut self,
        name: String,
        operator: Operator,
        channels: usize,
        stride: usize,
        dilation: usize,
    ) -> Result<()> {
        let input = self.shape;
        let kernel = match operator {
            Operator::Conv | Operator::Depthwise => 3,
            Operator::Pointwise | Operator::Classifier => 1,
            Operator::GlobalPool => 0,
        };
        let (mut output, mut pads) = (Shape { channels, ..input }, Pads::default());
        match operator {
            Operator::Conv | Operator::Depthwise => {
                // Keras pads its stem as TensorFlow does, and only the blocks in its own way.
                let padding = match self.padding {
                    Padding::Keras if self.layers.is_empty() => Padding::Same,
                    padding => padding,
                };
                let axis = |size: usize| {
                    pad(padding, size, stride, dilation).ok_or_else(|| Error::Architecture {
                        what: "resolution",
                        found: format!("a feature map of {size}×{size} pixels at {name}"),
                        expected: "a resolution that leaves it 2×2 or more with Keras' padding; take a \
                                   larger resolution or padding `same`"
                            .into(),
                    })
                };
                (output.height, pads.top, pads.bottom) = axis(input.height)?;
                (output.width, pads.left, pads.right) = axis(input.width)?;
            }
            Operator::GlobalPool => (output.height, output.width) = (1, 1),
            Operator::Pointwise | Operator::Classifier => {}
        }
        self.layers.push(Layer { name, operator, input, output, kernel, stride, dilation, pads });
        self.shape = output;
        Ok(())
    }
}

/// Output size and the pads before and after, along one axis of a 3×3 convolution; none when the
/// padded input is smaller than the filter's reach.
fn pad(padding: Padding, size: usize, stride: usize, dilation: usize) -> Option<(usize, usize, usize)> {
    let reach = 2 * dilation + 1;
    let (before, after) = match padding {
        Padding::Fixed => (dilation, dilation),
        Padding::Keras if stride == 2 => (0, 1),
        Padding::Same | Padding::Keras => {
            let total = ((size.div_ceil(stride) - 1) * stride + reach).saturating_sub(size);
            (total / 2, total - total / 2)
        }
    };
    Some(((size + before + after).checked_sub(reach)? / stride + 1, before, after))
}
