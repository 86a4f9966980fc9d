//! The classifier, whatever its layer is called, and the state dict with it.

use std::collections::BTreeMap;

use mobilenet::Tensor;

use super::hdf5_tree::Layer;
use super::naming::is_canonical;
use crate::error::{Error, Result};

/// The classifier's canonical name.
const HEAD: &str = "conv_preds";

/// The tensors of named layers by `layer/part`. One Dense layer (or 1×1 convolution) beside the
/// body is the classifier. Other layers keep their names, so that they can be told as unexpected.
///
/// # Errors
/// [`Error::Unsupported`] when the head has several layers or reads something else than the pooled
/// features.
pub(super) fn tensors(layers: Vec<Layer>) -> Result<BTreeMap<String, Tensor>> {
    let features = features(&layers);
    let has_head = layers.iter().any(|layer| layer.name == HEAD);
    let candidates: Vec<&Layer> = layers.iter().filter(|layer| could_be_head(layer)).collect();
    if candidates.len() + usize::from(has_head) > 1 {
        let names: Vec<String> = candidates.iter().map(|layer| format!("`{}`", layer.name)).collect();
        return Err(Error::Unsupported(format!(
            "the head of this Keras model has {} layers with weights ({}{}); a MobileNet v1 has one",
            names.len() + usize::from(has_head),
            if has_head { "`conv_preds`, " } else { "" },
            names.join(", ")
        )));
    }
    let head = candidates.first().map(|layer| layer.name.clone());
    let mut tensors = BTreeMap::new();
    for layer in layers {
        let is_head = layer.name == HEAD || Some(&layer.name) == head.as_ref();
        if is_head {
            check_head(&layer, features)?;
        }
        let name = if is_head { HEAD } else { layer.name.as_str() };
        let outputs = layer.parts.get("kernel").and_then(|kernel| kernel.shape().last().copied());
        for (part, tensor) in layer.parts {
            if tensors.insert(format!("{name}/{part}"), tensor).is_some() {
                return Err(Error::Tensors(format!("{name}/{part}: twice in the file")));
            }
        }
        // Without a bias it is zero.
        if let (true, Some(outputs)) = (is_head, outputs) {
            tensors.entry(format!("{HEAD}/bias")).or_insert_with(|| Tensor::zeros(&[outputs]));
        }
    }
    Ok(tensors)
}

/// Whether a layer outside the body has a matrix and at most a bias.
fn could_be_head(layer: &Layer) -> bool {
    let matrix = |tensor: &Tensor| matches!(tensor.shape(), [_, _] | [1, 1, _, _]);
    !is_canonical(&layer.name)
        && layer.parts.get("kernel").is_some_and(matrix)
        && layer.parts.keys().all(|part| matches!(part.as_str(), "kernel" | "bias"))
}

/// Channels of the last block.
fn features(layers: &[Layer]) -> Option<usize> {
    let number = |layer: &Layer| layer.name.strip_prefix("conv_pw_")?.parse::<usize>().ok();
    let last = layers.iter().filter(|layer| number(layer).is_some()).max_by_key(|layer| number(layer))?;
    last.parts.get("kernel")?.shape().last().copied()
}

fn check_head(layer: &Layer, features: Option<usize>) -> Result<()> {
    let shape = layer.parts.get("kernel").map(Tensor::shape);
    let (Some([.., inputs, _]), Some(features)) = (shape, features) else {
        return Ok(());
    };
    if *inputs == features {
        return Ok(());
    }
    let flattened = inputs.is_multiple_of(features) && features > 0;
    Err(Error::Unsupported(format!(
        "{}/kernel: the classifier reads {inputs} values, the last block gives {features} channels{}",
        layer.name,
        if flattened {
            "; a model that flattens its features in place of averaging them is another network"
        } else {
            ""
        }
    )))
}
