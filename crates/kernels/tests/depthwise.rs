//! Depthwise convolution by rows against the f64 oracle over whole images.

mod support;

use half::{bf16, f16};
use mobilenet_kernels::depthwise::{
    Centring, Present, RowEpilogue, RowGeometry, by_tap, convolve_row, convolve_rows, pixel_stride,
};
use mobilenet_kernels::{Clamp, Isa};
use mobilenet_reference::{Geometry, Pads, activation, conv, magnitudes, widen};
use proptest::prelude::*;
use support::{CHANNELS, Random, SENTINEL, assert_within, on_every_isa, with_gaps};

/// An image with zeros around it, as rows that may have gaps between pixels (of NaN: they must
/// not matter).
struct Padded {
    rows: Vec<Vec<f32>>,
}

impl Padded {
    /// Puts `top` zero rows and `left` zero columns before `image`, and as many behind it as `height` and
    /// `width` ask for.
    fn new(
        image: &[f32],
        (columns, channels): (usize, usize),
        (top, left): (usize, usize),
        (height, width): (usize, usize),
        pixel: usize,
    ) -> Self {
        let mut blank = vec![f32::NAN; width * pixel];
        for at in blank.chunks_exact_mut(pixel) {
            at[..channels].fill(0.0);
        }
        let mut rows = vec![blank; height];
        for (i, value) in image.chunks_exact(channels).enumerate() {
            let (row, column) = (top + i / columns, left + i % columns);
            // What lies beyond belongs to inputs that no output reads.
            if row < height && column < width {
                rows[row][column * pixel..][..channels].copy_from_slice(value);
            }
        }
        Self { rows }
    }

    fn three(&self, first: usize, dilation: usize) -> [&[f32]; 3] {
        [0, 1, 2].map(|tap| &self.rows[first + tap * dilation][..])
    }
}

