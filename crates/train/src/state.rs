//! `state.safetensors`: everything that resuming a run needs, in one file.
//!
//! Tensors are named `weights/NAME`, `optimizer/SLOT/NAME` and `average/NAME`; the rest is JSON
//! in the file's metadata, with a checksum over both.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use flate2::Crc;
use mobilenet::{Tensor, Weights, atomic_file};
use safetensors::tensor::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::metrics::{EpochRecord, Record};
use crate::optimizer::OptimizerState;

const FORMAT: &str = "mobilenet-state";
const VERSION: &str = "1";

/// A training run, stopped between two steps.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingState {
    /// The weights that are trained, with running statistics.
    pub weights: Weights,
    /// What the optimizer remembers.
    pub optimizer: OptimizerState,
    /// The moving average of the weights.
    pub average: Option<Average>,
    /// Where in the run it is.
    pub progress: Progress,
    /// The lines of `metrics.jsonl`.
    pub records: Vec<Record>,
}

/// A moving average of the weights and its number of updates.
#[derive(Clone, Debug, PartialEq)]
pub struct Average {
    /// Updates taken.
    pub steps: u64,
    /// The averages.
    pub weights: Weights,
}

/// Where in a run training is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Optimizer steps taken.
    pub step: u64,
    /// Epochs evaluated.
    pub epochs_done: usize,
    /// Steps taken in the epoch after those.
    pub step_in_epoch: usize,
    /// Sums over this epoch's images so far.
    pub epoch: Sums,
    /// Sums over the images since the last record.
    pub recent: Sums,
    /// The best epoch so far.
    pub best: Option<EpochRecord>,
    /// Seconds spent.
    pub seconds: f64,
    /// What the run was told to the letter: training images, steps an epoch and so on. A resumed
    /// run must find the same.
    pub fingerprint: String,
}

/// Sums over images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// Of the losses.
    pub loss: f64,
    /// Images classified correctly.
    pub correct: usize,
    /// Images.
    pub images: usize,
}

impl Sums {
    /// Adds a batch of `images` with this mean loss.
    pub fn add(&mut self, loss: f64, correct: usize, images: usize) {
        self.loss += loss * images as f64;
        self.correct += correct;
        self.images += images;
    }

    /// The mean loss; 0 before the first image.
    pub fn mean_loss(&self) -> f64 {
        self.loss / self.images.max(1) as f64
    }

    /// The share classified correctly; 0 before the first image.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.images.max(1) as f64
    }
}

/// The part of a state that is JSON.
#[derive(Serialize, Deserialize)]
struct Header {
    progress: Progress,
    records: Vec<Record>,
    optimizer: String,
    optimizer_steps: u64,
    average_steps: Option<u64>,
}

struct Values<'a> {
    shape: Cow<'a, [usize]>,
    data: &'a [f32],
}

impl View for Values<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = Vec::with_capacity(self.data_len());
        self.data.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
        bytes.into()
    }

    fn data_len(&self) -> usize {
        4 * self.data.len()
    }
}

