//! Training and evaluation of MobileNet v1.

pub mod ema;
pub mod error;
pub mod evaluation;
pub mod loss;
pub mod metrics;
pub mod optimizer;
pub mod recipe;
pub mod schedule;
pub mod trainer;

pub use error::{Error, Result};
pub use evaluation::Evaluation;
pub use recipe::Recipe;