/// One image through the row kernel against the oracle.
fn check(isa: Isa, channels: usize, geometry: Geometry, gap: usize, clamp: Option<Clamp>, seed: u64) {
    let g = geometry;
    let what = format!("{} {channels} channels, gap {gap}, {g:?}", isa.name());
    let pixel = channels + gap;
    let mut random = Random(seed);
    let (x, w) = (random.values(g.input_pixels() * channels), random.values(9 * channels));
    let bias = random.values(channels);
    let mut taps = vec![0.0; w.len()];
    by_tap(&w, channels, &mut taps);
    let outputs = g.output_width();
    let rows = RowGeometry {
        outputs,
        channels,
        pixel_stride: pixel,
        output_stride: channels,
        stride: g.stride,
        dilation: g.dilation,
        present: None,
    };
    let padded_size = (g.height + g.pads.top + g.pads.bottom, g.width + g.pads.left + g.pads.right);
    let padded = Padded::new(&x, (g.width, channels), (g.pads.top, g.pads.left), padded_size, pixel);
    let (x64, w64) = (widen(&x), widen(&w));
    let mut y = vec![0.0; g.output_pixels() * channels];
    for (row, y) in y.chunks_exact_mut(outputs * channels).enumerate() {
        let epilogue = clamp.map(|clamp| RowEpilogue {
            bias: &bias,
            clamp,
            centring: Centring::default(),
            half_sums: false,
        });
        convolve_row(isa, rows, padded.three(row * g.stride, g.dilation), &taps, epilogue, y);
    }
    let mut exact = conv::depthwise(&x64, &w64, channels, &g);
    let mut magnitude = conv::depthwise(&magnitudes(&x64), &magnitudes(&w64), channels, &g);
    if let Some(clamp) = clamp {
        for (i, (exact, magnitude)) in exact.iter_mut().zip(&mut magnitude).enumerate() {
            *exact += f64::from(bias[i % channels]);
            *magnitude += f64::from(bias[i % channels].abs());
        }
        exact = activation::relu(&exact, Some(f64::from(clamp.high)));
    }
    assert_within(&format!("{what}: forward"), &y, &exact, &magnitude, 9 + 2);

    // The same from rows that have no padding of their own.
    let bare = RowGeometry { present: Some(Present { left: g.pads.left, count: g.width }), ..rows };
    let pixels = with_gaps(&x, channels, pixel, f32::NAN);
    let zeros = vec![0.0; bare.input_len()];
    for (row, y) in y.chunks_exact(outputs * channels).enumerate() {
        let three = [0, 1, 2].map(|k| match (row * g.stride + k * g.dilation).checked_sub(g.pads.top) {
            Some(input) if input < g.height => &pixels[input * g.width * pixel..][..bare.input_len()],
            _ => &zeros,
        });
        let mut found = vec![0.0; outputs * channels];
        let epilogue = clamp.map(|clamp| RowEpilogue {
            bias: &bias,
            clamp,
            centring: Centring::default(),
            half_sums: false,
        });
        convolve_row(isa, bare, three, &taps, epilogue, &mut found);
        assert_eq!(found, y, "{what}: bare rows");
    }

    // The same from rows that are kept less a value a channel, to such rows.
    if let Some(clamp) = clamp {
        let (read, kept) = (random.values(channels), random.values(channels));
        let tap = |tap: usize, c: usize| f64::from(taps[tap * channels + c]);
        let outside: Vec<f32> = (0..3 * channels)
            .map(|i| (i / channels, i % channels))
            .map(|(kx, c)| ((tap(kx, c) + tap(3 + kx, c) + tap(6 + kx, c)) * f64::from(-read[c])) as f32)
            .collect();
        let less = |values: &[f32]| -> Vec<f32> {
            values
                .iter()
                .enumerate()
                .map(|(i, &x)| x - read.get(i % pixel).copied().unwrap_or(f32::NAN))
                .collect()
        };
        let (pixels, zeros) = (less(&pixels), less(&vec![0.0; bare.input_len()]));
        let sum = |c: usize| (0..9).map(|i| tap(i, c)).sum::<f64>();
        let bias: Vec<f32> = (0..channels)
            .map(|c| (f64::from(bias[c]) + sum(c) * f64::from(read[c]) - f64::from(kept[c])) as f32)
            .collect();
        let centring = Centring { outside: Some(&outside), lowered: Some(&kept) };
        for (row, (y, magnitude)) in
            y.chunks_exact(outputs * channels).zip(magnitude.chunks_exact(outputs * channels)).enumerate()
        {
            let three = [0, 1, 2].map(|k| match (row * g.stride + k * g.dilation).checked_sub(g.pads.top) {
                Some(input) if input < g.height => &pixels[input * g.width * pixel..][..bare.input_len()],
                _ => &zeros,
            });
            let mut found = vec![0.0; outputs * channels];
            let epilogue = Some(RowEpilogue { bias: &bias, clamp, centring, half_sums: false });
            convolve_row(isa, bare, three, &taps, epilogue, &mut found);
            let kept = kept.iter().cycle();
            let exact: Vec<f64> =
                y.iter().zip(kept).map(|(&y, &kept)| f64::from(y) - f64::from(kept)).collect();
            // What is read and kept is at most 1, as are the taps.
            let magnitude: Vec<f64> = magnitude.iter().map(|magnitude| magnitude + 9.0 * 2.0 + 1.0).collect();
            assert_within(&format!("{what}: centred"), &found, &exact, &magnitude, 2 * (9 + 4));
        }
    }

    // The same with a gap between output pixels, which stays as it was.
    if gap > 0 {
        let apart = RowGeometry { output_stride: channels + gap, ..rows };
        let mut row = vec![SENTINEL; outputs * apart.output_stride];
        let epilogue = clamp.map(|clamp| RowEpilogue {
            bias: &bias,
            clamp,
            centring: Centring::default(),
            half_sums: false,
        });
        convolve_row(isa, apart, padded.three(0, g.dilation), &taps, epilogue, &mut row);
        for (found, expected) in row.chunks(apart.output_stride).zip(y.chunks(channels)) {
            assert_eq!(found[..channels], *expected, "{what}: outputs apart");
            assert!(found[channels..].iter().all(|&v| v == SENTINEL), "{what}: between outputs");
        }
    }
}

