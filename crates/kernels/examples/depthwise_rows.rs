//! Times depthwise rows of the network's maps on one thread, f16 being maps of bf16 inference:
//! `cargo run --release -p mobilenet-kernels --example depthwise_rows`.

use std::error::Error;
use std::time::{Duration, Instant};

use half::{bf16, f16};
use mobilenet_kernels::depthwise::{
    Centring, Present, RowEpilogue, RowGeometry, convolve_rows, pixel_stride,
};
use mobilenet_kernels::gemm::padded_stride;
use mobilenet_kernels::parallel::Pool;
use mobilenet_kernels::{Clamp, Element, Isa, peak};

/// How long each map is timed.
const TIME: Duration = Duration::from_millis(150);

fn main() -> Result<(), Box<dyn Error>> {
    let isa = Isa::from_environment()?;
    let peak = peak::multiply_adds_per_second(isa, &mut Pool::new(1)?, TIME);
    println!("{}: at most {:.1} billion multiply-adds a second", isa.name(), peak / 1e9);
    println!(
        "{:>14}  {:>6}  {:>4}  {:>9}  {:>9}  of the peak",
        "input", "stride", "type", "median µs", "fastest"
    );
    let together = std::env::args().nth(1).map_or(Ok(4), |arg| arg.parse::<usize>())?;
    for map in [
        (112, 32, 1),
        (112, 64, 2),
        (56, 128, 1),
        (56, 128, 2),
        (28, 256, 1),
        (28, 256, 2),
        (14, 512, 1),
        (14, 512, 2),
        (7, 1024, 1),
    ] {
        time::<f32, f32>("f32", isa, map, together, peak);
        time::<bf16, bf16>("bf16", isa, map, together, peak);
        time::<f16, bf16>("f16", isa, map, together, peak);
    }
    Ok(())
}

/// Times all rows of a map of so many pixels a side and channels at a stride.
fn time<E: Element, O: Element>(
    name: &str,
    isa: Isa,
    (size, channels, stride): (usize, usize, usize),
    together: usize,
    peak: f64,
) {
    let outputs = size / stride + size % stride;
    let geometry = RowGeometry {
        outputs,
        channels,
        pixel_stride: pixel_stride(channels),
        output_stride: padded_stride(isa, channels),
        stride,
        dilation: 1,
        present: Some(Present { left: 1, count: size }),
    };
    let row_len = size * geometry.pixel_stride;
    let map = vec![E::from_f32(0.5); size * row_len];
    let zeros = vec![E::from_f32(0.0); row_len];
    let (taps, bias) = (vec![0.1; 9 * channels], vec![0.1; channels]);
    // Of a large map only a few rows are in the cache, and are kept there.
    let kept = if size >= 56 { 8 } else { size };
    let mut output = vec![O::from_f32(0.0); outputs * outputs * geometry.output_stride];
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < TIME {
        let begin = Instant::now();
        for y in (0..outputs).step_by(together) {
            let len = outputs * geometry.output_stride;
            let count = together.min(outputs - y);
            let output = &mut output[y % kept * len..][..count * len];
            let rows: [[&[E]; 3]; 16] = std::array::from_fn(|at| {
                [0, 1, 2].map(|k| match ((y + at) * stride + k).checked_sub(1) {
                    Some(row) if row < size => &map[row % kept * row_len..][..row_len],
                    _ => &zeros[..],
                })
            });
            let epilogue = RowEpilogue {
                bias: &bias,
                // (Within 2, as bf16 inference scales its outputs.)
                clamp: Clamp { low: 0.0, high: 1.5 },
                centring: Centring::default(),
                half_sums: true,
            };
            convolve_rows(isa, geometry, &rows[..count], &taps, Some(epilogue), output, &[]);
        }
        times.push(begin.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let (median, fastest) = (times[times.len() / 2], times[0]);
    let share = (9 * outputs * outputs * channels) as f64 / median / peak;
    println!(
        "{:>14}  {stride:>6}  {name:>4}  {:>9.1}  {:>9.1}  {:>10.0}%",
        format!("{size}×{size}×{channels}"),
        1e6 * median,
        1e6 * fastest,
        1e2 * share
    );
}
