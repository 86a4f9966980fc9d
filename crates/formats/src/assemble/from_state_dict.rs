//! From tensors by name.

use std::collections::BTreeMap;

use mobilenet::{Architecture, Model, Tensor, Weights};

use super::{Imported, Overrides, check, conventions, labels, no_classifier, width};
use crate::error::{Error, Result};
use crate::family::{self, Family};
use crate::state_dict::StateDict;

pub(super) fn assemble(state_dict: StateDict, overrides: &Overrides) -> Result<Imported> {
    let StateDict { tensors, hints } = state_dict;
    let names = tensors.keys().map(String::as_str);
    if let Some((network, name)) = family::seems_to_be(names.clone()) {
        return Err(Error::OtherNetwork(format!("it seems to be {network}, by its tensor `{name}`")));
    }
    let Some(family) = Family::of(names.clone()) else {
        return Err(Error::OtherNetwork(unknown_names(names)));
    };
    let mut notes = hints.notes.clone();
    let (mut ours, mut unexpected) = family::translate(family, tensors);
    unexpected.retain(|name| !is_harmless(name));
    name_full_convolutions(&mut ours);

    let shape = |name: &str| {
        let tensor = ours.get(name).map(Tensor::shape);
        tensor.filter(|shape| shape.len() == 4 || !name.ends_with(".weight"))
    };
    let Some(stem) = shape("conv_0.weight") else {
        return Err(Error::Tensors(
            "conv_0.weight (the stem's convolution): missing, or not of four dimensions".into(),
        ));
    };
    let (stem_channels, input_channels) = (stem[0], stem[1]);
    if !matches!(input_channels, 1 | 3) {
        return Err(Error::OtherNetwork(format!(
            "its first convolution is {stem:?}; expected [channels, 3 (or 1 for grey), 3, 3]"
        )));
    }
    let mut channels = vec![stem_channels];
    let mut full = false;
    for number in 1..=ours.len() {
        let whole = shape(&format!("conv_{number}.weight"));
        full |= whole.is_some();
        match whole.or(shape(&format!("pointwise_{number}.weight"))) {
            Some(shape) => channels.push(shape[0]),
            None => break,
        }
    }

    let conventions =
        conventions(family.preset(), family.name(), &hints, overrides, input_channels, &mut notes);
    let usually_background = conventions.background_class;
    let mut architecture = Architecture {
        resolution: overrides.resolution.or(hints.resolution).unwrap_or(224),
        input_channels,
        conventions,
        ..Architecture::default()
    };
    width::fit(&mut architecture, &channels, full, hints.width_multiplier)?;

    let features = channels[channels.len() - 1];
    if !ours.contains_key("classifier.weight") && !ours.contains_key("classifier.bias") {
        let (weight, bias) = no_classifier(features, overrides, &hints, &mut notes);
        ours.insert("classifier.bias".into(), Tensor::new(&[bias.len()], bias)?);
        ours.insert("classifier.weight".into(), weight);
    }
    let outputs = ours
        .get("classifier.weight")
        .or(ours.get("classifier.bias"))
        .map_or(0, |t| t.shape().first().copied().unwrap_or(0));
    if outputs == 0 {
        return Err(Error::Tensors("classifier.weight: has no outputs".into()));
    }
    let (labels, background) = labels(outputs, usually_background, &hints, overrides, &mut notes)?;
    architecture.classes = labels.len();
    architecture.conventions.background_class = background;

    let mut weights = Weights::new();
    for (name, tensor) in ours {
        weights.insert(name, tensor);
    }
    check(&architecture, &weights, unexpected)?;
    Ok(Imported { model: Model { architecture, labels, weights }, family: Some(family), notes })
}

/// Tensors that carry no weight of the network and may be left out.
fn is_harmless(name: &str) -> bool {
    name.ends_with("num_batches_tracked") || name.ends_with("global_step") || name.contains("AuxLogits")
}

/// A block of one full convolution (the paper's Table 4) has the depthwise convolution's name and
/// no pointwise one; its filter tells it.
fn name_full_convolutions(ours: &mut BTreeMap<String, Tensor>) {
    let full: Vec<String> = ours
        .iter()
        .filter(|(name, tensor)| {
            name.starts_with("depthwise_")
                && name.ends_with(".weight")
                && matches!(tensor.shape(), [_, inputs, _, _] if *inputs > 1)
        })
        .filter_map(|(name, _)| name.strip_suffix(".weight").map(str::to_owned))
        .collect();
    for layer in full {
        let prefix = format!("{layer}.");
        let names: Vec<String> = ours.keys().filter(|name| name.starts_with(&prefix)).cloned().collect();
        for name in names {
            let tensor = ours.remove(&name).expect("a key that was just listed");
            ours.insert(name.replacen("depthwise_", "conv_", 1), tensor);
        }
    }
}

/// That nothing is known of these names, with some of them.
fn unknown_names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() {
        return "it holds no tensors".into();
    }
    let some: Vec<String> = names.iter().take(4).map(|name| format!("`{name}`")).collect();
    format!(
        "its {} tensors ({}, …) have the names of no known family: {}",
        names.len(),
        some.join(", "),
        Family::ALL.map(Family::name).join(", ")
    )
}
