//! Batch normalisation over all but the last dimension (Ioffe, Szegedy 2015).

/// Mean and biased variance of each channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Mean.
    pub mean: Vec<f64>,
    /// Variance with divisor n.
    pub variance: Vec<f64>,
}

/// Gradients of a batch normalisation.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    /// With respect to its input.
    pub d_x: Vec<f64>,
    /// With respect to γ.
    pub d_gamma: Vec<f64>,
    /// With respect to β.
    pub d_beta: Vec<f64>,
}

/// Statistics of each channel of `[rows, channels]`, in two passes.
pub fn statistics(x: &[f64], channels: usize) -> Statistics {
    let n = (x.len() / channels) as f64;
    let mut mean = vec![0.0; channels];
    for row in x.chunks_exact(channels) {
        for (mean, x) in mean.iter_mut().zip(row) {
            *mean += x / n;
        }
    }
    let mut variance = vec![0.0; channels];
    for row in x.chunks_exact(channels) {
        for c in 0..channels {
            variance[c] += (row[c] - mean[c]).powi(2) / n;
        }
    }
    Statistics { mean, variance }
}

/// `γ·(x − mean)/√(variance + ε) + β`: with the batch's statistics in training, with the
/// running ones in inference.
pub fn normalise(x: &[f64], statistics: &Statistics, gamma: &[f64], beta: &[f64], epsilon: f64) -> Vec<f64> {
    let channels = gamma.len();
    assert_eq!(x.len() % channels, 0);
    x.iter()
        .enumerate()
        .map(|(i, x)| {
            let c = i % channels;
            gamma[c] * (x - statistics.mean[c]) / (statistics.variance[c] + epsilon).sqrt() + beta[c]
        })
        .collect()
}

/// Moves `running` towards the statistics of a batch of `rows` values a channel: `momentum` is
/// the weight of the new, and the variance that is kept has divisor n − 1 (PyTorch).
pub fn update_running(running: &mut Statistics, batch: &Statistics, rows: usize, momentum: f64) {
    let unbias = rows as f64 / (rows as f64 - 1.0);
    for (running, new) in running.mean.iter_mut().zip(&batch.mean) {
        *running += momentum * (new - *running);
    }
    for (running, new) in running.variance.iter_mut().zip(&batch.variance) {
        *running += momentum * (new * unbias - *running);
    }
}

/// Backward of [`normalise`] where the statistics are those of `x` itself (training).
pub fn backward(x: &[f64], statistics: &Statistics, gamma: &[f64], epsilon: f64, d_y: &[f64]) -> Gradients {
    let channels = gamma.len();
    let n = (x.len() / channels) as f64;
    let fixed = backward_fixed(x, statistics, gamma, epsilon, d_y);
    let d_x = x
        .iter()
        .zip(d_y)
        .enumerate()
        .map(|(i, (x, d))| {
            let c = i % channels;
            let deviation = (statistics.variance[c] + epsilon).sqrt();
            let normal = (x - statistics.mean[c]) / deviation;
            gamma[c] / deviation * (d - fixed.d_beta[c] / n - normal * fixed.d_gamma[c] / n)
        })
        .collect();
    Gradients { d_x, ..fixed }
}

/// Backward of [`normalise`] where the statistics are constants (inference, or frozen).
pub fn backward_fixed(
    x: &[f64],
    statistics: &Statistics,
    gamma: &[f64],
    epsilon: f64,
    d_y: &[f64],
) -> Gradients {
    let channels = gamma.len();
    assert_eq!(x.len(), d_y.len());
    let mut gradients = Gradients {
        d_x: Vec::with_capacity(x.len()),
        d_gamma: vec![0.0; channels],
        d_beta: vec![0.0; channels],
    };
    for (i, (x, d)) in x.iter().zip(d_y).enumerate() {
        let c = i % channels;
        let deviation = (statistics.variance[c] + epsilon).sqrt();
        gradients.d_x.push(gamma[c] / deviation * d);
        gradients.d_gamma[c] += d * (x - statistics.mean[c]) / deviation;
        gradients.d_beta[c] += d;
    }
    gradients
}
