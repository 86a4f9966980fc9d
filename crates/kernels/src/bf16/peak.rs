//! What the machine can do at most in products of bf16.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::Kind;
use crate::parallel::Pool;

/// Multiply-adds a second of bf16 values with sums in f32 that the machine reaches with `isa` on all
/// threads of `pool` at once, measured for about `time`; the best of several rounds. Where `isa` has no
/// instructions for bf16, those of f32 ([`crate::peak::multiply_adds_per_second`]).
// Elsewhere there are no instructions for bf16 yet.
#[cfg_attr(not(target_arch = "x86_64"), allow(unreachable_code))]
pub fn multiply_adds_per_second_bf16(isa: Isa, pool: &mut Pool, time: Duration) -> f64 {
    const ROUNDS: usize = 100_000;
    let (work, each): (unsafe fn(usize), usize) = match isa.0 {
        #[cfg(target_arch = "x86_64")]
        Kind::Amx => (super::tiles::multiply_adds, super::tiles::MULTIPLY_ADDS),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512Bf16 => (super::pairs::multiply_adds, super::pairs::MULTIPLY_ADDS),
        _ => return crate::peak::multiply_adds_per_second(isa, pool, time),
    };
    let threads = pool.threads();
    let mut scratch = vec![(); threads];
    let (start, mut best) = (Instant::now(), 0.0f64);
    while start.elapsed() < time || best == 0.0 {
        let begin = Instant::now();
        pool.run(threads, &mut scratch, (), |_, (), ()| {
            // SAFETY: an `Isa` exists only where its instructions do; they work on registers.
            unsafe { work(black_box(ROUNDS)) };
        });
        best = best.max((ROUNDS * each * threads) as f64 / begin.elapsed().as_secs_f64());
    }
    best
}
