//! Which layer of the network a layer of the file is: by its name, or by the order of layers that
//! Keras numbered.

use std::collections::BTreeSet;

use mobilenet::Tensor;

use super::config::Config;
use super::hdf5_tree::Layer;
use crate::error::{Error, Result};
use crate::family;

/// Whether a layer of `keras.applications.MobileNet` with weights has this name.
pub(super) fn is_canonical(name: &str) -> bool {
    let body = name.strip_suffix("_bn").unwrap_or(name);
    let number = body.strip_prefix("conv_dw_").or(body.strip_prefix("conv_pw_"));
    let numbered = number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    numbered || body == "conv1" || name == "conv_preds"
}

/// The variable's name of number `index` of a layer in the group `layer` (`conv2d_3`).
pub(super) fn numbered_part(layer: &str, index: &str) -> String {
    let parts: &[&str] = match numbered(layer).0 {
        "conv2d" | "dense" => &["kernel", "bias"],
        "depthwise_conv2d" => &["depthwise_kernel", "bias"],
        "batch_normalization" => &["gamma", "beta", "moving_mean", "moving_variance"],
        _ => &[],
    };
    let part = index.parse::<usize>().ok().and_then(|index| parts.get(index));
    part.map_or(index, |part| part).to_owned()
}

/// Keras' name of a class, and which of them: `conv2d_3` is number 3, `conv2d` number 0.
fn numbered(name: &str) -> (&str, usize) {
    let split = name.rsplit_once('_').and_then(|(base, number)| Some((base, number.parse().ok()?)));
    split.unwrap_or((name, 0))
}

/// Gives the layers of the network their canonical names.
///
/// # Errors
/// [`Error::OtherNetwork`] that says what it seems to be.
pub(super) fn name_layers(layers: &mut [Layer], config: Option<&Config>) -> Result<()> {
    let named = ["conv1", "conv_dw_1"].iter().all(|name| layers.iter().any(|layer| layer.name == *name));
    if !named && !name_by_order(layers) {
        return Err(Error::OtherNetwork(seems(layers, config)));
    }
    for layer in layers.iter_mut().filter(|layer| layer.name.starts_with("conv_dw_")) {
        // Keras 3 has no word of its own for a depthwise filter.
        if let Some(kernel) = layer.parts.remove("kernel") {
            layer.parts.insert("depthwise_kernel".into(), kernel);
        }
    }
    Ok(())
}

/// Names the layers `conv2d`, `conv2d_1`, …, `depthwise_conv2d`, … and `batch_normalization`, … as
/// their numbers say. False if there are not as many of each as the network has, or their shapes
/// do not fit each other.
fn name_by_order(layers: &mut [Layer]) -> bool {
    let depthwise = |layer: &&Layer| numbered(&layer.numbered).0 == "depthwise_conv2d";
    let containers: BTreeSet<&str> =
        layers.iter().filter(depthwise).map(|layer| layer.container.as_str()).collect();
    let (Some(&container), 1) = (containers.first(), containers.len()) else {
        return false;
    };
    let of = |class: &str| {
        let mut found: Vec<(usize, usize)> = (layers.iter().enumerate())
            .filter(|(_, layer)| layer.container == container && numbered(&layer.numbered).0 == class)
            .map(|(at, layer)| (numbered(&layer.numbered).1, at))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, at)| at).collect::<Vec<usize>>()
    };
    let (convs, depthwises, norms) = (of("conv2d"), of("depthwise_conv2d"), of("batch_normalization"));
    let blocks = depthwises.len();
    // With the shallow body's 8 blocks, or all 13; with or without a convolution as head.
    let fits = matches!(blocks, 8 | 13)
        && matches!(convs.len().checked_sub(blocks), Some(1 | 2))
        && norms.len() == 2 * blocks + 1;
    if !fits {
        return false;
    }
    let mut names = vec![(convs[0], "conv1".to_owned()), (norms[0], "conv1_bn".to_owned())];
    for block in 1..=blocks {
        names.push((depthwises[block - 1], format!("conv_dw_{block}")));
        names.push((norms[2 * block - 1], format!("conv_dw_{block}_bn")));
        names.push((convs[block], format!("conv_pw_{block}")));
        names.push((norms[2 * block], format!("conv_pw_{block}_bn")));
    }
    if let Some(&head) = convs.get(blocks + 1) {
        names.push((head, "conv_preds".to_owned()));
    }
    // The order is the network's if each convolution feeds the next.
    let shape = |at: usize, part: &str| layers[at].parts.get(part).map_or(&[][..], Tensor::shape);
    let mut channels = match shape(convs[0], "kernel") {
        [3, 3, _, channels] => *channels,
        _ => return false,
    };
    for block in 0..blocks {
        match (shape(depthwises[block], "depthwise_kernel"), shape(convs[block + 1], "kernel")) {
            ([3, 3, filtered, 1], [1, 1, input, output]) if *filtered == channels && *input == channels => {
                channels = *output;
            }
            _ => return false,
        }
    }
    for (at, name) in names {
        layers[at].name = name;
    }
    true
}

