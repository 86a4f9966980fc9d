//! Training and evaluation of MobileNet v1.

pub mod data;
pub mod ema;
pub mod error;
pub mod evaluation;
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

pub use error::{Error, Result};
pub use evaluation::{Evaluation, evaluate};
pub use plan::{Facts, Plan};
pub use recipe::Recipe;
pub use run::RunFolder;
pub use trainer::{Event, Outcome, train};
