//! The training loop.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use mobilenet::Executor;

use crate::batch_source::BatchSource;
use crate::data::{Skipped, Splits};
use crate::error::{Error, Result};
use crate::metrics::EpochRecord;
use crate::optimizer::clip_global_norm;
use crate::plan::Plan;
use crate::run::RunFolder;
use crate::state::TrainingState;

mod pace;
mod session;

use session::Session;

/// What an observer of [`train`] is told.
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
    /// Features were computed, which the classifier then learns from and is evaluated on.
    Features {
        /// Images done.
        done: usize,
        /// Images in all, the held-out ones included.
        total: usize,
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
    /// Images that could be opened but not decoded were left out of a batch; each is told once.
    Skipped(&'a [Skipped]),
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
    /// The model to use: `best.safetensors`.
    pub model: PathBuf,
    /// The report, once an epoch was evaluated.
    pub report: Option<PathBuf>,
}

/// Trains `executor` on `data` as `plan` says, and keeps `run` up to date.
///
/// The executor begins with its own weights, or with those of `resumed`, the state that
/// [`RunFolder::open`] gave: then the run goes on where it was saved, and every weight ends with
/// the same bits as if it had never stopped. `stop` is looked at after every step: once raised,
/// the run is saved and the outcome says `interrupted`. `observe` is told what happens.
///
/// What the plan freezes stays frozen in the executor ([`Executor::freeze`]). Where that is the whole
/// body and the plan says so, features are computed once and kept in memory, in a resumed run anew.
///
/// # Errors
/// When an image cannot be read, the loss is no longer finite, the run folder cannot be written,
/// or `resumed` is of another network or of other data. What was saved before stays.
pub fn train(
    executor: &mut dyn Executor,
    plan: &Plan,
    data: &Splits,
    run: &mut RunFolder,
    resumed: Option<TrainingState>,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(&Event<'_>),
) -> Result<Outcome> {
    executor.freeze(plan.freeze.blocks(&plan.architecture))?;
    let mut loader: Box<dyn BatchSource> = Box::new(plan.training_loader(data)?);
    let mut optimizer = plan.optimizer();
    let mut t = Session::begin(plan, data, run, loader.batches(), observe)?;
    if let Some(state) = resumed {
        t.resume(state, executor, &mut *optimizer)?;
    }
    t.started(executor, &*optimizer)?;
    if plan.caches_features() && t.progress.epochs_done < plan.epochs {
        loader = match t.features(executor, stop) {
            Err(Error::Interrupted) => return t.interrupted(executor, &*optimizer),
            features => Box::new(features?),
        };
    }

    for epoch in t.progress.epochs_done..plan.epochs {
        let mut batches = loader.epoch(epoch as u64, t.progress.step_in_epoch * plan.accumulate);
        while t.progress.step_in_epoch < t.steps_per_epoch {
            let parts = t.batches_of_step();
            executor.zero_grad();
            for part in 0..parts {
                let batch = t.next(&mut *batches)?;
                if batch.labels.is_empty() {
                    continue; // None of its images could be read.
                }
                executor.seed_dropout(plan.dropout_seed(t.progress.step, part));
                let logits = executor.forward(&batch.images)?;
                let mut loss = plan.loss.forward(&logits, &batch.labels)?;
                t.check_finite("the loss", loss.value)?;
                loss.divide_gradient(parts);
                executor.backward(&loss.d_logits)?;
                t.count(&loss, batch.labels.len());
                loader.recycle(batch);
            }
            if let Some(largest) = plan.clip_norm {
                t.check_finite("the norm of the gradient", clip_global_norm(executor, largest))?;
            }
            let lr = t.schedule.at(t.progress.step);
            optimizer.set_learning_rate(lr);
            optimizer.step(executor)?;
            t.stepped(executor, lr)?;
            if stop.load(Ordering::Relaxed) {
                return t.interrupted(executor, &*optimizer);
            }
            if t.save_is_due() {
                t.save(executor, &*optimizer, false)?;
            }
        }
        match t.evaluate(executor, stop) {
            Err(Error::Interrupted) => return t.interrupted(executor, &*optimizer),
            evaluation => t.end_epoch(evaluation?, executor, &*optimizer)?,
        }
    }
    t.finished(executor)
}
