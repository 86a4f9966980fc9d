//! Times the product C += Aᵀ·B in f32 and in bf16, on one thread:
//! `cargo run --release -p mobilenet-kernels --example transposed_product [r m n]`.
//!
//! Both types take turns, so that the machine's moods meet both.

use std::error::Error;
use std::time::{Duration, Instant};

use half::bf16;
use mobilenet_kernels::bf16 as products;
use mobilenet_kernels::gemm::{self, Ahead, MatrixMut, MatrixRef};
use mobilenet_kernels::parallel::Pool;
use mobilenet_kernels::{Buffer, Isa, peak};

/// How long each product is timed, in so many turns.
const TIME: Duration = Duration::from_millis(250);
const ROUNDS: u32 = 5;

/// Shapes r, m, n of the layers of MobileNet v1, about as many rows as are multiplied at a time.
const SHAPES: [(usize, usize, usize); 8] = [
    (448, 64, 32),
    (448, 128, 128),
    (224, 256, 256),
    (112, 512, 512),
    (56, 1024, 1024),
    (224, 512, 512),
    (224, 1024, 1024),
    (448, 1024, 1024),
];

fn main() -> Result<(), Box<dyn Error>> {
    let isa = Isa::from_environment()?;
    let arguments =
        std::env::args().skip(1).map(|argument| argument.parse()).collect::<Result<Vec<usize>, _>>()?;
    let shapes = match arguments[..] {
        [] => SHAPES.to_vec(),
        [r, m, n] => vec![(r, m, n)],
        _ => return Err("three numbers or none: r m n".into()),
    };
    let mut pool = Pool::new(1)?;
    let peaks = [
        peak::multiply_adds_per_second(isa, &mut pool, TIME),
        peak::multiply_adds_per_second_bf16(isa, &mut pool, TIME),
    ];
    println!("{}: at most {:.0} GFLOP/s in f32, {:.0} in bf16", isa.name(), peaks[0] * 2e-9, peaks[1] * 2e-9);
    println!(
        "{:>16}  {:>4}  {:>9}  {:>9}  {:>8}  of the peak",
        "r×m×n", "type", "median µs", "fastest", "GFLOP/s"
    );
    for (r, m, n) in shapes {
        let strides = [m, n].map(|columns| gemm::padded_stride(isa, columns));
        let [a, b] = strides.map(|stride| {
            let mut values = Buffer::zeros(r * stride);
            values.fill(0.01);
            values
        });
        let mut c = Buffer::zeros(m * n);
        let f32: Box<dyn FnMut()> = Box::new(|| {
            let (a, b) = (MatrixRef::new(&a, r, m, strides[0]), MatrixRef::new(&b, r, n, strides[1]));
            let c = MatrixMut::new(&mut c, m, n, n);
            gemm::gemm_transposed(isa, a, b, (c, true), Ahead::default());
        });

        let strides = [m, n].map(|columns| products::padded_stride(isa, columns));
        let [a, b] = strides.map(|stride| {
            let mut values = Buffer::zeros(r * stride);
            values.fill(bf16::from_f32(0.01));
            values
        });
        let (mut c, mut scratch) = (Buffer::zeros(m * n), Buffer::default());
        let bf16: Box<dyn FnMut()> = Box::new(|| {
            let (a, b) = (MatrixRef::new(&a, r, m, strides[0]), MatrixRef::new(&b, r, n, strides[1]));
            let c = MatrixMut::new(&mut c, m, n, n);
            products::gemm_transposed(isa, a, b, (c, true), &mut scratch);
        });

        let mut products = [("f32", f32), ("bf16", bf16)];
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for ((_, product), times) in products.iter_mut().zip(&mut times) {
                let start = Instant::now();
                while start.elapsed() < TIME / ROUNDS {
                    let before = Instant::now();
                    product();
                    times.push(before.elapsed().as_secs_f64());
                }
            }
        }
        for (((name, _), mut times), peak) in products.iter().zip(times).zip(peaks) {
            times.sort_by(f64::total_cmp);
            let (median, fastest) = (times[times.len() / 2], times[0]);
            let rate = (r * m * n) as f64 / median;
            println!(
                "{:>16}  {name:>4}  {:>9.1}  {:>9.1}  {:>8.0}  {:>10.0}%",
                format!("{r}×{m}×{n}"),
                median * 1e6,
                fastest * 1e6,
                rate * 2e-9,
                100.0 * rate / peak,
            );
        }
    }
    Ok(())
}
