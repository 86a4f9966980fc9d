//! Each family's tensor names against ours.

use super::{Family, Layout};

/// Blocks a stage in timm's `mobilenetv1_100`.
const TIMM_STAGES: [usize; 5] = [1, 2, 2, 6, 2];

/// Our name and the layout of the tensor that a family calls `name`; none if the family has no
/// such tensor.
pub fn to_our_name(family: Family, name: &str) -> Option<(String, Layout)> {
    match family {
        Family::Reference => reference(name),
        Family::Timm => timm(name),
        Family::HuggingFace => hugging_face(name),
        Family::TfSlim => tf_slim(name),
        Family::Keras => keras(name),
        Family::Native => native(name),
    }
}

/// What a family calls our tensor `name`; none if it has no such tensor. For the families whose
/// layouts are ours: reference, timm and Hugging Face.
pub fn from_ours(family: Family, name: &str) -> Option<String> {
    let (layer, part) = name.split_once('.')?;
    if layer == "classifier" {
        return Some(match family {
            Family::Reference => format!("fc.{part}"),
            _ => format!("classifier.{part}"),
        });
    }
    let (kind, number) = layer.rsplit_once('_')?;
    let number: usize = number.parse().ok()?;
    let (bn, part) = match part.strip_prefix("bn.") {
        Some(part) => (true, part),
        None => (false, part),
    };
    Some(match (family, kind) {
        (Family::Reference, "conv") => format!("model.{number}.{}.{part}", usize::from(bn)),
        (Family::Reference, "depthwise") => format!("model.{number}.{}.{part}", usize::from(bn)),
        (Family::Reference, "pointwise") => format!("model.{number}.{}.{part}", 3 + usize::from(bn)),
        (Family::Timm, "conv") if number == 0 => {
            format!("{}.{part}", if bn { "bn1" } else { "conv_stem" })
        }
        (Family::Timm, "depthwise" | "pointwise") => {
            let (mut stage, mut block) = (0, number.checked_sub(1)?);
            while block >= *TIMM_STAGES.get(stage)? {
                block -= TIMM_STAGES[stage];
                stage += 1;
            }
            let module = match (kind, bn) {
                ("depthwise", false) => "conv_dw",
                ("depthwise", true) => "bn1",
                (_, false) => "conv_pw",
                (_, true) => "bn2",
            };
            format!("blocks.{stage}.{block}.{module}.{part}")
        }
        (Family::HuggingFace, kind) => {
            let module = if bn { "normalization" } else { "convolution" };
            match kind {
                "conv" if number == 0 => format!("mobilenet_v1.conv_stem.{module}.{part}"),
                "depthwise" => format!("mobilenet_v1.layer.{}.{module}.{part}", 2 * number.checked_sub(1)?),
                "pointwise" => format!("mobilenet_v1.layer.{}.{module}.{part}", 2 * number - 1),
                _ => return None,
            }
        }
        _ => return None,
    })
}

fn torch(layer: String, part: &str) -> Option<(String, Layout)> {
    Some((format!("{layer}.{part}"), Layout::Torch))
}

/// `part` of a batch normalisation in PyTorch's names.
fn torch_bn(layer: String, part: &str) -> Option<(String, Layout)> {
    matches!(part, "weight" | "bias" | "running_mean" | "running_var")
        .then(|| (format!("{layer}.bn.{part}"), Layout::Torch))
}

fn classifier(part: &str, weight: Layout) -> Option<(String, Layout)> {
    match part {
        "weight" => Some(("classifier.weight".into(), weight)),
        "bias" => Some(("classifier.bias".into(), Layout::Torch)),
        _ => None,
    }
}

fn reference(name: &str) -> Option<(String, Layout)> {
    if let Some(part) = name.strip_prefix("fc.") {
        return classifier(part, Layout::OutputsFeatures);
    }
    let mut parts = name.strip_prefix("model.")?.splitn(3, '.');
    let (block, module, part) = (parts.next()?.parse::<usize>().ok()?, parts.next()?, parts.next()?);
    // Whether a block's first convolution is full or depthwise is told by its shape (`assemble`).
    let first = if block == 0 { "conv_0".to_owned() } else { format!("depthwise_{block}") };
    match module {
        "0" if part == "weight" => torch(first, part),
        "1" => torch_bn(first, part),
        "3" if part == "weight" && block > 0 => torch(format!("pointwise_{block}"), part),
        "4" if block > 0 => torch_bn(format!("pointwise_{block}"), part),
        _ => None,
    }
}

