//! What a network costs: multiply-adds, parameters and activation memory of every layer.
//!
//! A multiply-add is one multiplication and the addition that follows it (paper, section 3.1), and
//! zero padding is counted as if it were read, as in every published figure. Batch normalisation,
//! activation and pooling are left out: they fold into, or vanish beside, the convolutions.

mod effort;

use serde::{Deserialize, Serialize};

pub use effort::Effort;

use crate::architecture::{Architecture, Layer, Operator};
use crate::error::{Error, Result};

/// The rows of the paper's Table 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// 1×1 convolutions.
    Pointwise,
    /// Depthwise 3×3 convolutions.
    Depthwise,
    /// Full 3×3 convolutions: the stem, and every block of the full body.
    Conv,
    /// The fully connected classifier.
    Classifier,
}

impl Kind {
    /// Every kind, in the order of Table 2.
    pub const ALL: [Self; 4] = [Self::Pointwise, Self::Depthwise, Self::Conv, Self::Classifier];

    /// The row's title in Table 2.
    pub fn title(self) -> &'static str {
        match self {
            Self::Pointwise => "Conv 1×1",
            Self::Depthwise => "Conv DW 3×3",
            Self::Conv => "Conv 3×3",
            Self::Classifier => "Fully connected",
        }
    }

    /// The kind of a layer; none for the pool, which has no multiplication.
    pub fn of(operator: Operator) -> Option<Self> {
        match operator {
            Operator::Conv => Some(Self::Conv),
            Operator::Depthwise => Some(Self::Depthwise),
            Operator::Pointwise => Some(Self::Pointwise),
            Operator::Classifier => Some(Self::Classifier),
            Operator::GlobalPool => None,
        }
    }
}

/// What one layer costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerCost {
    /// The layer with its shapes.
    pub layer: Layer,
    /// Multiply-adds for one image.
    pub mult_adds: u64,
    /// Values of the filter or matrix alone, without batch normalisation or bias: what Tables 2
    /// and 3 count.
    pub filter_parameters: u64,
    /// Every value that training changes: the filter, BN's γ and β, the classifier's bias.
    pub parameters: u64,
    /// Bytes of the layer's output in f32, for the whole batch.
    pub activation_bytes: u64,
}

impl LayerCost {
    fn new(layer: Layer, batch: usize) -> Self {
        let (input, output) = (layer.input.channels as u64, layer.output.channels as u64);
        let (filter_parameters, other) = match layer.operator {
            Operator::Conv => (9 * input * output, 2 * output),
            Operator::Depthwise => (9 * output, 2 * output),
            Operator::Pointwise => (input * output, 2 * output),
            Operator::Classifier => (input * output, output),
            Operator::GlobalPool => (0, 0),
        };
        Self {
            // Every weight meets every output pixel once.
            mult_adds: filter_parameters * layer.output.pixels() as u64,
            filter_parameters,
            parameters: filter_parameters + other,
            activation_bytes: (size_of::<f32>() * batch * layer.output.len()) as u64,
            layer,
        }
    }
}

/// A row of the paper's Table 2.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Share {
    /// Which layers.
    pub kind: Kind,
    /// Their multiply-adds for one image.
    pub mult_adds: u64,
    /// Their filter parameters (no batch normalisation, no bias).
    pub filter_parameters: u64,
    /// Their part of all multiply-adds, 0 to 1.
    pub mult_adds_share: f64,
    /// Their part of all filter parameters, 0 to 1.
    pub parameters_share: f64,
}

/// What a network costs, layer by layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Every layer, in order.
    pub layers: Vec<LayerCost>,
    /// The number of images for which activations are counted.
    pub batch: usize,
}

impl Cost {
    /// Multiply-adds for one image.
    pub fn mult_adds(&self) -> u64 {
        self.layers.iter().map(|layer| layer.mult_adds).sum()
    }

    /// Multiply-adds for one image without the classifier (Table 4 prints "Conv MobileNet" so).
    pub fn mult_adds_without_classifier(&self) -> u64 {
        let body = self.layers.iter().filter(|cost| cost.layer.operator != Operator::Classifier);
        body.map(|cost| cost.mult_adds).sum()
    }

    /// Trainable parameters.
    pub fn parameters(&self) -> u64 {
        self.layers.iter().map(|layer| layer.parameters).sum()
    }

