//! Softmax cross-entropy: the loss, its gradient, and how many answers are right.

use std::cmp::Ordering;

use mobilenet::{Architecture, Tensor};

use crate::error::{Error, Result};

/// Softmax cross-entropy with label smoothing, averaged over the batch (PyTorch's
/// `CrossEntropyLoss`): with smoothing ε, the target gives 1 − ε to the label and spreads ε
/// evenly over all outputs, the label's included.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CrossEntropy {
    /// ε, in `[0, 1)`.
    pub label_smoothing: f64,
    /// The output that class 0 has: 1 where output 0 is a background class, else 0.
    pub first_class: usize,
}

/// What [`CrossEntropy::forward`] finds for one batch.
#[derive(Clone, Debug)]
pub struct Loss {
    /// The mean loss. Not a finite number if a logit was not.
    pub value: f64,
    /// The gradient of `value` with respect to the logits, `[N, outputs]`.
    pub d_logits: Tensor,
    /// Number of images whose likeliest class is the right one.
    pub correct: usize,
}

impl Loss {
    /// Divides the gradient by the number of batches whose gradients are added up for one step.
    pub fn divide_gradient(&mut self, batches: usize) {
        if batches > 1 {
            let share = 1.0 / batches as f32;
            self.d_logits.data_mut().iter_mut().for_each(|d| *d *= share);
        }
    }
}

impl CrossEntropy {
    /// The loss for networks of `architecture`, whose background class, if any, no label uses.
    pub fn new(architecture: &Architecture, label_smoothing: f64) -> Self {
        Self { label_smoothing, first_class: usize::from(architecture.conventions.background_class) }
    }

    /// Mean loss, gradient and number of right answers for logits `[N, outputs]` and the N
    /// labels (class indices, without the background class).
    ///
    /// Sums are taken in f64. Logits that are not finite give a loss that is not finite, not an
    /// error. Errors: no image, another number of labels than rows, a label without an output.
    pub fn forward(&self, logits: &Tensor, labels: &[usize]) -> Result<Loss> {
        let outputs = self.outputs(logits, labels)?;
        let scale = 1.0 / labels.len() as f64;
        let spread = self.label_smoothing / outputs as f64;
        let mut d_logits = vec![0f32; logits.data().len()];
        let mut probabilities = vec![0f64; outputs];
        let (mut sum, mut correct) = (0.0, 0);
        for ((row, d_row), &label) in logits.rows().zip(d_logits.chunks_exact_mut(outputs)).zip(labels) {
            let target = label + self.first_class;
            let log_sum = softmax(row, &mut probabilities);
            let mut loss = (1.0 - self.label_smoothing) * (log_sum - f64::from(row[target]));
            if spread > 0.0 {
                loss += spread * row.iter().map(|&x| log_sum - f64::from(x)).sum::<f64>();
            }
            sum += loss;
            for (d, &p) in d_row.iter_mut().zip(&probabilities) {
                *d = ((p - spread) * scale) as f32;
            }
            d_row[target] = ((probabilities[target] - spread - (1.0 - self.label_smoothing)) * scale) as f32;
            correct += usize::from(rank(&row[self.first_class..], label) == 0);
        }
        let d_logits = Tensor::new(logits.shape(), d_logits)?;
        Ok(Loss { value: sum * scale, d_logits, correct })
    }

    /// Checks the shapes and returns the number of outputs.
    fn outputs(&self, logits: &Tensor, labels: &[usize]) -> Result<usize> {
        let &[rows, outputs] = logits.shape() else {
            return Err(Error::Batch {
                what: "logits",
                expected: "shape [N, outputs]".into(),
                found: format!("shape {:?}", logits.shape()),
            });
        };
        if rows == 0 || rows != labels.len() {
            return Err(Error::Batch {
                what: "labels of a batch",
                expected: format!("one for each of its {rows} images, and at least one image"),
                found: labels.len().to_string(),
            });
        }
        let classes = outputs.saturating_sub(self.first_class);
        match labels.iter().find(|&&label| label >= classes) {
            Some(label) => Err(Error::Batch {
                what: "label",
                expected: format!("a class below {classes}, as many as the network has"),
                found: label.to_string(),
            }),
            None => Ok(outputs),
        }
    }
}

/// Writes softmax(`logits`) to `probabilities` (of the same length) and returns the logarithm of
/// the sum of exponentials. The largest logit is subtracted first, so that nothing overflows.
pub fn softmax(logits: &[f32], probabilities: &mut [f64]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let mut sum = 0.0;
    for (p, &x) in probabilities.iter_mut().zip(logits) {
        *p = (f64::from(x) - largest).exp();
        sum += *p;
    }
    for p in probabilities.iter_mut() {
        *p /= sum;
    }
    largest + sum.ln()
}

