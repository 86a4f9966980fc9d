//! The backward pass of a depthwise convolution, by rows of its input, against the f64 oracle.

mod support;

use mobilenet_kernels::batch_norm::{Affine, GradientSums, Normalisation};
use mobilenet_kernels::depthwise::{by_tap, pixel_stride};
use mobilenet_kernels::depthwise_backward::{BackwardGeometry, RowGradients, ZEROS, backward_row};
use mobilenet_kernels::{Clamp, Isa};
use mobilenet_reference::{Geometry, Pads, conv, magnitudes, widen};
use proptest::prelude::*;
use support::{CHANNELS, Random, assert_within, on_every_isa};

/// One image: gradients of input and filter, and the sums of the layer before.
fn check(isa: Isa, channels: usize, g: Geometry, gap: usize, clamp: Clamp, seed: u64) {
    let what = format!("{} {channels} channels, gap {gap}, {g:?}", isa.name());
    let mut random = Random(seed);
    // Multiples of 2⁻¹⁰ by powers of two, so that normalising rounds nothing and no instruction set
    // takes another side of the activation than the oracle.
    let coarse = |value: f32| (value * 1024.0).round() / 1024.0;
    let z: Vec<f32> = random.values(g.input_pixels() * channels).into_iter().map(coarse).collect();
    let scale: Vec<f32> = (0..channels).map(|c| [1.0, 0.5, -2.0][c % 3]).collect();
    let shift: Vec<f32> = random.values(channels).into_iter().map(coarse).collect();
    let (mean, w) = (random.values(channels), random.values(9 * channels));
    let d_y = random.values(g.output_pixels() * channels);
    let mut taps = vec![0.0; w.len()];
    by_tap(&w, channels, &mut taps);

    let geometry = BackwardGeometry {
        inputs: g.width,
        outputs: g.output_width(),
        channels,
        pixel_stride: channels + gap,
        left: g.pads.left,
        stride: g.stride,
        dilation: g.dilation,
    };
    // What lies between pixels must not matter.
    let mut blank = vec![f32::NAN; geometry.gradient_row_len()];
    for pixel in blank.chunks_exact_mut(channels + gap) {
        pixel[..channels].fill(0.0);
    }
    let mut d_rows = vec![blank; g.output_height()];
    for (i, d) in d_y.chunks_exact(channels).enumerate() {
        let x = ZEROS + i % g.output_width();
        d_rows[i / g.output_width()][x * (channels + gap)..][..channels].copy_from_slice(d);
    }

    let before = Normalisation { affine: Affine { scale: &scale, shift: &shift }, mean: &mean, clamp };
    let filter_before = random.values(9 * channels);
    let mut filter = filter_before.clone();
    let mut sums = GradientSums::new(channels);
    let mut d_x = vec![f32::NAN; z.len()];
    let row_len = g.width * channels;
    for (y, (d_x, z)) in d_x.chunks_exact_mut(row_len).zip(z.chunks_exact(row_len)).enumerate() {
        let rows = [0, 1, 2].map(|ky| {
            let at = (y + g.pads.top).checked_sub(ky * g.dilation)?;
            let row = d_rows.get(at / g.stride)?;
            at.is_multiple_of(g.stride).then_some(&row[..])
        });
        let gradients = RowGradients { filter: &mut filter, sums: &mut sums };
        // (What is asked for is of no account, long or short.)
        let ahead = [&z[..z.len() / (1 + y % 3)], z];
        backward_row(isa, geometry, rows, &taps, before, z, d_x, gradients, ahead);
    }
    sums.flush();

    let raw: Vec<f64> = (0..z.len())
        .map(|i| f64::from(z[i]) * f64::from(scale[i % channels]) + f64::from(shift[i % channels]))
        .collect();
    let (low, high) = (f64::from(clamp.low), f64::from(clamp.high));
    let x: Vec<f64> = raw.iter().map(|raw| raw.clamp(low, high)).collect();
    let (w64, d64) = (widen(&w), widen(&d_y));
    let exact = conv::depthwise_d_input(&d64, &w64, channels, &g);
    let magnitude = conv::depthwise_d_input(&magnitudes(&d64), &magnitudes(&w64), channels, &g);
    assert_within(&format!("{what}: input"), &d_x, &exact, &magnitude, 9 + 1);

    let exact = conv::depthwise_d_weight(&x, &d64, channels, &g);
    let magnitude = conv::depthwise_d_weight(&magnitudes(&x), &magnitudes(&d64), channels, &g);
    let tap_major = |values: &[f64], add: &dyn Fn(f32) -> f64| -> Vec<f64> {
        (0..9 * channels).map(|i| values[i % channels * 9 + i / channels] + add(filter_before[i])).collect()
    };
    let exact = tap_major(&exact, &|v| f64::from(v));
    let magnitude = tap_major(&magnitude, &|v| f64::from(v.abs()));
    assert_within(&format!("{what}: filter"), &filter, &exact, &magnitude, g.output_pixels() + 2);

    // The sums, of the gradients that were found.
    let mut exact = [vec![0.0; channels], vec![0.0; channels]];
    let mut magnitude = exact.clone();
    for (i, &d) in d_x.iter().enumerate() {
        if raw[i] > low && raw[i] < high {
            let deviation = f64::from(z[i]) - f64::from(mean[i % channels]);
            for (sum, value) in [f64::from(d), f64::from(d) * deviation].into_iter().enumerate() {
                exact[sum][i % channels] += value;
                magnitude[sum][i % channels] += value.abs();
            }
        }
    }
    for (sum, found) in [sums.d(), sums.d_deviation()].into_iter().enumerate() {
        let found: Vec<f32> = found.iter().map(|&v| v as f32).collect();
        assert_within(
            &format!("{what}: sum {sum}"),
            &found,
            &exact[sum],
            &magnitude[sum],
            g.input_pixels() + 4,
        );
    }
}