/// Beginnings of the names that Keras gives its networks.
const NETWORKS: [(&str, &str); 13] = [
    ("mobilenetv2", "MobileNet v2"),
    ("mobilenetv3", "MobileNet v3"),
    ("mobilenet_v2", "MobileNet v2"),
    ("mobilenet_v3", "MobileNet v3"),
    ("resnet", "ResNet"),
    ("vgg", "VGG"),
    ("inception", "Inception"),
    ("xception", "Xception"),
    ("densenet", "DenseNet"),
    ("nasnet", "NASNet"),
    ("efficientnet", "EfficientNet"),
    ("convnext", "ConvNeXt"),
    ("regnet", "RegNet"),
];

/// What another network seems to be and why.
fn seems(layers: &[Layer], config: Option<&Config>) -> String {
    if layers.is_empty() {
        return "the file holds no layers with weights; expected those of a Keras MobileNet".into();
    }
    for name in config.map(|config| config.models.as_slice()).unwrap_or_default() {
        let lower = name.to_lowercase();
        if let Some((_, network)) = NETWORKS.iter().find(|(prefix, _)| lower.starts_with(prefix)) {
            return format!("it seems to be {network}, by its name `{name}`");
        }
    }
    let names = || layers.iter().map(|layer| layer.name.as_str());
    if names().any(|name| name == "block1_conv1_bn") {
        return "it seems to be Xception, by its layer `block1_conv1_bn`".into();
    }
    if let Some((network, name)) = family::seems_to_be(names()) {
        return format!("it seems to be {network}, by its layer `{name}`");
    }
    let count = |class: &str| layers.iter().filter(|layer| layer.parts_are(class)).count();
    let (depthwise, norms) = (count("depthwise"), count("norm"));
    let hint = if depthwise == 17 && norms == 52 { "it seems to be MobileNet v2: " } else { "" };
    let some: Vec<String> = names().take(5).map(|name| format!("`{name}`")).collect();
    format!(
        "{hint}its {} layers with weights ({}, …), {depthwise} of them depthwise convolutions and {norms} \
         batch normalisations, are not a MobileNet v1's, which has 13 and 27",
        layers.len(),
        some.join(", ")
    )
}

impl Layer {
    /// Whether its tensors are those of a class: "depthwise" or "norm".
    fn parts_are(&self, class: &str) -> bool {
        match class {
            "norm" => self.parts.contains_key("moving_variance"),
            _ => {
                let kernel = self.parts.get("depthwise_kernel").or(self.parts.get("kernel"));
                kernel.is_some_and(
                    |kernel| matches!(kernel.shape(), [h, _, channels, 1] if *h > 1 && *channels > 1),
                )
            }
        }
    }
}
