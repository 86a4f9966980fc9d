//! The reference body layer by layer: where the time goes, and how near each layer comes to its
//! roof.

use std::collections::HashMap;
use std::io::Write;

use mobilenet::Architecture;
use mobilenet::architecture::Operator;
use mobilenet::cost::{Cost, Effort};
use mobilenet::cpu::Pass;
use serde::Serialize;

use super::measure::{Times, Work, median};
use super::roof::{Bound, Footprint, Roof};
use super::{Settings, What};
use crate::failure::Outcome;
use crate::style::{Align, FAINT, STRONG, Table, bytes, grouped, percent};

/// One layer. Milliseconds are medians of a run of the whole batch.
#[derive(Serialize)]
pub struct LayerTimes {
    name: String,
    mult_adds: u64,
    infer_ms: Option<f64>,
    infer_peak_share: Option<f64>,
    forward_ms: Option<f64>,
    backward_ms: Option<f64>,
    train_peak_share: Option<f64>,
    infer: Option<PassTimes>,
    forward: Option<PassTimes>,
    backward: Option<PassTimes>,
}

/// One pass over a layer, and over those before it that were run together with it.
#[derive(Clone, Copy, Serialize)]
struct PassTimes {
    ms: f64,
    #[serde(flatten)]
    effort: Effort,
    gflops: f64,
    peak_share: f64,
    bytes_per_s: f64,
    bound: Bound,
    roof_ms: f64,
    roof_share: f64,
}

/// Measures every layer of `architecture`, in inference and in training.
pub fn measure(settings: &Settings, architecture: &Architecture, roof: &Roof) -> Outcome<Vec<LayerTimes>> {
    let value_bytes = super::value_bytes(settings.precision);
    let infer = times(settings, architecture, What::Infer)?;
    let train = times(settings, architecture, What::Train)?;
    let cost = architecture.cost(settings.batch(What::Infer))?;
    // Inference takes one image at a time through all layers while layers are timed.
    let in_flight = cost.batch as u64;
    let infer = passes(&cost, &cost.inference(value_bytes), in_flight, &infer, Pass::Infer, roof);
    let cost = architecture.cost(settings.batch(What::Train))?;
    let pass = |efforts: &[Effort], pass| passes(&cost, efforts, 1, &train, pass, roof);
    let forward = pass(&cost.forward(value_bytes), Pass::Forward);
    let backward = pass(&cost.backward(value_bytes), Pass::Backward);
    let mut layers = Vec::new();
    for cost in cost.layers.iter().filter(|cost| cost.mult_adds > 0) {
        let name = &cost.layer.name;
        let [infer, forward, backward] = [&infer, &forward, &backward].map(|of| of.get(name).copied());
        let both = forward.zip(backward).map(|(forward, backward)| {
            let mult_adds = forward.effort.mult_adds + backward.effort.mult_adds;
            mult_adds as f64 / (1e-3 * (forward.ms + backward.ms)) / roof.peak_mult_adds_per_s
        });
        layers.push(LayerTimes {
            name: name.clone(),
            mult_adds: cost.mult_adds,
            infer_ms: infer.map(|pass| pass.ms),
            infer_peak_share: infer.map(|pass| pass.peak_share),
            forward_ms: forward.map(|pass| pass.ms),
            backward_ms: backward.map(|pass| pass.ms),
            train_peak_share: both,
            infer,
            forward,
            backward,
        });
    }
    Ok(layers)
}

/// Median seconds of every pass over a layer that the executor timed.
fn times(
    settings: &Settings,
    architecture: &Architecture,
    what: What,
) -> Outcome<HashMap<(String, Pass), f64>> {
    let mut work = Work::new(settings, what, architecture)?;
    let mut found: HashMap<_, Vec<f64>> = HashMap::new();
    Times::measure(settings.seconds, || {
        work.executor.time_layers();
        work.once()?;
        for time in work.executor.layer_times() {
            found.entry((time.layer, time.pass)).or_default().push(time.seconds);
        }
        Ok(())
    })?;
    // The first run warms caches and takes memory.
    Ok(found.into_iter().map(|(key, seconds)| (key, median(&seconds[1..]))).collect())
}

