//! Batch normalisation, its statistics and its backward against the f64 oracle.

#![allow(clippy::needless_range_loop, reason = "channels are indices into several arrays at once")]

mod support;

use mobilenet_kernels::batch_norm::{
    Affine, Correction, GradientSums, Moments, Normalisation, activate, backward,
};
use mobilenet_kernels::{Clamp, Isa};
use mobilenet_reference::batch_norm::{self as oracle, Statistics};
use mobilenet_reference::{activation, gamma, widen};
use proptest::prelude::*;
use support::{CHANNELS, Random, SENTINEL, assert_within, on_every_isa, without_gaps};

#[test]
fn activate_is_affine_then_clamped() {
    on_every_isa(|isa| {
        for channels in CHANNELS {
            for clamp in [Clamp::RELU, Clamp::RELU6, Clamp::IDENTITY] {
                for (rows, gap) in [(1, 0), (2, 3), (7, 1)] {
                    let mut random = Random(channels as u64);
                    let scale: Vec<f32> = random.values(channels).iter().map(|v| 8.0 * v).collect();
                    let (shift, z) = (random.values(channels), random.values(rows * channels));
                    let stride = channels + gap;
                    let mut y = vec![SENTINEL; rows * stride];
                    let affine = Affine { scale: &scale, shift: &shift };
                    activate(isa, affine, clamp, &z, &mut y, stride);
                    let found = without_gaps(&y, rows, channels, stride);
                    let term = |i: usize| f64::from(z[i]) * f64::from(scale[i % channels]);
                    let (low, high) = (f64::from(clamp.low), f64::from(clamp.high));
                    let exact: Vec<f64> = (0..z.len())
                        .map(|i| (term(i) + f64::from(shift[i % channels])).max(low).min(high))
                        .collect();
                    let magnitude: Vec<f64> =
                        (0..z.len()).map(|i| term(i).abs() + f64::from(shift[i % channels].abs())).collect();
                    let what = format!("{} {channels} channels, {clamp:?}", isa.name());
                    assert_within(&what, &found, &exact, &magnitude, 2);
                }
            }
        }
    });
}

#[test]
fn nan_is_not_hidden_by_the_activation() {
    on_every_isa(|isa| {
        let z = [f32::NAN; 19];
        let mut y = [0.0; 19];
        let affine = Affine { scale: &[1.0; 19], shift: &[0.0; 19] };
        activate(isa, affine, Clamp::RELU6, &z, &mut y, 19);
        assert!(y.iter().all(|v| v.is_nan()), "{}: {y:?}", isa.name());
    });
}

/// Adds `rows` in pieces and compares mean and variance with those of two passes in f64.
fn check_moments(isa: Isa, channels: usize, rows: &[f32], piece: usize, parts: usize) {
    let count = rows.len() / channels;
    let what = format!("{} {channels} channels, {count} rows by {piece} in {parts} parts", isa.name());
    let mut total = Moments::new(channels);
    for part in rows.chunks(count.div_ceil(parts) * channels) {
        let mut moments = Moments::new(channels);
        moments.add_rows(isa, &[0.0; 0]);
        for piece in part.chunks(piece * channels) {
            moments.add_rows(isa, piece);
        }
        total.merge(&moments);
    }
    assert_eq!(total.count(), count as f64, "{what}");
    let exact = oracle::statistics(&widen(rows), channels);
    for (c, variance) in total.biased_variance().enumerate() {
        // Values are summed relative to the first of their part: what rounds is their distance
        // from it. Each subtraction rounds once; then sums of at most `piece` terms.
        let (mut distance, mut square) = (0.0, 0.0);
        for part in rows.chunks(count.div_ceil(parts) * channels) {
            for row in part.chunks(channels) {
                let d = f64::from(row[c]) - f64::from(part[c]);
                distance += d.abs() / count as f64;
                square += d * d / count as f64;
            }
        }
        let terms = piece.min(count);
        let error = (total.mean()[c] - exact.mean[c]).abs();
        let bound = gamma(terms + 1) * distance + 1e-14 * exact.mean[c].abs();
        assert!(error <= bound, "{what}: mean of channel {c} off by {error:.2e} > {bound:.2e}");
        let error = (variance - exact.variance[c]).abs();
        // Σd² − (Σd)²/n: both rounded, and (Σd)²/n ≤ Σd². Merging parts squares the difference of
        // their means in f64, each known to a rounding of its own size.
        let merging = 1e-14 * exact.variance[c] + 1e-14 * exact.mean[c].abs() * exact.variance[c].sqrt();
        let bound = 3.0 * gamma(terms + 3) * square + 1e-14 * square + merging;
        assert!(error <= bound, "{what}: variance of channel {c} off by {error:.2e} > {bound:.2e}");
    }
}

#[test]
fn moments() {
    on_every_isa(|isa| {
        for channels in CHANNELS {
            for (count, piece, parts) in [(1, 1, 1), (2, 1, 1), (100, 7, 1), (100, 64, 3), (300, 300, 1)] {
                let rows = Random(count as u64).values(count * channels);
                check_moments(isa, channels, &rows, piece, parts);
            }
        }
    });
}

