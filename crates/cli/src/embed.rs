//! `mobilenet embed`: the features of images, to search, cluster or learn from.

mod parquet;
mod table;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use mobilenet::classifier::input;
use mobilenet::cpu::{CpuExecutor, CpuOptions, Precision};
use mobilenet::image::{DecodeLimits, decode_file};
use mobilenet::{Executor, Model, Tensor, atomic_file};
use rayon::prelude::*;
use serde::Serialize;

use self::table::{Format, Table};
use crate::classify::list;
use crate::failure::{Failure, MOST_THREADS, Outcome, complain, warn, within};
use crate::model_source;
use crate::progress::Bar;
use crate::style::{STRONG, grouped};

/// Write the features of images: what the network knows of them before it names them
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mobilenet embed photos -o features.npy            # the paths go to features.txt
  mobilenet embed a.jpg b.jpg -o features.csv
  mobilenet embed --model runs/photos holiday/ -o features.parquet

One row an image, in the order in which they are given, with as many numbers as the classifier reads
(1024 at width 1). A file that is not an image is reported and left out; the exit status is then 1.")]
pub struct Flags {
    /// Images, or folders of images
    #[arg(required = true, value_name = "PATH")]
    inputs: Vec<PathBuf>,
    /// The file to write: .npy, .csv, .parquet or .jsonl
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Format of the file [default: what its name ends in]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Model file of any format that import reads, or the folder of a run (its best model)
    /// [default: the embedded ImageNet model]
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Images that are computed at once
    #[arg(long, value_name = "N", default_value_t = 16)]
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
    output: PathBuf,
    format: Format,
    batch: usize,
    precision: Precision,
    threads: Option<usize>,
}

impl Flags {
    fn settings(self) -> Outcome<Settings> {
        within("--batch", self.batch, 1024)?;
        within("--threads", self.threads.unwrap_or(1), MOST_THREADS)?;
        let Some(format) = self.format.or_else(|| Format::of(&self.output)) else {
            return Err(Failure::usage(format!(
                "--output: found {}, expected a name that ends in .npy, .csv, .parquet or .jsonl; or give --format",
                self.output.display()
            )));
        };
        if format == Format::Npy && paths_beside(&self.output) == self.output {
            return Err(Failure::usage(format!(
                "--output: the paths of an array go to {}; give the array another name",
                self.output.display()
            )));
        }
        let Self { inputs, output, model, batch, precision, threads, .. } = self;
        Ok(Settings { model, inputs, output, format, batch, precision, threads })
    }
}

/// Where the paths of an array go, a line each.
fn paths_beside(array: &Path) -> PathBuf {
    array.with_extension("txt")
}

#[derive(Serialize)]
struct Answer {
    output: String,
    format: Format,
    /// The file with the paths, where the format cannot hold them.
    paths: Option<String>,
    count: usize,
    features: usize,
    failed: Vec<Problem>,
}

/// A file or folder that was left out.
#[derive(Serialize)]
struct Problem {
    path: String,
    error: String,
}

/// What became of the images so far.
#[derive(Default)]
struct Progress {
    /// Of the rows, in their order; kept only where the format has no place for them.
    paths: Vec<String>,
    count: usize,
    failed: Vec<Problem>,
}

