//! ReLU and ReLU6.

/// `max(x, 0)`, and at most `limit` where there is one (ReLU6: 6).
pub fn relu(x: &[f64], limit: Option<f64>) -> Vec<f64> {
    x.iter().map(|&x| x.max(0.0).min(limit.unwrap_or(f64::INFINITY))).collect()
}

/// Gradient with respect to the input `x` of [`relu`]: passes strictly between the kinks, as in
/// PyTorch and TensorFlow.
pub fn relu_backward(x: &[f64], d_y: &[f64], limit: Option<f64>) -> Vec<f64> {
    assert_eq!(x.len(), d_y.len());
    let limit = limit.unwrap_or(f64::INFINITY);
    x.iter().zip(d_y).map(|(&x, &d)| if x > 0.0 && x < limit { d } else { 0.0 }).collect()
}
