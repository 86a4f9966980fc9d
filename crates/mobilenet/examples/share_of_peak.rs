//! Times inference in f32 between two measurements of the peak of multiply-adds, so that a machine whose speed
//! changes all the time can be told from a program that is slow. Only where the two agree is the time between them
//! counted; groups of these, by the peak that was found, show what share of it the whole network reaches.
//!
//!     cargo run --release -p mobilenet --example share_of_peak -- THREADS BATCH SECONDS
//!
//! `MOBILENET_ISA` forces an instruction set.
#![allow(missing_docs)]

use std::error::Error;
use std::time::{Duration, Instant};

use mobilenet::cpu::{CpuExecutor, CpuOptions};
use mobilenet::{Architecture, Executor, Tensor, Weights};
use mobilenet_kernels::parallel::Pool;
use mobilenet_kernels::{Isa, peak};

/// How much the two measurements may differ.
const AGREE: f64 = 0.03;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mut number = || args.next().ok_or("expected THREADS BATCH SECONDS");
    let (threads, batch, seconds): (usize, usize, f64) =
        (number()?.parse()?, number()?.parse()?, number()?.parse()?);
    let architecture = Architecture::default();
    let weights = Weights::random(&architecture, 0)?;
    let options = CpuOptions { threads: Some(threads), ..CpuOptions::default() };
    let mut executor = CpuExecutor::new(&architecture, &weights, &options)?;
    let r = architecture.resolution;
    let pixels = (0..batch * r * r * 3).map(|i| ((i * 7919) % 1021) as f32 / 510.0 - 1.0).collect();
    let images = Tensor::new(&[batch, r, r, 3], pixels)?;
    let (isa, mut pool) = (Isa::from_environment()?, Pool::new(threads)?);
    let mut peak = || peak::multiply_adds_per_second(isa, &mut pool, Duration::ZERO);
    let work = batch as f64 * architecture.cost(1)?.mult_adds() as f64;
    for _ in 0..3 {
        executor.infer(&images)?;
    }
    let (start, mut all, mut steady) = (Instant::now(), 0, Vec::new());
    while start.elapsed() < Duration::from_secs_f64(seconds) {
        let before = peak();
        let begin = Instant::now();
        std::hint::black_box(executor.infer(&images)?);
        let time = begin.elapsed().as_secs_f64();
        let after = peak();
        all += 1;
        if (before / after - 1.0).abs() < AGREE {
            steady.push(((before + after) / 2.0, time));
        }
    }
    println!("{}, {threads} threads, batch {batch}: {} of {all} steady", isa.name(), steady.len());
    steady.sort_by(|a, b| a.0.total_cmp(&b.0));
    for group in steady.chunks(steady.len().div_ceil(6).max(1)) {
        let peak = group[group.len() / 2].0;
        let mut times: Vec<f64> = group.iter().map(|each| each.1).collect();
        times.sort_by(f64::total_cmp);
        let time = times[times.len() / 2];
        println!(
            "peak {:6.1} billion multiply-adds a second: {:8.3} ms, {:.3} of the peak; the fastest {:8.3} ms",
            peak / 1e9,
            time * 1e3,
            work / peak / time,
            times[0] * 1e3
        );
    }
    Ok(())
}
