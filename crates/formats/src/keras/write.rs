//! Weights for `keras.applications.MobileNet`.

use mobilenet::architecture::Operator;
use mobilenet::conventions::{Activation, Padding, WidthRounding};
use mobilenet::{Body, Model, Tensor};

use crate::error::{Error, Result};
use crate::family::permute;
use crate::hdf5;

/// BN's ε in Keras.
const EPSILON: f64 = 1e-3;

/// Whether the classifier is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classifier {
    /// For `include_top=True` with `classes` set to the model's outputs.
    Include,
    /// For `include_top=False`.
    LeaveOut,
}

/// A layer as Keras has it: its name, class, and variables in Keras' order and layouts.
struct KerasLayer {
    name: String,
    class: &'static str,
    variables: Vec<(&'static str, Tensor)>,
}

/// A weights file of Keras 1 and 2, `.h5`, which every Keras loads:
/// `keras.applications.MobileNet(weights=path, alpha=…, classes=…)`. Give it the model's width
/// multiplier, and as `classes` the model's outputs (with a background class, classes + 1).
///
/// # Errors
/// [`Error::Unsupported`] when Keras' MobileNet does not compute what the model computes: another
/// padding, activation, body or rounding of widths.
pub fn write_h5(model: &Model, classifier: Classifier) -> Result<Vec<u8>> {
    let layers = layers(model, classifier)?;
    let mut root = hdf5::NewGroup::default();
    root.text("backend", "tensorflow");
    // The layout is that of Keras 2; without a version its weights are taken for Keras 1's.
    root.text("keras_version", "2.15.0");
    root.list("layer_names", layers.iter().map(|layer| layer.name.clone()).collect());
    for layer in layers {
        let group = root.group(&layer.name)?;
        let full_name = |variable: &str| format!("{}/{variable}:0", layer.name);
        group.list("weight_names", layer.variables.iter().map(|(variable, _)| full_name(variable)).collect());
        let group = group.group(&layer.name)?;
        for (variable, tensor) in layer.variables {
            let shape = tensor.shape().to_vec();
            group.dataset(&format!("{variable}:0"), &shape, tensor.into_data())?;
        }
    }
    hdf5::to_bytes(&root)
}

/// A weights file of Keras 3, `.weights.h5`; otherwise as [`write_h5`].
///
/// # Errors
/// As [`write_h5`].
pub fn write_weights_h5(model: &Model, classifier: Classifier) -> Result<Vec<u8>> {
    let mut root = hdf5::NewGroup::default();
    // Keras 2 wants a place for every layer's variables, those of layers without any included.
    root.group("vars")?;
    for layer in ["input_layer", "global_average_pooling2d", "dropout", "reshape", "activation"] {
        root.group(&format!("layers/{layer}/vars"))?;
    }
    for layer in model.architecture.layers()? {
        let has_activation = !matches!(layer.operator, Operator::GlobalPool | Operator::Classifier);
        if has_activation {
            numbered_group(&mut root, "re_lu")?;
        }
        if layer.operator == Operator::Depthwise && layer.stride == 2 {
            numbered_group(&mut root, "zero_padding2d")?;
        }
    }
    for layer in layers(model, classifier)? {
        let group = numbered_group(&mut root, layer.class)?;
        group.text("name", &layer.name);
        for (index, (_, tensor)) in layer.variables.into_iter().enumerate() {
            let shape = tensor.shape().to_vec();
            group.dataset(&index.to_string(), &shape, tensor.into_data())?;
        }
    }
    hdf5::to_bytes(&root)
}

/// The group for the variables of the next layer of a class: `layers/conv2d/vars`, then
/// `layers/conv2d_1/vars`, …
fn numbered_group<'g>(root: &'g mut hdf5::NewGroup, class: &str) -> Result<&'g mut hdf5::NewGroup> {
    let layers = root.group("layers")?;
    let mut numbered = (0..).map(|n| if n == 0 { class.to_owned() } else { format!("{class}_{n}") });
    let free = numbered.find(|name| !layers.has(name)).expect("names do not end");
    layers.group(&format!("{free}/vars"))
}

