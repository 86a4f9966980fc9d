use half::{bf16, f16};
use mobilenet_kernels::bf16::{self as products, PackedBf16};
use mobilenet_kernels::gemm::{Epilogue, MatrixMut, MatrixRef};
use mobilenet_kernels::{Buffer, Clamp, Isa};
use std::sync::atomic::Ordering;
use std::time::Instant;
fn main() {
    let isa = Isa::from_environment().unwrap();
    let modes: Vec<usize> = std::env::args().nth(1).unwrap().split(' ').map(|m| m.parse().unwrap()).collect();
    let cold = std::env::args().nth(2).is_some();
    let mut state = 1u32;
    for (m, k, n) in [
        (448, 32, 64),
        (224, 64, 128),
        (224, 128, 128),
        (392, 256, 256),
        (98, 256, 512),
        (98, 512, 512),
        (49, 512, 512),
        (49, 1024, 512),
    ] {
        let bias = vec![0.1; n];
        let epilogue = Epilogue { bias: Some(&bias), clamp: Some(Clamp::RELU), lowered: None };
        let stride = products::padded_stride(isa, k);
        let mut a = Buffer::<bf16>::zeros(m * stride);
        for v in a.iter_mut() {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            *v = bf16::from_f32((state >> 8) as f32 / 16777216.0 - 0.5);
        }
        let mut c = Buffer::<f16>::zeros(m * n);
        let mut w = PackedBf16::new(isa, k, n);
        let values: Vec<f32> = (0..k * n)
            .map(|_| {
                state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                (state >> 8) as f32 / 16777216.0 - 0.5
            })
            .collect();
        w.pack(&values);
        let copies = if cold { (10_000_000 / (k * n * 2)).max(1) } else { 1 };
        let w = vec![w; copies];
        let start = Instant::now();
        let mut rounds: Vec<Vec<f64>> = vec![];
        let mut which = 0;
        while start.elapsed().as_secs_f64() < 1.5 {
            rounds.push(
                modes
                    .iter()
                    .map(|&mode| {
                        mobilenet_kernels::MODE.store(mode, Ordering::Relaxed);
                        which = (which + 1) % copies;
                        let t = Instant::now();
                        products::gemm(
                            MatrixRef::new(&a, m, k, stride),
                            &w[which],
                            0,
                            MatrixMut::new(&mut c, m, n, n),
                            epilogue,
                        );
                        t.elapsed().as_secs_f64() * 1e6
                    })
                    .collect(),
            );
        }
        let min = rounds.iter().map(|r| r[0]).fold(f64::MAX, f64::min);
        for (name, fast) in [("fast", true), ("slow", false)] {
            let some: Vec<_> = rounds.iter().filter(|r| (r[0] < 1.25 * min) == fast).collect();
            let medians: Vec<String> = (0..modes.len())
                .map(|i| {
                    let mut v: Vec<f64> = some.iter().map(|r| r[i]).collect();
                    v.sort_by(f64::total_cmp);
                    v.get(v.len() / 2).map_or("-".into(), |m| format!("{}:{:.1}", modes[i], m))
                })
                .collect();
            println!("{m}x{k}x{n} {name} ({}): {}", some.len(), medians.join("  "));
        }
    }
}