/// What was measured of `pass`, by the layer's name. A layer that has no time of its own was run
/// together with the next that has one.
fn passes(
    cost: &Cost,
    efforts: &[Effort],
    in_flight: u64,
    times: &HashMap<(String, Pass), f64>,
    pass: Pass,
    roof: &Roof,
) -> HashMap<String, PassTimes> {
    let weights = efforts.iter().map(|effort| effort.weight_bytes).sum();
    let mut together: Option<Effort> = None;
    let mut found = HashMap::new();
    for (cost, effort) in cost.layers.iter().zip(efforts) {
        let name = &cost.layer.name;
        // Backward the later layer comes first.
        let effort = match (together, pass) {
            (None, _) => *effort,
            (Some(before), Pass::Backward) => effort.fused_with(&before),
            (Some(before), _) => before.fused_with(effort),
        };
        let Some(&seconds) = times.get(&(name.clone(), pass)) else {
            // Inference pools outside of what is timed; training does it with the classifier.
            let left_out = pass == Pass::Infer && cost.layer.operator == Operator::GlobalPool;
            together = Some(effort).filter(|_| !left_out);
            continue;
        };
        together = None;
        let footprint = Footprint { weights, activations: effort.activation_bytes() / in_flight };
        let (least, bound) = roof.of(&effort, footprint);
        let mult_adds_per_s = effort.mult_adds as f64 / seconds;
        let times = PassTimes {
            ms: 1e3 * seconds,
            effort,
            gflops: 2e-9 * mult_adds_per_s,
            peak_share: mult_adds_per_s / roof.peak_mult_adds_per_s,
            bytes_per_s: effort.bytes() as f64 / seconds,
            bound,
            roof_ms: 1e3 * least,
            roof_share: least / seconds,
        };
        found.insert(name.clone(), times);
    }
    found
}

/// One of a layer's passes.
type OfLayer = fn(&LayerTimes) -> Option<PassTimes>;

/// Writes a table a pass.
pub fn text(out: &mut dyn Write, settings: &Settings, layers: &[LayerTimes]) -> Outcome {
    let (infer, train) = (settings.batch(What::Infer), settings.batch(What::Train));
    let tables: [(String, OfLayer); 3] = [
        (format!("inference, batch {infer}"), |layer| layer.infer),
        (format!("training, batch {train}, forward"), |layer| layer.forward),
        (format!("training, batch {train}, backward"), |layer| layer.backward),
    ];
    for (title, of) in tables {
        writeln!(out, "\n{STRONG}{title}{STRONG:#}\n")?;
        table(layers, of).write(out)?;
    }
    writeln!(
        out,
        "\n{FAINT}A layer without a time runs inside the next one below it, and is counted there. A multiply-add is two \
         operations.\nBytes: inputs read, outputs written and weights passed once, whatever the caches do. \
         Bound: what takes longest\nat the measured speeds, computing or moving (and from where); \
         of the roof: the least time for that, against the time.{FAINT:#}"
    )?;
    Ok(())
}

fn table(layers: &[LayerTimes], of: OfLayer) -> Table {
    let mut table = Table::new(&[
        ("layer", Align::Left),
        ("mult-adds", Align::Right),
        ("ms", Align::Right),
        ("GFLOP/s", Align::Right),
        ("of the peak", Align::Right),
        ("moved", Align::Right),
        ("GB/s", Align::Right),
        ("bound", Align::Left),
        ("of the roof", Align::Right),
    ]);
    let mut total = (0, 0.0, 0, 0.0);
    for layer in layers {
        let Some(pass) = of(layer) else {
            table.row(vec![layer.name.clone()]);
            continue;
        };
        table.row(vec![
            layer.name.clone(),
            grouped(pass.effort.mult_adds),
            format!("{:.3}", pass.ms),
            format!("{:.1}", pass.gflops),
            percent(pass.peak_share),
            bytes(pass.effort.bytes()),
            format!("{:.1}", 1e-9 * pass.bytes_per_s),
            pass.bound.name().into(),
            percent(pass.roof_share),
        ]);
        total.0 += pass.effort.mult_adds;
        total.1 += pass.ms;
        total.2 += pass.effort.bytes();
        total.3 += pass.roof_ms;
    }
    let (mult_adds, ms, moved, roof_ms) = total;
    table.total(vec![
        "total".into(),
        grouped(mult_adds),
        format!("{ms:.3}"),
        format!("{:.1}", 2e-6 * mult_adds as f64 / ms),
        String::new(),
        bytes(moved),
        format!("{:.1}", 1e-6 * moved as f64 / ms),
        String::new(),
        percent(roof_ms / ms),
    ]);
    table
}
