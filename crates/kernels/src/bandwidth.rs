//! How fast the machine reads memory: the other roof against which `bench` reports (`peak` is the
//! first).

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::buffer::Buffer;
use crate::isa::Isa;
use crate::parallel::{Pool, chunks};
use crate::simd::{Kernel, Simd, dispatch};

/// Values that the reading loop takes at a time: eight vectors of sixteen lanes.
const BLOCK: usize = 128;

/// Bytes of one core's second-level cache, where the system tells (Linux).
pub fn second_level_cache() -> Option<usize> {
    let size = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size").ok()?;
    let kib: usize = size.trim().strip_suffix('K')?.parse().ok()?;
    (kib > 0).then_some(kib * 1024)
}

/// Bytes a second that the threads of `pool` together read, over and over, each from a part of its
/// own of `bytes` in all; measured for about `time`, the best of several rounds.
///
/// What fits the threads' caches is read from there: the bandwidth of the level that `bytes` fill.
pub fn read_bandwidth(isa: Isa, pool: &mut Pool, bytes: usize, time: Duration) -> f64 {
    let threads = pool.threads();
    let values = (bytes / size_of::<f32>() / threads).max(1).next_multiple_of(BLOCK);
    // A round is long beside what starting it costs.
    const LEAST: usize = 1 << 21;
    let passes = LEAST.div_ceil(values);
    let mut buffer = written(pool, values);
    let mut sums = vec![0.0f32; threads];
    let (start, mut best) = (Instant::now(), 0.0f64);
    while start.elapsed() < time || best == 0.0 {
        let begin = Instant::now();
        pool.run(threads, &mut sums, chunks(&mut buffer, values), |_, sum, part| {
            for _ in 0..passes {
                *sum += black_box(sum_of(isa, black_box(part)));
            }
        });
        best =
            best.max((values * threads * passes * size_of::<f32>()) as f64 / begin.elapsed().as_secs_f64());
    }
    best
}

/// Memory of `values` ones for each thread, which it wrote itself.
///
/// Zeros that nobody wrote take no memory: on Linux all their pages are one page of zeros, which stays in a cache
/// however many are read.
fn written(pool: &mut Pool, values: usize) -> Buffer {
    let threads = pool.threads();
    let mut buffer = Buffer::zeros(values * threads);
    pool.run(threads, &mut vec![(); threads], chunks(&mut buffer, values), |_, (), part| part.fill(1.0));
    buffer
}

/// The sum of `values`, a multiple of [`BLOCK`] of them, with nothing to wait for but memory.
fn sum_of(isa: Isa, values: &[f32]) -> f32 {
    assert!(values.len().is_multiple_of(BLOCK), "{} values, expected whole blocks of {BLOCK}", values.len());
    // SAFETY: the length is a multiple of `BLOCK`, as the kernel asks.
    unsafe { dispatch(isa, Sum { values }) }
}

struct Sum<'a> {
    values: &'a [f32],
}

impl Kernel for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) -> f32 {
        const AT_ONCE: usize = 8;
        // SAFETY: the length is a multiple of `BLOCK`, which is one of eight vectors of up to
        // sixteen lanes, so that whole groups of vectors end with it; `out` holds any vector.
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
            // All lanes: what nobody reads, nobody need load.
            out.iter().sum()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_read_once() {
        // Sums of small whole numbers are exact in any order.
        let values: Vec<f32> = (0..5 * BLOCK).map(|n| (n % 7) as f32).collect();
        let expected: f32 = values.iter().sum();
        for isa in Isa::testable() {
            for blocks in [0, 1, 2, 5] {
                let values = &values[..blocks * BLOCK];
                assert_eq!(sum_of(isa, values), values.iter().sum::<f32>(), "{}", isa.name());
            }
            assert_eq!(sum_of(isa, &values), expected);
        }
    }

    #[test]
    fn what_is_read_was_written() {
        for threads in [1, 3] {
            let buffer = written(&mut Pool::new(threads).unwrap(), 5 * BLOCK);
            assert_eq!(buffer.len(), threads * 5 * BLOCK);
            assert!(buffer.iter().all(|&value| value == 1.0), "{threads} threads");
        }
    }

    /// The memory that was measured is the process's own: there is room for it only if it is there.
    #[cfg(target_os = "linux")]
    #[test]
    fn memory_that_is_measured_is_resident() {
        let resident = || -> usize {
            let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
            let pages: usize = pages.split(' ').nth(1).unwrap().parse().unwrap();
            // SAFETY: it reads nothing of ours.
            pages * unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize
        };
        const VALUES: usize = 16 << 20;
        let before = resident();
        let buffer = written(&mut Pool::new(2).unwrap(), VALUES / 2);
        let grown = resident().saturating_sub(before);
        // (Other tests of the process give back less than half of that.)
        assert!(grown > size_of_val(&*buffer) / 2, "{grown} bytes more for {}", size_of_val(&*buffer));
    }

    #[test]
    fn any_number_of_bytes_and_threads_is_measured() {
        for threads in [1, 3] {
            let mut pool = Pool::new(threads).unwrap();
            for bytes in [0, 1000, 1 << 20] {
                let found = read_bandwidth(Isa::best(), &mut pool, bytes, Duration::from_millis(1));
                assert!(found.is_finite() && found > 1e6, "{found} bytes a second of {bytes}");
            }
        }
    }
}
