//! What the machine can do at most: the roof against which `bench` reports.

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
            out[0]
        }
    }
}

/// Multiply-adds a second that the machine reaches in f32 with the vectors of `isa` on all threads
/// of `pool` at once (one multiply-add is two floating-point operations), measured for about
/// `time`; the best of several rounds.
pub fn multiply_adds_per_second(isa: Isa, pool: &Pool, time: Duration) -> f64 {
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

/// Bytes a second that all threads of `pool` together read from a buffer of `bytes` in all,
/// measured for about `time`; the best of several rounds.
pub fn read_bandwidth(isa: Isa, pool: &Pool, bytes: usize, time: Duration) -> f64 {
    let threads = pool.threads();
    let values = (bytes / 4 / threads).max(1024).next_multiple_of(1024);
    let mut buffer = vec![1.0f32; values * threads];
    let mut scratch = vec![0.0f32; threads];
    let (start, mut best) = (Instant::now(), 0.0f64);
    while start.elapsed() < time || best == 0.0 {
        let begin = Instant::now();
        pool.run(threads, &mut scratch, crate::parallel::chunks(&mut buffer, values), |_, sum, part| {
            // SAFETY: the kernel reads whole blocks of 1024 values, of which the part consists.
            *sum += black_box(unsafe { dispatch(isa, Read { values: part }) });
        });
        best = best.max((values * threads * 4) as f64 / begin.elapsed().as_secs_f64());
    }
    best
}

struct Read<'a> {
    values: &'a [f32],
}

impl Kernel for Read<'_> {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) -> f32 {
        const AT_ONCE: usize = 8;
        // SAFETY: the length is a multiple of 1024, hence of 8 vectors; `out` holds any vector.
        unsafe {
            let mut sums = [s.splat(0.0); AT_ONCE];
            let mut at = 0;
            while at < self.values.len() {
                for sum in &mut sums {
                    *sum = s.add(*sum, s.load(self.values.as_ptr().add(at)));
                    at += S::LANES;
                }
            }
            let mut out = [0.0f32; 16];
            for sum in sums {
                s.store(out.as_mut_ptr(), s.add(s.load(out.as_ptr()), sum));
            }
            out[0]
        }
    }
}
