//! `mobilenet bench` alone: every body whole, and one layer by layer, against what the machine can
//! do at most.

use std::io::Write;
use std::time::Duration;

use mobilenet::cost::Cost;
use mobilenet::{Architecture, Body};
use mobilenet_kernels::parallel::Pool;
use mobilenet_kernels::{Isa, peak};
use serde::Serialize;

use super::layers::{self, LayerTimes};
use super::measure::{Times, Work};
use super::{Settings, What};
use crate::architecture_flags::describe;
use crate::failure::{Failure, Outcome};
use crate::progress::Bar;
use crate::style::{Align, FAINT, STRONG, Table, grouped, percent};

/// A training step does the forward pass's multiply-adds three times: forward, and for the
/// gradients of inputs and of weights.
pub const TRAINING_FACTOR: u64 = 3;

#[derive(Serialize)]
struct Json {
    isa: &'static str,
    threads: usize,
    peak_mult_adds_per_s: f64,
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

/// A time, and how near it comes to the peak.
#[derive(Serialize)]
struct Measured {
    batch: usize,
    ms_median: f64,
    ms_min: f64,
    images_per_s: f64,
    peak_share: f64,
}

/// Measures and prints.
pub fn run(settings: &Settings, json: bool, out: &mut dyn Write) -> Outcome {
    let isa = Isa::from_environment().map_err(Failure::usage)?;
    let bar = Bar::new();
    let steps = 2 + 2 * Body::ALL.len() as u64;
    bar.set(0, steps, "bench".into(), "the machine's peak".into());
    let peak = {
        let pool = Pool::new(settings.threads)?;
        peak::multiply_adds_per_second(isa, &pool, Duration::from_millis(500))
    };
    let mut bodies = Vec::new();
    for (n, body) in (0u64..).zip(Body::ALL) {
        let architecture = Architecture { body, ..settings.architecture.clone() };
        let cost = architecture.cost(1)?;
        let measure = |what: What, done: u64| {
            bar.set(done, steps, "bench".into(), format!("{} {}", what.name(), body.name()));
            measured(settings, what, &architecture, &cost, peak)
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
    let layers = layers::measure(settings, &settings.architecture, peak)?;
    bar.clear();
    let (isa, threads) = (isa.name(), settings.threads);
    let found = Json { isa, threads, peak_mult_adds_per_s: peak, bodies, layers };
    if json { crate::json::write(out, &found) } else { text(out, settings, &found) }
}

fn measured(
    settings: &Settings,
    what: What,
    architecture: &Architecture,
    cost: &Cost,
    peak: f64,
) -> Outcome<Measured> {
    let batch = settings.batch(what);
    let mut work = Work::new(what, architecture, settings.threads, batch)?;
    let times = Times::measure(settings.seconds, || work.once())?;
    let factor = if what == What::Train { TRAINING_FACTOR } else { 1 };
    let mult_adds = (factor * cost.mult_adds()) as f64 * batch as f64;
    Ok(Measured {
        batch,
        ms_median: 1e3 * times.median(),
        ms_min: 1e3 * times.fastest(),
        images_per_s: batch as f64 / times.median(),
        peak_share: mult_adds / times.median() / peak,
    })
}

fn text(out: &mut dyn Write, settings: &Settings, found: &Json) -> Outcome {
    let threads =
        if found.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", found.threads) };
    writeln!(out, "{STRONG}{}{STRONG:#}, f32", describe(&settings.architecture))?;
    writeln!(
        out,
        "{threads}, {}: at most {:.1} billion multiply-adds a second\n",
        found.isa,
        found.peak_mult_adds_per_s / 1e9
    )?;
    let mut table = Table::new(&[
        ("body", Align::Left),
        ("", Align::Left),
        ("batch", Align::Right),
        ("mult-adds an image", Align::Right),
        ("ms", Align::Right),
        ("fastest", Align::Right),
        ("images/s", Align::Right),
        ("of the peak", Align::Right),
    ]);
    for body in &found.bodies {
        for (what, m, factor) in [("infer", &body.infer, 1), ("train", &body.train, TRAINING_FACTOR)] {
            table.row(vec![
                if what == "infer" { body.body.into() } else { String::new() },
                what.into(),
                m.batch.to_string(),
                grouped(factor * body.mult_adds),
                format!("{:.2}", m.ms_median),
                format!("{:.2}", m.ms_min),
                format!("{:.1}", m.images_per_s),
                percent(m.peak_share),
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
    writeln!(out, "\nlayer by layer, the {} body:\n", settings.architecture.body.name())?;
    layers::text(out, &found.layers)
}
