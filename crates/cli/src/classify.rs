//! `mobilenet classify`: the likeliest classes of images, in the order in which they are given.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use mobilenet::cpu::{CpuExecutor, CpuOptions};
use mobilenet::image::{DecodeLimits, decode_file};
use mobilenet::{Executor, Model, Tensor};
use mobilenet_train::data::{self, DataError, list_images};
use rayon::prelude::*;
use serde::Serialize;

use crate::failure::{Failure, MOST_THREADS, Outcome, complain, warn, within};
use crate::model_source;
use crate::style::{FAINT, STRONG};

/// Name what images show, with a trained model
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mobilenet classify --model runs/photos cat.jpg dog.png
  mobilenet classify --model runs/photos -k 1 holiday/     # a folder, with all below it
  mobilenet classify --model best.safetensors --json *.jpg

A file that is not an image is reported and the others go on; the exit status is then 1.")]
pub struct Flags {
    /// Model file, or the folder of a run (its best model)
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// Images, or folders of images
    #[arg(required = true, value_name = "IMAGE")]
    inputs: Vec<PathBuf>,
    /// How many classes to show for each image
    #[arg(short = 'k', long, value_name = "K", default_value_t = 5)]
    top_k: usize,
    /// Images that are classified at once
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,
    /// Threads that compute [default: one a core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

struct Settings {
    model: PathBuf,
    inputs: Vec<PathBuf>,
    top_k: usize,
    batch: usize,
    threads: Option<usize>,
}

impl Flags {
    fn settings(self) -> Outcome<Settings> {
        within("--top-k", self.top_k, 1_000_000)?;
        within("--batch", self.batch, 1024)?;
        within("--threads", self.threads.unwrap_or(1), MOST_THREADS)?;
        let Self { model, inputs, top_k, batch, threads } = self;
        Ok(Settings { model, inputs, top_k, batch, threads })
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

#[derive(Serialize)]
struct Prediction {
    class: usize,
    label: String,
    probability: f64,
}

/// Classifies, and prints each batch as it is done.
pub fn run(flags: Flags, json: bool, out: &mut dyn Write) -> Outcome {
    let settings = flags.settings()?;
    let model = model_source::open(&settings.model)?;
    let options = CpuOptions { threads: settings.threads, ..CpuOptions::default() };
    let mut executor = CpuExecutor::new(&model.architecture, &model.weights, &options)?;

    let mut files = Vec::new();
    let mut failed = 0;
    for input in &settings.inputs {
        if let Err(error) = list(input, &mut files) {
            complain(&error);
            failed += 1;
        }
    }
    let mut writer = Writer { out, json, count: 0 };
    writer.begin()?;
    for paths in files.chunks(settings.batch) {
        for answer in classify(&model, &mut executor, paths, settings.top_k)? {
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

/// The answers for some files; one that is not an image has an error as its answer.
fn classify(
    model: &Model,
    executor: &mut CpuExecutor,
    paths: &[PathBuf],
    top_k: usize,
) -> Outcome<Vec<Answer>> {
    let architecture = &model.architecture;
    let (resolution, channels) = (architecture.resolution, architecture.input_channels);
    let limits = DecodeLimits::default();
    let decoded: Vec<mobilenet::Result<Vec<f32>>> = paths
        .par_iter()
        .map(|path| {
            let image = decode_file(path, channels, &limits)?;
            let mut input = vec![0.0; resolution * resolution * channels];
            architecture.conventions.preprocessing.apply(&image, resolution, &mut input)?;
            Ok(input)
        })
        .collect();

    let good: Vec<f32> = decoded.iter().flatten().flatten().copied().collect();
    let count = decoded.iter().flatten().count();
    let logits = match count {
        0 => Tensor::default(),
        _ => executor.infer(&Tensor::new(&[count, resolution, resolution, channels], good)?)?,
    };
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

/// The `top_k` likeliest classes; a background class takes its probability but is no answer.
fn likeliest(model: &Model, logits: &[f32], top_k: usize) -> Vec<Prediction> {
    let background = usize::from(model.architecture.conventions.background_class);
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp: Vec<f64> = logits.iter().map(|&logit| f64::from(logit - largest).exp()).collect();
    let sum: f64 = exp.iter().sum();
    let mut outputs: Vec<usize> = (background..exp.len()).collect();
    outputs.sort_by(|&a, &b| exp[b].total_cmp(&exp[a]).then(a.cmp(&b)));
    let prediction = |output: usize| Prediction {
        class: output - background,
        label: model.label(output).unwrap_or_default().to_owned(),
        probability: exp[output] / sum,
    };
    outputs.into_iter().take(top_k).map(prediction).collect()
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

#[cfg(test)]
mod tests {
    use mobilenet::{Architecture, Preset};

    use super::*;

    fn model(preset: Preset) -> Model {
        let architecture = Architecture {
            width_multiplier: 0.25,
            classes: 3,
            conventions: preset.conventions(),
            ..Architecture::default()
        };
        Model::random(architecture, ["a", "b", "c"].map(String::from).to_vec(), 0).unwrap()
    }

    #[test]
    fn the_likeliest_come_first_and_ties_in_order() {
        let found = likeliest(&model(Preset::Reference), &[0.0, 2.0, 0.0], 2);
        let names: Vec<_> = found.iter().map(|p| (p.class, p.label.as_str())).collect();
        assert_eq!(names, [(1, "b"), (0, "a")]);
        let sum = 2.0 + 2f64.exp();
        assert!((found[0].probability - 2f64.exp() / sum).abs() < 1e-12);
        assert_eq!(likeliest(&model(Preset::Reference), &[1e30, -1e30, 0.0], 9).len(), 3);
    }

    #[test]
    fn a_background_class_takes_its_probability_but_is_no_answer() {
        let found = likeliest(&model(Preset::TfSlim), &[3.0, 1.0, 2.0, 0.0], 5);
        let names: Vec<_> = found.iter().map(|p| (p.class, p.label.as_str())).collect();
        assert_eq!(names, [(1, "b"), (0, "a"), (2, "c")]);
        assert!(found.iter().map(|p| p.probability).sum::<f64>() < 0.5);
    }
}