fn geometry(height: usize, width: usize, stride: usize, dilation: usize, pads: Pads) -> Geometry {
    Geometry { batch: 1, height, width, kernel: 3, stride, dilation, pads }
}

#[test]
fn channels_strides_and_dilations() {
    let behind = Pads { bottom: 1, right: 1, ..Pads::default() };
    on_every_isa(|isa| {
        for (i, channels) in CHANNELS.into_iter().enumerate() {
            let clamp = [None, Some(Clamp { low: 0.0, high: 0.5 })][i % 2];
            for (stride, dilation, pads) in [
                (1, 1, Pads::all(1)),
                (2, 1, Pads::all(1)),
                (2, 1, behind),
                (1, 2, Pads::all(2)),
                (1, 4, Pads::all(4)),
                (3, 2, Pads { top: 1, bottom: 2, left: 3, right: 0 }),
            ] {
                let g = geometry(9, 11, stride, dilation, pads);
                check(isa, channels, g, i % 3, clamp, (channels * 10 + stride) as u64);
            }
        }
    });
}

#[test]
fn widths_around_the_groups_of_outputs() {
    on_every_isa(|isa| {
        for width in 1..=40 {
            for stride in [1, 2] {
                let g = geometry(3, width, stride, 1, Pads::all(1));
                check(isa, 9, g, 0, Some(Clamp::RELU6), width as u64);
            }
        }
    });
}

#[test]
fn the_recommended_pixel_stride_has_room() {
    for channels in (1..70).chain([128, 256, 512, 1000, 1024]) {
        assert!(pixel_stride(channels) >= channels);
    }
    on_every_isa(|isa| {
        let channels = 256;
        check(isa, channels, geometry(4, 5, 1, 1, Pads::all(1)), pixel_stride(channels) - channels, None, 1);
    });
}

#[test]
fn rows_that_are_too_short_are_refused() {
    on_every_isa(|isa| {
        let g = RowGeometry {
            outputs: 4,
            channels: 3,
            pixel_stride: 3,
            output_stride: 3,
            stride: 2,
            dilation: 1,
            present: None,
        };
        let row = vec![0.0; g.input_len() - 1];
        let mut out = vec![0.0; 12];
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            convolve_row(isa, g, [&row; 3], &[0.0; 27], None, &mut out);
        }));
        assert!(panic.is_err(), "{}", isa.name());
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_image(
        (height, width) in (1usize..14, 1usize..30),
        channels in 1usize..70,
        (stride, dilation) in (1usize..4, 1usize..4),
        (top, bottom, left, right) in (0usize..4, 0usize..4, 0usize..7, 0usize..7),
        (gap, clamped) in (0usize..5, any::<bool>()),
        seed: u64,
    ) {
        let g = geometry(height, width, stride, dilation, Pads { top, bottom, left, right });
        prop_assume!(g.output_pixels() > 0);
        for isa in Isa::testable() {
            check(isa, channels, g, gap, clamped.then_some(Clamp { low: 0.0, high: 0.5 }), seed);
        }
    }
}

/// Rows of so many pixels without padding of their own, with gaps between pixels of input and output.
fn bare(width: usize, channels: usize, stride: usize, left: usize) -> RowGeometry {
    RowGeometry {
        outputs: (width + left + 1 - 3) / stride + 1,
        channels,
        pixel_stride: channels + 2,
        output_stride: channels + 1,
        stride,
        dilation: 1,
        present: Some(Present { left, count: width }),
    }
}

