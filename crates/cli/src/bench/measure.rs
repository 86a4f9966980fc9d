//! What is timed, and how.

use std::time::{Duration, Instant};

use mobilenet::cpu::{CpuExecutor, CpuOptions};
use mobilenet::rng::Rng;
use mobilenet::{Architecture, Executor, Tensor, Weights};
use mobilenet_train::loss::CrossEntropy;
use mobilenet_train::optimizer::{Optimizer, Sgd};

use super::{Settings, What};
use crate::failure::Outcome;

/// How long each run took, in seconds, sorted.
pub struct Times(Vec<f64>);

impl Times {
    /// Warms up for about a second or ten runs, then runs for `seconds`, at least five times.
    pub fn measure(seconds: f64, mut run: impl FnMut() -> Outcome) -> Outcome<Self> {
        let mut timed = || {
            let start = Instant::now();
            run().map(|()| start.elapsed().as_secs_f64())
        };
        let once = timed()?;
        for _ in 0..((1.0 / once.max(1e-4)) as usize).clamp(1, 10) {
            timed()?;
        }
        let (mut times, start) = (Vec::new(), Instant::now());
        while start.elapsed() < Duration::from_secs_f64(seconds) || times.len() < 5 {
            times.push(timed()?);
        }
        times.sort_by(f64::total_cmp);
        Ok(Self(times))
    }

    /// The median.
    pub fn median(&self) -> f64 {
        median(&self.0)
    }

    /// The time within which `share` of the runs end (0.95: all but five in a hundred); with fewer
    /// runs than that the longest.
    pub fn quantile(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }

    /// The shortest.
    pub fn fastest(&self) -> f64 {
        self.0[0]
    }

    /// How many there are.
    pub fn runs(&self) -> usize {
        self.0.len()
    }
}

/// The median of values in any order; not a number if there are none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n => (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0,
    }
}

/// A network with random weights and images, ready to run.
pub struct Work {
    /// What runs it.
    pub executor: CpuExecutor,
    images: Tensor,
    /// What is inferred from instead, if it was asked for.
    pixels: Option<Vec<u8>>,
    training: Option<Training>,
}

struct Training {
    labels: Vec<usize>,
    loss: CrossEntropy,
    optimizer: Sgd,
}

impl Work {
    /// For inference or a training step of `batch` images.
    pub fn new(settings: &Settings, what: What, architecture: &Architecture) -> Outcome<Self> {
        let Settings { threads, precision, .. } = *settings;
        let batch = settings.batch(what);
        let weights = Weights::random(architecture, 0)?;
        let options = CpuOptions { threads: Some(threads), precision, ..CpuOptions::default() };
        let executor = CpuExecutor::new(architecture, &weights, &options)?;
        let mut rng = Rng::keyed(0, &[]);
        let shape = [batch, architecture.resolution, architecture.resolution, architecture.input_channels];
        let pixels = (0..shape.iter().product()).map(|_| rng.normal() as f32).collect();
        let images = Tensor::new(&shape, pixels)?;
        let pixels = settings.pixels.then(|| images.data().iter().map(|_| rng.below(256) as u8).collect());
        let training = (what == What::Train).then(|| Training {
            labels: (0..batch).map(|_| rng.below(architecture.classes)).collect(),
            loss: CrossEntropy::new(architecture, 0.0),
            optimizer: Sgd::new(0.01, 0.9, 1e-4),
        });
        Ok(Self { executor, images, pixels, training })
    }

    /// One forward pass, or one whole training step.
    pub fn once(&mut self) -> Outcome {
        let Some(training) = &mut self.training else {
            std::hint::black_box(match &self.pixels {
                Some(pixels) => self.executor.infer_pixels(pixels)?,
                None => self.executor.infer(&self.images)?,
            });
            return Ok(());
        };
        self.executor.zero_grad();
        let logits = self.executor.forward(&self.images)?;
        let loss = training.loss.forward(&logits, &training.labels)?;
        self.executor.backward(&loss.d_logits)?;
        training.optimizer.step(&mut self.executor)?;
        Ok(())
    }
}

/// Forgets how much memory this process has had so far: [`peak_rss_mib`] counts from here on. Says
/// whether the system does that (Linux).
pub fn reset_peak_rss() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// The most memory that this process has had at once, where the system tells (Linux).
pub fn peak_rss_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some((kib / 1024.0).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_were_measured() {
        let times = Times((1..=200).map(f64::from).collect());
        assert_eq!((times.median(), times.fastest()), (100.5, 1.0));
        assert_eq!((times.quantile(0.95), times.quantile(0.99)), (190.0, 198.0));
        let few = Times(vec![1.0, 2.0, 4.0, 8.0, 16.0]);
        assert_eq!((few.median(), few.quantile(0.95), few.quantile(0.99)), (4.0, 16.0, 16.0));
    }
}