#[test]
fn moments_of_values_far_from_zero_lose_nothing() {
    on_every_isa(|isa| {
        let (channels, count) = (17, 40_000);
        let mut random = Random(5);
        for offset in [1e3f32, -1e5] {
            let rows: Vec<f32> = random.values(count * channels).iter().map(|v| offset + v).collect();
            check_moments(isa, channels, &rows, 128, 4);
            // And plainly: the relative error of the variance.
            let mut moments = Moments::new(channels);
            rows.chunks(128 * channels).for_each(|piece| moments.add_rows(isa, piece));
            let exact = oracle::statistics(&widen(&rows), channels);
            for (found, exact) in moments.biased_variance().zip(&exact.variance) {
                assert!((found / exact - 1.0).abs() < 1e-5, "{}: {found} against {exact}", isa.name());
            }
        }
    });
}

#[test]
fn a_constant_channel_has_no_variance() {
    on_every_isa(|isa| {
        let mut moments = Moments::new(3);
        for _ in 0..5 {
            moments.add_rows(isa, &[0.1, 1e6, -7.0].repeat(50));
        }
        assert!(moments.biased_variance().all(|v| v == 0.0));
        moments.clear();
        assert_eq!(moments.count(), 0.0);
        moments.add_rows(isa, &[1.0, 2.0, 3.0]);
        assert_eq!(moments.mean(), [1.0, 2.0, 3.0]);
    });
}

/// Both sums and the gradient of the convolution's output, from the same rounded scale, shift and
/// mean as the kernel has, against the oracle's formula for batch normalisation.
fn check_backward(isa: Isa, channels: usize, rows: usize, clamp: Clamp, piece: usize, seed: u64) {
    let what = format!("{} {channels} channels, {rows} rows by {piece}, {clamp:?}", isa.name());
    let mut random = Random(seed);
    let z: Vec<f32> = random.values(rows * channels).iter().map(|v| 3.0 * v + 0.5).collect();
    let d = random.values(rows * channels);
    let epsilon = 1e-3;
    let z64 = widen(&z);
    let exact_statistics = oracle::statistics(&z64, channels);
    let (gammas, betas) = (random.positive(channels), random.values(channels));

    // What the network keeps of a layer is f32; the oracle gets the same numbers back from it.
    let mean: Vec<f32> = exact_statistics.mean.iter().map(|&m| m as f32).collect();
    let inverse = |c: usize| 1.0 / (exact_statistics.variance[c] + epsilon).sqrt();
    let scale: Vec<f32> = (0..channels).map(|c| (f64::from(gammas[c]) * inverse(c)) as f32).collect();
    let shift: Vec<f32> = (0..channels)
        .map(|c| (f64::from(betas[c]) - f64::from(mean[c]) * f64::from(scale[c])) as f32)
        .collect();
    // γ such that γ·inverse is exactly the rounded scale.
    let gamma64: Vec<f64> = (0..channels).map(|c| f64::from(scale[c]) / inverse(c)).collect();
    let statistics = Statistics { mean: widen(&mean), variance: exact_statistics.variance.clone() };

    // Values so near a kink that rounding decides on which side they are get no gradient.
    let pre: Vec<f64> = (0..z.len())
        .map(|i| z64[i] * f64::from(scale[i % channels]) + f64::from(shift[i % channels]))
        .collect();
    let near = |v: f64| [clamp.low, clamp.high].iter().any(|&k| (v - f64::from(k)).abs() < 1e-5);
    let d: Vec<f32> = d.iter().zip(&pre).map(|(&d, &v)| if near(v) { 0.0 } else { d }).collect();
    let inside: Vec<f64> = d
        .iter()
        .zip(&pre)
        .map(
            |(&d, &v)| if v > f64::from(clamp.low) && v < f64::from(clamp.high) { f64::from(d) } else { 0.0 },
        )
        .collect();
    if clamp == Clamp::RELU {
        assert_eq!(inside, activation::relu_backward(&pre, &widen(&d), None), "{what}");
    }

    let layer = Normalisation { affine: Affine { scale: &scale, shift: &shift }, mean: &mean, clamp };
    let mut sums = GradientSums::new(channels);
    let mut other = GradientSums::new(channels);
    for (i, (d, z)) in d.chunks(piece * channels).zip(z.chunks(piece * channels)).enumerate() {
        if i % 2 == 0 { &mut sums } else { &mut other }.add_rows(isa, layer, d, z);
    }
    sums.merge(&other);
    let exact = oracle::backward(&z64, &statistics, &gamma64, epsilon, &inside);
    for c in 0..channels {
        let column = || inside.iter().zip(&z64).skip(c).step_by(channels);
        let magnitude: f64 = column().map(|(d, _)| d.abs()).sum();
        let error = (sums.d()[c] - exact.d_beta[c]).abs();
        assert!(error <= gamma(piece.min(rows)) * magnitude, "{what}: Σdy of channel {c} off by {error:.2e}");
        let magnitude: f64 = column().map(|(d, z)| (d * (z - f64::from(mean[c]))).abs()).sum();
        let error = (sums.d_deviation()[c] - exact.d_gamma[c] / inverse(c)).abs();
        let bound = gamma(piece.min(rows) + 2) * magnitude;
        assert!(error <= bound, "{what}: Σdy·(z − mean) of channel {c} off by {error:.2e} > {bound:.2e}");
    }

    let n = rows as f64;
    let offset: Vec<f32> = (0..channels).map(|c| (f64::from(scale[c]) * sums.d()[c] / n) as f32).collect();
    let slope: Vec<f32> = (0..channels)
        .map(|c| (f64::from(scale[c]) * sums.d_deviation()[c] / n * inverse(c).powi(2)) as f32)
        .collect();
    let stride = channels + seed as usize % 3;
    let mut d_z = vec![SENTINEL; rows * stride];
    backward(isa, layer, Correction { offset: &offset, slope: &slope }, &d, &z, &mut d_z, stride);
    let found = without_gaps(&d_z, rows, channels, stride);
    let magnitude: Vec<f64> = (0..z.len())
        .map(|i| {
            let c = i % channels;
            (f64::from(scale[c]) * inside[i]).abs()
                + f64::from(offset[c].abs())
                + (f64::from(slope[c]) * (z64[i] - f64::from(mean[c]))).abs()
        })
        .collect();
    // Exact for the rounded offset and slope: a handful of roundings.
    let exact_rounded: Vec<f64> = (0..z.len())
        .map(|i| {
            let c = i % channels;
            f64::from(scale[c]) * inside[i]
                - f64::from(offset[c])
                - f64::from(slope[c]) * (z64[i] - f64::from(mean[c]))
        })
        .collect();
    assert_within(&format!("{what}: d_z"), &found, &exact_rounded, &magnitude, 4);
    // And the whole: the sums' errors are shared out over the rows.
    let reach: Vec<f64> = (0..z.len())
        .map(|i| {
            let c = i % channels;
            let mean_d = inside.iter().skip(c).step_by(channels).map(|d| d.abs()).sum::<f64>() / n;
            let mean_deviation = inside
                .iter()
                .zip(&z64)
                .skip(c)
                .step_by(channels)
                .map(|(d, z)| (d * (z - f64::from(mean[c]))).abs())
                .sum::<f64>()
                / n;
            let deviation = (z64[i] - f64::from(mean[c])).abs();
            f64::from(scale[c]) * (inside[i].abs() + mean_d + mean_deviation * inverse(c).powi(2) * deviation)
        })
        .collect();
    assert_within(&format!("{what}: whole"), &found, &exact.d_x, &reach, piece.min(rows) + 8);
}

