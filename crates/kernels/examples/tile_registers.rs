//! Times products in tiles (AMX) with blocks of 2×2 and of 1×2 tiles in turns, on one thread, while tile
//! registers are many and while they are few, as the machine happens to have them:
//! `cargo run --release -p mobilenet-kernels --example tile_registers`.

use std::error::Error;
use std::time::{Duration, Instant};

use half::{bf16, f16};
use mobilenet_kernels::bf16::{self as products, PackedBf16, assume_few_tile_registers};
use mobilenet_kernels::gemm::{Epilogue, MatrixMut, MatrixRef};
use mobilenet_kernels::{Buffer, Clamp, Isa};

/// How long each product is timed.
const TIME: Duration = Duration::from_millis(1500);

fn main() -> Result<(), Box<dyn Error>> {
    let isa = Isa::from_environment()?;
    if isa.name() != "amx" {
        return Err(format!("found the instruction set {}, expected amx", isa.name()).into());
    }
    println!("{:>12}  {:>9}  {:>7}  {:>7}  {:>7}", "m×k×n", "registers", "times", "2×2 µs", "1×2 µs");
    for (m, k, n) in [(448, 32, 64), (224, 128, 128), (392, 256, 256), (98, 512, 512), (49, 1024, 512)] {
        let bias = vec![0.1; n];
        let epilogue = Epilogue { bias: Some(&bias), clamp: Some(Clamp::RELU), lowered: None };
        let stride = products::padded_stride(isa, k);
        let mut a = Buffer::<bf16>::zeros(m * stride);
        a.iter_mut()
            .enumerate()
            .for_each(|(i, a)| *a = bf16::from_f32((i * 7919 % 1021) as f32 / 510.0 - 1.0));
        let mut c = Buffer::<f16>::zeros(m * n);
        let mut weights = PackedBf16::new(isa, k, n);
        weights.pack_with(|row, column| ((row * 31 + column * 17) % 101) as f32 / 50.0 - 1.0);

        let mut pairs: Vec<[f64; 2]> = Vec::new();
        let start = Instant::now();
        while start.elapsed() < TIME {
            pairs.push([false, true].map(|few| {
                assume_few_tile_registers(few);
                let start = Instant::now();
                let c = MatrixMut::new(&mut c, m, n, n);
                products::gemm(MatrixRef::new(&a, m, k, stride), &weights, 0, c, epilogue);
                start.elapsed().as_secs_f64() * 1e6
            }));
        }
        let fastest = pairs.iter().map(|pair| pair[0]).fold(f64::INFINITY, f64::min);
        // With few of them blocks of 2×2 take more than twice as long.
        for (state, many) in [("many", true), ("few", false)] {
            let those = pairs.iter().filter(|pair| (pair[0] < 1.4 * fastest) == many);
            let [first, second] = [0, 1].map(|way| {
                let mut times: Vec<f64> = those.clone().map(|pair| pair[way]).collect();
                times.sort_by(f64::total_cmp);
                times.get(times.len() / 2).map_or("-".to_string(), |time| format!("{time:.1}"))
            });
            println!(
                "{:>12}  {state:>9}  {:>7}  {first:>7}  {second:>7}",
                format!("{m}×{k}×{n}"),
                those.count(),
            );
        }
    }
    Ok(())
}