/// Computes batch by batch and writes each as it is done.
pub fn run(flags: Flags, json: bool, out: &mut dyn Write) -> Outcome {
    let settings = flags.settings()?;
    let model = model_source::open_or_embedded(settings.model.as_deref())?;
    let options =
        CpuOptions { threads: settings.threads, precision: settings.precision, ..CpuOptions::default() };
    let mut executor = CpuExecutor::new(&model.architecture, &model.weights, &options)?;
    let features = features_of(&model);

    let mut files = Vec::new();
    let mut progress = Progress::default();
    let bar = Bar::new();
    for input in &settings.inputs {
        if let Err(error) = list(input, &mut files) {
            progress.fail(&bar, input, error.to_string());
        }
    }
    let total = files.len() + progress.failed.len();
    // The file's errors are the writer's; what else ends the work comes out here.
    let mut failure = None;
    let written = atomic_file::write_seek(&settings.output, |file| {
        let mut table = Table::begin(settings.format, file, features)?;
        for paths in files.chunks(settings.batch) {
            let done = progress.count + progress.failed.len();
            bar.set(done as u64, total as u64, "features".into(), format!("{done} of {total}"));
            let rows = match embed(&model, &mut executor, paths) {
                Ok(rows) => rows,
                Err(error) => {
                    failure = Some(error);
                    return Err(io::Error::other("the features cannot be computed"));
                }
            };
            for (path, row) in paths.iter().zip(rows) {
                match row {
                    Ok(row) => progress.add(&mut table, settings.format, &bar, path, &row)?,
                    Err(error) => progress.fail(&bar, path, error.to_string()),
                }
            }
        }
        if progress.count == 0 {
            failure = Some(Failure::failed("no image is left; nothing was written"));
            return Err(io::Error::other("no rows"));
        }
        table.finish()
    });
    bar.clear();
    if let Some(failure) = failure {
        return Err(failure);
    }
    written?;

    let mut beside = None;
    if settings.format == Format::Npy {
        let path = paths_beside(&settings.output);
        let text: String = progress.paths.iter().flat_map(|path| [path, "\n"]).collect();
        atomic_file::write(&path, |file| file.write_all(text.as_bytes()))?;
        beside = Some(path.display().to_string());
    }
    let answer = Answer {
        output: settings.output.display().to_string(),
        format: settings.format,
        paths: beside,
        count: progress.count,
        features,
        failed: progress.failed,
    };
    if json {
        crate::json::write(out, &answer)?;
    } else {
        let images = if answer.count == 1 { "image" } else { "images" };
        let count = grouped(answer.count as u64);
        writeln!(out, "{STRONG}{}{STRONG:#}: {features} features of {count} {images}", answer.output)?;
        if let Some(paths) = &answer.paths {
            writeln!(out, "{paths}: their paths, in the same order")?;
        }
    }
    if !answer.failed.is_empty() {
        warn(format!("{} of {total} left out", answer.failed.len()));
        return Err(Failure::Incomplete);
    }
    Ok(())
}

impl Progress {
    fn add(
        &mut self,
        table: &mut Table,
        format: Format,
        bar: &Bar,
        path: &Path,
        row: &[f32],
    ) -> io::Result<()> {
        let name = path.display().to_string();
        if format == Format::Npy {
            if name.contains(['\n', '\r']) {
                let problem = "its name has a line break, which a list of paths cannot hold; rename it, or write another format";
                self.fail(bar, path, problem.into());
                return Ok(());
            }
            self.paths.push(name.clone());
        }
        self.count += 1;
        table.row(&name, row)
    }

    fn fail(&mut self, bar: &Bar, path: &Path, error: String) {
        let path = path.display().to_string();
        bar.aside(|| match error.contains(&path) {
            true => complain(&error),
            false => complain(format!("{path}: {error}")),
        });
        self.failed.push(Problem { path, error });
    }
}

/// How many numbers the classifier reads.
fn features_of(model: &Model) -> usize {
    let weight = model.weights.get("classifier.weight");
    weight.and_then(|weight| weight.shape().last().copied()).unwrap_or_default()
}

/// The features of some files; for one that is not an image the error.
fn embed(
    model: &Model,
    executor: &mut CpuExecutor,
    paths: &[PathBuf],
) -> Outcome<Vec<mobilenet::Result<Vec<f32>>>> {
    let architecture = &model.architecture;
    let (resolution, channels) = (architecture.resolution, architecture.input_channels);
    let limits = DecodeLimits::default();
    let decoded: Vec<mobilenet::Result<Vec<f32>>> = paths
        .par_iter()
        .map(|path| {
            let image = decode_file(path, channels, &limits)?;
            input(&model.architecture, &image)
        })
        .collect();
    let good: Vec<f32> = decoded.iter().flatten().flatten().copied().collect();
    let count = decoded.iter().flatten().count();
    let features = match count {
        0 => Tensor::default(),
        _ => executor.features(&Tensor::new(&[count, resolution, resolution, channels], good)?)?,
    };
    let mut rows = features.rows();
    let next = |input: mobilenet::Result<Vec<f32>>| input.map(|_| rows.next().unwrap_or_default().to_vec());
    Ok(decoded.into_iter().map(next).collect())
}
