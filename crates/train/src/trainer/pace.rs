//! How fast a run goes, and how long it still takes.

use std::time::Instant;

/// Seconds over which the speed is averaged.
const WINDOW: f64 = 10.0;

/// Measures the speed of training; results do not depend on it.
#[derive(Debug)]
pub struct Pace {
    begun: Instant,
    before: f64,
    mark: Instant,
    seconds_per_step: Option<f64>,
    evaluation: Option<f64>,
    epoch_seconds: f64,
    epoch_images: usize,
    waited: f64,
}

impl Pace {
    /// Begins to measure, `before` seconds into the run.
    pub fn begin(before: f64) -> Self {
        let now = Instant::now();
        Self {
            begun: now,
            before,
            mark: now,
            seconds_per_step: None,
            evaluation: None,
            epoch_seconds: 0.0,
            epoch_images: 0,
            waited: 0.0,
        }
    }

    /// Seconds of the whole run.
    pub fn seconds(&self) -> f64 {
        self.before + self.begun.elapsed().as_secs_f64()
    }

    /// Leaves the time since the last call of anything out of the speed.
    pub fn pause(&mut self) {
        self.mark = Instant::now();
    }

    /// The network waited for its images, within the step under way.
    pub fn waited(&mut self, seconds: f64) {
        self.waited += seconds;
    }

    /// A step on so many images was taken.
    pub fn step(&mut self, images: usize) {
        let seconds = self.mark.elapsed().as_secs_f64();
        self.mark = Instant::now();
        self.epoch_seconds += seconds;
        self.epoch_images += images;
        let weight = 1.0 - (-seconds / WINDOW).exp();
        self.seconds_per_step = Some(match self.seconds_per_step {
            // At first the mean of what there is, whichever weighs more.
            Some(average) if self.begun.elapsed().as_secs_f64() > 1.0 => {
                average + weight * (seconds - average)
            }
            Some(average) => average + 0.3 * (seconds - average),
            None => seconds,
        });
    }

    /// An evaluation took this long.
    pub fn evaluation(&mut self, seconds: f64) {
        self.evaluation = Some(seconds);
        self.mark = Instant::now();
    }

    /// Images a second at `images_per_step`, over the last seconds.
    pub fn images_per_second(&self, images_per_step: usize) -> f64 {
        images_per_step as f64 / self.seconds_per_step.unwrap_or(f64::INFINITY).max(1e-9)
    }

    /// Images a second over the epoch, and the share of its time spent waiting for images. The
    /// epoch begins anew.
    pub fn end_epoch(&mut self) -> (f64, f64) {
        let seconds = self.epoch_seconds.max(1e-9);
        let (rate, share) = (self.epoch_images as f64 / seconds, (self.waited / seconds).min(1.0));
        (self.epoch_seconds, self.epoch_images, self.waited) = (0.0, 0, 0.0);
        (rate, share)
    }

    /// Seconds for so many more steps and evaluations. Before the first evaluation it is taken
    /// for free.
    pub fn seconds_left(&self, steps: u64, evaluations: usize) -> f64 {
        steps as f64 * self.seconds_per_step.unwrap_or(0.0)
            + evaluations as f64 * self.evaluation.unwrap_or(0.0)
    }
}
