//! Depthwise convolution by rows against the f64 oracle over whole images.

mod support;

use mobilenet_kernels::depthwise::{
    Present, RowEpilogue, RowGeometry, accumulate_filter_gradient, by_tap, convolve_row, pixel_stride, turned,
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
    /// Spreads `image` by `spread` zero pixels' distance (1: none), with `before` zero rows and
    /// columns before it and as many behind as `height` and `width` ask for.
    fn new(
        image: &[f32],
        (columns, channels): (usize, usize),
        spread: usize,
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
            let (row, column) = (top + i / columns * spread, left + i % columns * spread);
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

/// One image through the row kernels, forward and both gradients, against the oracle.
fn check(isa: Isa, channels: usize, geometry: Geometry, gap: usize, clamp: Option<Clamp>, seed: u64) {
    let g = geometry;
    let what = format!("{} {channels} channels, gap {gap}, {g:?}", isa.name());
    let pixel = channels + gap;
    let mut random = Random(seed);
    let (x, w) = (random.values(g.input_pixels() * channels), random.values(9 * channels));
    let (bias, d_y) = (random.values(channels), random.values(g.output_pixels() * channels));
    let mut taps = vec![0.0; w.len()];
    by_tap(&w, channels, &mut taps);
    let (outputs, out_rows) = (g.output_width(), g.output_height());
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
    let padded = Padded::new(&x, (g.width, channels), 1, (g.pads.top, g.pads.left), padded_size, pixel);
    let (x64, w64, d64) = (widen(&x), widen(&w), widen(&d_y));

    // Forward.
    let mut y = vec![0.0; g.output_pixels() * channels];
    for (row, y) in y.chunks_exact_mut(outputs * channels).enumerate() {
        let epilogue = clamp.map(|clamp| RowEpilogue { bias: &bias, clamp });
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
        let epilogue = clamp.map(|clamp| RowEpilogue { bias: &bias, clamp });
        convolve_row(isa, bare, three, &taps, epilogue, &mut found);
        assert_eq!(found, y, "{what}: bare rows");
    }

    // The same with a gap between output pixels, which stays as it was.
    if gap > 0 {
        let apart = RowGeometry { output_stride: channels + gap, ..rows };
        let mut row = vec![SENTINEL; outputs * apart.output_stride];
        let epilogue = clamp.map(|clamp| RowEpilogue { bias: &bias, clamp });
        convolve_row(isa, apart, padded.three(0, g.dilation), &taps, epilogue, &mut row);
        for (found, expected) in row.chunks(apart.output_stride).zip(y.chunks(channels)) {
            assert_eq!(found[..channels], *expected, "{what}: outputs apart");
            assert!(found[channels..].iter().all(|&v| v == SENTINEL), "{what}: between outputs");
        }
        for (to, from) in row.chunks_mut(apart.output_stride).zip(d_y.chunks(channels)) {
            to[..channels].copy_from_slice(from);
        }
        let (mut found, mut expected) = (vec![0.0; 9 * channels], vec![0.0; 9 * channels]);
        let three = padded.three(0, g.dilation);
        accumulate_filter_gradient(isa, apart, three, &row, &mut found);
        accumulate_filter_gradient(isa, rows, three, &d_y[..outputs * channels], &mut expected);
        assert_eq!(found, expected, "{what}: filter, outputs apart");
    }

    // Gradient of the filter: one call a row of outputs, on top of what is there.
    let before = random.values(9 * channels);
    let mut grad = before.clone();
    for (row, d) in d_y.chunks_exact(outputs * channels).enumerate() {
        accumulate_filter_gradient(isa, rows, padded.three(row * g.stride, g.dilation), d, &mut grad);
    }
    let exact = conv::depthwise_d_weight(&x64, &d64, channels, &g);
    let magnitude = conv::depthwise_d_weight(&magnitudes(&x64), &magnitudes(&d64), channels, &g);
    let tap_major = |values: &[f64], add: &dyn Fn(f32) -> f64| -> Vec<f64> {
        (0..9 * channels).map(|i| values[i % channels * 9 + i / channels] + add(before[i])).collect()
    };
    let exact = tap_major(&exact, &|v| f64::from(v));
    let magnitude = tap_major(&magnitude, &|v| f64::from(v.abs()));
    assert_within(&format!("{what}: filter"), &grad, &exact, &magnitude, outputs * out_rows + 2);

    // Gradient of the input: the turned filter over the output gradients, spread by the stride.
    // Tap k of input i is output (i + pad − k·dilation) / stride: turned, the first tap needs
    // 2·dilation − pad zeros before, which is negative where there is more padding than that.
    let reach = 2 * g.dilation;
    if g.pads.top <= reach && g.pads.left <= reach {
        let mut around = vec![0.0; taps.len()];
        turned(&taps, channels, &mut around);
        let size = (g.height + reach, g.width + reach);
        let before = (reach - g.pads.top, reach - g.pads.left);
        let spread = Padded::new(&d_y, (outputs, channels), g.stride, before, size, pixel);
        let back = RowGeometry { outputs: g.width, stride: 1, ..rows };
        let mut d_x = vec![0.0; x.len()];
        for (row, d_x) in d_x.chunks_exact_mut(g.width * channels).enumerate() {
            convolve_row(isa, back, spread.three(row, g.dilation), &around, None, d_x);
        }
        let exact = conv::depthwise_d_input(&d64, &w64, channels, &g);
        let magnitude = conv::depthwise_d_input(&magnitudes(&d64), &magnitudes(&w64), channels, &g);
        assert_within(&format!("{what}: input"), &d_x, &exact, &magnitude, 9 + 1);
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
        (top, bottom, left, right) in (0usize..4, 0usize..4, 0usize..4, 0usize..4),
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
