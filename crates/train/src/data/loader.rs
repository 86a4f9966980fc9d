//! Batches, decoded and augmented in background threads ahead of the trainer.
//!
//! What a batch holds depends on the options, the epoch and its number alone: never on the number
//! of threads, on their timing, on the cache, or on which batch an epoch was entered at.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mobilenet::conventions::Preprocessing;
use mobilenet::rng::Rng;
use mobilenet::{Architecture, Tensor};

use super::augment::{Augmentation, Augmenter};
use super::cache::Cache;
use super::{DataError, Dataset, Result, Skipped};

/// How batches are made.
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderOptions {
    /// Images in a batch; the last one of an epoch may be smaller.
    pub batch_size: usize,
    /// Whether each epoch has an order of its own, drawn from the seed; else the data set's order.
    pub shuffle: bool,
    /// Whether a last batch with fewer images is left out.
    pub drop_last: bool,
    /// Decides the orders and everything that augmentation does.
    pub seed: u64,
    /// Background threads; 0: one for each core. Changes no batch.
    pub workers: usize,
    /// Decoded images are kept in memory up to so many bytes. Changes no batch.
    pub cache_bytes: u64,
    /// The most batches that are finished before they are asked for; 0: two for each worker.
    /// Changes no batch.
    pub ahead: usize,
    /// Width and height of the images made.
    pub resolution: usize,
    /// Channels of the images made: 1 or 3.
    pub channels: usize,
    /// How images become square and are normalised.
    pub preprocessing: Preprocessing,
    /// Random changes; the default is none, which is the evaluation transform.
    pub augmentation: Augmentation,
    /// Whether an image that cannot be decoded is an error; else its batch goes without it.
    pub strict: bool,
}

impl LoaderOptions {
    /// Options that feed `architecture`: its resolution, channels and preprocessing, in the data
    /// set's order and without augmentation, with a cache of 1 GiB.
    pub fn new(architecture: &Architecture, batch_size: usize) -> Self {
        Self {
            batch_size,
            shuffle: false,
            drop_last: false,
            seed: 0,
            workers: 0,
            cache_bytes: 1 << 30,
            ahead: 0,
            resolution: architecture.resolution,
            channels: architecture.input_channels,
            preprocessing: architecture.conventions.preprocessing.clone(),
            augmentation: Augmentation::default(),
            strict: false,
        }
    }

    fn validate(&self, images: usize) -> Result<()> {
        let wrong = |what, found: String, expected| Err(DataError::Option { what, found, expected });
        if images == 0 {
            return wrong("data set", "no image".into(), "at least one");
        }
        if self.batch_size == 0 {
            return wrong("batch size", "0".into(), "at least 1");
        }
        if self.drop_last && images < self.batch_size {
            return wrong(
                "batch size",
                format!("{} for {images} images", self.batch_size),
                "at most the number of images, when the last smaller batch is left out",
            );
        }
        if self.resolution == 0 {
            return wrong("resolution", "0".into(), "at least 1");
        }
        if !matches!(self.channels, 1 | 3) {
            return wrong("input channels", self.channels.to_string(), "1 (grey) or 3 (RGB)");
        }
        let values = [self.preprocessing.mean.len(), self.preprocessing.std.len()];
        if values != [self.channels; 2] {
            return wrong(
                "preprocessing mean and std",
                format!("{} and {} values for {} channels", values[0], values[1], self.channels),
                "one value for each input channel",
            );
        }
        self.augmentation.validate()
    }
}

/// Some images of one epoch, ready for the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Normalised images, `[N, resolution, resolution, channels]`.
    pub images: Tensor,
    /// The class of each image.
    pub labels: Vec<usize>,
    /// Where each image is in the data set.
    pub indices: Vec<usize>,
    /// Images that should have been in this batch but cannot be decoded.
    pub skipped: Vec<Skipped>,
}

/// How fast a loader is by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throughput {
    /// Images made.
    pub images: usize,
    /// The time that took.
    pub elapsed: Duration,
}

