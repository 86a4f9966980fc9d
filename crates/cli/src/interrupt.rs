//! Ctrl-C and SIGTERM: the first asks for a stop after the step, the second quits at once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::failure::Outcome;

/// The exit status of a run that was asked to stop, as shells have it for Ctrl-C.
pub const STATUS: u8 = 130;

/// A flag that the first signal raises; with it raised, the next signal ends the process.
pub fn flag() -> Outcome<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the handler that may quit must see the flag as the signal found it.
        flag::register_conditional_shutdown(signal, i32::from(STATUS), Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}
