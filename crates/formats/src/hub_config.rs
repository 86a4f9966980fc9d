//! The JSON files beside weights in Hugging Face's and timm's folders: `config.json` and
//! `preprocessor_config.json`.

use mobilenet::conventions::{Activation, Interpolation, Padding, ResizeMode};
use mobilenet::{Model, Preset};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::state_dict::Hints;

/// Adds to `hints` what a `config.json` tells (transformers' or timm's), and what a
/// `preprocessor_config.json` tells.
///
/// # Errors
/// [`Error::Damaged`] for what is not JSON, [`Error::OtherNetwork`] for the configuration of
/// another network.
pub fn read(config: &[u8], preprocessor: Option<&[u8]>, hints: &mut Hints) -> Result<()> {
    let config = parse("config.json", config)?;
    if let Some(architecture) = config["architecture"].as_str() {
        if !architecture.starts_with("mobilenetv1") {
            return Err(Error::OtherNetwork(format!("its config.json says `{architecture}`")));
        }
        timm(&config, hints);
    } else {
        match config["model_type"].as_str() {
            Some("mobilenet_v1") => transformers(&config, hints),
            Some(other) => return Err(Error::OtherNetwork(format!("its config.json says `{other}`"))),
            None => {}
        }
    }
    if let Some(preprocessor) = preprocessor {
        let preprocessor = parse("preprocessor_config.json", preprocessor)?;
        transformers_preprocessing(&preprocessor, hints);
    }
    Ok(())
}

fn parse(name: &str, bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|error| Error::damaged("JSON", format!("{name}: {error}")))
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|number| number.is_finite())
}

/// A size in pixels that a network can have; others are left to the default.
fn pixels(value: &Value) -> Option<usize> {
    value.as_u64().map(|size| size as usize).filter(|size| (8..=4096).contains(size))
}

fn floats(value: &Value) -> Option<Vec<f32>> {
    let values: Option<Vec<f32>> = value.as_array()?.iter().map(|v| number(v).map(|v| v as f32)).collect();
    values.filter(|values| matches!(values.len(), 1 | 3))
}

fn transformers(config: &Value, hints: &mut Hints) {
    hints.width_multiplier = number(&config["depth_multiplier"]);
    hints.resolution = pixels(&config["image_size"]);
    hints.padding =
        config["tf_padding"].as_bool().map(|same| if same { Padding::Same } else { Padding::Fixed });
    hints.activation = match config["hidden_act"].as_str() {
        Some("relu6") => Some(Activation::Relu6),
        Some("relu") => Some(Activation::Relu),
        _ => None,
    };
    hints.bn_epsilon = number(&config["layer_norm_eps"]).map(|epsilon| epsilon as f32);
    // What transformers leaves out of a file has its default.
    hints.padding = hints.padding.or(Some(Padding::Same));
    hints.activation = hints.activation.or(Some(Activation::Relu6));
    hints.bn_epsilon = hints.bn_epsilon.or(Some(1e-3));
    if let Some(names) = config["id2label"].as_object() {
        let mut labels: Vec<(u64, String)> = names
            .iter()
            .filter_map(|(id, name)| Some((id.parse().ok()?, name.as_str()?.to_owned())))
            .collect();
        labels.sort();
        let mut labels: Vec<String> = labels.into_iter().map(|(_, name)| name).collect();
        let background = labels.len() > 1 && labels[0] == "background";
        if background {
            labels.remove(0);
        }
        if labels.len() == names.len() - usize::from(background) {
            hints.background_class = Some(background);
            hints.labels = Some(labels);
        }
    }
}

fn transformers_preprocessing(config: &Value, hints: &mut Hints) {
    let mut p = Preset::Hf.conventions().preprocessing;
    let crop = ["height", "width"].iter().find_map(|side| pixels(&config["crop_size"][side]));
    let edge = number(&config["size"]["shortest_edge"]).or(number(&config["size"]["height"]));
    if let Some(crop) = crop {
        hints.resolution = Some(crop);
        if let Some(edge) = edge.filter(|&edge| edge > 0.0) {
            p.crop_fraction = (crop as f64 / edge).clamp(0.25, 1.0);
        }
    }
    if config["size"]["height"].is_number() {
        p.resize = ResizeMode::Squash;
    }
    p.mean = floats(&config["image_mean"]).unwrap_or(p.mean);
    p.std = floats(&config["image_std"]).unwrap_or(p.std);
    // Pillow's numbers: 2 is bilinear, 3 bicubic.
    if config["resample"].as_u64() == Some(3) {
        p.interpolation = Interpolation::Bicubic;
    }
    hints.preprocessing = Some(p);
}