/// How many entries of `scores` come before `index` when sorted from the largest on; equal
/// scores sort by index. The right answer is in the top k when its rank is below k. A score that
/// is not a number never counts as right.
pub fn rank<T: PartialOrd>(scores: &[T], index: usize) -> usize {
    let own = &scores[index];
    if own.partial_cmp(own).is_none() {
        return scores.len();
    }
    let order = |score: &T| score.partial_cmp(own);
    let before = scores[..index].iter().filter(|score| order(score) != Some(Ordering::Less)).count();
    let behind =
        scores[index + 1..].iter().filter(|score| matches!(order(score), Some(Ordering::Greater) | None));
    before + behind.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(rows: usize, data: &[f32]) -> Tensor {
        Tensor::new(&[rows, data.len() / rows], data.to_vec()).unwrap()
    }

    #[test]
    fn gradient_is_the_central_difference() {
        let logits = [0.3f32, -1.2, 2.0, 0.7, 0.1, -0.4, 1.5, -2.0, 0.9, 0.2];
        for (label_smoothing, first_class) in [(0.0, 0), (0.1, 0), (0.3, 1)] {
            let loss = CrossEntropy { label_smoothing, first_class };
            let labels = [1, 3];
            let exact = loss.forward(&tensor(2, &logits), &labels).unwrap();
            for i in 0..logits.len() {
                let at = |delta: f32| {
                    let mut moved = logits;
                    moved[i] += delta;
                    // The step really taken, after rounding to f32.
                    (loss.forward(&tensor(2, &moved), &labels).unwrap().value, f64::from(moved[i]))
                };
                let ((up, x_up), (down, x_down)) = (at(1e-2), at(-1e-2));
                let numeric = (up - down) / (x_up - x_down);
                assert!((numeric - f64::from(exact.d_logits.data()[i])).abs() < 1e-5, "{i}");
            }
        }
    }

    #[test]
    fn known_values() {
        // torch.nn.functional.cross_entropy gives ln 2 for two equal logits.
        let loss = CrossEntropy::default().forward(&tensor(1, &[3.0, 3.0]), &[1]).unwrap();
        assert!((loss.value - std::f64::consts::LN_2).abs() < 1e-12);
        assert_eq!(loss.d_logits.data(), [0.5, -0.5]);
        // By hand: log-sum-exp of (1, 2, 3) is 3.4076059644443806.
        let smooth = CrossEntropy { label_smoothing: 0.3, first_class: 0 };
        let loss = smooth.forward(&tensor(1, &[1.0, 2.0, 3.0]), &[2]).unwrap();
        let log_sum = 3.407_605_964_444_380_6;
        let expected = 0.7 * (log_sum - 3.0) + 0.1 * (3.0 * log_sum - 6.0);
        assert!((loss.value - expected).abs() < 1e-12);
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        let loss = CrossEntropy::default().forward(&tensor(1, &[3e38, -3e38, 0.0]), &[1]).unwrap();
        assert!(loss.value.is_finite() && loss.value > 5e38);
        assert_eq!(loss.d_logits.data(), [1.0, -1.0, 0.0]);
    }

    #[test]
    fn nan_shows_in_the_value_and_is_never_right() {
        let loss = CrossEntropy::default().forward(&tensor(1, &[f32::NAN, 1.0]), &[1]).unwrap();
        assert!(loss.value.is_nan());
        assert_eq!(loss.correct, 0);
        let loss = CrossEntropy::default().forward(&tensor(1, &[f32::INFINITY, 1.0]), &[1]).unwrap();
        assert!(!loss.value.is_finite());
    }

    #[test]
    fn ranks_break_ties_by_index() {
        let scores = [1.0, 5.0, 5.0, 3.0];
        let ranks: Vec<_> = (0..4).map(|i| rank(&scores, i)).collect();
        assert_eq!(ranks, [3, 0, 1, 2]);
    }

    #[test]
    fn labels_must_fit() {
        let loss = CrossEntropy { label_smoothing: 0.0, first_class: 1 };
        assert!(loss.forward(&tensor(1, &[0.0, 1.0]), &[0]).is_ok());
        let text = loss.forward(&tensor(1, &[0.0, 1.0]), &[1]).unwrap_err().to_string();
        assert_eq!(text, "label: expected a class below 1, as many as the network has, found 1");
        assert!(loss.forward(&tensor(1, &[0.0, 1.0]), &[0, 0]).is_err());
        assert!(loss.forward(&Tensor::zeros(&[4]), &[0]).is_err());
    }
}
