//! Limits the size of a step.

use mobilenet::Executor;

/// Scales all gradients by one factor so that their norm, taken over all tensors together, is at
/// most `largest` (PyTorch's `clip_grad_norm_`), and returns the norm before that.
///
/// The sum of squares is taken in f64. A norm that is not finite changes nothing: it is for the
/// caller to stop.
pub fn clip_global_norm(executor: &mut dyn Executor, largest: f64) -> f64 {
    let mut parameters = executor.parameters();
    let norm = parameters.iter().map(|parameter| sum_of_squares(parameter.grad)).sum::<f64>().sqrt();
    let scale = largest / (norm + 1e-6);
    if norm.is_finite() && scale < 1.0 {
        let scale = scale as f32;
        for parameter in &mut parameters {
            parameter.grad.iter_mut().for_each(|g| *g *= scale);
        }
    }
    norm
}

/// In eight partial sums, so that the compiler can use vectors.
fn sum_of_squares(values: &[f32]) -> f64 {
    let mut sums = [0f64; 8];
    let (chunks, rest) = values.as_chunks::<8>();
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
}
