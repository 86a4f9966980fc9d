//! What a channel's values lie around: where they are rounded to bf16, they are kept less that.
//!
//! A channel that is 3 ± 0.1 keeps two digits of what varies in it when it is rounded as it is, and more than
//! three when 3 is taken off first; and what is left meets rounded weights with a mean near zero, so that
//! their errors, which have the same sign in every pixel, do not add up. (Of 8 bits the latter is known as
//! bias correction, after Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
//! Correction", 2019.)
//!
//! No image is needed to know it: a batch normalisation says what its outputs are distributed like, β ± γ,
//! and what the activation makes of a normal distribution has a mean in closed form.

use half::bf16;
use mobilenet_kernels::Clamp;

use super::{Conv, Stored};

/// What the activated outputs of `conv` lie around, one value a channel, as a bf16 number: so what is zero is
/// kept exactly; nothing, where that would be more than `largest`.
pub(super) fn of(conv: &Conv, parameters: &[Stored], epsilon: f64, clamp: Clamp, largest: f32) -> Vec<f32> {
    let (gamma, beta) = (&parameters[conv.gamma].value, &parameters[conv.beta].value);
    let channels = gamma.iter().zip(beta).zip(&conv.running_var);
    channels
        .map(|((&gamma, &beta), &variance)| {
            let variance = f64::from(variance);
            // (Epsilon makes less of a channel that hardly varies.)
            let deviation = f64::from(gamma).abs() * (variance / (variance + epsilon)).sqrt();
            let mean = clamped_mean(f64::from(beta), deviation, clamp);
            if mean.abs() <= f64::from(largest) { bf16::from_f64(mean).to_f32() } else { 0.0 }
        })
        .collect()
}

/// The mean of what is normally distributed and then clamped.
fn clamped_mean(mean: f64, deviation: f64, Clamp { low, high }: Clamp) -> f64 {
    let (low, high) = (f64::from(low), f64::from(high));
    if deviation.partial_cmp(&0.0) != Some(std::cmp::Ordering::Greater) {
        return mean.clamp(low, high);
    }
    // E[min(max(x, low), high)] = mean + E[max(low − x, 0)] − E[max(x − high, 0)].
    mean + deviation * (mean_above((low - mean) / deviation) - mean_above((mean - high) / deviation))
}

/// E[max(x + z, 0)] of a standard normal x.
fn mean_above(z: f64) -> f64 {
    if z == f64::NEG_INFINITY {
        return 0.0;
    }
    z * normal(z) + (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// The standard normal distribution, to 1e-7: Abramowitz and Stegun, "Handbook of Mathematical Functions",
/// 26.2.17.
fn normal(z: f64) -> f64 {
    const COEFFICIENTS: [f64; 5] = [0.319381530, -0.356563782, 1.781477937, -1.821255978, 1.330274429];
    let t = 1.0 / (1.0 + 0.2316419 * z.abs());
    let polynomial = COEFFICIENTS.iter().rev().fold(0.0, |sum, coefficient| (sum + coefficient) * t);
    let beyond = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * polynomial;
    if z > 0.0 { 1.0 - beyond } else { beyond }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mean by the trapezoidal rule over ten deviations, which for such a function is as good as exact.
    fn integrated(mean: f64, deviation: f64, clamp: Clamp) -> f64 {
        const STEPS: i32 = 200_000;
        let step = 20.0 / f64::from(STEPS);
        (0..=STEPS)
            .map(|i| {
                let z = f64::from(i) * step - 10.0;
                let x = (mean + deviation * z).clamp(f64::from(clamp.low), f64::from(clamp.high));
                x * (-z * z / 2.0).exp() * step / (2.0 * std::f64::consts::PI).sqrt()
            })
            .sum()
    }

    #[test]
    fn the_mean_is_the_integral() {
        for clamp in [Clamp::RELU, Clamp::RELU6, Clamp::IDENTITY] {
            for mean in [-40.0, -3.0, -0.5, 0.0, 0.1, 2.0, 5.5, 6.0, 30.0] {
                for deviation in [1e-3, 0.1, 1.0, 4.0] {
                    let (found, expected) =
                        (clamped_mean(mean, deviation, clamp), integrated(mean, deviation, clamp));
                    assert!(
                        (found - expected).abs() <= 2e-6 * (mean.abs() + deviation),
                        "{mean} ± {deviation} in {clamp:?}: {found}, the integral {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn without_deviation_the_mean_is_the_value() {
        for (mean, expected) in [(-1.0, 0.0), (2.5, 2.5), (7.0, 6.0)] {
            assert_eq!(clamped_mean(mean, 0.0, Clamp::RELU6), expected);
        }
    }
}
