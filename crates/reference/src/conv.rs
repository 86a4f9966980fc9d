//! Full and depthwise convolution, without bias.

use crate::geometry::Geometry;

/// `[out, in, k, k]` to `[tap, in, out]`, so that the innermost loop below is over outputs.
fn by_tap(weight: &[f64], inputs: usize, outputs: usize, taps: usize) -> Vec<f64> {
    assert_eq!(weight.len(), inputs * outputs * taps);
    let mut arranged = vec![0.0; weight.len()];
    for output in 0..outputs {
        for input in 0..inputs {
            for tap in 0..taps {
                arranged[(tap * inputs + input) * outputs + output] =
                    weight[(output * inputs + input) * taps + tap];
            }
        }
    }
    arranged
}

/// `[N, H, W, in]` by `[out, in, k, k]` to `[N, H', W', out]`.
pub fn conv2d(x: &[f64], weight: &[f64], inputs: usize, outputs: usize, geometry: &Geometry) -> Vec<f64> {
    assert_eq!(x.len(), geometry.input_pixels() * inputs);
    let weight = by_tap(weight, inputs, outputs, geometry.taps());
    let mut y = vec![0.0; geometry.output_pixels() * outputs];
    geometry.for_each_tap(|t| {
        let y = &mut y[t.output * outputs..][..outputs];
        for (input, &value) in x[t.input * inputs..][..inputs].iter().enumerate() {
            let weight = &weight[(t.tap * inputs + input) * outputs..][..outputs];
            for (y, w) in y.iter_mut().zip(weight) {
                *y += value * w;
            }
        }
    });
    y
}

/// Gradient with respect to the input of [`conv2d`].
pub fn conv2d_d_input(
    d_y: &[f64],
    weight: &[f64],
    inputs: usize,
    outputs: usize,
    geometry: &Geometry,
) -> Vec<f64> {
    assert_eq!(d_y.len(), geometry.output_pixels() * outputs);
    let weight = by_tap(weight, inputs, outputs, geometry.taps());
    let mut d_x = vec![0.0; geometry.input_pixels() * inputs];
    geometry.for_each_tap(|t| {
        let d_y = &d_y[t.output * outputs..][..outputs];
        for (input, d_x) in d_x[t.input * inputs..][..inputs].iter_mut().enumerate() {
            let weight = &weight[(t.tap * inputs + input) * outputs..][..outputs];
            *d_x += d_y.iter().zip(weight).map(|(d, w)| d * w).sum::<f64>();
        }
    });
    d_x
}

/// Gradient with respect to the weight of [`conv2d`], `[out, in, k, k]`.
pub fn conv2d_d_weight(
    x: &[f64],
    d_y: &[f64],
    inputs: usize,
    outputs: usize,
    geometry: &Geometry,
) -> Vec<f64> {
    assert_eq!(x.len(), geometry.input_pixels() * inputs);
    assert_eq!(d_y.len(), geometry.output_pixels() * outputs);
    let taps = geometry.taps();
    let mut arranged = vec![0.0; taps * inputs * outputs];
    geometry.for_each_tap(|t| {
        let d_y = &d_y[t.output * outputs..][..outputs];
        for (input, &value) in x[t.input * inputs..][..inputs].iter().enumerate() {
            let d_weight = &mut arranged[(t.tap * inputs + input) * outputs..][..outputs];
            for (d_w, d) in d_weight.iter_mut().zip(d_y) {
                *d_w += value * d;
            }
        }
    });
    let mut d_weight = vec![0.0; arranged.len()];
    for tap in 0..taps {
        for input in 0..inputs {
            for output in 0..outputs {
                d_weight[(output * inputs + input) * taps + tap] =
                    arranged[(tap * inputs + input) * outputs + output];
            }
        }
    }
    d_weight
}

/// `[N, H, W, C]` by `[C, 1, k, k]` to `[N, H', W', C]`: each channel filtered alone.
pub fn depthwise(x: &[f64], weight: &[f64], channels: usize, geometry: &Geometry) -> Vec<f64> {
    let taps = geometry.taps();
    assert_eq!(x.len(), geometry.input_pixels() * channels);
    assert_eq!(weight.len(), channels * taps);
    let mut y = vec![0.0; geometry.output_pixels() * channels];
    geometry.for_each_tap(|t| {
        for c in 0..channels {
            y[t.output * channels + c] += x[t.input * channels + c] * weight[c * taps + t.tap];
        }
    });
    y
}

/// Gradient with respect to the input of [`depthwise`].
pub fn depthwise_d_input(d_y: &[f64], weight: &[f64], channels: usize, geometry: &Geometry) -> Vec<f64> {
    let taps = geometry.taps();
    assert_eq!(d_y.len(), geometry.output_pixels() * channels);
    assert_eq!(weight.len(), channels * taps);
    let mut d_x = vec![0.0; geometry.input_pixels() * channels];
    geometry.for_each_tap(|t| {
        for c in 0..channels {
            d_x[t.input * channels + c] += d_y[t.output * channels + c] * weight[c * taps + t.tap];
        }
    });
    d_x
}

/// Gradient with respect to the weight of [`depthwise`], `[C, 1, k, k]`.
pub fn depthwise_d_weight(x: &[f64], d_y: &[f64], channels: usize, geometry: &Geometry) -> Vec<f64> {
    let taps = geometry.taps();
    assert_eq!(x.len(), geometry.input_pixels() * channels);
    assert_eq!(d_y.len(), geometry.output_pixels() * channels);
    let mut d_weight = vec![0.0; channels * taps];
    geometry.for_each_tap(|t| {
        for c in 0..channels {
            d_weight[c * taps + t.tap] += d_y[t.output * channels + c] * x[t.input * channels + c];
        }
    });
    d_weight
}