fn timm(name: &str) -> Option<(String, Layout)> {
    if let Some(part) = name.strip_prefix("classifier.") {
        return classifier(part, Layout::OutputsFeatures);
    }
    if name == "conv_stem.weight" {
        return torch("conv_0".into(), "weight");
    }
    if let Some(part) = name.strip_prefix("bn1.") {
        return torch_bn("conv_0".into(), part);
    }
    let mut parts = name.strip_prefix("blocks.")?.splitn(4, '.');
    let stage = parts.next()?.parse::<usize>().ok()?;
    let block = parts.next()?.parse::<usize>().ok()?;
    if block >= *TIMM_STAGES.get(stage)? {
        return None;
    }
    let number = 1 + TIMM_STAGES[..stage].iter().sum::<usize>() + block;
    match (parts.next()?, parts.next()?) {
        ("conv_dw", "weight") => torch(format!("depthwise_{number}"), "weight"),
        ("conv_pw", "weight") => torch(format!("pointwise_{number}"), "weight"),
        ("bn1", part) => torch_bn(format!("depthwise_{number}"), part),
        ("bn2", part) => torch_bn(format!("pointwise_{number}"), part),
        _ => None,
    }
}

fn hugging_face(name: &str) -> Option<(String, Layout)> {
    if let Some(part) = name.strip_prefix("classifier.") {
        return classifier(part, Layout::OutputsFeatures);
    }
    // A `MobileNetV1Model` without a head is saved without the prefix.
    let name = name.strip_prefix("mobilenet_v1.").unwrap_or(name);
    let (layer, rest) = match name.strip_prefix("conv_stem.") {
        Some(rest) => ("conv_0".to_owned(), rest),
        None => {
            let (number, rest) = name.strip_prefix("layer.")?.split_once('.')?;
            let number = number.parse::<usize>().ok().filter(|&number| number < 1000)?;
            let kind = if number % 2 == 0 { "depthwise" } else { "pointwise" };
            (format!("{kind}_{}", number / 2 + 1), rest)
        }
    };
    match rest.split_once('.')? {
        ("convolution", "weight") => torch(layer, "weight"),
        ("normalization", part) => torch_bn(layer, part),
        _ => None,
    }
}

/// The part of TensorFlow's and Keras' batch normalisations.
fn tf_bn(layer: String, part: &str) -> Option<(String, Layout)> {
    let ours = match part {
        "gamma" => "weight",
        "beta" => "bias",
        "moving_mean" => "running_mean",
        "moving_variance" => "running_var",
        _ => return None,
    };
    Some((format!("{layer}.bn.{ours}"), Layout::Torch))
}

fn tf_slim(name: &str) -> Option<(String, Layout)> {
    // There may be a scope around it, as in detection models.
    let at = name.find("MobilenetV1/").filter(|&at| at == 0 || name.as_bytes()[at - 1] == b'/')?;
    let name = &name[at + "MobilenetV1/".len()..];
    if let Some(part) = name.strip_prefix("Logits/Conv2d_1c_1x1/") {
        return match part {
            "weights" => classifier("weight", Layout::FeaturesOutputs),
            "biases" => classifier("bias", Layout::Torch),
            _ => None,
        };
    }
    let (module, part) = name.strip_prefix("Conv2d_")?.split_once('/')?;
    let layer = match module.split_once('_') {
        None if module == "0" => "conv_0".to_owned(),
        // The full-convolution body has no suffix.
        None => format!("depthwise_{}", module.parse::<usize>().ok()?),
        Some((number, kind @ ("depthwise" | "pointwise"))) => {
            format!("{kind}_{}", number.parse::<usize>().ok()?)
        }
        Some(_) => return None,
    };
    match part {
        "weights" => Some((format!("{layer}.weight"), Layout::Hwio)),
        "depthwise_weights" => Some((format!("{layer}.weight"), Layout::Hwc1)),
        _ => tf_bn(layer, part.strip_prefix("BatchNorm/")?),
    }
}

