//! What must be equal, and values worked out by hand.

mod support;

use mobilenet_reference::batch_norm::{self, Statistics};
use mobilenet_reference::{Geometry, Pads, activation, conv, dense, gamma, loss};
use support::{Random, dot};

fn assert_close(a: &[f64], b: &[f64]) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= 1e-12 * (1.0 + a.abs()), "[{i}]: {a} against {b}");
    }
}

fn geometry(stride: usize, dilation: usize, pads: Pads) -> Geometry {
    Geometry { batch: 2, height: 7, width: 5, kernel: 3, stride, dilation, pads }
}

#[test]
fn convolution_by_hand() {
    // PyTorch documents cross-correlation: the filter is not flipped.
    let g = Geometry { batch: 1, height: 2, width: 2, kernel: 3, stride: 1, dilation: 1, pads: Pads::all(1) };
    let x = [1.0, 10.0, 100.0, 1000.0];
    let w = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
    let expected = [
        5.0 + 60.0 + 800.0 + 9000.0,
        4.0 + 50.0 + 700.0 + 8000.0,
        2.0 + 30.0 + 500.0 + 6000.0,
        1.0 + 20.0 + 400.0 + 5000.0,
    ];
    assert_close(&conv::conv2d(&x, &w, 1, 1, &g), &expected);
    assert_close(&conv::depthwise(&x, &w, 1, &g), &expected);
}

#[test]
fn depthwise_is_a_convolution_with_block_diagonal_filter() {
    let channels = 4;
    for g in [geometry(1, 1, Pads::all(1)), geometry(2, 1, Pads::all(1)), geometry(1, 2, Pads::all(2))] {
        let mut random = Random(1);
        let x = random.values(g.input_pixels() * channels);
        let w = random.values(channels * 9);
        let d_y = random.values(g.output_pixels() * channels);
        let mut full = vec![0.0; channels * channels * 9];
        for c in 0..channels {
            full[(c * channels + c) * 9..][..9].copy_from_slice(&w[c * 9..][..9]);
        }
        assert_close(
            &conv::depthwise(&x, &w, channels, &g),
            &conv::conv2d(&x, &full, channels, channels, &g),
        );
        assert_close(
            &conv::depthwise_d_input(&d_y, &w, channels, &g),
            &conv::conv2d_d_input(&d_y, &full, channels, channels, &g),
        );
        let d_full = conv::conv2d_d_weight(&x, &d_y, channels, channels, &g);
        let diagonal: Vec<f64> =
            (0..channels).flat_map(|c| d_full[(c * channels + c) * 9..][..9].to_vec()).collect();
        assert_close(&conv::depthwise_d_weight(&x, &d_y, channels, &g), &diagonal);
    }
}

#[test]
fn pointwise_is_a_convolution_of_one_tap() {
    let g = Geometry { kernel: 1, ..geometry(1, 1, Pads::default()) };
    let (inputs, outputs) = (3, 4);
    let mut random = Random(2);
    let x = random.values(g.input_pixels() * inputs);
    let w = random.values(inputs * outputs);
    let d_y = random.values(g.output_pixels() * outputs);
    assert_close(&dense::pointwise(&x, &w, inputs, outputs), &conv::conv2d(&x, &w, inputs, outputs, &g));
    assert_close(
        &dense::pointwise_d_input(&d_y, &w, inputs, outputs),
        &conv::conv2d_d_input(&d_y, &w, inputs, outputs, &g),
    );
    assert_close(
        &dense::pointwise_d_weight(&x, &d_y, inputs, outputs),
        &conv::conv2d_d_weight(&x, &d_y, inputs, outputs, &g),
    );
}

#[test]
fn padding_is_the_same_as_an_image_with_zeros_around() {
    let pads = Pads { top: 1, bottom: 2, left: 0, right: 3 };
    let g = geometry(2, 1, pads);
    let channels = 2;
    let mut random = Random(3);
    let x = random.values(g.input_pixels() * channels);
    let w = random.values(channels * 3 * 9);
    let (tall, wide) = (g.height + 3, g.width + 3);
    let mut padded = vec![0.0; g.batch * tall * wide * channels];
    for image in 0..g.batch {
        for row in 0..g.height {
            let from = (image * g.height + row) * g.width * channels;
            let to = ((image * tall + row + pads.top) * wide + pads.left) * channels;
            padded[to..][..g.width * channels].copy_from_slice(&x[from..][..g.width * channels]);
        }
    }
    let unpadded = Geometry { height: tall, width: wide, pads: Pads::default(), ..g };
    assert_close(&conv::conv2d(&x, &w, channels, 3, &g), &conv::conv2d(&padded, &w, channels, 3, &unpadded));
}

