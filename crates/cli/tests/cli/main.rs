//! The binary as a user has it: real processes, real files, real signals.

mod bad_data;
mod bad_flags;
mod common;
mod embed;
mod explain;
mod failures;
mod finetune;
mod hub;
mod machines;
mod output;
mod summary;
mod training;
