//! What a file of another network seems to be, from the names of its tensors.

/// Marks in tensor names, most telling first, and the network that they belong to. A name must
/// contain every mark of a row.
const MARKS: [(&str, &[&str]); 22] = [
    ("MobileNet v2 (Hugging Face)", &["mobilenet_v2."]),
    ("MobileNet v2 (TF-slim)", &["MobilenetV2/"]),
    ("MobileNet v3 (TF-slim)", &["MobilenetV3/"]),
    ("MobileNet v4", &["blocks.", ".dw_start."]),
    ("MobileNet v3 or EfficientNet (timm)", &["blocks.", ".se."]),
    ("MobileNet v2, v3 or EfficientNet (timm)", &["blocks.", ".conv_pwl."]),
    ("MobileNet v3 (torchvision)", &["features.", ".block."]),
    ("MobileNet v2 (torchvision)", &["features.", ".conv.0."]),
    ("MobileNet v2 or v3 (Keras)", &["expanded_conv"]),
    ("MobileNet v2 (Keras)", &["block_1_expand"]),
    ("EfficientNet (Keras)", &["block1a_"]),
    ("ResNet (Keras)", &["conv2_block1_"]),
    ("ResNet (TF-slim)", &["resnet_v"]),
    ("ResNet (Hugging Face)", &["resnet.encoder."]),
    ("ResNet", &["layer1.0.conv1"]),
    ("Inception (TF-slim)", &["InceptionV"]),
    ("VGG (Keras)", &["block1_conv1"]),
    ("DenseNet", &["denseblock1."]),
    ("Vision Transformer", &["patch_embed"]),
    ("ConvNeXt", &["stages.", ".dwconv."]),
    ("SqueezeNet", &["squeeze.weight"]),
    ("a transformer", &["self_attn"]),
];

/// The network that these tensor names seem to belong to, if it is one that is told by them, and
/// the name that tells.
pub fn seems_to_be<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<(&'static str, &'a str)> {
    MARKS.iter().find_map(|(network, marks)| {
        let telling = names.clone().find(|name| marks.iter().all(|mark| name.contains(mark)))?;
        Some((*network, telling))
    })
}
