//! `mobilenet explain`: which parts of a photo speak for a class (a class activation map).

mod class;
mod colour;
mod overlay;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use mobilenet::classifier::{Prediction, input, likeliest};
use mobilenet::cpu::{CpuExecutor, CpuOptions};
use mobilenet::image::{DecodeLimits, decode_file};
use mobilenet::preprocess::Region;
use mobilenet::{ActivationMap, Executor, Tensor};
use serde::Serialize;

use crate::failure::{Failure, Outcome};
use crate::model_source;
use crate::style::STRONG;

/// Show which parts of a photo speak for a class
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mobilenet explain photo.jpg -o heat.png                      # for the likeliest class
  mobilenet explain photo.jpg -o heat.png --class \"tabby cat\"
  mobilenet explain photo.jpg --class 281 --json               # the map as numbers
  mobilenet explain --model runs/photos photo.jpg -o heat.png

The lighter, the more a place adds to the class's logit; the colours go up to the map's own largest
value. What preprocessing cuts off, the network does not see: it is dimmed. docs/explain.md says more.")]
pub struct Flags {
    /// The photo
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// The picture to write (PNG), of the photo's size
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Name or index of the class to explain [default: the likeliest]
    #[arg(long, value_name = "NAME|INDEX")]
    class: Option<String>,
    /// Model file of any format that import reads, or the folder of a run (its best model)
    /// [default: the embedded ImageNet model]
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
}

#[derive(Serialize)]
struct Answer<'a> {
    path: String,
    output: Option<String>,
    class: usize,
    label: String,
    probability: f64,
    logit: f32,
    bias: f32,
    map: Vec<&'a [f32]>,
    width: usize,
    height: usize,
    region: Rectangle,
}

/// A part of the photo, in its pixels.
#[derive(Serialize)]
struct Rectangle {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl From<Region> for Rectangle {
    fn from(region: Region) -> Self {
        let Region { left, top, width, height } = region;
        Self { left, top, width, height }
    }
}

/// Runs the network on the photo, and draws or prints the map.
pub fn run(flags: Flags, json: bool, out: &mut dyn Write) -> Outcome {
    check_output(flags.output.as_deref(), json)?;
    let model = model_source::open_or_embedded(flags.model.as_deref())?;
    let wanted = flags.class.as_deref().map(|name| class::find(&model.labels, name)).transpose()?;

    let architecture = &model.architecture;
    let resolution = architecture.resolution;
    let photo = decode_file(&flags.image, 3, &DecodeLimits::default())?;
    let seen = photo.clone().with_channels(architecture.input_channels)?;
    let shape = [1, resolution, resolution, architecture.input_channels];
    let input = Tensor::new(&shape, input(&model.architecture, &seen)?)?;

    let mut executor = CpuExecutor::new(architecture, &model.weights, &CpuOptions::default())?;
    let features = executor.feature_maps(&input)?;
    let logits = executor.infer(&input)?;
    let mut predictions = likeliest(&model, logits.data(), usize::MAX).into_iter();
    let chosen = match wanted {
        Some(class) => predictions.find(|prediction| prediction.class == class),
        None => predictions.next(),
    };
    let Prediction { class, label, probability } =
        chosen.ok_or_else(|| Failure::failed("the model has no classes"))?;
    let output = class + usize::from(architecture.conventions.background_class);
    let map = ActivationMap::new(&features, &model.weights, output)?;
    let region = architecture.conventions.preprocessing.region(&photo, resolution);
    if let Some(path) = &flags.output {
        overlay::overlay(&photo, region, &map)?.save_png(path)?;
    }

    let answer = Answer {
        path: flags.image.display().to_string(),
        output: flags.output.as_deref().map(|path| path.display().to_string()),
        class,
        label,
        probability,
        logit: logits.data()[output],
        bias: map.bias,
        map: map.rows().collect(),
        width: photo.width(),
        height: photo.height(),
        region: region.into(),
    };
    if json {
        return crate::json::write(out, &answer);
    }
    writeln!(out, "{STRONG}{}{STRONG:#}", answer.path)?;
    writeln!(out, "  {:>6.2} %  {} (class {class})", 100.0 * answer.probability, answer.label)?;
    if let Some(path) = &answer.output {
        writeln!(out, "  {path}: the lighter, the more a place speaks for it")?;
    }
    Ok(())
}

/// What the command is for: a picture, or the map as JSON.
fn check_output(output: Option<&Path>, json: bool) -> Outcome {
    let Some(path) = output else {
        return match json {
            true => Ok(()),
            false => {
                Err(Failure::usage("expected -o FILE for the picture, or --json for the map as numbers"))
            }
        };
    };
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    match extension.as_deref() {
        None | Some("png") => Ok(()),
        Some(other) => Err(Failure::usage(format!(
            "--output: found a name that ends in .{other}, expected .png: the picture is a PNG"
        ))),
    }
}
