//! Times inference of a network with random weights, layer by layer if asked.
//!
//!     cargo run --release -p mobilenet --example time_inference -- THREADS BATCH SECONDS [layers] [small] [bf16]
#![allow(missing_docs)]

use std::time::{Duration, Instant};

use mobilenet::cpu::{CpuExecutor, CpuOptions, Precision};
use mobilenet::{Architecture, Executor, Tensor, Weights};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| args[at].parse::<f64>().unwrap();
    let (threads, batch, seconds) = (number(0) as usize, number(1) as usize, number(2));
    let asked = |word: &str| args[3..].iter().any(|arg| arg == word);
    let layers = asked("layers");
    let mut architecture = Architecture::default();
    if asked("small") {
        architecture.width_multiplier = 0.25;
        architecture.resolution = 128;
    }
    let weights = Weights::random(&architecture, 0).unwrap();
    let precision = if asked("bf16") { Precision::Bf16 } else { Precision::F32 };
    let options = CpuOptions { threads: Some(threads), precision, ..CpuOptions::default() };
    let mut executor = CpuExecutor::new(&architecture, &weights, &options).unwrap();
    let r = architecture.resolution;
    let pixels = (0..batch * r * r * 3).map(|i| ((i * 7919) % 1021) as f32 / 510.0 - 1.0).collect();
    let images = Tensor::new(&[batch, r, r, 3], pixels).unwrap();
    for _ in 0..3 {
        executor.infer(&images).unwrap();
    }
    if layers {
        executor.time_layers();
    }
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < Duration::from_secs_f64(seconds) {
        let start = Instant::now();
        std::hint::black_box(executor.infer(&images).unwrap());
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!("min {:.3} q1 {:.3} median {:.3} ms", times[0], times[times.len() / 4], times[times.len() / 2]);
    if layers {
        for time in executor.layer_times() {
            println!("{:>14} {:8.1} us", time.layer, time.seconds * 1e6 / times.len() as f64);
        }
    }
}
