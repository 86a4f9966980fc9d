//! Exports in PyTorch's layouts: tensors under another family's names, where that family's network
//! computes the same.

use mobilenet::conventions::{Activation, Padding};
use mobilenet::{Body, Model, Tensor};

use crate::error::{Error, Result};
use crate::family::{Family, from_ours};
use crate::{hub_config, pytorch, safetensors_file};

/// A file of an export and its name within the folder.
pub type NamedBytes = (&'static str, Vec<u8>);

/// The model's tensors under the names of `family` (reference, timm or Hugging Face), in the order
/// of the layers. Another BN ε than the family's moves into the running variances.
///
/// # Errors
/// [`Error::Unsupported`] when the family's network would not compute the same: other padding,
/// another activation, a body that it lacks.
pub fn tensors(model: &Model, family: Family) -> Result<Vec<(String, Tensor)>> {
    let epsilon = require(model, family)?;
    let conventions = &model.architecture.conventions;
    let shift = conventions.bn_epsilon - epsilon;
    let mut tensors = Vec::new();
    for spec in model.architecture.tensors()? {
        let name = from_ours(family, &spec.name).ok_or_else(|| {
            Error::Unsupported(format!(
                "{} has no tensor for {}: export to onnx instead",
                family.name(),
                spec.name
            ))
        })?;
        let mut tensor = model
            .weights
            .get(&spec.name)
            .cloned()
            .ok_or_else(|| Error::Tensors(format!("{}: missing", spec.name)))?;
        if shift != 0.0 && spec.name.ends_with(".bn.running_var") {
            for variance in tensor.data_mut() {
                *variance += shift;
                if *variance < 0.0 {
                    return Err(Error::Unsupported(format!(
                        "{}: {} uses BN epsilon {epsilon}, this model {}, and a running variance is \
                         smaller than the difference; export to onnx instead",
                        spec.name,
                        family.name(),
                        conventions.bn_epsilon
                    )));
                }
            }
        }
        tensors.push((name, tensor));
    }
    Ok(tensors)
}

/// Checks that the family's network computes what the model does; returns the BN ε that it uses.
fn require(model: &Model, family: Family) -> Result<f32> {
    let architecture = &model.architecture;
    let conventions = &architecture.conventions;
    let refuse = |what: String| {
        Err(Error::Unsupported(format!(
            "{} cannot express this model: {what}; export to onnx, which can",
            family.name()
        )))
    };
    if architecture.output_stride != 32 || architecture.stem_stride != 2 {
        return refuse(format!(
            "it has stem stride {} and output stride {}, there they are 2 and 32",
            architecture.stem_stride, architecture.output_stride
        ));
    }
    let separable_only = family != Family::Reference;
    if separable_only && architecture.body != Body::Separable {
        return refuse(format!("its body is `{}`, there it is `separable`", architecture.body.name()));
    }
    let (paddings, activations, epsilon): (&[Padding], &[Activation], f32) = match family {
        Family::Reference => (&[Padding::Fixed], &[Activation::Relu], 1e-5),
        Family::Timm => (&[Padding::Fixed], &[Activation::Relu6], 1e-5),
        _ => {
            (&[Padding::Fixed, Padding::Same], &[Activation::Relu, Activation::Relu6], conventions.bn_epsilon)
        }
    };
    // Keras' own padding equals SAME at even sizes.
    let padding = match conventions.padding {
        Padding::Keras if is_same(model)? => Padding::Same,
        padding => padding,
    };
    if !paddings.contains(&padding) {
        return refuse(format!("it pads `{:?}`, there it is `{:?}`", conventions.padding, paddings[0]));
    }
    if !activations.contains(&conventions.activation) {
        return refuse(format!(
            "its activation is {:?}, there it is {:?}",
            conventions.activation, activations[0]
        ));
    }
    Ok(epsilon)
}

/// Whether every layer would be padded the same with TensorFlow's SAME.
fn is_same(model: &Model) -> Result<bool> {
    let mut same = model.architecture.clone();
    same.conventions.padding = Padding::Same;
    Ok(same.layers()? == model.architecture.layers()?)
}

/// A safetensors file in the layout of `family`.
///
/// # Errors
/// As [`tensors`].
pub fn safetensors(model: &Model, family: Family) -> Result<Vec<u8>> {
    let tensors = tensors(model, family)?;
    let borrowed: Vec<(String, &Tensor)> =
        tensors.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
    safetensors_file::write(&borrowed)
}

/// A `.pth` with the names of the reference network.
///
/// # Errors
/// As [`tensors`].
pub fn pth(model: &Model) -> Result<Vec<u8>> {
    let tensors = tensors(model, Family::Reference)?;
    let borrowed: Vec<_> =
        tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shape().to_vec(), tensor.data())).collect();
    pytorch::write(&borrowed)
}

/// The files of a folder that `AutoModelForImageClassification.from_pretrained` loads.
///
/// # Errors
/// As [`tensors`].
pub fn hugging_face(model: &Model) -> Result<Vec<NamedBytes>> {
    let mut files = vec![("model.safetensors", safetensors(model, Family::HuggingFace)?)];
    files.extend(hub_config::write_transformers(model)?);
    Ok(files)
}

/// The files of a folder that `timm.create_model("local-dir:…")` loads.
///
/// # Errors
/// As [`tensors`].
pub fn timm(model: &Model) -> Result<Vec<NamedBytes>> {
    let weights = safetensors(model, Family::Timm)?;
    Ok(vec![("model.safetensors", weights), ("config.json", hub_config::write_timm(model))])
}
