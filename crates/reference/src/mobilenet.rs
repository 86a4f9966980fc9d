//! MobileNet v1 (arXiv 1704.04861) as a [`Network`], written down independently of the
//! architecture that it checks.

use crate::network::{Layer, Network, Operator};
use crate::{Geometry, Pads};

/// How 3×3 convolutions are padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// As many pixels on every side as the dilation.
    Fixed,
    /// TensorFlow's SAME.
    Same,
    /// One pixel below and to the right in blocks of stride 2, SAME in the stem and at stride 1.
    Keras,
}

/// What the blocks after the stem are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Depthwise and pointwise, 13 blocks.
    Separable,
    /// One full convolution, 13 blocks.
    Full,
    /// Depthwise and pointwise, 8 blocks.
    Shallow,
}

/// What tells one MobileNet from another.
pub struct Settings<'a> {
    /// What the blocks are.
    pub body: Body,
    /// Channels of a layer that has so many at α = 1.
    pub thin: &'a dyn Fn(usize) -> usize,
    /// Height and width of the images.
    pub resolution: usize,
    /// Channels of the images.
    pub input_channels: usize,
    /// Stride of the stem.
    pub stem_stride: usize,
    /// Limit of the whole stride; further strides become dilations.
    pub output_stride: usize,
    /// Outputs of the classifier.
    pub classes: usize,
    /// Padding of the 3×3 convolutions.
    pub padding: Padding,
    /// Upper limit of the activation.
    pub limit: Option<f64>,
    /// Added to variances.
    pub epsilon: f64,
    /// Weight of the new batch in the running statistics.
    pub momentum: f64,
}

/// Table 1 of the paper in words: the width doubles at each of these strides but the last block.
fn blocks(body: Body) -> Vec<(usize, usize)> {
    let mut blocks = vec![(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)];
    if body != Body::Shallow {
        blocks.extend([(512, 1); 5]);
    }
    blocks.extend([(1024, 2), (1024, 1)]);
    blocks
}

/// Pads before and after along one axis.
fn pads(padding: Padding, size: usize, stride: usize, dilation: usize) -> (usize, usize) {
    match padding {
        Padding::Fixed => (dilation, dilation),
        Padding::Keras if stride == 2 => (0, 1),
        Padding::Keras | Padding::Same => {
            // The fewest zeros that make room for ⌈size / stride⌉ filters; an odd one goes behind.
            let wanted = size.div_ceil(stride);
            let last = (wanted - 1) * stride + 2 * dilation;
            let missing = if last >= size { last + 1 - size } else { 0 };
            (missing / 2, missing - missing / 2)
        }
    }
}

/// The network of these settings.
pub fn mobilenet(settings: &Settings<'_>) -> Network {
    let mut layers = Vec::new();
    let (mut size, mut channels) = (settings.resolution, settings.input_channels);
    let mut add = |operator, outputs, stride, dilation| {
        let kernel = if operator == Operator::Pointwise { 1 } else { 3 };
        let (before, after) = match operator {
            Operator::Pointwise => (0, 0),
            // Keras pads the stem as TensorFlow does.
            Operator::Conv if layers.is_empty() && settings.padding == Padding::Keras => {
                pads(Padding::Same, size, stride, dilation)
            }
            Operator::Conv | Operator::Depthwise => pads(settings.padding, size, stride, dilation),
        };
        let pads = Pads { top: before, bottom: after, left: before, right: after };
        layers.push(Layer {
            operator,
            inputs: channels,
            outputs,
            height: size,
            width: size,
            kernel,
            stride,
            dilation,
            pads,
        });
        let geometry = Geometry { batch: 1, height: size, width: size, kernel, stride, dilation, pads };
        (size, channels) = (geometry.output_height(), outputs);
    };

    let mut width = (settings.thin)(32);
    add(Operator::Conv, width, settings.stem_stride, 1);
    let (mut reduced, mut spread) = (settings.stem_stride, 1);
    for (outputs, stride) in blocks(settings.body) {
        let outputs = (settings.thin)(outputs);
        // Once the image is as small as allowed, a stride only widens the filters that follow.
        let full = reduced >= settings.output_stride;
        let (taken, dilation) = if full { (1, spread) } else { (stride, 1) };
        if full {
            spread *= stride;
        } else {
            reduced *= stride;
        }
        if settings.body == Body::Full {
            add(Operator::Conv, outputs, taken, dilation);
        } else {
            add(Operator::Depthwise, width, taken, dilation);
            add(Operator::Pointwise, outputs, 1, 1);
        }
        width = outputs;
    }
    Network {
        layers,
        classes: settings.classes,
        limit: settings.limit,
        epsilon: settings.epsilon,
        momentum: settings.momentum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(body: Body, thin: &dyn Fn(usize) -> usize, resolution: usize) -> Settings<'_> {
        Settings {
            body,
            thin,
            resolution,
            input_channels: 3,
            stem_stride: 2,
            output_stride: 32,
            classes: 1000,
            padding: Padding::Fixed,
            limit: None,
            epsilon: 1e-5,
            momentum: 0.1,
        }
    }

    #[test]
    fn costs_are_those_of_the_paper() {
        // Tables 4 and 5: mult-adds and parameters.
        let cases = [
            (Body::Separable, 568_740_352, 4_231_976),
            (Body::Shallow, 307_323_392, 2_887_976),
            (Body::Full, 4_866_269_184 + 1_024_000, 29_294_088),
        ];
        for (body, mult_adds, trainable) in cases {
            let network = mobilenet(&settings(body, &|c| c, 224));
            assert_eq!(network.mult_adds(), mult_adds, "{body:?}");
            assert_eq!(network.trainable(), trainable, "{body:?}");
        }
    }

    #[test]
    fn odd_sizes_differ_between_the_paddings() {
        let sizes = |padding| {
            let network = mobilenet(&Settings { padding, ..settings(Body::Separable, &|c| c, 300) });
            network
                .layers
                .iter()
                .filter(|l| l.stride == 2)
                .map(|l| l.geometry(1).output_height())
                .collect::<Vec<_>>()
        };
        assert_eq!(sizes(Padding::Fixed), [150, 75, 38, 19, 10]);
        assert_eq!(sizes(Padding::Same), [150, 75, 38, 19, 10]);
        assert_eq!(sizes(Padding::Keras), [150, 75, 37, 18, 9]);
    }
}
