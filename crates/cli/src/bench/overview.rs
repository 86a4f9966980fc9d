//! `mobilenet bench` alone: every body whole, and one layer by layer, against what the machine does
//! at most.

use std::io::Write;

use mobilenet::cost::Cost;
use mobilenet::{Architecture, Body};
use mobilenet_kernels::Isa;
use serde::Serialize;

use super::layers::{self, LayerTimes};
use super::measure::{self, Times, Work};
use super::roof::{Level, Roof};
use super::{Settings, What};
use crate::architecture_flags::describe;
use crate::failure::{Failure, Outcome};
use crate::progress::Bar;
use crate::style::{Align, FAINT, STRONG, Table, bytes, grouped, percent};

#[derive(Serialize)]
struct Json {
    isa: &'static str,
    precision: &'static str,
    threads: usize,
    peak_mult_adds_per_s: f64,
    /// For one thread and for all.
    roofs: Vec<Roof>,
    bodies: Vec<BodyTimes>,
    layers: Vec<LayerTimes>,
}

/// One body, whole.
#[derive(Serialize)]
struct BodyTimes {
    body: &'static str,
    mult_adds: u64,
    params: u64,
    infer: Measured,
    train: Measured,
}

/// Times, and how near they come to the peak.
#[derive(Serialize)]
struct Measured {
    batch: usize,
    /// Multiply-adds for an image, of a training step the backward pass included.
    mult_adds: u64,
    ms_median: f64,
    ms_min: f64,
    ms_p95: f64,
    ms_p99: f64,
    images_per_s: f64,
    runs_per_s: f64,
    peak_share: f64,
    peak_rss_mib: Option<u64>,
}

/// Measures and prints.
pub fn run(settings: &Settings, json: bool, out: &mut dyn Write) -> Outcome {
    let isa = Isa::from_environment().map_err(Failure::usage)?;
    let bar = Bar::new();
    let steps = 2 + 2 * Body::ALL.len() as u64;
    bar.set(0, steps, "bench".into(), "the machine's peak".into());
    let roof = Roof::measure(settings.precision, isa, settings.threads)?;
    let single = match settings.threads {
        1 => None,
        _ => Some(Roof::measure(settings.precision, isa, 1)?),
    };
    let mut bodies = Vec::new();
    for (n, body) in (0u64..).zip(Body::ALL) {
        let architecture = Architecture { body, ..settings.architecture.clone() };
        let cost = architecture.cost(1)?;
        let measure = |what: What, done: u64| {
            bar.set(done, steps, "bench".into(), format!("{} {}", what.name(), body.name()));
            measured(settings, what, &architecture, &cost, &roof)
        };
        bodies.push(BodyTimes {
            body: body.name(),
            mult_adds: cost.mult_adds(),
            params: cost.parameters(),
            infer: measure(What::Infer, 1 + 2 * n)?,
            train: measure(What::Train, 2 + 2 * n)?,
        });
    }
    bar.set(steps - 1, steps, "bench".into(), "layer by layer".into());
    let layers = layers::measure(settings, &settings.architecture, &roof)?;
    bar.clear();
    let found = Json {
        isa: isa.name(),
        precision: settings.precision.name(),
        threads: settings.threads,
        peak_mult_adds_per_s: roof.peak_mult_adds_per_s,
        roofs: single.into_iter().chain([roof]).collect(),
        bodies,
        layers,
    };
    if json { crate::json::write(out, &found) } else { text(out, settings, &found) }
}

fn measured(
    settings: &Settings,
    what: What,
    architecture: &Architecture,
    cost: &Cost,
    roof: &Roof,
) -> Outcome<Measured> {
    let batch = settings.batch(what);
    let counts = measure::reset_peak_rss();
    let mut work = Work::new(settings, what, architecture)?;
    let times = Times::measure(settings.seconds, || work.once())?;
    let mult_adds = if what == What::Train { cost.training_mult_adds() } else { cost.mult_adds() };
    let median = times.median();
    Ok(Measured {
        batch,
        mult_adds,
        ms_median: 1e3 * median,
        ms_min: 1e3 * times.fastest(),
        ms_p95: 1e3 * times.quantile(0.95),
        ms_p99: 1e3 * times.quantile(0.99),
        images_per_s: batch as f64 / median,
        runs_per_s: 1.0 / median,
        peak_share: (mult_adds * batch as u64) as f64 / median / roof.peak_mult_adds_per_s,
        peak_rss_mib: measure::peak_rss_mib().filter(|_| counts),
    })
}

/// What the machine does at most, a line a number of threads.
fn roofs(out: &mut dyn Write, found: &Json) -> Outcome {
    for roof in &found.roofs {
        let threads =
            if roof.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", roof.threads) };
        let read: Vec<_> = roof
            .read_bandwidth
            .iter()
            .map(|read| {
                let from = match read.level {
                    Level::L2 => "L2 caches",
                    Level::BeyondL2 => "beyond them",
                    Level::Memory => "memory",
                };
                format!("{:.1} GB/s from {from} ({})", 1e-9 * read.bytes_per_s, bytes(read.bytes as u64))
            })
            .collect();
        writeln!(
            out,
            "{threads}, {}: at most {:.1} billion multiply-adds a second ({:.1} GFLOP/s); reads {}",
            found.isa,
            1e-9 * roof.peak_mult_adds_per_s,
            2e-9 * roof.peak_mult_adds_per_s,
            read.join(", "),
        )?;
    }
    Ok(())
}

fn text(out: &mut dyn Write, settings: &Settings, found: &Json) -> Outcome {
    writeln!(out, "{STRONG}{}{STRONG:#}, {}\n", describe(&settings.architecture), found.precision)?;
    roofs(out, found)?;
    writeln!(out)?;
    let mut table = Table::new(&[
        ("body", Align::Left),
        ("", Align::Left),
        ("batch", Align::Right),
        ("mult-adds an image", Align::Right),
        ("ms", Align::Right),
        ("fastest", Align::Right),
        ("95 %", Align::Right),
        ("99 %", Align::Right),
        ("images/s", Align::Right),
        ("of the peak", Align::Right),
        ("MiB", Align::Right),
    ]);
    for body in &found.bodies {
        for (what, m) in [("infer", &body.infer), ("train", &body.train)] {
            table.row(vec![
                if what == "infer" { body.body.into() } else { String::new() },
                what.into(),
                m.batch.to_string(),
                grouped(m.mult_adds),
                format!("{:.2}", m.ms_median),
                format!("{:.2}", m.ms_min),
                format!("{:.2}", m.ms_p95),
                format!("{:.2}", m.ms_p99),
                format!("{:.1}", m.images_per_s),
                percent(m.peak_share),
                m.peak_rss_mib.map_or_else(String::new, grouped),
            ]);
        }
    }
    table.write(out)?;
    if let [separable, full, ..] = found.bodies.as_slice() {
        let ratio = |of: fn(&BodyTimes) -> f64| of(full) / of(separable);
        writeln!(
            out,
            "\n{FAINT}full against separable: {:.1} times the multiply-adds, {:.1} times the time to infer, \
             {:.1} times the time to train{FAINT:#}",
            ratio(|body| body.mult_adds as f64),
            ratio(|body| body.infer.ms_median),
            ratio(|body| body.train.ms_median),
        )?;
    }
    writeln!(out, "\nlayer by layer, the {} body:", settings.architecture.body.name())?;
    layers::text(out, settings, &found.layers)
}