impl TrainingState {
    /// Every tensor by the name that it has in the file.
    fn tensors(&self) -> BTreeMap<String, Values<'_>> {
        let mut tensors: BTreeMap<String, Values<'_>> = BTreeMap::new();
        let averages = self.average.iter().flat_map(|average| average.weights.iter());
        for (part, (name, tensor)) in
            self.weights.iter().map(|t| ("weights", t)).chain(averages.map(|t| ("average", t)))
        {
            let values = Values { shape: tensor.shape().into(), data: tensor.data() };
            tensors.insert(format!("{part}/{name}"), values);
        }
        for (name, data) in &self.optimizer.slots {
            tensors.insert(format!("optimizer/{name}"), Values { shape: vec![data.len()].into(), data });
        }
        tensors
    }

    /// The first value that is not a finite number, with its tensor's name: the sign of a run
    /// that diverged, and that is better not saved.
    pub fn first_not_finite(&self) -> Option<(String, f32)> {
        self.tensors().into_iter().find_map(|(name, values)| {
            values.data.iter().find(|value| !value.is_finite()).map(|&value| (name, value))
        })
    }

    /// Writes the file: whoever opens `path` finds either the old file or the whole new one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let tensors = self.tensors();
        let header = serde_json::to_string(&Header {
            progress: self.progress.clone(),
            records: self.records.clone(),
            optimizer: self.optimizer.optimizer.clone(),
            optimizer_steps: self.optimizer.steps,
            average_steps: self.average.as_ref().map(|average| average.steps),
        })
        .map_err(|error| damaged(path, &error.to_string()))?;
        let checksum = checksum(&header, tensors.iter().map(|(name, values)| (name.as_str(), values.data())));
        let metadata = HashMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("version".to_owned(), VERSION.to_owned()),
            ("checksum".to_owned(), checksum),
            ("state".to_owned(), header),
        ]);
        let bytes = safetensors::serialize(tensors, Some(metadata))
            .map_err(|error| damaged(path, &error.to_string()))?;
        Ok(atomic_file::write(path, |file| file.write_all(&bytes))?)
    }

    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, is not a state file, was cut short, or any of its bits changed.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(path, &e.to_string()))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| damaged(path, &e.to_string()))?;
        let entry = |key: &str| {
            metadata.metadata().as_ref().and_then(|map| map.get(key)).map(String::as_str).unwrap_or_default()
        };
        if entry("format") != FORMAT {
            return Err(damaged(path, "not the state of a training run"));
        }
        if entry("version") != VERSION {
            let problem = format!("has version {}; this program reads {VERSION}", entry("version"));
            return Err(Error::Run { path: path.to_owned(), problem });
        }
        let mut tensors: Vec<_> = file.iter().collect();
        tensors.sort_by(|a, b| a.0.cmp(b.0));
        let header = entry("state");
        let found = checksum(header, tensors.iter().map(|(name, view)| (*name, Cow::Borrowed(view.data()))));
        if found != entry("checksum") {
            return Err(damaged(path, "its checksum is wrong"));
        }
        let header: Header = serde_json::from_str(header).map_err(|e| damaged(path, &e.to_string()))?;
        let (mut weights, mut average, mut slots) = (Weights::new(), Weights::new(), BTreeMap::new());
        for (key, view) in &tensors {
            let (chunks, _) = view.data().as_chunks::<4>();
            let values: Vec<f32> = chunks.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            match key.split_once('/') {
                Some(("weights", name)) => weights.insert(name, Tensor::new(view.shape(), values)?),
                Some(("average", name)) => average.insert(name, Tensor::new(view.shape(), values)?),
                Some(("optimizer", name)) => {
                    slots.insert(name.to_owned(), values);
                }
                _ => return Err(damaged(path, &format!("unknown tensor {key}"))),
            }
        }
        Ok(Self {
            weights,
            optimizer: OptimizerState { optimizer: header.optimizer, steps: header.optimizer_steps, slots },
            average: header.average_steps.map(|steps| Average { steps, weights: average }),
            progress: header.progress,
            records: header.records,
        })
    }
}

/// CRC-32 over the JSON and every tensor's name and bytes, in the order of the names.
fn checksum<'a>(header: &str, tensors: impl Iterator<Item = (&'a str, Cow<'a, [u8]>)>) -> String {
    let mut crc = Crc::new();
    crc.update(header.as_bytes());
    for (name, bytes) in tensors {
        crc.update(name.as_bytes());
        crc.update(&bytes);
    }
    format!("{:08x}", crc.sum())
}

fn damaged(path: &Path, problem: &str) -> Error {
    Error::Run {
        path: path.to_owned(),
        problem: format!(
            "cannot be resumed: {problem}; the models beside it may still be good, and a new run can begin \
             with one (init)"
        ),
    }
}
