//! What the training loop keeps besides the network: where it is, what it saves, whom it tells.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use mobilenet::{Executor, Model, Weights};

use super::pace::Pace;
use super::{Event, Outcome, StepEvent};
use crate::batch_source::BatchSource;
use crate::data::{Batch, Skipped, Splits};
use crate::ema::Ema;
use crate::error::{Error, Result};
use crate::evaluation::{Evaluation, EvaluationOptions, evaluate};
use crate::features::Features;
use crate::loss::Loss;
use crate::metrics::{EpochRecord, Record, StepRecord};
use crate::optimizer::Optimizer;
use crate::plan::Plan;
use crate::report::Report;
use crate::run::RunFolder;
use crate::schedule::Schedule;
use crate::state::{Average, Progress, TrainingState};

/// What to do when a run diverges.
const ADVICE: &str = "what was saved before is intact; try a smaller learning rate (lr), a warm-up \
    (warmup_epochs) or a limit on the gradient (clip_norm = 1)";

/// About how many records of steps a run leaves.
const STEP_RECORDS: u64 = 400;

/// The least time between two reports that are not the last, in seconds.
const REPORT_SECONDS: f64 = 15.0;

/// A run under way.
pub(super) struct Session<'a> {
    plan: &'a Plan,
    data: &'a Splits,
    run: &'a mut RunFolder,
    observe: &'a mut dyn FnMut(&Event<'_>),
    held_out: Box<dyn BatchSource>,
    batches: usize,
    ema: Option<Ema>,
    records: Vec<Record>,
    /// The evaluation of the best epoch, unless that was before the run was resumed.
    best: Option<Evaluation>,
    pace: Pace,
    saved: Instant,
    /// The best weights, where they are not in the run folder yet.
    unsaved_best: Option<Weights>,
    reported: Option<Instant>,
    /// Files that the observer was told of.
    skipped: HashSet<PathBuf>,
    pub(super) progress: Progress,
    pub(super) schedule: Schedule,
    pub(super) steps_per_epoch: usize,
}

