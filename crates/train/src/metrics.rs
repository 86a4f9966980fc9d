//! The lines of `metrics.jsonl`.

use serde::{Deserialize, Serialize};

/// One line of a run's `metrics.jsonl`: a JSON object with `kind` `step` or `epoch`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Record {
    /// Now and then within an epoch.
    Step(StepRecord),
    /// At the end of every epoch.
    Epoch(EpochRecord),
}

/// How training stood after a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Optimizer steps so far.
    pub step: u64,
    /// The epoch, counted from 1.
    pub epoch: usize,
    /// The learning rate of this step.
    pub lr: f64,
    /// Mean training loss since the last record of an epoch's steps.
    pub loss: f64,
    /// Share of training images classified correctly since the last record (in training mode,
    /// augmented).
    pub accuracy: f64,
}

/// How an epoch went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// The epoch, counted from 1.
    pub epoch: usize,
    /// Optimizer steps so far.
    pub step: u64,
    /// The learning rate of the last step.
    pub lr: f64,
    /// Mean training loss (with label smoothing, if any).
    pub train_loss: f64,
    /// Share of training images classified correctly (in training mode, augmented).
    pub train_accuracy: f64,
    /// Held-out loss (without label smoothing).
    pub loss: f64,
    /// Share of held-out images whose likeliest class is the right one.
    pub top1: f64,
    /// Share of held-out images whose right class is among the five likeliest.
    pub top5: f64,
    /// Whether this is the best epoch so far, by `top1`.
    pub best: bool,
    /// Training images a second.
    pub images_per_second: f64,
    /// Share of the training time in which the network waited for the loader.
    #[serde(default)]
    pub data_wait: f64,
    /// Seconds spent training and evaluating since the run began.
    pub seconds: f64,
}