#[test]
fn gradients() {
    on_every_isa(|isa| {
        for channels in CHANNELS {
            for (i, clamp) in
                [Clamp::RELU, Clamp { low: 0.0, high: 1.0 }, Clamp::IDENTITY].into_iter().enumerate()
            {
                for (rows, piece) in [(2, 1), (9, 4), (200, 64)] {
                    check_backward(isa, channels, rows, clamp, piece, (channels + i) as u64);
                }
            }
        }
    });
}

#[test]
fn no_gradient_on_the_kinks_themselves() {
    // As in PyTorch and TensorFlow: neither at 0 nor at 6.
    on_every_isa(|isa| {
        for channels in CHANNELS {
            let (one, zero) = (vec![1.0; channels], vec![0.0; channels]);
            let affine = Affine { scale: &one, shift: &zero };
            let layer = Normalisation { affine, mean: &zero, clamp: Clamp::RELU6 };
            let z: Vec<f32> = [0.0, 3.0, 6.0].iter().flat_map(|&z| vec![z; channels]).collect();
            let d = vec![1.0; z.len()];
            let mut d_z = vec![SENTINEL; z.len()];
            backward(isa, layer, Correction { offset: &zero, slope: &zero }, &d, &z, &mut d_z, channels);
            let expected: Vec<f32> = [0.0, 1.0, 0.0].iter().flat_map(|&d| vec![d; channels]).collect();
            assert_eq!(d_z, expected, "{}", isa.name());
            let mut sums = GradientSums::new(channels);
            sums.add_rows(isa, layer, &d, &z);
            assert_eq!(sums.d(), vec![1.0; channels], "{}", isa.name());
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_moments(
        channels in 1usize..70,
        count in 1usize..200,
        piece in 1usize..100,
        parts in 1usize..4,
        offset in -100f32..100.0,
        seed: u64,
    ) {
        let rows: Vec<f32> = Random(seed).values(count * channels).iter().map(|v| v + offset).collect();
        for isa in Isa::testable() {
            check_moments(isa, channels, &rows, piece, parts);
        }
    }

    #[test]
    fn any_gradients(channels in 1usize..70, rows in 2usize..100, piece in 1usize..50, six: bool, seed: u64) {
        let clamp = if six { Clamp { low: 0.0, high: 1.0 } } else { Clamp::RELU };
        for isa in Isa::testable() {
            check_backward(isa, channels, rows, clamp, piece, seed >> 1);
        }
    }
}