impl Throughput {
    /// Images in a second.
    pub fn images_per_second(&self) -> f64 {
        self.images as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Makes the batches of any epoch of a data set.
pub struct Loader {
    shared: Arc<Shared>,
    workers: usize,
    ahead: usize,
}

impl Loader {
    /// A loader over `dataset`; an error names the option that is out of range.
    pub fn new(dataset: Arc<dyn Dataset>, options: LoaderOptions) -> Result<Self> {
        options.validate(dataset.len())?;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let workers = if options.workers == 0 { cores() } else { options.workers };
        let ahead = if options.ahead == 0 { 2 * workers } else { options.ahead };
        let cache = Cache::new(dataset, &options);
        let shared = Shared { cache, options, buffers: Mutex::new(Vec::new()) };
        Ok(Self { shared: Arc::new(shared), workers, ahead })
    }

    /// The data set.
    pub fn dataset(&self) -> &Arc<dyn Dataset> {
        self.shared.cache.dataset()
    }

    /// How batches are made.
    pub fn options(&self) -> &LoaderOptions {
        &self.shared.options
    }

    /// Number of batches in an epoch.
    pub fn batches(&self) -> usize {
        let (images, size) = (self.dataset().len(), self.shared.options.batch_size);
        if self.shared.options.drop_last { images / size } else { images.div_ceil(size) }
    }

    /// The batches of `epoch`, from number `first_batch` on; threads begin on them at once and end
    /// when the iterator is dropped.
    pub fn epoch(&self, epoch: u64, first_batch: usize) -> Epoch {
        let mut order: Vec<usize> = (0..self.dataset().len()).collect();
        if self.shared.options.shuffle {
            Rng::keyed(self.shared.options.seed, &[epoch]).shuffle(&mut order);
        }
        let batches = self.batches();
        let job = Arc::new(Job {
            shared: Arc::clone(&self.shared),
            epoch,
            order,
            batches,
            ahead: self.ahead,
            stop: AtomicBool::new(false),
            state: Mutex::new(State {
                claimed: first_batch,
                wanted: first_batch,
                ready: BTreeMap::new(),
                alive: 0,
            }),
            changed: Condvar::new(),
        });
        let threads = self.workers.min(batches.saturating_sub(first_batch));
        let workers = (0..threads).filter_map(|number| Job::start(&job, number)).collect();
        Epoch { job, workers }
    }

    /// Gives the memory of a batch back, so that a later one need not allocate.
    pub fn recycle(&self, batch: Batch) {
        let mut buffers = lock(&self.shared.buffers);
        if buffers.len() < self.workers + self.ahead {
            buffers.push(batch.images.into_data());
        }
    }

    /// Makes every batch of `epoch` and throws it away: what the loader can do by itself.
    pub fn throughput(&self, epoch: u64) -> Result<Throughput> {
        let (start, mut images) = (Instant::now(), 0);
        for batch in self.epoch(epoch, 0) {
            let batch = batch?;
            images += batch.indices.len();
            self.recycle(batch);
        }
        Ok(Throughput { images, elapsed: start.elapsed() })
    }
}

struct Shared {
    cache: Cache,
    options: LoaderOptions,
    buffers: Mutex<Vec<Vec<f32>>>,
}

/// The batches of one epoch, in order; see [`Loader::epoch`].
pub struct Epoch {
    job: Arc<Job>,
    workers: Vec<JoinHandle<()>>,
}

impl Iterator for Epoch {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        let job = &self.job;
        let mut state = lock(&job.state);
        let number = state.wanted;
        if number >= job.batches {
            return None;
        }
        loop {
            if let Some(result) = state.ready.remove(&number) {
                state.wanted += 1;
                job.changed.notify_all();
                return Some(result);
            }
            if state.alive == 0 {
                // The system gave no threads: make it here.
                state.wanted += 1;
                drop(state);
                return Some(job.guarded_batch(number, &mut job.augmenter()));
            }
            state = job.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.job.batches.saturating_sub(lock(&self.job.state).wanted);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Epoch {}

impl Drop for Epoch {
    fn drop(&mut self) {
        self.job.stop.store(true, Ordering::Relaxed);
        // Under the lock, so that no worker misses it between its check and its wait.
        let state = lock(&self.job.state);
        self.job.changed.notify_all();
        drop(state);
        for worker in self.workers.drain(..) {
            // A worker's panic was already caught and handed over as an error.
            let _ = worker.join();
        }
    }
}

/// What the threads of one epoch share.
struct Job {
    shared: Arc<Shared>,
    epoch: u64,
    order: Vec<usize>,
    batches: usize,
    ahead: usize,
    stop: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The first batch that no worker has taken up.
    claimed: usize,
    /// The batch that the consumer takes next.
    wanted: usize,
    ready: BTreeMap<usize, Result<Batch>>,
    /// Workers that still run.
    alive: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells the consumer when a worker ends, in whatever way.
struct Alive<'a>(&'a Job);

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).alive -= 1;
        self.0.changed.notify_all();
    }
}

impl Job {
    fn start(job: &Arc<Self>, number: usize) -> Option<JoinHandle<()>> {
        lock(&job.state).alive += 1;
        let own = Arc::clone(job);
        let spawned = std::thread::Builder::new().name(format!("loader-{number}")).spawn(move || {
            let _alive = Alive(&own);
            own.work();
        });
        if spawned.is_err() {
            lock(&job.state).alive -= 1;
        }
        spawned.ok()
    }