/// Rows that are made together, where their inputs follow one another and where they do not, are to the bit
/// those that are made one by one.
#[test]
fn rows_together_are_rows_one_by_one() {
    on_every_isa(|isa| {
        for (channels, stride, left) in
            [(16, 1, 1), (35, 1, 0), (35, 2, 1), (20, 2, 0), (7, 1, 3), (33, 2, 4)]
        {
            let width = 11;
            let geometry = bare(width, channels, stride, left);
            let mut random = Random(5);
            let map: Vec<Vec<f32>> = (0..24).map(|_| random.values(geometry.input_len())).collect();
            let (taps, bias) = (random.values(9 * channels), random.values(channels));
            let (outside, lowered) = (random.values(3 * channels), random.values(channels));
            let centring = Centring { outside: Some(&outside), lowered: Some(&lowered) };
            let epilogue = Some(RowEpilogue { bias: &bias, clamp: Clamp::RELU6, centring, half_sums: false });
            let len = geometry.outputs * geometry.output_stride;
            for count in 1..=11 {
                // The rows of one image; the same but that one row is another's; rows that all begin anew.
                for kind in 0..3 {
                    let inputs: Vec<[&[f32]; 3]> = (0..count)
                        .map(|y| match kind {
                            1 if y == count / 2 => [20, 22, 21].map(|row| &map[row][..]),
                            2 => [0, 1, 2].map(|k| &map[(5 * y + k) % 24][..]),
                            _ => [0, 1, 2].map(|k| &map[y * stride + k][..]),
                        })
                        .collect();
                    let mut together = vec![SENTINEL; count * len];
                    convolve_rows(isa, geometry, &inputs, &taps, epilogue, &mut together, &[]);
                    for (y, (found, rows)) in together.chunks(len).zip(inputs).enumerate() {
                        let mut alone = vec![SENTINEL; len];
                        convolve_row(isa, geometry, rows, &taps, epilogue, &mut alone);
                        let what = format!("{} {channels} {stride} {count} {kind}: row {y}", isa.name());
                        assert!(found == alone, "{what}");
                    }
                }
            }
        }
    });
}

/// Maps of f16 to bf16, with sums in half precision where there are such: near the exact sums, and to the bit
/// the same however many rows are made together.
#[test]
fn sums_in_half_precision() {
    /// What rounding to f16, and to bf16, changes at most, relatively.
    const F16: f64 = 1.0 / 2048.0;
    const BF16: f64 = 1.0 / 256.0;
    on_every_isa(|isa| {
        for (channels, stride, left) in
            [(1, 1, 1), (16, 1, 1), (33, 1, 0), (32, 2, 1), (64, 1, 1), (50, 2, 0), (95, 1, 3)]
        {
            let width = 11;
            let geometry = bare(width, channels, stride, left);
            let mut random = Random(11);
            let len = geometry.input_len();
            let map: Vec<Vec<f16>> =
                (0..20).map(|_| random.values(len).into_iter().map(f16::from_f32).collect()).collect();
            let (taps, bias) = (random.values(9 * channels), random.values(channels));
            let (outside, lowered) = (random.values(3 * channels), random.values(channels));
            let centring = Centring { outside: Some(&outside), lowered: Some(&lowered) };
            let clamp = Clamp { low: -1.5, high: 2.0 };
            let epilogue = Some(RowEpilogue { bias: &bias, clamp, centring, half_sums: true });
            let row = geometry.outputs * geometry.output_stride;
            let count = 7;
            let inputs: Vec<[&[f16]; 3]> =
                (0..count).map(|y| [0, 1, 2].map(|k| &map[y * stride + k][..])).collect();
            let mut together = vec![bf16::ONE; count * row];
            convolve_rows(isa, geometry, &inputs, &taps, epilogue, &mut together, &[]);
            for (y, (found, rows)) in together.chunks(row).zip(&inputs).enumerate() {
                let what = format!("{} {channels} {stride} {left}: row {y}", isa.name());
                let mut alone = vec![bf16::ONE; row];
                convolve_row(isa, geometry, *rows, &taps, epilogue, &mut alone);
                assert!(found == alone, "{what}");
                for (x, found) in found.chunks(channels + 1).enumerate() {
                    assert_eq!(found[channels], bf16::ONE, "{what}: between outputs");
                    for c in 0..channels {
                        let mut exact = f64::from(bias[c]);
                        let mut magnitude = exact.abs();
                        for kx in 0..3 {
                            let pixel = (x * stride + kx).checked_sub(left).filter(|&pixel| pixel < width);
                            let terms = match pixel {
                                Some(pixel) => [0, 1, 2].map(|ky| {
                                    let value = rows[ky][pixel * (channels + 2) + c].to_f64();
                                    value * f64::from(taps[(3 * ky + kx) * channels + c])
                                }),
                                None => [f64::from(outside[kx * channels + c]), 0.0, 0.0],
                            };
                            exact += terms.iter().sum::<f64>();
                            magnitude += terms.iter().map(|term| term.abs()).sum::<f64>();
                        }
                        let by = f64::from(lowered[c]);
                        let exact = exact.clamp(f64::from(clamp.low) - by, f64::from(clamp.high) - by);
                        // Each of ten terms is rounded, and each sum.
                        let bound = 20.0 * F16 * (magnitude + by.abs()) + BF16 * exact.abs();
                        let error = (found[c].to_f64() - exact).abs();
                        assert!(error <= bound, "{what}, {x} {c}: {} against {exact}", found[c]);
                    }
                }
            }
        }
    });
}

