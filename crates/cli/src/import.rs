//! `mobilenet import`: weights of another project as a model file of this one.

use std::fmt::Debug;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use mobilenet::conventions::{Activation, Interpolation, Padding, ResizeMode};
use mobilenet::{Error, Preset, atomic_file};
use mobilenet_formats::Overrides;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::architecture_flags::{describe, one_of};
use crate::failure::{Failure, Outcome, note};
use crate::model_source;

/// Make a model file of weights from PyTorch, TensorFlow, Keras, timm, Hugging Face or ONNX
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mobilenet import checkpoint.pth.tar -o model.safetensors
  mobilenet import timm-folder/ -o model.safetensors --labels names.txt
  mobilenet import weights.safetensors -o model.safetensors --conventions timm

The format and the family are told by the content, never by the name. Whatever the file does not tell
is the family's known value, which the command lists and the flags below override. --model and --init of
the other commands take the same files without importing them first.")]
pub struct Flags {
    /// The file or folder to read
    #[arg(value_name = "SOURCE")]
    source: PathBuf,
    /// The model file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Store filters as 16-bit floats: half the size
    #[arg(long)]
    half: bool,
    #[command(flatten)]
    overrides: OverrideFlags,
}

/// What is to hold in place of what the file tells, or where it does not tell.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Against or beyond what the file tells")]
pub struct OverrideFlags {
    /// The family whose values are used wherever the file does not tell
    #[arg(long, value_name = "FAMILY", value_parser = one_of::<Preset>(Preset::ALL.map(Preset::name)))]
    conventions: Option<Preset>,
    /// Height and width of the input in pixels
    #[arg(long, value_name = "PIXELS")]
    resolution: Option<usize>,
    /// Padding of the 3×3 convolutions
    #[arg(long, value_parser = name::<Padding>(&["fixed", "same", "keras"]))]
    padding: Option<Padding>,
    /// The non-linearity
    #[arg(long, value_parser = name::<Activation>(&["relu", "relu6"]))]
    activation: Option<Activation>,
    /// Added to the variance in batch normalisation
    #[arg(long, value_name = "EPSILON")]
    bn_epsilon: Option<f32>,
    /// Whether output 0 is a background class
    #[arg(long, value_name = "true|false")]
    background_class: Option<bool>,
    /// Subtracted from each channel after scaling to 0 … 1
    #[arg(long, value_name = "R,G,B", value_delimiter = ',', allow_negative_numbers = true)]
    mean: Option<Vec<f32>>,
    /// Divides each channel after that
    #[arg(long, value_name = "R,G,B", value_delimiter = ',')]
    std: Option<Vec<f32>>,
    /// The share of the resized image that the centre crop keeps
    #[arg(long, value_name = "SHARE")]
    crop_fraction: Option<f64>,
    /// The filter of resizing
    #[arg(long, value_parser = name::<Interpolation>(&["bilinear", "bicubic"]))]
    interpolation: Option<Interpolation>,
    /// How an image becomes square
    #[arg(long, value_parser = name::<ResizeMode>(&["short-edge", "squash"]))]
    resize: Option<ResizeMode>,
    /// Text file with a class name a line, without a background class
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
}

/// A parser of the names that a setting has in model files.
fn name<T: DeserializeOwned + Clone + Debug + Send + Sync + 'static>(
    names: &'static [&'static str],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(names)
        .try_map(|name| serde_json::from_value::<T>(serde_json::Value::String(name)))
}

impl OverrideFlags {
    /// The settings, with the labels read.
    pub fn overrides(self) -> Outcome<Overrides> {
        let labels = self.labels.as_deref().map(read_labels).transpose()?;
        Ok(Overrides {
            preset: self.conventions,
            resolution: self.resolution,
            padding: self.padding,
            activation: self.activation,
            bn_epsilon: self.bn_epsilon,
            background_class: self.background_class,
            mean: self.mean,
            std: self.std,
            crop_fraction: self.crop_fraction,
            interpolation: self.interpolation,
            resize: self.resize,
            labels,
            usual_labels: mobilenet_imagenet::labels().map(str::to_owned).collect(),
        })
    }
}

/// The lines of a file of class names, without empty ones at its end.
fn read_labels(path: &Path) -> Outcome<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
    let labels: Vec<String> = text.trim_end().lines().map(|line| line.trim().to_owned()).collect();
    match labels.iter().position(String::is_empty) {
        None => Ok(labels),
        Some(line) => Err(Failure::failed(format!(
            "{}: line {} is empty; expected a class name a line",
            path.display(),
            line + 1
        ))),
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    source: String,
    format: &'static str,
    family: Option<&'static str>,
    output: String,
    architecture: &'a mobilenet::Architecture,
    notes: &'a [String],
}

/// Reads, checks, writes, and says what was assumed.
pub fn run(flags: Flags, json: bool, out: &mut dyn Write) -> Outcome {
    let overrides = flags.overrides.overrides()?;
    let loaded = model_source::load(&flags.source, &overrides)?;
    let model = &loaded.imported.model;
    let architecture = &model.architecture;
    let bytes = if flags.half { model.to_bytes_half()? } else { model.to_bytes()? };
    atomic_file::write(&flags.output, |file| file.write_all(&bytes))?;
    let family = loaded.imported.family.map(|family| family.name());
    if json {
        let answer = Answer {
            source: loaded.path.display().to_string(),
            format: loaded.format,
            family,
            output: flags.output.display().to_string(),
            architecture,
            notes: &loaded.imported.notes,
        };
        crate::json::write(out, &answer)?;
        return Ok(());
    }
    let names = family.map(|family| format!(", {family} names")).unwrap_or_default();
    writeln!(out, "{}: {}{names}", loaded.path.display(), loaded.format)?;
    writeln!(out, "{}: {}", flags.output.display(), describe(architecture))?;
    for remark in &loaded.imported.notes {
        note(remark);
    }
    Ok(())
}
