//! `mobilenet classify`: the likeliest classes of images, in the order in which they are given.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use mobilenet::classifier::{Prediction, likeliest, pixels};
use mobilenet::cpu::{CpuExecutor, CpuOptions, Precision};
use mobilenet::image::{DecodeLimits, decode_file};
use mobilenet::{Architecture, Executor, Model, Tensor};
use mobilenet_train::data::{self, DataError, list_images};
use rayon::prelude::*;
use serde::Serialize;

use crate::failure::{Failure, MOST_THREADS, Outcome, complain, warn, within};
use crate::model_source;
use crate::style::{FAINT, STRONG};

/// Name what images show
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mobilenet classify photo.jpg                     # the 1000 classes of ImageNet
  mobilenet classify --model runs/photos cat.jpg dog.png
  mobilenet classify --model runs/photos -k 1 holiday/     # a folder, with all below it
  mobilenet classify --model best.safetensors --json *.jpg

A file that is not an image is reported and the others go on; the exit status is then 1.")]
pub struct Flags {
    /// Model file of any format that import reads, or the folder of a run (its best model)
    /// [default: the embedded ImageNet model]
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Images, or folders of images
    #[arg(required = true, value_name = "IMAGE")]
    inputs: Vec<PathBuf>,
    /// How many classes to show for each image
    #[arg(short = 'k', long, value_name = "K", default_value_t = 5)]
    top_k: usize,
    /// Images that are classified at once
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,
    /// Number format of weights and activations while computing: f32 or bf16
    #[arg(long, value_name = "FORMAT", default_value = "f32")]
    precision: Precision,
    /// Threads that compute [default: one a core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

struct Settings {
    model: Option<PathBuf>,
    inputs: Vec<PathBuf>,
    top_k: usize,
    batch: usize,
    precision: Precision,
    threads: Option<usize>,
}

impl Flags {
    fn settings(self) -> Outcome<Settings> {
        within("--top-k", self.top_k, 1_000_000)?;
        within("--batch", self.batch, 1024)?;
        within("--threads", self.threads.unwrap_or(1), MOST_THREADS)?;
        let Self { model, inputs, top_k, batch, precision, threads } = self;
        Ok(Settings { model, inputs, top_k, batch, precision, threads })
    }
}

/// What was found for one image.
#[derive(Serialize)]
struct Answer {
    path: String,
    predictions: Vec<Prediction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Classifies, and prints each batch as it is done.
pub fn run(flags: Flags, json: bool, out: &mut dyn Write) -> Outcome {
    let settings = flags.settings()?;
    let mut files = Vec::new();
    let mut failed = 0;
    for input in &settings.inputs {
        if let Err(error) = list(input, &mut files) {
            complain(&error);
            failed += 1;
        }
    }
    let mut batches = files.chunks(settings.batch);
    // What the embedded model reads is known before it is opened: its first images are decoded meanwhile.
    let first = if settings.model.is_none() { batches.next() } else { None };
    let (opened, first) = rayon::join(
        || open(&settings),
        || first.map(|paths| (paths, decode(&mobilenet_imagenet::architecture(), paths))),
    );
    let (model, mut executor) = opened?;

    let mut writer = Writer { out, json, count: 0 };
    writer.begin()?;
    let others = batches.map(|paths| (paths, decode(&model.architecture, paths)));
    for (paths, decoded) in first.into_iter().chain(others) {
        for answer in classify(&model, &mut executor, paths, decoded, settings.top_k)? {
            failed += usize::from(answer.error.is_some());
            writer.answer(&answer)?;
        }
    }
    writer.end()?;
    if failed > 0 {
        warn(format!("{failed} of {} could not be classified", files.len().max(failed)));
        return Err(Failure::Incomplete);
    }
    Ok(())
}

/// Adds `input`, or the images below it in the order of their names.
pub fn list(input: &Path, files: &mut Vec<PathBuf>) -> data::Result<()> {
    if !input.is_dir() {
        files.push(input.to_owned());
        return Ok(());
    }
    let found = list_images(input)?;
    if found.is_empty() {
        return Err(DataError::Unusable {
            path: input.to_owned(),
            problem: "no images in this folder".into(),
        });
    }
    files.extend(found);
    Ok(())
}

/// An executor of the model that was asked for, and what else there is of the model: all but the
/// weights, which the executor has.
fn open(settings: &Settings) -> Outcome<(Model, CpuExecutor)> {
    let mut model = model_source::open_or_embedded(settings.model.as_deref())?;
    let options =
        CpuOptions { threads: settings.threads, precision: settings.precision, ..CpuOptions::default() };
    let weights = std::mem::take(&mut model.weights);
    let executor = CpuExecutor::owning(&model.architecture, weights, &options)?;
    Ok((model, executor))
}

/// Each file's image as the network reads it.
type Decoded = Vec<mobilenet::Result<Vec<u8>>>;

fn decode(architecture: &Architecture, paths: &[PathBuf]) -> Decoded {
    let limits = DecodeLimits::default();
    let decode = |path: &PathBuf| {
        let image = decode_file(path, architecture.input_channels, &limits)?;
        pixels(architecture, &image)
    };
    paths.par_iter().map(decode).collect()
}

/// The answers for some files; one that is not an image has an error as its answer.
fn classify(
    model: &Model,
    executor: &mut CpuExecutor,
    paths: &[PathBuf],
    decoded: Decoded,
    top_k: usize,
) -> Outcome<Vec<Answer>> {
    let good: Vec<u8> = decoded.iter().flatten().flatten().copied().collect();
    let logits = if good.is_empty() { Tensor::default() } else { executor.infer_pixels(&good)? };
    let mut rows = logits.rows();
    let answers = paths.iter().zip(decoded).map(|(path, input)| {
        let path = path.display().to_string();
        match input {
            Ok(_) => {
                let predictions = likeliest(model, rows.next().unwrap_or_default(), top_k);
                Answer { path, predictions, error: None }
            }
            Err(error) => Answer { path, predictions: Vec::new(), error: Some(error.to_string()) },
        }
    });
    Ok(answers.collect())
}

/// Writes answers as text, or as a JSON list whose entries each have a line.
struct Writer<'a> {
    out: &'a mut dyn Write,
    json: bool,
    count: usize,
}

impl Writer<'_> {
    fn begin(&mut self) -> Outcome {
        if self.json {
            write!(self.out, "[")?;
        }
        Ok(())
    }

    fn answer(&mut self, answer: &Answer) -> Outcome {
        if let Some(error) = &answer.error {
            complain(error);
        }
        if self.json {
            let separator = if self.count == 0 { "" } else { ",\n" };
            write!(self.out, "{separator}{}", serde_json::to_string(answer)?)?;
        } else if answer.error.is_none() {
            writeln!(self.out, "{STRONG}{}{STRONG:#}", answer.path)?;
            for Prediction { label, probability, .. } in &answer.predictions {
                let faint = if *probability < 0.1 { FAINT } else { anstyle::Style::new() };
                writeln!(self.out, "  {faint}{:>6.2} %  {label}{faint:#}", 100.0 * probability)?;
            }
        }
        self.count += 1;
        self.out.flush()?;
        Ok(())
    }

    fn end(&mut self) -> Outcome {
        if self.json {
            writeln!(self.out, "]")?;
        }
        Ok(())
    }
}
