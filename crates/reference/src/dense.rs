//! What mixes channels alone: pointwise convolution and the classifier; and the mean over pixels.

/// `[rows, in]` by `[out, in]` to `[rows, out]`: a 1×1 convolution over `rows` pixels.
pub fn pointwise(x: &[f64], weight: &[f64], inputs: usize, outputs: usize) -> Vec<f64> {
    assert_eq!(weight.len(), inputs * outputs);
    assert_eq!(x.len() % inputs, 0);
    let mut y = Vec::with_capacity(x.len() / inputs * outputs);
    for x in x.chunks_exact(inputs) {
        for weight in weight.chunks_exact(inputs) {
            y.push(dot(x, weight));
        }
    }
    y
}

/// Gradient with respect to the input of [`pointwise`].
pub fn pointwise_d_input(d_y: &[f64], weight: &[f64], inputs: usize, outputs: usize) -> Vec<f64> {
    assert_eq!(weight.len(), inputs * outputs);
    let mut d_x = vec![0.0; d_y.len() / outputs * inputs];
    for (d_x, d_y) in d_x.chunks_exact_mut(inputs).zip(d_y.chunks_exact(outputs)) {
        for (&d, weight) in d_y.iter().zip(weight.chunks_exact(inputs)) {
            add_scaled(d_x, d, weight);
        }
    }
    d_x
}

/// Gradient with respect to the weight of [`pointwise`], `[out, in]`.
pub fn pointwise_d_weight(x: &[f64], d_y: &[f64], inputs: usize, outputs: usize) -> Vec<f64> {
    assert_eq!(x.len() / inputs, d_y.len() / outputs);
    let mut d_weight = vec![0.0; inputs * outputs];
    for (x, d_y) in x.chunks_exact(inputs).zip(d_y.chunks_exact(outputs)) {
        for (&d, d_weight) in d_y.iter().zip(d_weight.chunks_exact_mut(inputs)) {
            add_scaled(d_weight, d, x);
        }
    }
    d_weight
}

/// [`pointwise`] plus a bias for each output: the classifier.
pub fn linear(x: &[f64], weight: &[f64], bias: &[f64], inputs: usize) -> Vec<f64> {
    let mut y = pointwise(x, weight, inputs, bias.len());
    for y in y.chunks_exact_mut(bias.len()) {
        for (y, b) in y.iter_mut().zip(bias) {
            *y += b;
        }
    }
    y
}

/// Gradient with respect to the bias of [`linear`].
pub fn linear_d_bias(d_y: &[f64], outputs: usize) -> Vec<f64> {
    let mut d_bias = vec![0.0; outputs];
    for d_y in d_y.chunks_exact(outputs) {
        for (d_b, d) in d_bias.iter_mut().zip(d_y) {
            *d_b += d;
        }
    }
    d_bias
}

/// Mean over the pixels of each image: `[N, pixels, C]` to `[N, C]`.
pub fn global_average_pool(x: &[f64], batch: usize, channels: usize) -> Vec<f64> {
    let pixels = x.len() / (batch * channels);
    let mut y = vec![0.0; batch * channels];
    for (image, y) in x.chunks_exact(pixels * channels).zip(y.chunks_exact_mut(channels)) {
        for pixel in image.chunks_exact(channels) {
            add_scaled(y, 1.0 / pixels as f64, pixel);
        }
    }
    y
}

/// Gradient with respect to the input of [`global_average_pool`].
pub fn global_average_pool_backward(d_y: &[f64], pixels: usize, channels: usize) -> Vec<f64> {
    let mut d_x = Vec::with_capacity(d_y.len() * pixels);
    for d_y in d_y.chunks_exact(channels) {
        for _ in 0..pixels {
            d_x.extend(d_y.iter().map(|d| d / pixels as f64));
        }
    }
    d_x
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add_scaled(to: &mut [f64], scale: f64, from: &[f64]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += scale * from;
    }
}
