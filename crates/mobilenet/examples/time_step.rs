//! How long a training step takes, and each layer of it, without data or optimizer.
//!
//!     cargo run --release -p mobilenet --example time_step -- [steps] [batch] [threads] [resolution] [recompute] [precision]

use std::collections::BTreeMap;
use std::time::Instant;

use mobilenet::cpu::{CpuExecutor, CpuOptions, Pass, Precision};
use mobilenet::executor::Executor;
use mobilenet::{Architecture, Tensor, Weights};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let given: Vec<usize> = words.iter().take(5).map(|word| word.parse()).collect::<Result<_, _>>()?;
    let precision = words.get(5).map_or(Ok(Precision::F32), |word| word.parse())?;
    let at = |index: usize, default: usize| given.get(index).copied().unwrap_or(default);
    let (steps, batch, threads, resolution) = (at(0, 5), at(1, 32), at(2, 2), at(3, 224));
    let architecture = Architecture { resolution, ..Architecture::default() };
    let weights = Weights::random(&architecture, 1)?;
    let recompute = at(4, 0) > 0;
    let options = CpuOptions { threads: Some(threads), recompute, precision, ..CpuOptions::default() };
    let mut executor = CpuExecutor::new(&architecture, &weights, &options)?;
    let len = batch * resolution * resolution * 3;
    let images: Vec<f32> = (0..len).map(|i| ((i * 7919 % 1013) as f32) / 506.0 - 1.0).collect();
    let images = Tensor::new(&[batch, resolution, resolution, 3], images)?;
    let step = |executor: &mut CpuExecutor| -> Result<f64, Box<dyn std::error::Error>> {
        let start = Instant::now();
        executor.zero_grad();
        let logits = executor.forward(&images)?;
        executor.backward(&logits)?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    step(&mut executor)?;
    let mut times = Vec::new();
    let mut layers: BTreeMap<String, [Vec<f64>; 2]> = BTreeMap::new();
    let mut order = Vec::new();
    for _ in 0..steps {
        executor.time_layers();
        times.push(step(&mut executor)?);
        for time in executor.layer_times() {
            let slot = if time.pass == Pass::Forward { 0 } else { 1 };
            if !order.contains(&time.layer) {
                order.push(time.layer.clone());
            }
            layers.entry(time.layer).or_default()[slot].push(time.seconds * 1e3);
        }
    }
    let least = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
    for layer in &order {
        let [forward, backward] = &layers[layer];
        println!("{layer:<16} forward {:>7.2} ms  backward {:>7.2} ms", least(forward), least(backward));
    }
    times.sort_by(f64::total_cmp);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).map_or("unknown", str::trim);
    println!("step: median {:.1} ms, least {:.1} ms; peak memory {peak}", times[times.len() / 2], times[0]);
    Ok(())
}
