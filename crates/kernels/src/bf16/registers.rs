//! How many tile registers there are to work with.
//!
//! Every tile load and product writes a physical register of its own, and the two hardware threads of a core
//! share these. A thread that holds tiles, even if it sleeps, therefore leaves the other one few: while
//! a block of sums is at work in all eight registers nearly every instruction waits for an earlier one to
//! retire, and takes four times as long. On Emerald Rapids what streams of tile instructions take, once slow,
//! fits 93 cycles from naming to retirement, with 10.6 registers to name beside those in use
//! (docs/performance-notes.md). Then a block of fewer sums is the faster, although it loads more.
//!
//! Neither processor nor system tells; so each thread tries it, every half a millisecond or so.

use std::arch::asm;
use std::arch::x86_64::{_mm_lfence, _rdtsc};
use std::cell::Cell;

use super::tiles::{Configured, TILE_ROWS};

/// Steps of a trial.
const STEPS: usize = 8;
/// Trials of each kind.
const TRIALS: usize = 2;
/// A trial's share of the time.
const SHARE: u64 = 512;

#[derive(Clone, Copy)]
struct Known {
    few: bool,
    /// Time stamp of the last trial,
    since: u64,
    /// and how long it is good for.
    good_for: u64,
}

thread_local! {
    static KNOWN: Cell<Known> = const { Cell::new(Known { few: false, since: 0, good_for: 0 }) };
}

/// Whether there were few registers when this thread last looked.
pub(super) fn few() -> bool {
    KNOWN.get().few
}

/// What [`few`] says on this thread from now on.
pub(super) fn assume(few: bool) {
    KNOWN.set(Known { few, since: 0, good_for: u64::MAX });
}

/// Finds out anew whether there are few, if it is time to. All tiles are lost, and their configuration.
///
/// # Safety
/// There must be tiles, and they have been at work a moment ago: they take a microsecond to wake.
#[inline(always)]
pub(super) unsafe fn look() {
    let known = KNOWN.get();
    // SAFETY: every x86-64 processor has it.
    let since = unsafe { _rdtsc() };
    // (So that a clock that was set back does no harm.)
    if since.wrapping_sub(known.since) < known.good_for {
        return;
    }
    // SAFETY: the caller's promise.
    unsafe { look_now(since) }
}

#[cold]
unsafe fn look_now(since: u64) {
    let line = Line { _bytes: [0; 64] };
    // Ticks of the time stamp for some steps of four products.
    macro_rules! ticks {
        ($($instruction:literal)*) => {{
            _mm_lfence();
            let start = _rdtsc();
            for _ in 0..STEPS {
                asm!(
                    $($instruction,)*
                    line = in(reg) &raw const line,
                    none = in(reg) 0usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, readonly, preserves_flags),
                );
            }
            _mm_lfence();
            _rdtsc() - start
        }};
    }
    let (mut in_four, mut in_eight) = (u64::MAX, u64::MAX);
    // SAFETY: the caller's promise; every row of a tile is the same line (a stride of 0).
    unsafe {
        // Tiles that hold anything take registers, whether they are at work or not: they are configured anew, and
        // those of the four come first.
        let _tiles = Configured::new(TILE_ROWS as u8);
        for _ in 0..TRIALS {
            in_four = in_four.min(ticks!(
                "tileloadd tmm4, [{line} + {none}]"
                "tileloadd tmm6, [{line} + {none}]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tileloadd tmm6, [{line} + {none}]"
                "tdpbf16ps tmm1, tmm4, tmm6"
                "tileloadd tmm4, [{line} + {none}]"
                "tileloadd tmm6, [{line} + {none}]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tileloadd tmm6, [{line} + {none}]"
                "tdpbf16ps tmm1, tmm4, tmm6"
            ));
        }
        for _ in 0..TRIALS {
            in_eight = in_eight.min(ticks!(
                "tileloadd tmm4, [{line} + {none}]"
                "tileloadd tmm6, [{line} + {none}]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tileloadd tmm7, [{line} + {none}]"
                "tdpbf16ps tmm1, tmm4, tmm7"
                "tileloadd tmm5, [{line} + {none}]"
                "tdpbf16ps tmm2, tmm5, tmm6"
                "tdpbf16ps tmm3, tmm5, tmm7"
            ));
        }
    }
    // With all registers both are as fast as their products; with few, eight tiles take twice as long as four.
    let few = 2 * in_eight > 3 * in_four;
    KNOWN.set(Known { few, since, good_for: SHARE * TRIALS as u64 * (in_four + in_eight) });
}

#[repr(align(64))]
struct Line {
    _bytes: [u8; 64],
}
