//! Softmax and cross-entropy with label smoothing, mean over the batch.

/// Probabilities of each row of `classes` logits.
pub fn softmax(logits: &[f64], classes: usize) -> Vec<f64> {
    let mut probabilities = Vec::with_capacity(logits.len());
    for row in logits.chunks_exact(classes) {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|z| (z - largest).exp()).sum();
        probabilities.extend(row.iter().map(|z| (z - largest).exp() / sum));
    }
    probabilities
}

/// What a row should be: `1 − s` at the label and `s` spread evenly over all the classes.
fn target(class: usize, label: usize, classes: usize, smoothing: f64) -> f64 {
    smoothing / classes as f64 + if class == label { 1.0 - smoothing } else { 0.0 }
}

/// Cross-entropy of `[batch, classes]` logits against labels.
pub fn cross_entropy(logits: &[f64], labels: &[usize], classes: usize, smoothing: f64) -> f64 {
    assert_eq!(logits.len(), labels.len() * classes);
    let mut sum = 0.0;
    for (row, &label) in logits.chunks_exact(classes).zip(labels) {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_sum = largest + row.iter().map(|z| (z - largest).exp()).sum::<f64>().ln();
        for (class, z) in row.iter().enumerate() {
            sum += target(class, label, classes, smoothing) * (log_sum - z);
        }
    }
    sum / labels.len() as f64
}

/// Gradient with respect to the logits of [`cross_entropy`].
pub fn cross_entropy_backward(logits: &[f64], labels: &[usize], classes: usize, smoothing: f64) -> Vec<f64> {
    softmax(logits, classes)
        .iter()
        .enumerate()
        .map(|(i, p)| {
            let (row, class) = (i / classes, i % classes);
            (p - target(class, labels[row], classes, smoothing)) / labels.len() as f64
        })
        .collect()
}
