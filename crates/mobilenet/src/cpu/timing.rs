//! How long each layer takes, for whoever measures the executor.

use std::time::Instant;

use super::CpuExecutor;

/// The name of the last layer.
pub(super) const CLASSIFIER: &str = "classifier";

/// Which way a layer was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// In inference; a depthwise layer is computed inside the pointwise one behind it, under whose
    /// name both are counted.
    Infer,
    /// Forward in training mode.
    Forward,
    /// Backward.
    Backward,
}

/// The time of one layer in one pass, over all calls while it was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerTime {
    /// The layer's name.
    pub layer: String,
    /// The pass.
    pub pass: Pass,
    /// Seconds in all.
    pub seconds: f64,
}

/// Collects the times of layers while it is on; off, it costs nothing.
#[derive(Debug, Default)]
pub(super) struct Timing {
    times: Option<Vec<LayerTime>>,
}

impl Timing {
    pub fn is_on(&self) -> bool {
        self.times.is_some()
    }

    pub fn start(&self) -> Option<Instant> {
        self.is_on().then(Instant::now)
    }

    pub fn stop(&mut self, start: Option<Instant>, pass: Pass, layer: &str) {
        let (Some(times), Some(start)) = (&mut self.times, start) else { return };
        let seconds = start.elapsed().as_secs_f64();
        match times.iter_mut().find(|time| time.pass == pass && time.layer == layer) {
            Some(time) => time.seconds += seconds,
            None => times.push(LayerTime { layer: layer.to_owned(), pass, seconds }),
        }
    }
}

impl CpuExecutor {
    /// Begins to measure how long each layer takes. While it does, inference runs each image on
    /// all threads, layer by layer, as it does with a batch of one.
    pub fn time_layers(&mut self) {
        self.timing.times = Some(Vec::new());
    }

    /// Ends that, and gives what was measured, in the order in which layers were first run.
    pub fn layer_times(&mut self) -> Vec<LayerTime> {
        self.timing.times.take().unwrap_or_default()
    }
}