    /// Filter parameters alone (no batch normalisation, no bias): Table 2's denominator.
    pub fn filter_parameters(&self) -> u64 {
        self.layers.iter().map(|layer| layer.filter_parameters).sum()
    }

    /// Bytes of all layers' outputs together in f32, for the whole batch.
    pub fn activation_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.activation_bytes).sum()
    }

    /// Table 2: the kinds that this network has, and their parts of the whole.
    pub fn shares(&self) -> Vec<Share> {
        let (all_mult_adds, all_parameters) = (self.mult_adds(), self.filter_parameters());
        Kind::ALL
            .into_iter()
            .filter_map(|kind| {
                let (mut mult_adds, mut filter_parameters) = (0, 0);
                for cost in self.layers.iter().filter(|cost| Kind::of(cost.layer.operator) == Some(kind)) {
                    mult_adds += cost.mult_adds;
                    filter_parameters += cost.filter_parameters;
                }
                (mult_adds > 0).then(|| Share {
                    kind,
                    mult_adds,
                    filter_parameters,
                    mult_adds_share: mult_adds as f64 / all_mult_adds as f64,
                    parameters_share: filter_parameters as f64 / all_parameters as f64,
                })
            })
            .collect()
    }
}

impl Architecture {
    /// What every layer costs; activations are counted for `batch` images.
    ///
    /// # Errors
    /// When the architecture is out of range, or `batch` is 0 or so large that its bytes cannot be
    /// counted.
    pub fn cost(&self, batch: usize) -> Result<Cost> {
        if batch == 0 || batch > 1 << 24 {
            return Err(Error::Input {
                what: "batch".into(),
                expected: format!("1 to {}", 1 << 24),
                found: batch.to_string(),
            });
        }
        let layers = self.layers()?.into_iter().map(|layer| LayerCost::new(layer, batch)).collect();
        Ok(Cost { layers, batch })
    }
}

/// One block alone, stride 1, to weigh a full convolution against a separable one (paper, Table 3).
///
/// ```
/// use mobilenet::cost::Block;
/// let block = Block { feature_map: 14, input_channels: 512, output_channels: 512, ..Block::default() };
/// assert_eq!(block.conv().mult_adds, 462_422_016);
/// assert_eq!(block.separable().mult_adds, 52_283_392);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Block {
    /// Height and width of the feature map before the resolution multiplier.
    pub feature_map: usize,
    /// Input channels before the width multiplier.
    pub input_channels: usize,
    /// Output channels before the width multiplier.
    pub output_channels: usize,
    /// α: thins both channel counts.
    pub width_multiplier: f64,
    /// ρ: shrinks the feature map, to the nearest whole number of pixels.
    pub resolution_multiplier: f64,
}

/// What one block alone costs, by the paper's formulas (section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BlockCost {
    /// Multiply-adds.
    pub mult_adds: u64,
    /// Filter parameters (no batch normalisation).
    pub filter_parameters: u64,
}

impl Default for Block {
    /// Table 3's block: 14×14, 512 → 512, α = ρ = 1.
    fn default() -> Self {
        Self {
            feature_map: 14,
            input_channels: 512,
            output_channels: 512,
            width_multiplier: 1.0,
            resolution_multiplier: 1.0,
        }
    }
}

impl Block {
    /// Channels in, channels out and pixels, after both multipliers.
    fn thinned(&self) -> (u64, u64, u64) {
        let thin = |channels: usize| (channels as f64 * self.width_multiplier) as u64;
        let size = (self.feature_map as f64 * self.resolution_multiplier).round() as u64;
        (thin(self.input_channels), thin(self.output_channels), size.saturating_mul(size))
    }

    /// As one full 3×3 convolution: 9·M·N·F² multiply-adds.
    pub fn conv(&self) -> BlockCost {
        let (input, output, pixels) = self.thinned();
        BlockCost::of(input.saturating_mul(output).saturating_mul(9), pixels)
    }

    /// As depthwise 3×3 and pointwise 1×1: (9·M + M·N)·F² multiply-adds.
    pub fn separable(&self) -> BlockCost {
        let (input, output, pixels) = self.thinned();
        BlockCost::of(input.saturating_mul(output.saturating_add(9)), pixels)
    }
}

impl BlockCost {
    fn of(filter_parameters: u64, pixels: u64) -> Self {
        Self { mult_adds: filter_parameters.saturating_mul(pixels), filter_parameters }
    }
}
