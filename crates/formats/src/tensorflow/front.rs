//! What lies in front of a network in its graph: the input, its size, and a normalisation.

use mobilenet::Preset;
use mobilenet::conventions::{Preprocessing, ResizeMode};

use super::constant::Constants;
use super::network::{Network, Node, Op};
use crate::error::{Error, Result};
use crate::state_dict::Hints;

/// Found in front of the first convolution.
pub(crate) struct Front {
    /// Height and width, 0 where open.
    pub(crate) size: [usize; 2],
    /// Of a pad node right before the first convolution.
    pub(crate) pads: Option<[[usize; 2]; 4]>,
    /// Preprocessing and notes.
    pub(crate) hints: Hints,
}

/// `x · scale + shift`, one value for all channels or one a channel.
struct Affine {
    scale: Vec<f64>,
    shift: Vec<f64>,
}

/// Reads the nodes before the first layer, the input first.
pub(crate) fn read(network: &Network, constants: &Constants<'_>, nodes: &[usize]) -> Result<Front> {
    let mut front = Front { size: [0, 0], pads: None, hints: Hints::default() };
    let mut affine = Affine { scale: vec![1.0], shift: vec![0.0] };
    let (mut integer, mut resized) = (false, false);
    for (position, &index) in nodes.iter().enumerate() {
        let node = &network.nodes[index];
        if front.pads.is_some() && !matches!(node.op, Op::Identity) {
            return Err(Error::OtherNetwork(format!(
                "node `{}` of the graph works on a padded image",
                node.name
            )));
        }
        match &node.op {
            Op::Input { shape, integer: is_integer } => {
                front.size = image_size(shape).unwrap_or(front.size);
                integer = *is_integer;
            }
            Op::Cast { integer: is_integer } => integer |= *is_integer,
            Op::Identity | Op::Transpose => {}
            Op::Reshape => {
                let sides = node.inputs.get(1).filter(|&&input| constants.is_constant(input));
                if let Some(&sides) = sides {
                    let sides: Vec<usize> =
                        constants.value(sides, &node.name)?.data().iter().map(|&v| v as usize).collect();
                    front.size = image_size(&sides).unwrap_or(front.size);
                }
            }
            Op::Resize => {
                resized = true;
                let sides = node.inputs.get(1).filter(|&&input| constants.is_constant(input));
                if let Some(&sides) = sides
                    && let &[height, width] = constants.value(sides, &node.name)?.data()
                {
                    front.size = [height as usize, width as usize];
                }
            }
            Op::Pad => front.pads = Some(pads(constants, node)?),
            Op::Add | Op::Subtract | Op::Multiply | Op::Divide if position > 0 => {
                let constant = node.inputs.iter().take(2).rev().find(|&&input| constants.is_constant(input));
                let index = constant.copied().unwrap_or(usize::MAX);
                let values = constants.value(index, &node.name)?.into_data();
                if !affine.apply(&node.op, &values) {
                    return Err(Error::Unsupported(format!(
                        "node `{}` scales or shifts the image by {} values; expected one, or one a channel",
                        node.name,
                        values.len()
                    )));
                }
            }
            Op::Other(op) if position == 0 => front.hints.notes.push(format!(
                "the graph's network is fed by node `{}` ({op}); what happens before it is not read",
                node.name
            )),
            _ if position == 0 => {}
            _ => {
                return Err(Error::OtherNetwork(format!(
                    "node `{}` of the graph works on the image before the first convolution",
                    node.name
                )));
            }
        }
    }
    front.hints.preprocessing = affine.preprocessing(integer, resized);
    if front.size[0] > 0 && front.size[0] == front.size[1] {
        front.hints.resolution = Some(front.size[0]);
    }
    Ok(front)
}

/// The zeros that a pad node adds: before and after, for each of four dimensions.
pub(crate) fn pads(constants: &Constants<'_>, node: &Node) -> Result<[[usize; 2]; 4]> {
    let value = constants.value(node.inputs.get(1).copied().unwrap_or(usize::MAX), &node.name)?;
    let mut pads = [[0; 2]; 4];
    if value.data().len() != 8 || value.data().iter().any(|v| !(0.0..64.0).contains(v)) {
        return Err(Error::OtherNetwork(format!(
            "node `{}` of the graph pads by {:?}; expected four pairs of small numbers",
            node.name,
            value.data().iter().take(8).collect::<Vec<_>>()
        )));
    }
    for (pair, values) in pads.iter_mut().zip(value.data().chunks_exact(2)) {
        *pair = [values[0] as usize, values[1] as usize];
    }
    Ok(pads)
}

/// Height and width of `[N, H, W, C]` or `[N, C, H, W]` with 1 or 3 channels.
fn image_size(shape: &[usize]) -> Option<[usize; 2]> {
    match *shape {
        [_, height, width, 1 | 3] | [_, 1 | 3, height, width] => Some([height, width]),
        _ => None,
    }
}

impl Affine {
    fn apply(&mut self, op: &Op, values: &[f32]) -> bool {
        let channels = self.scale.len().max(values.len());
        if !matches!(values.len(), 1 | 3) || !matches!(self.scale.len(), 1 | 3) {
            return false;
        }
        let spread = |v: &[f64]| (0..channels).map(|c| v[c % v.len()]).collect::<Vec<_>>();
        (self.scale, self.shift) = (spread(&self.scale), spread(&self.shift));
        for channel in 0..channels {
            let value = f64::from(values[channel % values.len()]);
            let (scale, shift) = (&mut self.scale[channel], &mut self.shift[channel]);
            match op {
                Op::Add => *shift += value,
                Op::Subtract => *shift -= value,
                Op::Multiply => (*scale, *shift) = (*scale * value, *shift * value),
                _ => (*scale, *shift) = (*scale / value, *shift / value),
            }
        }
        true
    }

    /// Mean and standard deviation for pixels in `[0, 1]`. Pixels that are not integers come as 0 to
    /// 255 or as 0 to 1; a scale that is small is made for the former.
    fn preprocessing(&self, integer: bool, resized: bool) -> Option<Preprocessing> {
        let plain = self.scale.iter().all(|&v| v == 1.0) && self.shift.iter().all(|&v| v == 0.0);
        let usable =
            self.scale.iter().all(|&v| v > 0.0 && v.is_finite()) && self.shift.iter().all(|v| v.is_finite());
        if plain || !usable {
            return None;
        }
        let largest = if integer || self.scale.iter().all(|&v| v < 0.1) { 255.0 } else { 1.0 };
        let deviations: Vec<f64> = self.scale.iter().map(|scale| 1.0 / (largest * scale)).collect();
        let means = self.shift.iter().zip(&deviations).map(|(shift, deviation)| -shift * deviation);
        let three = |values: Vec<f64>| (0..3).map(|c| values[c % values.len()] as f32).collect();
        let mut preprocessing = Preset::TfSlim.conventions().preprocessing;
        preprocessing.mean = three(means.collect());
        preprocessing.std = three(deviations.clone());
        if resized {
            // The graph squashes the whole image; nothing is cropped.
            preprocessing.resize = ResizeMode::Squash;
            preprocessing.crop_fraction = 1.0;
        }
        Some(preprocessing)
    }
}