fn geometry(height: usize, width: usize, stride: usize, dilation: usize, pads: Pads) -> Geometry {
    Geometry { batch: 1, height, width, kernel: 3, stride, dilation, pads }
}

const HALF: Clamp = Clamp { low: 0.0, high: 0.5 };

#[test]
fn channels_strides_and_dilations() {
    let behind = Pads { bottom: 1, right: 1, ..Pads::default() };
    on_every_isa(|isa| {
        for (i, channels) in CHANNELS.into_iter().enumerate() {
            for (stride, dilation, pads) in [
                (1, 1, Pads::all(1)),
                (2, 1, Pads::all(1)),
                (2, 1, behind),
                (1, 2, Pads::all(2)),
                (1, 4, Pads::all(4)),
                (3, 2, Pads { top: 1, bottom: 2, left: 3, right: 0 }),
            ] {
                let g = geometry(9, 11, stride, dilation, pads);
                check(isa, channels, g, i % 3, [HALF, Clamp::RELU][i % 2], (channels * 10 + stride) as u64);
            }
        }
        let g = geometry(4, 5, 1, 1, Pads::all(1));
        check(isa, 256, g, pixel_stride(256) - 256, Clamp::IDENTITY, 1);
    });
}

#[test]
fn widths_around_a_segment_and_rows_enough_to_flush() {
    on_every_isa(|isa| {
        for width in (1..=6).chain(30..=35).chain([63, 64, 65]) {
            for stride in [1, 2] {
                check(isa, 9, geometry(9, width, stride, 1, Pads::all(1)), 0, HALF, width as u64);
            }
        }
    });
}

#[test]
fn rows_that_are_too_short_are_refused() {
    on_every_isa(|isa| {
        let (inputs, outputs, channels) = (4, 2, 3);
        let geometry =
            BackwardGeometry { inputs, outputs, channels, pixel_stride: 3, left: 1, stride: 2, dilation: 1 };
        let row = vec![0.0; geometry.gradient_row_len() - 1];
        let affine = Affine { scale: &[1.0; 3], shift: &[0.0; 3] };
        let before = Normalisation { affine, mean: &[0.0; 3], clamp: Clamp::RELU };
        let panic = std::panic::catch_unwind(|| {
            let (mut filter, mut sums) = (vec![0.0; 27], GradientSums::new(3));
            let gradients = RowGradients { filter: &mut filter, sums: &mut sums };
            let mut d_input = [0.0; 12];
            backward_row(
                isa,
                geometry,
                [Some(&row); 3],
                &[0.0; 27],
                before,
                &[0.0; 12],
                &mut d_input,
                gradients,
                [&[]; 2],
            );
        });
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
        (top, bottom, left, right) in (0usize..4, 0usize..4, 0usize..4, 0usize..4),
        gap in 0usize..5,
        seed: u64,
    ) {
        let g = geometry(height, width, stride, dilation, Pads { top, bottom, left, right });
        prop_assume!(g.output_pixels() > 0);
        for isa in Isa::testable() {
            check(isa, channels, g, gap, HALF, seed);
        }
    }
}