/// The model's layers in Keras' order.
fn layers(model: &Model, classifier: Classifier) -> Result<Vec<KerasLayer>> {
    model.check()?;
    require(model)?;
    let tensor = |name: String| -> Result<Tensor> {
        let found = model.weights.get(&name).cloned();
        found.ok_or_else(|| Error::Tensors(format!("{name}: missing")))
    };
    let mut layers = Vec::new();
    for layer in model.architecture.layers()? {
        let ours = &layer.name;
        let number = ours.rsplit('_').next().unwrap_or_default();
        let weight = || tensor(format!("{ours}.weight"));
        let (name, class, variables) = match layer.operator {
            Operator::GlobalPool => continue,
            Operator::Classifier if classifier == Classifier::LeaveOut => continue,
            Operator::Classifier => {
                let weight = weight()?;
                let (outputs, features) = (layer.output.channels, layer.input.channels);
                let weight = Tensor::new(&[outputs, features, 1, 1], weight.into_data())?;
                let kernel = permute(&weight, [2, 3, 1, 0]);
                (
                    "conv_preds".into(),
                    "conv2d",
                    vec![("kernel", kernel), ("bias", tensor(format!("{ours}.bias"))?)],
                )
            }
            Operator::Conv => ("conv1".into(), "conv2d", vec![("kernel", permute(&weight()?, [2, 3, 1, 0]))]),
            Operator::Depthwise => {
                let kernel = permute(&weight()?, [2, 3, 0, 1]);
                (format!("conv_dw_{number}"), "depthwise_conv2d", vec![("depthwise_kernel", kernel)])
            }
            Operator::Pointwise => {
                (format!("conv_pw_{number}"), "conv2d", vec![("kernel", permute(&weight()?, [2, 3, 1, 0]))])
            }
        };
        let bn_name = format!("{name}_bn");
        layers.push(KerasLayer { name, class, variables });
        if layer.operator != Operator::Classifier {
            let variables = batch_norm(
                [".bn.weight", ".bn.bias", ".bn.running_mean", ".bn.running_var"]
                    .map(|part| tensor(format!("{ours}{part}"))),
                model.architecture.conventions.bn_epsilon,
            )?;
            layers.push(KerasLayer { name: bn_name, class: "batch_normalization", variables });
        }
    }
    Ok(layers)
}

/// γ, β, mean and variance such that they give with Keras' ε what they gave with `epsilon`: the
/// difference goes into the variance, and where that would be negative into γ.
fn batch_norm(tensors: [Result<Tensor>; 4], epsilon: f32) -> Result<Vec<(&'static str, Tensor)>> {
    let [gamma, beta, mean, variance] = tensors;
    let (mut gamma, mut variance) = (gamma?, variance?);
    let epsilon = f64::from(epsilon);
    if (epsilon as f32) != EPSILON as f32 {
        for (gamma, variance) in gamma.data_mut().iter_mut().zip(variance.data_mut()) {
            let wanted = f64::from(*variance) + epsilon;
            let kept = (wanted - EPSILON).max(0.0) as f32;
            // 1 where the difference fits but for rounding.
            let scale = ((f64::from(kept) + EPSILON) / wanted).sqrt();
            *gamma = (f64::from(*gamma) * scale) as f32;
            *variance = kept;
        }
    }
    Ok(vec![("gamma", gamma), ("beta", beta?), ("moving_mean", mean?), ("moving_variance", variance)])
}

/// Checks that Keras' MobileNet computes what the model does.
fn require(model: &Model) -> Result<()> {
    let architecture = &model.architecture;
    let refuse = |what: String| {
        Err(Error::Unsupported(format!(
            "keras.applications.MobileNet cannot express this model: {what}; export to onnx, which can"
        )))
    };
    if architecture.body != Body::Separable {
        return refuse(format!("its body is `{}`, there it is `separable`", architecture.body.name()));
    }
    if architecture.stem_stride != 2 || architecture.output_stride != 32 {
        return refuse(format!(
            "it has stem stride {} and output stride {}, there they are 2 and 32",
            architecture.stem_stride, architecture.output_stride
        ));
    }
    if architecture.conventions.activation != Activation::Relu6 {
        return refuse("its activation is ReLU, there it is ReLU6".into());
    }
    let ours = architecture.layers()?;
    let mut keras = architecture.clone();
    keras.conventions.padding = Padding::Keras;
    let padded = keras.layers()?;
    if padded != ours {
        return refuse(format!(
            "it pads {:?} at {} pixels, there stride 2 pads 0 before and 1 behind",
            architecture.conventions.padding, architecture.resolution
        ));
    }
    keras.conventions.width_rounding = WidthRounding::Truncate;
    match keras
        .layers()?
        .iter()
        .zip(&ours)
        .find(|(keras, ours)| keras.output.channels != ours.output.channels)
    {
        None => Ok(()),
        Some((keras, ours)) => refuse(format!(
            "{} has {} channels, there int(alpha · channels) gives {}",
            ours.name, ours.output.channels, keras.output.channels
        )),
    }
}
