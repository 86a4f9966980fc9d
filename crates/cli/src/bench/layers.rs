//! The reference body layer by layer: where the time goes, and how near each layer comes to the
//! peak.

use std::io::Write;

use mobilenet::Architecture;
use mobilenet::architecture::Operator;
use mobilenet::cpu::{LayerTime, Pass};
use serde::Serialize;

use super::measure::{Times, Work};
use super::{Settings, What};
use crate::failure::Outcome;
use crate::style::{Align, FAINT, Table, grouped, percent};

/// One layer. Milliseconds are means of a run of the whole batch.
#[derive(Serialize)]
pub struct LayerTimes {
    name: String,
    mult_adds: u64,
    infer_ms: Option<f64>,
    infer_peak_share: Option<f64>,
    forward_ms: Option<f64>,
    backward_ms: Option<f64>,
    train_peak_share: Option<f64>,
}

/// Measures every layer of `architecture`, in inference and in training.
pub fn measure(settings: &Settings, architecture: &Architecture, peak: f64) -> Outcome<Vec<LayerTimes>> {
    let infer = times(settings, architecture, What::Infer)?;
    let train = times(settings, architecture, What::Train)?;
    let cost = architecture.cost(1)?;
    let mut before = 0;
    let mut layers = Vec::new();
    for cost in &cost.layers {
        if cost.layer.operator == Operator::GlobalPool {
            continue;
        }
        let name = &cost.layer.name;
        let of = |times: &[LayerTime], pass: Pass| {
            times.iter().find(|time| time.pass == pass && time.layer == *name).map(|time| time.seconds)
        };
        let share = |what: What, mult_adds: u64, seconds: Option<f64>| {
            let whole = mult_adds as f64 * settings.batch(what) as f64;
            seconds.map(|seconds| whole / seconds / peak)
        };
        let (inferred, forward, backward) =
            (of(&infer, Pass::Infer), of(&train, Pass::Forward), of(&train, Pass::Backward));
        let both = forward.zip(backward).map(|(forward, backward)| forward + backward);
        layers.push(LayerTimes {
            name: name.clone(),
            mult_adds: cost.mult_adds,
            infer_ms: inferred.map(|seconds| 1e3 * seconds),
            // A depthwise layer is computed inside the pointwise one behind it.
            infer_peak_share: share(What::Infer, before + cost.mult_adds, inferred),
            forward_ms: forward.map(|seconds| 1e3 * seconds),
            backward_ms: backward.map(|seconds| 1e3 * seconds),
            train_peak_share: share(What::Train, super::overview::TRAINING_FACTOR * cost.mult_adds, both),
        });
        before = if inferred.is_none() { cost.mult_adds } else { 0 };
    }
    Ok(layers)
}

/// Seconds of each layer in a run.
fn times(settings: &Settings, architecture: &Architecture, what: What) -> Outcome<Vec<LayerTime>> {
    let mut work = Work::new(what, architecture, settings.threads, settings.batch(what))?;
    // Warm.
    work.once()?;
    work.executor.time_layers();
    let mut runs = 0;
    Times::measure(settings.seconds, || {
        runs += 1;
        work.once()
    })?;
    let mut times = work.executor.layer_times();
    times.iter_mut().for_each(|time| time.seconds /= f64::from(runs));
    Ok(times)
}

/// Writes the table.
pub fn text(out: &mut dyn Write, layers: &[LayerTimes]) -> Outcome {
    let mut table = Table::new(&[
        ("layer", Align::Left),
        ("mult-adds", Align::Right),
        ("infer ms", Align::Right),
        ("of the peak", Align::Right),
        ("forward ms", Align::Right),
        ("backward ms", Align::Right),
        ("of the peak", Align::Right),
    ]);
    let ms = |value: Option<f64>| value.map_or_else(String::new, |ms| format!("{ms:.3}"));
    let share = |value: Option<f64>| value.map_or_else(String::new, percent);
    for layer in layers {
        table.row(vec![
            layer.name.clone(),
            grouped(layer.mult_adds),
            ms(layer.infer_ms),
            share(layer.infer_peak_share),
            ms(layer.forward_ms),
            ms(layer.backward_ms),
            share(layer.train_peak_share),
        ]);
    }
    let sum = |of: fn(&LayerTimes) -> Option<f64>| Some(layers.iter().filter_map(of).sum::<f64>());
    table.total(vec![
        "total".into(),
        grouped(layers.iter().map(|layer| layer.mult_adds).sum()),
        ms(sum(|layer| layer.infer_ms)),
        String::new(),
        ms(sum(|layer| layer.forward_ms)),
        ms(sum(|layer| layer.backward_ms)),
        String::new(),
    ]);
    table.write(out)?;
    writeln!(
        out,
        "{FAINT}(inference computes a depthwise layer inside the pointwise one behind it){FAINT:#}"
    )?;
    Ok(())
}
