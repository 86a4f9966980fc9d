//! Times products in f32 and in bf16, with weights in the cache and with weights that are not, on one
//! thread: `cargo run --release -p mobilenet-kernels --example cold_product`.
//!
//! Between the images of one network its 17 MB of weights leave the second-level cache, so that the second
//! time is the one that a user sees. Both types take turns, so that the machine's moods meet both.

use std::error::Error;
use std::time::{Duration, Instant};

use half::bf16;
use mobilenet_kernels::bf16::{self as products, PackedBf16};
use mobilenet_kernels::gemm::{self, Epilogue, MatrixMut, MatrixRef, PackedB};
use mobilenet_kernels::parallel::Pool;
use mobilenet_kernels::{Buffer, Clamp, Isa, peak};

/// Bytes of weights that are gone through in turns, more than a second-level cache holds.
const TURNS: usize = 40_000_000;
/// How long each product is timed, in so many turns.
const TIME: Duration = Duration::from_millis(250);
const ROUNDS: u32 = 5;

/// A product that can be repeated, with one of so many copies of its weights.
struct Product<'a> {
    type_name: &'a str,
    /// Multiply-adds a second, at most.
    peak: f64,
    copies: usize,
    multiply: Box<dyn FnMut(usize) + 'a>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let isa = Isa::from_environment()?;
    let mut pool = Pool::new(1)?;
    let peaks = [
        peak::multiply_adds_per_second(isa, &mut pool, TIME),
        peak::multiply_adds_per_second_bf16(isa, &mut pool, TIME),
    ];
    println!(
        "{}: at most {:.1} billion multiply-adds a second in f32, {:.1} in bf16",
        isa.name(),
        peaks[0] / 1e9,
        peaks[1] / 1e9
    );
    println!(
        "{:>16}  {:>4}  {:>7}  {:>9}  {:>9}  of the peak",
        "m×k×n", "type", "weights", "median µs", "fastest"
    );
    for (m, k, n) in [
        (448, 32, 64),
        (448, 64, 128),
        (448, 128, 128),
        (784, 256, 256),
        (196, 512, 512),
        (49, 512, 1024),
        (49, 1024, 1024),
        (1, 1024, 1000),
    ] {
        let bias = vec![0.1; n];
        let epilogue = Epilogue { bias: Some(&bias), clamp: Some(Clamp::RELU), lowered: None };
        let copies = |value_bytes: usize| (TURNS / (k * n * value_bytes)).max(1);

        let stride = gemm::padded_stride(isa, k);
        let (mut a, mut c) = (Buffer::<f32>::zeros(m * stride), Buffer::<f32>::zeros(m * n));
        a.fill(0.5);
        let mut weights = PackedB::new(isa, k, n);
        weights.pack(&vec![0.01; k * n]);
        let weights = vec![weights; copies(size_of::<f32>())];
        let f32 = Product {
            type_name: "f32",
            peak: peaks[0],
            copies: weights.len(),
            multiply: Box::new(|copy| {
                let c = MatrixMut::new(&mut c, m, n, n);
                gemm::gemm(MatrixRef::new(&a, m, k, stride), &weights[copy], 0, c, epilogue);
            }),
        };

        let stride = products::padded_stride(isa, k);
        let (mut a, mut c) = (Buffer::<bf16>::zeros(m * stride), Buffer::<bf16>::zeros(m * n));
        a.fill(bf16::from_f32(0.5));
        let mut weights = PackedBf16::new(isa, k, n);
        weights.pack(&vec![0.01; k * n]);
        let weights = vec![weights; copies(size_of::<bf16>())];
        let bf16 = Product {
            type_name: "bf16",
            peak: peaks[1],
            copies: weights.len(),
            multiply: Box::new(|copy| {
                let c = MatrixMut::new(&mut c, m, n, n);
                products::gemm(MatrixRef::new(&a, m, k, stride), &weights[copy], 0, c, epilogue);
            }),
        };

        let mut types = [f32, bf16];
        for (what, cold) in [("cached", false), ("cold", true)] {
            let mut times = [Vec::new(), Vec::new()];
            for _ in 0..ROUNDS {
                for (product, times) in types.iter_mut().zip(&mut times) {
                    let start = Instant::now();
                    for copy in (0..if cold { product.copies } else { 1 }).cycle() {
                        let before = Instant::now();
                        (product.multiply)(copy);
                        times.push(before.elapsed().as_secs_f64());
                        if start.elapsed() > TIME / ROUNDS {
                            break;
                        }
                    }
                }
            }
            for (product, mut times) in types.iter().zip(times) {
                times.sort_by(f64::total_cmp);
                let (median, fastest) = (times[times.len() / 2], times[0]);
                println!(
                    "{:>16}  {:>4}  {what:>7}  {:>9.1}  {:>9.1}  {:>10.0}%",
                    format!("{m}×{k}×{n}"),
                    product.type_name,
                    median * 1e6,
                    fastest * 1e6,
                    100.0 * (m * k * n) as f64 / median / product.peak,
                );
            }
        }
    }
    Ok(())
}