/// How sums in half precision are rounded to bf16: what is less than 2 to the nearest, of two equally near ones to the
/// larger, what is not a number, and what is larger, as everywhere; whatever stands beside it.
#[test]
fn sums_in_half_precision_are_rounded_one_by_one() {
    let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|value| !value.is_infinite()).collect();
    on_every_isa(|isa| {
        // Pixels that a filter passes on, among small ones and among others.
        let channels = 64;
        for (name, small) in [("all", false), ("small", true)] {
            let values: Vec<f16> =
                all.iter().copied().filter(|value| !small || value.to_f32().abs() < 1.99).collect();
            let width = values.len() / channels;
            let geometry = RowGeometry {
                outputs: width,
                channels,
                pixel_stride: channels,
                output_stride: channels,
                stride: 1,
                dilation: 1,
                present: Some(Present { left: 1, count: width }),
            };
            let values = &values[..width * channels];
            let mut taps = vec![0.0; 9 * channels];
            taps[4 * channels..5 * channels].fill(1.0);
            let epilogue = Some(RowEpilogue {
                bias: &vec![-0.0; channels],
                clamp: Clamp::IDENTITY,
                centring: Centring::default(),
                half_sums: true,
            });
            let zeros = vec![f16::ZERO; values.len()];
            // (Numbers beside what is not one would become that too.)
            let numbers: Vec<f16> = values.iter().map(|&v| if v.is_nan() { f16::ONE } else { v }).collect();
            for input in [&numbers[..], values] {
                let mut found = vec![bf16::ZERO; values.len()];
                convolve_row(isa, geometry, [&zeros, input, &zeros], &taps, epilogue, &mut found);
                for (at, (found, value)) in found.iter().zip(input).enumerate() {
                    let what = format!("{} {name}: {value} became {found}", isa.name());
                    let beside = [at.wrapping_sub(channels), at + channels];
                    let near = beside.iter().any(|&at| input.get(at).is_some_and(|value| value.is_nan()));
                    if value.is_nan() || near {
                        assert!(found.is_nan(), "{what}");
                        continue;
                    }
                    let (value, found) = (value.to_f32(), found.to_f32());
                    let nearest = bf16::from_f32(value).to_f32();
                    let error = (found - value).abs();
                    match value.abs() {
                        least if least < 2f32.powi(-14) => assert!(error <= 2f32.powi(-15), "{what}"),
                        _ => assert_eq!(error, (nearest - value).abs(), "{what}"),
                    }
                }
            }
        }
    });
}
