//! `mobilenet evaluate`: how well a model tells images apart.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use mobilenet::Model;
use mobilenet::cpu::{CpuExecutor, CpuOptions, Precision};
use mobilenet_train::data::{self, DataOptions, Loader, LoaderOptions, Opened, Splits};
use mobilenet_train::evaluation::{ClassScore, EvaluationOptions, evaluate};
use mobilenet_train::{Evaluation, Recipe};
use serde::Serialize;

use crate::failure::{Failure, MOST_THREADS, Outcome, within};
use crate::model_source;
use crate::progress::Bar;
use crate::style::{FAINT, grouped};
use crate::train::{JsonSkipped, json_skipped, tell_skipped};

/// Measure how well a model tells images apart: accuracy, classes, confusions
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mobilenet evaluate --model runs/photos                      # on what the run held out
  mobilenet evaluate --model runs/photos --data other-photos  # on all images of a folder
  mobilenet evaluate --model best.safetensors --data photos --json")]
pub struct Flags {
    /// Model file, or the folder of a run (its best model)
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// Images to evaluate on, as `train` takes them; where they have a held-out part of their own,
    /// that part [default: what the run held out]
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Images a batch
    #[arg(long, value_name = "N", default_value_t = 32)]
    batch_size: usize,
    /// Evaluate each image together with its mirror image
    #[arg(long)]
    tta: bool,
    /// Fail on a file that is not an image, instead of skipping and listing it
    #[arg(long)]
    strict: bool,
    /// Number format of weights and activations while computing: f32 or bf16
    #[arg(long, value_name = "FORMAT", default_value = "f32")]
    precision: Precision,
    /// Threads that compute [default: one a core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Threads that decode [default: one a core]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
}

/// Which images.
enum Images {
    /// What a run held out, by its recipe.
    HeldOut(Box<Recipe>),
    /// What somebody named.
    Given(DataOptions),
}

struct Settings {
    model: PathBuf,
    images: Images,
    strict: bool,
    batch_size: usize,
    tta: bool,
    precision: Precision,
    threads: Option<usize>,
    workers: Option<usize>,
}

impl Flags {
    fn settings(self) -> Outcome<Settings> {
        within("--batch-size", self.batch_size, 65_536)?;
        within("--threads", self.threads.unwrap_or(1), MOST_THREADS)?;
        within("--workers", self.workers.unwrap_or(1), MOST_THREADS)?;
        let Self { model, data, batch_size, tta, strict, precision, threads, workers } = self;
        let images = match (data, recipe_beside(&model)) {
            (Some(data), _) => {
                Images::Given(DataOptions { data: Some(data), strict, ..DataOptions::default() })
            }
            (None, Some(recipe)) => Images::HeldOut(Box::new(Recipe::load(&recipe)?)),
            (None, None) => {
                model_source::open(&model)?;
                return Err(Failure::usage(format!(
                    "{}: no recipe beside it tells on which images to evaluate; give --data",
                    model.display()
                )));
            }
        };
        let tta = tta || matches!(&images, Images::HeldOut(recipe) if recipe.tta == Some(true));
        Ok(Settings { model, images, strict, batch_size, tta, precision, threads, workers })
    }
}

/// The recipe in the run folder that `model` is, or lies in.
fn recipe_beside(model: &Path) -> Option<PathBuf> {
    let folder = if model.is_dir() { model } else { model.parent()? };
    Some(folder.join("recipe.toml")).filter(|recipe| recipe.is_file())
}

/// Opens the images, with the model's classes.
fn open(settings: &Settings, model: &Model) -> Outcome<Opened> {
    let recipe = match &settings.images {
        Images::Given(options) => return Ok(data::open_for_evaluation(options, &model.labels)?),
        Images::HeldOut(recipe) => recipe,
    };
    let options = recipe.data_options();
    let strict = settings.strict || options.strict;
    let splits = data::open(&DataOptions { strict, ..options })?;
    if splits.held_out.classes() != model.labels {
        model.class_indices(splits.held_out.classes())?;
        return Err(Failure::failed(format!(
            "the data of the run have changed since: {} classes, and the model has {}; give --data",
            splits.held_out.classes().len(),
            model.labels.len()
        )));
    }
    let Splits { held_out: dataset, skipped, description, .. } = splits;
    Ok(Opened { dataset, skipped, description })
}

/// Evaluates and prints.
pub fn run(flags: Flags, json: bool, out: &mut dyn Write) -> Outcome {
    let settings = flags.settings()?;
    let model = model_source::open(&settings.model)?;
    let opened = open(&settings, &model)?;
    tell_skipped(&opened.skipped);
    let options =
        CpuOptions { threads: settings.threads, precision: settings.precision, ..CpuOptions::default() };
    let mut executor = CpuExecutor::new(&model.architecture, &model.weights, &options)?;
    let loader = Loader::new(
        Arc::clone(&opened.dataset),
        LoaderOptions {
            workers: settings.workers.unwrap_or(0),
            // Each image is wanted once.
            cache_bytes: 0,
            strict: settings.strict,
            ..LoaderOptions::new(&model.architecture, settings.batch_size)
        },
    )?;

    let bar = Bar::new();
    let options = EvaluationOptions { mirror: settings.tta, ..EvaluationOptions::default() };
    let evaluation = evaluate(&mut executor, &loader, &model.labels, &options, &mut |done, total| {
        let after = format!("{} of {} images", grouped(done as u64), grouped(total as u64));
        bar.set(done as u64, total as u64, "evaluating".into(), after);
    });
    bar.clear();
    let evaluation = evaluation?;
    if json {
        return crate::json::write(out, &Json::new(&settings, &opened, &evaluation));
    }
    writeln!(out, "{FAINT}model{FAINT:#}  {}", settings.model.display())?;
    writeln!(out, "{FAINT}data {FAINT:#}  {}\n", opened.description)?;
    crate::evaluation_text::write(out, &evaluation)?;
    Ok(())
}

#[derive(Serialize)]
struct Json<'a> {
    top1: f64,
    top5: f64,
    loss: f64,
    count: usize,
    seconds: f64,
    model: String,
    data: &'a str,
    classes: &'a [ClassScore],
    confusion: &'a [Vec<u32>],
    mistakes: Vec<JsonMistake<'a>>,
    skipped: Vec<JsonSkipped<'a>>,
}

#[derive(Serialize)]
struct JsonMistake<'a> {
    path: String,
    label: &'a str,
    predicted: &'a str,
    probability: f64,
    label_probability: f64,
}

impl<'a> Json<'a> {
    fn new(settings: &Settings, opened: &'a Opened, e: &'a Evaluation) -> Self {
        let images = &opened.dataset;
        let name = |class: usize| images.classes().get(class).map_or("", String::as_str);
        let mistakes = e.mistakes.iter().map(|m| JsonMistake {
            path: images.name(m.index),
            label: name(m.label),
            predicted: name(m.predicted),
            probability: m.probability,
            label_probability: m.label_probability,
        });
        Self {
            top1: e.top1,
            top5: e.top5,
            loss: e.loss,
            count: e.count,
            seconds: e.seconds,
            model: settings.model.display().to_string(),
            data: &opened.description,
            classes: &e.classes,
            confusion: &e.confusion,
            mistakes: mistakes.collect(),
            skipped: json_skipped(&opened.skipped),
        }
    }
}