impl<'a> Session<'a> {
    /// A run before its first step.
    pub(super) fn begin(
        plan: &'a Plan,
        data: &'a Splits,
        run: &'a mut RunFolder,
        batches: usize,
        observe: &'a mut dyn FnMut(&Event<'_>),
    ) -> Result<Self> {
        let steps_per_epoch = batches.div_ceil(plan.accumulate);
        let fingerprint = format!(
            "{} training images, {} held-out images, {} classes, batches of {}, {} a step",
            data.train.len(),
            data.held_out.len(),
            data.train.classes().len(),
            plan.batch_size,
            plan.accumulate,
        );
        Ok(Self {
            held_out: Box::new(plan.evaluation_loader(data)?),
            schedule: plan.schedule(steps_per_epoch),
            progress: Progress { fingerprint, ..Progress::default() },
            ema: None,
            records: Vec::new(),
            best: None,
            pace: Pace::begin(0.0),
            saved: Instant::now(),
            unsaved_best: None,
            reported: None,
            skipped: HashSet::new(),
            plan,
            data,
            run,
            observe,
            batches,
            steps_per_epoch,
        })
    }

    /// Goes to where `state` was saved.
    pub(super) fn resume(
        &mut self,
        state: TrainingState,
        executor: &mut dyn Executor,
        optimizer: &mut dyn Optimizer,
    ) -> Result<()> {
        if state.progress.fingerprint != self.progress.fingerprint {
            return Err(Error::Run {
                path: self.run.path().to_owned(),
                problem: format!(
                    "cannot be resumed: it began with {}; now there are {}",
                    state.progress.fingerprint, self.progress.fingerprint
                ),
            });
        }
        executor.set_weights(&state.weights)?;
        optimizer.restore(state.optimizer)?;
        self.ema = match (self.plan.ema, state.average) {
            (Some(decay), Some(Average { steps, weights })) => Some(Ema::restore(decay, steps, &weights)),
            _ => None,
        };
        self.pace = Pace::begin(state.progress.seconds);
        self.progress = state.progress;
        self.records = state.records;
        Ok(())
    }

    /// Tells that it begins, and makes the folder complete before the first step.
    pub(super) fn started(&mut self, executor: &mut dyn Executor, optimizer: &dyn Optimizer) -> Result<()> {
        if let (None, Some(decay)) = (&self.ema, self.plan.ema) {
            self.ema = Some(Ema::new(decay, &executor.weights()));
        }
        (self.observe)(&Event::Started {
            epochs: self.plan.epochs,
            steps_per_epoch: self.steps_per_epoch,
            step: self.progress.step,
            images: self.data.train.len(),
            held_out: self.data.held_out.len(),
        });
        if self.progress.step == 0 || !self.run.best().exists() || !self.run.last().exists() {
            self.save(executor, optimizer, !self.run.best().exists())?;
        }
        self.pace.pause();
        Ok(())
    }

    /// Computes the features that take the images' place: returns those to train on, and evaluates
    /// on the others from here on.
    pub(super) fn features(&mut self, executor: &mut dyn Executor, stop: &AtomicBool) -> Result<Features> {
        let (plan, data) = (self.plan, self.data);
        let parts = [(&data.train, plan.training_features(data)), (&data.held_out, plan.held_out_features())];
        let (mut before, total) = (0, data.train.len() + data.held_out.len());
        let mut computed = Vec::new();
        for (images, options) in parts {
            let loader = plan.feature_loader(images)?;
            let observe = &mut self.observe;
            let features = Features::compute(executor, &loader, options, stop, &mut |done, _| {
                observe(&Event::Features { done: before + done, total });
            })?;
            before += images.len();
            self.skipped(&features.skipped);
            computed.push(features);
        }
        if let Some(held_out) = computed.pop() {
            self.held_out = Box::new(held_out);
        }
        self.pace.pause();
        computed.pop().ok_or_else(|| self.missing_batch())
    }

    /// How many batches the next step takes: fewer at the end of an epoch.
    pub(super) fn batches_of_step(&self) -> usize {
        self.plan.accumulate.min(self.batches - self.progress.step_in_epoch * self.plan.accumulate)
    }

    /// The error for a loader that ends too soon.
    fn missing_batch(&self) -> Error {
        Error::Batch {
            what: "batches of an epoch",
            expected: self.batches.to_string(),
            found: format!("an end after {} steps", self.progress.step_in_epoch),
        }
    }

    /// An error, unless `value` is a finite number.
    pub(super) fn check_finite(&self, what: &str, value: f64) -> Result<()> {
        if value.is_finite() { Ok(()) } else { Err(self.diverged(what, value)) }
    }

    fn diverged(&self, what: &str, found: f64) -> Error {
        Error::Diverged {
            what: what.to_owned(),
            found,
            step: self.progress.step,
            epoch: self.progress.epochs_done + 1,
            advice: ADVICE.to_owned(),
        }
    }

    /// The next batch of an epoch; the time until it is there counts as waiting.
    pub(super) fn next(&mut self, batches: &mut dyn Iterator<Item = Result<Batch>>) -> Result<Batch> {
        let asked = Instant::now();
        let batch = batches.next().ok_or_else(|| self.missing_batch())??;
        self.pace.waited(asked.elapsed().as_secs_f64());
        self.skipped(&batch.skipped);
        Ok(batch)
    }

    /// Tells of files that a batch had to leave out, unless that was told in an earlier epoch.
    fn skipped(&mut self, files: &[Skipped]) {
        let new: Vec<Skipped> =
            files.iter().filter(|file| self.skipped.insert(file.path.clone())).cloned().collect();
        if !new.is_empty() {
            (self.observe)(&Event::Skipped(&new));
        }
    }

    /// Counts a batch.
    pub(super) fn count(&mut self, loss: &Loss, images: usize) {
        self.progress.epoch.add(loss.value, loss.correct, images);
        self.progress.recent.add(loss.value, loss.correct, images);
    }

    /// Counts a step, follows it with the average, records it and tells of it.
    pub(super) fn stepped(&mut self, executor: &dyn Executor, lr: f64) -> Result<()> {
        let images = self.plan.batch_size * self.batches_of_step();
        if let Some(ema) = &mut self.ema {
            ema.update(&executor.weights())?;
        }
        self.progress.step += 1;
        self.progress.step_in_epoch += 1;
        self.pace.step(images);
        let (step, epoch) = (self.progress.step, self.progress.epochs_done + 1);
        if step.is_multiple_of((self.schedule.total_steps / STEP_RECORDS).max(1)) {
            let recent = std::mem::take(&mut self.progress.recent);
            let (loss, accuracy) = (recent.mean_loss(), recent.accuracy());
            self.log(Record::Step(StepRecord { step, epoch, lr, loss, accuracy }))?;
        }
        let evaluations = self.plan.epochs - self.progress.epochs_done;
        let steps_left = self.schedule.total_steps.saturating_sub(step);
        (self.observe)(&Event::Step(StepEvent {
            epoch,
            epochs: self.plan.epochs,
            step_in_epoch: self.progress.step_in_epoch,
            steps_per_epoch: self.steps_per_epoch,
            step,
            total_steps: self.schedule.total_steps,
            lr,
            loss: self.progress.epoch.mean_loss(),
            accuracy: self.progress.epoch.accuracy(),
            images_per_second: self.pace.images_per_second(images),
            seconds_left: self.pace.seconds_left(steps_left, evaluations),
        }));
        Ok(())
    }

    /// Evaluates the model that would be saved now.
    pub(super) fn evaluate(&mut self, executor: &mut dyn Executor, stop: &AtomicBool) -> Result<Evaluation> {
        let Some(ema) = &self.ema else { return self.evaluate_executor(executor, Some(stop)) };
        let average = ema.weights();
        self.with_weights(&average, executor, Some(stop))
    }

    /// Evaluates other weights, and puts the executor's own back.
    fn with_weights(
        &mut self,
        weights: &Weights,
        executor: &mut dyn Executor,
        stop: Option<&AtomicBool>,
    ) -> Result<Evaluation> {
        let own = executor.weights();
        executor.set_weights(weights)?;
        let evaluation = self.evaluate_executor(executor, stop);
        executor.set_weights(&own)?;
        evaluation
    }

    fn evaluate_executor(
        &mut self,
        executor: &mut dyn Executor,
        stop: Option<&AtomicBool>,
    ) -> Result<Evaluation> {
        let options = EvaluationOptions { mirror: self.plan.tta, stop, ..EvaluationOptions::default() };
        let epoch = self.progress.epochs_done.min(self.plan.epochs - 1) + 1;
        let observe = &mut self.observe;
        let evaluation =
            evaluate(executor, &*self.held_out, self.data.train.classes(), &options, &mut |done, total| {
                observe(&Event::Evaluating { epoch, done, total });
            })?;
        self.pace.evaluation(evaluation.seconds);
        Ok(evaluation)
    }

    /// Records an epoch and saves everything.
    pub(super) fn end_epoch(
        &mut self,
        evaluation: Evaluation,
        executor: &mut dyn Executor,
        optimizer: &dyn Optimizer,
    ) -> Result<()> {
        self.check_finite("the held-out loss", evaluation.loss)?;
        let best = self.progress.best.as_ref().is_none_or(|best| {
            evaluation.top1 > best.top1 || (evaluation.top1 == best.top1 && evaluation.loss < best.loss)
        });
        let sums = std::mem::take(&mut self.progress.epoch);
        let (images_per_second, data_wait) = self.pace.end_epoch();
        let record = EpochRecord {
            epoch: self.progress.epochs_done + 1,
            step: self.progress.step,
            lr: self.schedule.at(self.progress.step.saturating_sub(1)),
            train_loss: sums.mean_loss(),
            train_accuracy: sums.accuracy(),
            loss: evaluation.loss,
            top1: evaluation.top1,
            top5: evaluation.top5,
            best,
            images_per_second,
            data_wait,
            seconds: self.pace.seconds(),
        };
        if best {
            self.progress.best = Some(record.clone());
            self.best = Some(evaluation);
        }
        self.log(Record::Epoch(record.clone()))?;
        self.progress.epochs_done += 1;
        self.progress.step_in_epoch = 0;
        let last = self.progress.epochs_done == self.plan.epochs;
        // Epochs of cached features take less time than a save.
        if last || self.save_is_due() || !self.plan.caches_features() {
            self.save(executor, optimizer, best)?;
        } else if best {
            self.unsaved_best = Some(self.usable_weights(executor));
        }
        (self.observe)(&Event::Epoch(&record));
        if !last && self.reported.is_none_or(|at| at.elapsed().as_secs_f64() > REPORT_SECONDS) {
            self.report()?;
            self.pace.pause();
        }
        Ok(())
    }

    fn log(&mut self, record: Record) -> Result<()> {
        self.run.log(&record)?;
        self.records.push(record);
        Ok(())
    }

    /// Whether the last save is long enough ago.
    pub(super) fn save_is_due(&self) -> bool {
        self.saved.elapsed().as_secs_f64() >= self.plan.save_seconds
    }

    /// Brings the folder up to date: first the models, then the state that speaks of them.
    pub(super) fn save(
        &mut self,
        executor: &mut dyn Executor,
        optimizer: &dyn Optimizer,
        best: bool,
    ) -> Result<()> {
        self.progress.seconds = self.pace.seconds();
        let weights = executor.weights();
        let average = self.ema.as_ref().map(|ema| Average { steps: ema.steps(), weights: ema.weights() });
        let model = Model {
            architecture: executor.architecture().clone(),
            labels: self.data.train.classes().to_vec(),
            weights: average.as_ref().map_or_else(|| weights.clone(), |average| average.weights.clone()),
        };
        let state = TrainingState {
            weights,
            optimizer: optimizer.state(),
            average,
            progress: self.progress.clone(),
            records: self.records.clone(),
        };
        if let Some((name, value)) = state.first_not_finite() {
            return Err(self.diverged(&name, f64::from(value)));
        }
        // Until an epoch was evaluated, the latest model is also the best.
        if best || self.progress.best.is_none() {
            self.run.save_best(&model)?;
            self.unsaved_best = None;
        } else if let Some(weights) = self.unsaved_best.take() {
            self.run.save_best(&Model { weights, ..model.clone() })?;
        }
        self.run.save_last(&model)?;
        self.run.save_state(&state)?;
        self.saved = Instant::now();
        (self.observe)(&Event::Saved { step: self.progress.step });
        self.pace.pause();
        Ok(())
    }

    /// The weights that a model would be saved with now.
    fn usable_weights(&self, executor: &dyn Executor) -> Weights {
        self.ema.as_ref().map_or_else(|| executor.weights(), Ema::weights)
    }

    /// Saves and ends before the last epoch.
    pub(super) fn interrupted(
        mut self,
        executor: &mut dyn Executor,
        optimizer: &dyn Optimizer,
    ) -> Result<Outcome> {
        self.save(executor, optimizer, false)?;
        self.report()?;
        Ok(self.outcome(true))
    }

    /// Writes the last report and ends.
    pub(super) fn finished(mut self, executor: &mut dyn Executor) -> Result<Outcome> {
        if self.best.is_none() && self.progress.best.is_some() {
            let model = Model::load(self.run.best())?;
            self.best = Some(self.with_weights(&model.weights, executor, None)?);
        }
        self.report()?;
        Ok(self.outcome(false))
    }

    fn report(&mut self) -> Result<()> {
        if let (Some(evaluation), Some(best)) = (&self.best, &self.progress.best) {
            let report = Report {
                title: self
                    .run
                    .path()
                    .file_name()
                    .map(|n| n.to_string_lossy().into_owned())
                    .unwrap_or_default(),
                recipe: &self.plan.recipe,
                architecture: &self.plan.architecture,
                choices: &self.plan.choices,
                description: &self.data.description,
                records: &self.records,
                best,
                evaluation,
                epochs: self.plan.epochs,
                images: &*self.data.held_out,
            };
            self.run.save_report(&report.to_html()?)?;
            self.reported = Some(Instant::now());
        }
        Ok(())
    }

    fn outcome(&self, interrupted: bool) -> Outcome {
        let last = self.records.iter().rev().find_map(|record| match record {
            Record::Epoch(epoch) => Some(epoch.clone()),
            Record::Step(_) => None,
        });
        Outcome {
            interrupted,
            step: self.progress.step,
            last,
            best: self.progress.best.clone(),
            seconds: self.pace.seconds(),
            model: self.run.best(),
            report: Some(self.run.report()).filter(|path| path.exists()),
        }
    }
}
