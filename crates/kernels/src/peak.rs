//! What the machine can compute at most: the roof against which `bench` reports.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::isa::Isa;
use crate::parallel::Pool;
use crate::simd::{Kernel, Simd, dispatch};

pub use crate::bf16::peak::multiply_adds_per_second_bf16;

/// Independent sums: enough to hide the latency of two FMA units, few enough for the registers.
const SUMS: usize = 12;

struct MultiplyAdds {
    rounds: usize,
}

impl Kernel for MultiplyAdds {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) -> f32 {
        // SAFETY: registers only, and `out` has room for a vector of up to sixteen lanes.
        unsafe {
            let (factor, term) = (s.splat(black_box(0.999)), s.splat(black_box(0.001)));
            let mut sums = [s.splat(black_box(0.5)); SUMS];
            for _ in 0..self.rounds {
                for sum in &mut sums {
                    *sum = s.mul_add(*sum, factor, term);
                }
            }
            let mut out = [0.0f32; 16];
            for sum in sums {
                s.store(out.as_mut_ptr(), s.add(s.load(out.as_ptr()), sum));
            }
            // All lanes: what nobody reads, nobody need compute.
            out.iter().sum()
        }
    }
}

/// Multiply-adds a second that the machine reaches in f32 with the vectors of `isa` on all threads
/// of `pool` at once (one multiply-add is two floating-point operations), measured for about
/// `time`; the best of several rounds.
pub fn multiply_adds_per_second(isa: Isa, pool: &mut Pool, time: Duration) -> f64 {
    const ROUNDS: usize = 200_000;
    let lanes = crate::simd::lanes(isa);
    let each = (ROUNDS * SUMS * lanes) as f64;
    let threads = pool.threads();
    let mut scratch = vec![0.0f32; threads];
    let (start, mut best) = (Instant::now(), 0.0f64);
    while start.elapsed() < time || best == 0.0 {
        let begin = Instant::now();
        pool.run(threads, &mut scratch, (), |_, sum, ()| {
            // SAFETY: the kernel touches nothing but registers and its own array.
            *sum += black_box(unsafe { dispatch(isa, MultiplyAdds { rounds: ROUNDS }) });
        });
        best = best.max(each * threads as f64 / begin.elapsed().as_secs_f64());
    }
    best
}
