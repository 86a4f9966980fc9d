//! Times products with weights in the cache and with weights that are not, on one thread:
//! `cargo run --release -p mobilenet-kernels --example cold_product`.
//!
//! Between the images of one network its 17 MB of weights leave the second-level cache, so that the second
//! time is the one that a user sees.

use std::error::Error;
use std::time::{Duration, Instant};

use mobilenet_kernels::gemm::{Epilogue, MatrixMut, MatrixRef, PackedB, gemm, padded_stride};
use mobilenet_kernels::parallel::Pool;
use mobilenet_kernels::{Clamp, Isa, peak};

/// Bytes of weights that are gone through in turns, more than a second-level cache holds.
const TURNS: usize = 40_000_000;
/// How long each product is timed.
const TIME: Duration = Duration::from_millis(250);

fn main() -> Result<(), Box<dyn Error>> {
    let isa = Isa::from_environment()?;
    let peak = peak::multiply_adds_per_second(isa, &Pool::new(1)?, TIME);
    println!("{}: at most {:.1} billion multiply-adds a second", isa.name(), peak / 1e9);
    println!("{:>16}  {:>7}  {:>9}  {:>9}  of the peak", "m×k×n", "weights", "median µs", "fastest");
    for (m, k, n) in [(784, 256, 256), (196, 512, 512), (49, 512, 1024), (49, 1024, 1024), (1, 1024, 1000)] {
        let stride = padded_stride(isa, k);
        let a = vec![0.5; m * stride];
        let bias = vec![0.1; n];
        let mut c = vec![0.0; m * n];
        let mut weights = PackedB::new(isa, k, n);
        weights.pack(&vec![0.01; k * n]);
        let weights = vec![weights; (TURNS / (k * n * size_of::<f32>())).max(1)];
        for (what, in_turns) in [("cached", 1), ("cold", weights.len())] {
            let start = Instant::now();
            let mut times = Vec::new();
            for b in weights[..in_turns].iter().cycle() {
                let before = Instant::now();
                let epilogue = Epilogue { bias: Some(&bias), clamp: Some(Clamp::RELU) };
                gemm(MatrixRef::new(&a, m, k, stride), b, 0, MatrixMut::new(&mut c, m, n, n), epilogue);
                times.push(before.elapsed().as_secs_f64());
                if start.elapsed() > TIME {
                    break;
                }
            }
            times.sort_by(f64::total_cmp);
            let (median, fastest) = (times[times.len() / 2], times[0]);
            println!(
                "{:>16}  {what:>7}  {:>9.1}  {:>9.1}  {:>10.0}%",
                format!("{m}×{k}×{n}"),
                median * 1e6,
                fastest * 1e6,
                100.0 * (m * k * n) as f64 / median / peak,
            );
        }
    }
    Ok(())
}
