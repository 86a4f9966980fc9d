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
    let (start, mut images_timed) = (Instant::now(), Vec::new());
    while start.elapsed() < Duration::from_secs_f64(seconds) {
        if layers {
            executor.time_layers();
        }
        let start = Instant::now();
        std::hint::black_box(executor.infer(&images).unwrap());
        images_timed.push((start.elapsed().as_secs_f64() * 1e3, executor.layer_times()));
    }
    images_timed.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let time = |at: usize| images_timed[at].0;
    let count = images_timed.len();
    println!("min {:.3} q1 {:.3} median {:.3} ms", time(0), time(count / 4), time(count / 2));
    // Those of the fastest tenth: the machine's other work meets the others.
    let fastest = &images_timed[..count.div_ceil(10)];
    for (at, layer) in images_timed[0].1.iter().enumerate() {
        let sum: f64 = fastest.iter().map(|(_, layers)| layers[at].seconds).sum();
        println!("{:>14} {:8.1} us", layer.layer, sum * 1e6 / fastest.len() as f64);
    }
}