#[test]
fn backward_is_the_adjoint_of_forward() {
    let g = geometry(2, 1, Pads { bottom: 1, right: 1, ..Pads::default() });
    let (inputs, outputs) = (3, 2);
    let mut random = Random(4);
    let x = random.values(g.input_pixels() * inputs);
    let w = random.values(inputs * outputs * 9);
    let d = random.values(g.output_pixels() * outputs);
    let forward = dot(&d, &conv::conv2d(&x, &w, inputs, outputs, &g));
    let by_input = dot(&x, &conv::conv2d_d_input(&d, &w, inputs, outputs, &g));
    let by_weight = dot(&w, &conv::conv2d_d_weight(&x, &d, inputs, outputs, &g));
    assert_close(&[forward, forward], &[by_input, by_weight]);
}

#[test]
fn batch_normalisation_normalises() {
    let channels = 2;
    let mut random = Random(5);
    let x: Vec<f64> = random.values(40).iter().map(|v| 1e6 + v).collect();
    let before = batch_norm::statistics(&x, channels);
    let y = batch_norm::normalise(&x, &before, &[2.0, 3.0], &[-1.0, 4.0], 0.0);
    let after = batch_norm::statistics(&y, channels);
    for (found, expected) in after.mean.iter().zip([-1.0, 4.0]) {
        assert!((found - expected).abs() < 1e-8);
    }
    for (found, expected) in after.variance.iter().zip([4.0, 9.0]) {
        assert!((found - expected).abs() < 1e-8);
    }
    // Values 1 and 3 of one channel: mean 2, unbiased variance 2.
    let batch = batch_norm::statistics(&[1.0, 3.0], 1);
    let mut running = Statistics { mean: vec![0.0], variance: vec![1.0] };
    batch_norm::update_running(&mut running, &batch, 2, 0.1);
    assert_close(&running.mean, &[0.2]);
    assert_close(&running.variance, &[1.1]);
}

#[test]
fn batch_normalisation_forgets_shift_and_scale_of_its_input() {
    // So its gradient is orthogonal to both.
    let mut random = Random(6);
    let x = random.values(10);
    let d_y = random.values(10);
    let d_x = batch_norm::backward(&x, &batch_norm::statistics(&x, 1), &[1.5], 0.0, &d_y).d_x;
    assert!(d_x.iter().sum::<f64>().abs() < 1e-12);
    assert!(dot(&x, &d_x).abs() < 1e-12);
}

#[test]
fn activations_by_hand() {
    assert_eq!(activation::relu(&[-1.0, 0.0, 2.0, 9.0], None), [0.0, 0.0, 2.0, 9.0]);
    assert_eq!(activation::relu(&[-1.0, 0.0, 2.0, 9.0], Some(6.0)), [0.0, 0.0, 2.0, 6.0]);
    assert_eq!(activation::relu_backward(&[0.0, 6.0, 3.0], &[1.0; 3], Some(6.0)), [0.0, 0.0, 1.0]);
}

#[test]
fn pool_by_hand() {
    let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    assert_close(&dense::global_average_pool(&x, 2, 2), &[2.0, 3.0, 6.0, 7.0]);
}

#[test]
fn cross_entropy_by_hand() {
    // Even logits: log K whatever the smoothing.
    for smoothing in [0.0, 0.3] {
        assert_close(&[loss::cross_entropy(&[5.0; 8], &[0, 3], 4, smoothing)], &[4f64.ln()]);
    }
    // Far apart: the distance, and no overflow; smoothed: 0.9·1000 + 0.1·mean(0, 1000).
    assert_close(&[loss::cross_entropy(&[1000.0, 0.0], &[1], 2, 0.0)], &[1000.0]);
    assert_close(&[loss::cross_entropy(&[1000.0, 0.0], &[1], 2, 0.1)], &[950.0]);
    // The gradient of a row sums to nothing.
    let logits = Random(7).values(12);
    let d = loss::cross_entropy_backward(&logits, &[1, 2, 0], 4, 0.1);
    for row in d.chunks_exact(4) {
        assert!(row.iter().sum::<f64>().abs() < 1e-15);
    }
    assert_close(&[loss::softmax(&logits, 4)[..4].iter().sum()], &[1.0]);
}

#[test]
fn gamma_bounds_a_sequential_f32_sum() {
    let mut random = Random(8);
    let products: Vec<(f32, f32)> =
        (0..5000).map(|_| (random.value() as f32, random.value() as f32)).collect();
    let single = products.iter().fold(0.0f32, |sum, (a, b)| sum + a * b);
    let exact: f64 = products.iter().map(|&(a, b)| f64::from(a) * f64::from(b)).sum();
    let size: f64 = products.iter().map(|&(a, b)| (f64::from(a) * f64::from(b)).abs()).sum();
    assert!((f64::from(single) - exact).abs() <= gamma(products.len()) * size);
}
