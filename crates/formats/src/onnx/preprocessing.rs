//! A normalisation that a graph applies to its input.

pub use mobilenet::conventions::Preprocessing;
use mobilenet::conventions::{Interpolation, ResizeMode};

/// The largest factor that is taken to scale pixels of 0 to 255: those of pixels of 0 to 1 are
/// reciprocals of standard deviations, 1 or more.
const SCALES_BYTES: f64 = 0.1;

/// What one node does to the input: `x · scale + shift`.
#[derive(Clone, Debug)]
pub struct Affine {
    /// The axis of the graph's input along which they differ; none where there is one of each.
    pub axis: Option<usize>,
    /// Factors.
    pub scale: Vec<f64>,
    /// Summands.
    pub shift: Vec<f64>,
}

/// The preprocessing that these nodes amount to; none when there are none and the input is not of
/// bytes. What a graph cannot tell, the crop and the filter, is as most families have it.
///
/// # Errors
/// The problem in words, when they differ along another axis than the channels' or do not amount to a
/// mean and a standard deviation.
pub fn of_nodes(
    nodes: &[Affine],
    channels: usize,
    channel_axis: usize,
    of_bytes: bool,
) -> Result<Option<Preprocessing>, String> {
    if nodes.is_empty() && !of_bytes {
        return Ok(None);
    }
    let (mut scale, mut shift) = (vec![1.0; channels], vec![0.0; channels]);
    for node in nodes {
        let lengths = [node.scale.len(), node.shift.len()];
        let fits = match node.axis {
            None => lengths == [1, 1],
            Some(axis) => axis == channel_axis && lengths == [channels; 2],
        };
        if !fits {
            return Err("the input is normalised along another axis than that of its channels".into());
        }
        for channel in 0..channels {
            let at = if node.axis.is_some() { channel } else { 0 };
            scale[channel] *= node.scale[at];
            shift[channel] = shift[channel] * node.scale[at] + node.shift[at];
        }
    }
    if !scale.iter().all(|&factor| factor > 0.0 && factor.is_finite()) || !shift.iter().all(|t| t.is_finite())
    {
        return Err(format!("the input is scaled by {scale:?}; expected positive factors"));
    }
    let bytes = of_bytes || scale.iter().all(|&factor| factor <= SCALES_BYTES);
    let white = if bytes { 255.0 } else { 1.0 };
    let std: Vec<f64> = scale.iter().map(|factor| 1.0 / (factor * white)).collect();
    let mean = shift.iter().zip(&std).map(|(shift, std)| neat(-shift * std)).collect();
    Ok(Some(Preprocessing {
        mean,
        std: std.into_iter().map(neat).collect(),
        resize: ResizeMode::ShortEdge,
        crop_fraction: 0.875,
        interpolation: Interpolation::Bilinear,
    }))
}

/// To six digits after the point, if that is as good as the f32 constants it came from: 0.485 rather
/// than 0.48500002.
fn neat(value: f64) -> f32 {
    let rounded = (value * 1e6).round() / 1e6;
    if (rounded - value).abs() <= 3e-7 * value.abs().max(0.1) { rounded as f32 } else { value as f32 }
}