fn keras(name: &str) -> Option<(String, Layout)> {
    let (module, part) = name.split_once('/')?;
    if module == "conv_preds" {
        return match part {
            "kernel" => classifier("weight", Layout::FeaturesOutputs),
            "bias" => classifier("bias", Layout::Torch),
            _ => None,
        };
    }
    let (module, bn) = match module.strip_suffix("_bn") {
        Some(module) => (module, true),
        None => (module, false),
    };
    let numbered = |kind: &str, number: &str| Some(format!("{kind}_{}", number.parse::<usize>().ok()?));
    let layer = if module == "conv1" {
        "conv_0".to_owned()
    } else if let Some(number) = module.strip_prefix("conv_dw_") {
        numbered("depthwise", number)?
    } else {
        numbered("pointwise", module.strip_prefix("conv_pw_")?)?
    };
    match part {
        "kernel" if !bn && !layer.starts_with("depthwise") => Some((format!("{layer}.weight"), Layout::Hwio)),
        // Keras 3 calls a depthwise filter as it calls the others.
        "depthwise_kernel" | "kernel" if !bn => Some((format!("{layer}.weight"), Layout::Hwc1)),
        part if bn => tf_bn(layer, part),
        _ => None,
    }
}

fn native(name: &str) -> Option<(String, Layout)> {
    let (layer, part) = name.split_once('.')?;
    if layer == "classifier" {
        return classifier(part, Layout::OutputsFeatures);
    }
    let (kind, number) = layer.rsplit_once('_')?;
    let fits = matches!(kind, "conv" | "depthwise" | "pointwise") && number.parse::<usize>().is_ok();
    match part.strip_prefix("bn.") {
        _ if !fits => None,
        Some(part) => torch_bn(layer.to_owned(), part),
        None if part == "weight" => torch(layer.to_owned(), part),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use mobilenet::Architecture;

    use super::*;

    #[test]
    fn names_come_back_as_they_went() {
        for spec in Architecture::default().tensors().unwrap() {
            for family in [Family::Reference, Family::Timm, Family::HuggingFace] {
                let theirs = from_ours(family, &spec.name).unwrap();
                assert_eq!(to_our_name(family, &theirs).unwrap().0, spec.name, "{theirs}");
            }
        }
    }

    #[test]
    fn names_are_the_projects_own() {
        let pairs = [
            (Family::Reference, "model.7.4.running_var", "pointwise_7.bn.running_var"),
            (Family::Timm, "blocks.3.0.conv_dw.weight", "depthwise_6.weight"),
            (Family::Timm, "blocks.4.1.bn2.bias", "pointwise_13.bn.bias"),
            (Family::HuggingFace, "mobilenet_v1.layer.25.convolution.weight", "pointwise_13.weight"),
            (Family::HuggingFace, "mobilenet_v1.layer.0.normalization.weight", "depthwise_1.bn.weight"),
        ];
        for (family, theirs, ours) in pairs {
            assert_eq!(from_ours(family, ours).unwrap(), theirs);
        }
        let to = |family, name| to_our_name(family, name).unwrap().0;
        assert_eq!(
            to(Family::TfSlim, "FeatureExtractor/MobilenetV1/Conv2d_13_pointwise/BatchNorm/moving_variance"),
            "pointwise_13.bn.running_var"
        );
        assert_eq!(to(Family::TfSlim, "MobilenetV1/Logits/Conv2d_1c_1x1/weights"), "classifier.weight");
        assert_eq!(to(Family::Keras, "conv_dw_1_bn/gamma"), "depthwise_1.bn.weight");
        assert_eq!(to_our_name(Family::Timm, "blocks.0.1.conv_dw.weight"), None);
        assert_eq!(to_our_name(Family::Reference, "model.0.0.num_batches_tracked"), None);
    }
}
