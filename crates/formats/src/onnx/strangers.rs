//! What a graph of another network seems to be, from its operators.

use std::collections::HashSet;

use super::attributes::Attributes;
use super::proto::NodeProto;

/// The network that these nodes seem to be of, and what tells; none when nothing does.
pub fn seems_to_be(nodes: &[NodeProto]) -> Option<&'static str> {
    let count = |operators: &[&str]| nodes.iter().filter(|n| operators.contains(&n.op_type.as_str())).count();
    let has = |operators: &[&str]| count(operators) > 0;
    let depthwise = nodes.iter().any(|node| {
        node.op_type == "Conv" && Attributes(&node.attribute).integer("group").is_some_and(|group| group > 1)
    });
    let residual = is_residual(nodes);
    Some(match () {
        () if has(&["NonMaxSuppression", "RoiAlign"]) => {
            "a detector of objects (it suppresses overlapping boxes)"
        }
        () if has(&["LSTM", "GRU", "RNN"]) => "a recurrent network",
        () if has(&["LayerNormalization"]) || count(&["Softmax"]) > 1 => {
            "a Vision Transformer or ConvNeXt (it has layer normalisation or attention)"
        }
        () if has(&["HardSwish", "HardSigmoid"]) => "a MobileNet v3 (it has hard swish)",
        () if depthwise && count(&["Sigmoid", "Swish"]) > 1 => {
            "an EfficientNet (it has swish or squeeze-and-excitation)"
        }
        () if depthwise && residual && has(&["MaxPool"]) => {
            "a ResNeXt, ShuffleNet or RegNet (it has residuals and groups)"
        }
        () if depthwise && residual => "a MobileNet v2 or v3 (it has depthwise convolutions and residuals)",
        () if residual => "a ResNet (it has residuals)",
        () if has(&["MaxPool"]) && has(&["Concat"]) => {
            "an Inception, DenseNet or SqueezeNet (its branches are concatenated)"
        }
        () if has(&["MaxPool"]) => "a VGG or AlexNet (it has max-pooling)",
        () => return None,
    })
}

/// Whether two results of convolutions or what follows them are added.
fn is_residual(nodes: &[NodeProto]) -> bool {
    const MAPS: [&str; 10] =
        ["Conv", "BatchNormalization", "Relu", "Clip", "Add", "MaxPool", "AveragePool", "Min", "Mul", "Pad"];
    let outputs = |node: &NodeProto| MAPS.contains(&node.op_type.as_str());
    let maps: HashSet<&str> =
        nodes.iter().filter(|n| outputs(n)).flat_map(|n| &n.output).map(String::as_str).collect();
    nodes.iter().any(|node| {
        node.op_type == "Add"
            && node.input.len() == 2
            && node.input.iter().all(|name| maps.contains(name.as_str()))
    })
}
