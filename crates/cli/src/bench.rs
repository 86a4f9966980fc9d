//! `mobilenet bench`: how fast this machine runs the network, and how fast it could.

mod layers;
mod measure;
mod overview;
mod roof;

use std::io::Write;

use clap::{Args, ValueEnum};
use mobilenet::Architecture;
use mobilenet::cpu::Precision;
use serde::Serialize;

use crate::architecture_flags::{ArchitectureFlags, describe};
use crate::failure::{Failure, MOST_THREADS, Outcome, within};
use crate::style::{STRONG, grouped};
use measure::{Times, Work};

/// Time inference and training steps on this machine
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mobilenet bench                                   # everything, and every layer
  mobilenet bench infer --batch 1 --threads 2
  mobilenet bench train --batch 32 --seconds 10 --json
  mobilenet bench infer --width 0.25 --resolution 128 --json
  mobilenet bench infer --batch 32 --precision bf16
  mobilenet bench infer --pixels                    # from 8-bit pixels, not from normalised values
  mobilenet bench train --precision bf16

Without `infer` or `train`: both, for each body, and layer by layer for the body given, against the
machine's own peak and bandwidth.
MOBILENET_ISA in the environment forces an instruction set (portable, avx2, neon, …).")]
pub struct Flags {
    /// What to time alone
    what: Option<What>,
    /// Threads that compute [default: one a core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Images at once [default: 1 for infer, 32 for train]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Number format of feature maps and of the weights of products: f32 or bf16
    #[arg(long, value_name = "FORMAT", default_value = "f32")]
    precision: Precision,
    /// Infer from 8-bit pixels, which the first convolution normalises as it reads them
    #[arg(long)]
    pixels: bool,
    /// How long to measure each thing, after warming up
    #[arg(long, value_name = "SECONDS", default_value_t = 4.0, allow_negative_numbers = true)]
    seconds: f64,
    #[command(flatten)]
    architecture: ArchitectureFlags,
}

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// The forward pass, from normalised values (or 8-bit pixels, see --pixels) to logits
    Infer,
    /// Forward, loss, backward and a step of SGD with momentum and weight decay
    Train,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            Self::Infer => "infer",
            Self::Train => "train",
        }
    }
}

/// Bytes of a value in memory.
fn value_bytes(precision: Precision) -> usize {
    match precision {
        Precision::F32 => 4,
        Precision::Bf16 => 2,
    }
}

/// What to measure, checked.
struct Settings {
    what: Option<What>,
    architecture: Architecture,
    threads: usize,
    batch: Option<usize>,
    precision: Precision,
    pixels: bool,
    seconds: f64,
}

impl Flags {
    fn settings(self) -> Outcome<Settings> {
        let threads = self.threads.unwrap_or_else(cores);
        within("--threads", threads, MOST_THREADS)?;
        within("--batch", self.batch.unwrap_or(1), 65_536)?;
        if !(self.seconds > 0.0 && self.seconds <= 3600.0) {
            let found = self.seconds;
            return Err(Failure::usage(format!(
                "--seconds: found {found}, expected above 0 and at most 3600"
            )));
        }
        let architecture = self.architecture.architecture()?;
        let Self { what, batch, precision, pixels, seconds, .. } = self;
        if pixels && what != Some(What::Infer) {
            return Err(Failure::usage("--pixels: only with `infer`, which can begin at 8-bit pixels"));
        }
        Ok(Settings { what, architecture, threads, batch, precision, pixels, seconds })
    }
}

impl Settings {
    fn batch(&self, what: What) -> usize {
        self.batch.unwrap_or(if what == What::Infer { 1 } else { 32 })
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Measures and prints.
pub fn run(flags: Flags, json: bool, out: &mut dyn Write) -> Outcome {
    let settings = flags.settings()?;
    let Some(what) = settings.what else { return overview::run(&settings, json, out) };
    let batch = settings.batch(what);
    let mut work = Work::new(&settings, what, &settings.architecture)?;
    let times = Times::measure(settings.seconds, || work.once())?;
    let found = Json::new(&settings, what, batch, &times);
    if json { crate::json::write(out, &found) } else { text(out, &settings.architecture, &found) }
}

fn text(out: &mut dyn Write, architecture: &Architecture, found: &Json) -> Outcome {
    let Json { what, precision, threads, batch, ms_median, ms_min, ms_p95, ms_p99, runs, .. } = found;
    let threads = if *threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
    writeln!(out, "{} {}, {precision}, batch {batch}, {threads}", what.name(), describe(architecture))?;
    writeln!(
        out,
        "{STRONG}{ms_median:.2} ms{STRONG:#}  median of {} runs; the fastest {ms_min:.2} ms; \
         95 % within {ms_p95:.2} ms, 99 % within {ms_p99:.2} ms",
        grouped(*runs as u64)
    )?;
    write!(out, "{STRONG}{:.1} images/s{STRONG:#}", found.images_per_s)?;
    match what {
        What::Infer => writeln!(out)?,
        What::Train => writeln!(out, ", {:.2} steps/s", found.runs_per_s)?,
    }
    if let Some(peak) = found.peak_rss_mib {
        writeln!(out, "{peak} MiB of memory at most")?;
    }
    Ok(())
}

/// One measurement, with the keys by which engines are compared.
#[derive(Serialize)]
struct Json {
    what: What,
    engine: &'static str,
    precision: &'static str,
    pixels: bool,
    threads: usize,
    batch: usize,
    width: f64,
    resolution: usize,
    ms_median: f64,
    ms_min: f64,
    ms_p95: f64,
    ms_p99: f64,
    images_per_s: f64,
    runs_per_s: f64,
    runs: usize,
    peak_rss_mib: Option<u64>,
}

impl Json {
    fn new(settings: &Settings, what: What, batch: usize, times: &Times) -> Self {
        let rounded = |value: f64, digits: i32| (value * 10f64.powi(digits)).round() / 10f64.powi(digits);
        Self {
            what,
            engine: "mobilenet",
            precision: settings.precision.name(),
            pixels: settings.pixels,
            threads: settings.threads,
            batch,
            width: settings.architecture.width_multiplier,
            resolution: settings.architecture.resolution,
            ms_median: rounded(1e3 * times.median(), 3),
            ms_min: rounded(1e3 * times.fastest(), 3),
            ms_p95: rounded(1e3 * times.quantile(0.95), 3),
            ms_p99: rounded(1e3 * times.quantile(0.99), 3),
            images_per_s: rounded(batch as f64 / times.median(), 2),
            runs_per_s: rounded(1.0 / times.median(), 3),
            runs: times.runs(),
            peak_rss_mib: measure::peak_rss_mib(),
        }
    }
}
