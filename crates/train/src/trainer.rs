//! The training loop.

use std::path::PathBuf;

use crate::metrics::EpochRecord;

/// What an observer of [`train`](crate::trainer) is told.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Training begins, or goes on.
    Started {
        /// Epochs in the whole run.
        epochs: usize,
        /// Optimizer steps an epoch.
        steps_per_epoch: usize,
        /// Optimizer steps already taken: 0 unless the run is resumed.
        step: u64,
        /// Training images.
        images: usize,
        /// Held-out images.
        held_out: usize,
    },
    /// A step was taken.
    Step(StepEvent),
    /// A batch of the held-out part was evaluated.
    Evaluating {
        /// The epoch, counted from 1.
        epoch: usize,
        /// Images done.
        done: usize,
        /// Images in all.
        total: usize,
    },
    /// An epoch ended and was evaluated.
    Epoch(&'a EpochRecord),
    /// The run folder was brought up to date.
    Saved {
        /// The step that it holds.
        step: u64,
    },
}

/// How training stands after a step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepEvent {
    /// The epoch, counted from 1.
    pub epoch: usize,
    /// Epochs in the whole run.
    pub epochs: usize,
    /// Steps taken in this epoch.
    pub step_in_epoch: usize,
    /// Steps in an epoch.
    pub steps_per_epoch: usize,
    /// Steps taken in the whole run.
    pub step: u64,
    /// Steps in the whole run.
    pub total_steps: u64,
    /// The learning rate of this step.
    pub lr: f64,
    /// Mean training loss of this epoch so far.
    pub loss: f64,
    /// Share of this epoch's images classified correctly so far.
    pub accuracy: f64,
    /// Training images a second, averaged over the last seconds.
    pub images_per_second: f64,
    /// Estimated seconds to the end of the run, evaluations included.
    pub seconds_left: f64,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Whether the stop flag ended it before its last epoch; it can be resumed.
    pub interrupted: bool,
    /// Optimizer steps taken in the whole run.
    pub step: u64,
    /// The last epoch that was evaluated, if any was.
    pub last: Option<EpochRecord>,
    /// The best epoch, if any was evaluated.
    pub best: Option<EpochRecord>,
    /// Seconds spent training and evaluating in the whole run.
    pub seconds: f64,
    /// The model to use: `best.safetensors`, or `last.safetensors` before the first evaluation.
    pub model: PathBuf,
    /// The report, once an epoch was evaluated.
    pub report: Option<PathBuf>,
}
