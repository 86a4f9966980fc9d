//! Training and evaluation of MobileNet v1.
//!
//! The whole procedure, by hand:
//!
//! ```
//! use mobilenet::cpu::{CpuExecutor, CpuOptions};
//! use mobilenet::{Architecture, Executor, Model};
//! use mobilenet_train::data::{self, DataOptions, Loader, LoaderOptions};
//! use mobilenet_train::loss::CrossEntropy;
//! use mobilenet_train::optimizer::{Optimizer, Sgd};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let data = data::open(&DataOptions::default())?; // the embedded sample of Fashion-MNIST
//! let labels = data.train.classes().to_vec();
//! let small = Architecture { width_multiplier: 0.25, resolution: 28, stem_stride: 1, ..Default::default() };
//! let mut model = Model::random(Architecture { classes: labels.len(), ..small }, labels, 1)?;
//! let mut network = CpuExecutor::new(&model.architecture, &model.weights, &CpuOptions::default())?;
//! let criterion = CrossEntropy::default();
//! let mut optimizer = Sgd::new(0.02, 0.9, 1e-4); // learning rate, momentum, weight decay
//! let options = LoaderOptions { shuffle: true, ..LoaderOptions::new(&model.architecture, 64) };
//! let loader = Loader::new(data.train, options)?;
//!
//! # let mut losses = Vec::new();
//! for epoch in 0..2 {
//!     for batch in loader.epoch(epoch, 0) {
//!         let batch = batch?;
//!         let output = network.forward(&batch.images)?;
//!         let loss = criterion.forward(&output, &batch.labels)?;
//!         network.zero_grad();
//!         network.backward(&loss.d_logits)?;
//!         optimizer.step(&mut network)?;
//! #       losses.push(loss.value);
//! #       if losses.len() % 40 == 0 { break }
//!     }
//! }
//! # assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
//! # let last: f64 = losses[70..].iter().sum::<f64>() / 10.0;
//! # assert!(last < 0.93 * losses[0], "{losses:?}"); // (Of ten batches, after seventy.)
//! model.weights = network.weights();
//! # let folder = tempfile::tempdir()?;
//! # std::env::set_current_dir(&folder)?;
//! model.save("model.safetensors")?;
//! # Ok(())
//! # }
//! ```
//!
//! [`train()`] does the same with a learning rate [`schedule`], augmentation, evaluation after
//! every epoch, and a [`run`] folder from which it resumes to the same bits; a [`Recipe`] says how,
//! and [`Recipe::resolve`] chooses from the data what the recipe leaves open.

#![forbid(unsafe_code)]

pub mod batch_source;
pub mod data;
pub mod ema;
pub mod error;
pub mod evaluation;
pub mod features;
pub mod freeze;
pub mod loss;
pub mod metrics;
pub mod optimizer;
pub mod plan;
pub mod recipe;
pub mod report;
pub mod run;
pub mod schedule;
pub mod state;
pub mod trainer;

pub use batch_source::BatchSource;
pub use error::{Error, Result};
pub use evaluation::{Evaluation, evaluate};
pub use freeze::Freeze;
pub use plan::{Facts, Plan};
pub use recipe::Recipe;
pub use run::RunFolder;
pub use trainer::{Event, Outcome, train};

/// The README's example, so that it keeps working.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
