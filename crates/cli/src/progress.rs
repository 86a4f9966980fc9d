//! How a run shows itself: a bar while it works (on a terminal only) and a line an epoch.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mobilenet_train::metrics::EpochRecord;
use mobilenet_train::trainer::{Event, StepEvent};

use crate::style::{FAINT, GOOD, duration, grouped};
use crate::train::tell_skipped;

/// A bar on standard error; nothing when that is not a terminal.
pub struct Bar(Option<ProgressBar>);

impl Bar {
    /// A bar that is not drawn before its first [`Bar::set`].
    pub fn new() -> Self {
        if !io::stderr().is_terminal() || std::env::var_os("TERM").is_some_and(|term| term == "dumb") {
            return Self(None);
        }
        let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr_with_hz(8));
        if let Ok(style) = ProgressStyle::with_template("{prefix}  {bar:24.cyan/dim}  {msg}") {
            bar.set_style(style.progress_chars("━━┄"));
        }
        Self(Some(bar))
    }

    /// Shows `done` of `total`, with a few words before and after.
    pub fn set(&self, done: u64, total: u64, before: String, after: String) {
        if let Self(Some(bar)) = self {
            bar.set_length(total.max(1));
            bar.set_prefix(before);
            bar.set_message(after);
            bar.set_position(done);
        }
    }

    /// Takes the bar away while `write` writes.
    pub fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        if let Self(Some(bar)) = self {
            bar.finish_and_clear();
        }
    }
}

/// Shows a training run.
pub struct Progress<'a> {
    out: &'a mut dyn Write,
    bar: Bar,
    epochs: usize,
    heading: bool,
    /// The first error of writing; a run does not stop because nobody reads about it.
    error: Option<io::Error>,
    /// Every epoch of this sitting.
    pub records: Vec<EpochRecord>,
}

impl<'a> Progress<'a> {
    /// Writes its lines to `out`.
    pub fn new(out: &'a mut dyn Write) -> Self {
        Self { out, bar: Bar::new(), epochs: 0, heading: true, error: None, records: Vec::new() }
    }

    /// Shows what just happened.
    pub fn show(&mut self, event: &Event) {
        match event {
            Event::Started { epochs, steps_per_epoch, step, .. } => {
                self.epochs = *epochs;
                if *step < (epochs * steps_per_epoch) as u64 {
                    let result = writeln!(self.out);
                    self.note(result);
                }
            }
            Event::Features { done, total } => self.bar.set(
                *done as u64,
                *total as u64,
                "features".into(),
                format!("{} of {} images", grouped(*done as u64), grouped(*total as u64)),
            ),
            Event::Step(step) => self.step(step),
            Event::Evaluating { epoch, done, total } => self.bar.set(
                *done as u64,
                *total as u64,
                format!("{epoch:>3}/{}", self.epochs),
                "evaluating on what was held out".into(),
            ),
            Event::Skipped(files) => self.bar.aside(|| tell_skipped(files)),
            Event::Epoch(record) => self.epoch(record),
            _ => {}
        }
    }

    fn step(&self, s: &StepEvent) {
        let after = format!(
            "{} images/s   loss {:.3}   {:.1} % right   {} left",
            grouped(s.images_per_second.round() as u64),
            s.loss,
            100.0 * s.accuracy,
            duration(s.seconds_left.max(0.0)),
        );
        let before = format!("{:>3}/{}", s.epoch, s.epochs);
        self.bar.set(s.step_in_epoch as u64, s.steps_per_epoch as u64, before, after);
    }

    fn epoch(&mut self, r: &EpochRecord) {
        let epoch = format!("{:>3}/{}", r.epoch, self.epochs);
        let width = epoch.chars().count().max("epoch".len());
        let mut write = || {
            if self.heading {
                writeln!(
                    self.out,
                    "{FAINT}{:>width$}   train loss   right   held-out loss    top-1    top-5   images/s       time{FAINT:#}",
                    "epoch"
                )?;
            }
            let best = if r.best { GOOD } else { anstyle::Style::new() };
            writeln!(
                self.out,
                "{epoch:>width$}   {:>10.4} {:>6.2}%   {:>13.4}  {best}{:>6.2}%{best:#}  {:>6.2}%   {:>8}  {:>9}",
                r.train_loss,
                100.0 * r.train_accuracy,
                r.loss,
                100.0 * r.top1,
                100.0 * r.top5,
                grouped(r.images_per_second.round() as u64),
                duration(r.seconds),
            )?;
            self.out.flush()
        };
        let result = self.bar.aside(&mut write);
        self.heading = false;
        self.records.push(r.clone());
        self.note(result);
    }

    fn note(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            self.error.get_or_insert(error);
        }
    }

    /// Takes the bar away, and says if a line could not be written.
    pub fn finish(self) -> (Vec<EpochRecord>, io::Result<()>) {
        self.bar.clear();
        (self.records, self.error.map_or(Ok(()), Err))
    }
}