fn timm(config: &Value, hints: &mut Hints) {
    // Older files have the fields of `pretrained_cfg` at the top.
    let inner = if config["pretrained_cfg"].is_object() { &config["pretrained_cfg"] } else { config };
    hints.resolution = pixels(&inner["input_size"][2]);
    let mut p = Preset::Timm.conventions().preprocessing;
    p.mean = floats(&inner["mean"]).unwrap_or(p.mean);
    p.std = floats(&inner["std"]).unwrap_or(p.std);
    p.crop_fraction = number(&inner["crop_pct"]).unwrap_or(p.crop_fraction).clamp(0.25, 1.0);
    if inner["interpolation"] == "bilinear" {
        p.interpolation = Interpolation::Bilinear;
    }
    if inner["crop_mode"] == "squash" {
        p.resize = ResizeMode::Squash;
    }
    hints.preprocessing = Some(p);
    let names = [&config["label_names"], &inner["label_names"]];
    let labels = names.iter().find_map(|names| {
        names.as_array()?.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    });
    hints.labels = labels.filter(|labels| !labels.is_empty());
}

/// `config.json` and `preprocessor_config.json` for transformers.
pub(crate) fn write_transformers(model: &Model) -> Result<[(&'static str, Vec<u8>); 2]> {
    let architecture = &model.architecture;
    let conventions = &architecture.conventions;
    let background = conventions.background_class.then(|| "background".to_owned());
    let names: Vec<&String> = background.iter().chain(&model.labels).collect();
    let id2label: serde_json::Map<String, Value> =
        names.iter().enumerate().map(|(id, name)| (id.to_string(), json!(name))).collect();
    let label2id: serde_json::Map<String, Value> =
        names.iter().enumerate().map(|(id, name)| (name.to_string(), json!(id))).collect();
    let config = json!({
        "architectures": ["MobileNetV1ForImageClassification"],
        "model_type": "mobilenet_v1",
        "num_channels": architecture.input_channels,
        "image_size": architecture.resolution,
        "depth_multiplier": architecture.width_multiplier,
        "min_depth": 8,
        "hidden_act": if conventions.activation == Activation::Relu6 { "relu6" } else { "relu" },
        "tf_padding": conventions.padding != Padding::Fixed,
        "classifier_dropout_prob": conventions.dropout,
        "initializer_range": 0.02,
        "layer_norm_eps": short(conventions.bn_epsilon),
        "id2label": id2label,
        "label2id": label2id,
        "torch_dtype": "float32",
    });
    let p = &conventions.preprocessing;
    let size = architecture.resolution;
    let edge = (size as f64 / p.crop_fraction).round() as usize;
    let preprocessor = json!({
        "image_processor_type": "MobileNetV1ImageProcessor",
        "do_resize": true,
        "size": match p.resize {
            ResizeMode::ShortEdge => json!({ "shortest_edge": edge }),
            ResizeMode::Squash => json!({ "height": edge, "width": edge }),
        },
        "resample": if p.interpolation == Interpolation::Bicubic { 3 } else { 2 },
        "do_center_crop": true,
        "crop_size": { "height": size, "width": size },
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": p.mean.iter().map(|&v| short(v)).collect::<Vec<_>>(),
        "image_std": p.std.iter().map(|&v| short(v)).collect::<Vec<_>>(),
    });
    Ok([("config.json", pretty(&config)), ("preprocessor_config.json", pretty(&preprocessor))])
}

/// timm's `config.json`.
pub(crate) fn write_timm(model: &Model) -> Vec<u8> {
    let architecture = &model.architecture;
    let p = &architecture.conventions.preprocessing;
    let size = architecture.resolution;
    let percent = (architecture.width_multiplier * 100.0).round() as u64;
    pretty(&json!({
        "architecture": format!("mobilenetv1_{percent:03}"),
        "num_classes": architecture.outputs(),
        "num_features": 1024,
        "label_names": model.labels,
        "pretrained_cfg": {
            "input_size": [architecture.input_channels, size, size],
            "fixed_input_size": false,
            "interpolation": if p.interpolation == Interpolation::Bicubic { "bicubic" } else { "bilinear" },
            "crop_pct": p.crop_fraction,
            "crop_mode": if p.resize == ResizeMode::Squash { "squash" } else { "center" },
            "mean": p.mean.iter().map(|&v| short(v)).collect::<Vec<_>>(),
            "std": p.std.iter().map(|&v| short(v)).collect::<Vec<_>>(),
            "num_classes": architecture.outputs(),
            "first_conv": "conv_stem",
            "classifier": "classifier",
        },
    }))
}

/// The f64 of the same shortest decimal, so that 0.1 is not written as 0.10000000149.
fn short(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut text = format!("{value:#}").into_bytes();
    text.push(b'\n');
    text
}