    fn work(&self) {
        let mut augmenter = self.augmenter();
        while let Some(number) = self.claim() {
            let result = self.guarded_batch(number, &mut augmenter);
            lock(&self.state).ready.insert(number, result);
            self.changed.notify_all();
        }
    }

    /// The next batch to make, once it is not too far ahead; `None` at the end.
    fn claim(&self) -> Option<usize> {
        let mut state = lock(&self.state);
        loop {
            if self.stop.load(Ordering::Relaxed) || state.claimed >= self.batches {
                return None;
            }
            if state.claimed < state.wanted + self.ahead {
                state.claimed += 1;
                return Some(state.claimed - 1);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn augmenter(&self) -> Augmenter<'_> {
        let options = &self.shared.options;
        Augmenter::new(&options.augmentation, &options.preprocessing, options.resolution, options.channels)
    }

    fn guarded_batch(&self, number: usize, augmenter: &mut Augmenter) -> Result<Batch> {
        catch_unwind(AssertUnwindSafe(|| self.batch(number, augmenter))).unwrap_or_else(|panic| {
            let message = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
                .unwrap_or_else(|| "unknown panic".into());
            Err(DataError::Worker { batch: number, message })
        })
    }

    fn batch(&self, number: usize, augmenter: &mut Augmenter) -> Result<Batch> {
        let options = &self.shared.options;
        let dataset = self.shared.cache.dataset();
        let first = number * options.batch_size;
        let wanted = &self.order[first..(first + options.batch_size).min(self.order.len())];
        let sample_len = options.resolution * options.resolution * options.channels;
        let mut data = lock(&self.shared.buffers).pop().unwrap_or_default();
        data.resize(wanted.len() * sample_len, 0.0);
        let (mut labels, mut indices, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
        for &index in wanted {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let out = &mut data[indices.len() * sample_len..][..sample_len];
            let made = self.shared.cache.prepared(index).and_then(|image| {
                let mut rng = Rng::keyed(options.seed, &[self.epoch, index as u64]);
                augmenter.apply(&image, &mut rng, out)
            });
            match made {
                Ok(()) => {
                    labels.push(dataset.label(index));
                    indices.push(index);
                }
                // A damaged file is damaged in every run. Any other failure (a file that vanished,
                // a disk that fails) would make runs differ, so it ends this one.
                Err(DataError::Image(mobilenet::Error::Image { path, problem })) if !options.strict => {
                    skipped.push(Skipped { path, problem });
                }
                Err(e) => return Err(e),
            }
        }
        if indices.is_empty()
            && let Some(Skipped { path, problem }) = skipped.first().cloned()
        {
            return Err(DataError::Unreadable { path, problem, count: skipped.len() });
        }
        data.truncate(indices.len() * sample_len);
        let shape = [indices.len(), options.resolution, options.resolution, options.channels];
        Ok(Batch { images: Tensor::new(&shape, data)?, labels, indices, skipped })
    }
}
