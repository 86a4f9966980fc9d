//! An engine written in Rust, in a process of its own, as `engines.py` runs those of Python:
//!
//!     rust-rivals rten|tract THREADS NETWORK.onnx IMAGES.f32 N,C,H,W
//!
//! `IMAGES.f32` holds the batch as little-endian floats. Prints a JSON line when it is ready, and
//! then, for every line "SECONDS" on its input, one with the times measured.

use std::error::Error;
use std::io::BufRead;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rten::{Model, RunOptions, ThreadPool};
use rten_tensor::Tensor;
use rten_tensor::prelude::*;
use tract_linalg::multithread::{Executor, set_default_executor};
use tract_onnx::prelude::*;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Runs the batch once and gives all logits.
type Run = Box<dyn FnMut() -> Outcome<Vec<f32>>>;

/// The batch that engines are given.
struct Images {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Images {
    fn read(path: &str, shape: &str) -> Outcome<Self> {
        let bytes = std::fs::read(path)?;
        let values: Vec<f32> = bytes
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .collect();
        let shape: Vec<usize> = shape.split(',').map(str::parse).collect::<Result<_, _>>()?;
        if shape.iter().product::<usize>() != values.len() {
            return Err(format!("{path}: {} values, expected {shape:?}", values.len()).into());
        }
        Ok(Self { shape, values })
    }
}

fn rten(threads: usize, network: &str, images: Images) -> Outcome<Run> {
    let model = Model::load_file(network)?;
    let pool = Arc::new(ThreadPool::with_num_threads(threads));
    let images = Tensor::from_data(&images.shape, images.values);
    Ok(Box::new(move || {
        let mut options = RunOptions::default();
        options.thread_pool = Some(pool.clone());
        let logits: Tensor<f32> = model.run_one(images.view().into(), Some(options))?.try_into()?;
        Ok(logits.to_vec())
    }))
}

fn tract(threads: usize, network: &str, images: Images) -> Outcome<Run> {
    if threads > 1 {
        set_default_executor(Executor::multithread(threads));
    }
    let plan = tract_onnx::onnx().model_for_path(network)?.into_optimized()?.into_runnable()?;
    let images: TValue = tract_onnx::prelude::Tensor::from_shape(&images.shape, &images.values)?.into();
    Ok(Box::new(move || {
        let logits = plan.run(tvec!(images.clone()))?;
        Ok(logits[0].try_as_plain_ram()?.as_slice::<f32>()?.to_vec())
    }))
}

/// As `mobilenet bench` does it: up to ten runs or about a second of warm-up, then the time given.
fn measure(run: &mut Run, seconds: f64) -> Outcome<Vec<f64>> {
    let mut timed = || -> Outcome<f64> {
        let start = Instant::now();
        std::hint::black_box(run()?);
        Ok(start.elapsed().as_secs_f64())
    };
    let once = timed()?;
    for _ in 0..((1.0 / once.max(1e-4)) as usize).clamp(1, 10) {
        timed()?;
    }
    let (mut times, start) = (Vec::new(), Instant::now());
    while start.elapsed() < Duration::from_secs_f64(seconds) || times.len() < 5 {
        times.push(timed()?);
    }
    Ok(times)
}

/// The most memory that this process has had at once, in MiB; 0 where the system does not tell.
fn peak_rss_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    (kib.unwrap_or(0.0f64) / 1024.0).round()
}

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [engine, threads, network, images, shape] = arguments.as_slice() else {
        return Err("expected: rten|tract THREADS NETWORK.onnx IMAGES.f32 N,C,H,W".into());
    };
    let (threads, images) = (threads.parse()?, Images::read(images, shape)?);
    let batch = images.shape[0];
    // The versions that Cargo.toml pins.
    let (mut run, version) = match engine.as_str() {
        "rten" => (rten(threads, network, images)?, "0.27.0"),
        "tract" => (tract(threads, network, images)?, "0.23.9"),
        _ => return Err(format!("{engine}: expected rten or tract").into()),
    };
    let logits = run()?;
    println!("{{\"version\": \"{version}\", \"logits\": {:?}}}", &logits[..logits.len() / batch]);
    for line in std::io::stdin().lock().lines() {
        let times = measure(&mut run, line?.trim().parse()?)?;
        println!("{{\"times\": {times:?}, \"peak_rss_mib\": {}}}", peak_rss_mib());
    }
    Ok(())
}
