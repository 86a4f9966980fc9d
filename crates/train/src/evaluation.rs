//! Evaluation: accuracies, the confusion matrix, the worst mistakes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use mobilenet::{Executor, Tensor};
use serde::{Deserialize, Serialize};

use crate::batch_source::BatchSource;
use crate::error::{Error, Result};
use crate::loss::{rank, softmax};

/// How one class fared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassScore {
    /// The class's name.
    pub class: String,
    /// Images of this class.
    pub count: usize,
    /// Images that were taken for this class.
    pub predicted: usize,
    /// Images of this class that were taken for it.
    pub correct: usize,
    /// `correct / predicted`; `None` when nothing was taken for this class.
    pub precision: Option<f64>,
    /// `correct / count`; `None` when there is no image of this class.
    pub recall: Option<f64>,
}

/// A wrong answer given with much confidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mistake {
    /// The image's index in its data set.
    pub index: usize,
    /// The class that it is of.
    pub label: usize,
    /// The class that it was taken for.
    pub predicted: usize,
    /// The probability given to the class that it was taken for.
    pub probability: f64,
    /// The probability given to the class that it is of.
    pub label_probability: f64,
}

/// What an evaluation found. Accuracies are fractions.
///
/// Where the network has a background class, answers are ranked without it, since no image is of
/// it; the loss counts the probability that it takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Share of images whose likeliest class is the right one.
    pub top1: f64,
    /// Share of images whose right class is among the five likeliest.
    pub top5: f64,
    /// Mean cross-entropy, without label smoothing.
    pub loss: f64,
    /// Number of images.
    pub count: usize,
    /// One a class, in the order of the labels.
    pub classes: Vec<ClassScore>,
    /// `confusion[label][predicted]`: numbers of images.
    pub confusion: Vec<Vec<u32>>,
    /// The most confident wrong answers, the worst first.
    pub mistakes: Vec<Mistake>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// How to evaluate.
#[derive(Clone, Copy, Debug)]
pub struct EvaluationOptions<'a> {
    /// Average the probabilities of each image and its mirror image.
    pub mirror: bool,
    /// How many mistakes to keep.
    pub mistakes: usize,
    /// Raised to stop early, with [`Error::Interrupted`].
    pub stop: Option<&'a AtomicBool>,
}

impl Default for EvaluationOptions<'_> {
    /// No mirroring, 36 mistakes, no stopping.
    fn default() -> Self {
        Self { mirror: false, mistakes: 36, stop: None }
    }
}

/// Evaluates the network in inference mode on everything that `loader` gives.
///
/// `labels` are the names of the network's classes. `progress` is told the numbers of images done
/// and in all after every batch. The data may be in any order, but the last digits of the loss
/// depend on it.
///
/// # Errors
/// When an image cannot be read, a batch does not fit the network, a logit is not a finite
/// number, there is no image, or the stop flag was raised.
pub fn evaluate(
    executor: &mut dyn Executor,
    loader: &dyn BatchSource,
    labels: &[String],
    options: &EvaluationOptions<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Evaluation> {
    let start = Instant::now();
    let total = loader.images();
    let first_class = usize::from(executor.architecture().conventions.background_class);
    let mut tally = Tally::new(labels, first_class, options.mistakes);
    for batch in loader.epoch(0, 0) {
        if options.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return Err(Error::Interrupted);
        }
        let batch = batch?;
        if batch.labels.is_empty() {
            continue; // None of its images could be read.
        }
        let mut answers = probabilities(&executor.infer(&batch.images)?);
        if options.mirror {
            let mirrored = probabilities(&executor.infer(&loader.mirrored(&batch)?)?);
            for (a, m) in answers.values.iter_mut().zip(mirrored.values) {
                *a = (*a + m) / 2.0;
            }
        }
        tally.add(&answers, &batch.labels, &batch.indices)?;
        progress(tally.count, total);
        loader.recycle(batch);
    }
    tally.finish(start.elapsed().as_secs_f64())
}

/// Softmax of each row of logits.
struct Probabilities {
    values: Vec<f64>,
    outputs: usize,
}

fn probabilities(logits: &Tensor) -> Probabilities {
    let outputs = logits.shape().last().copied().unwrap_or(1).max(1);
    let mut values = vec![0.0; logits.data().len()];
    for (row, probabilities) in logits.rows().zip(values.chunks_exact_mut(outputs)) {
        softmax(row, probabilities);
    }
    Probabilities { values, outputs }
}

/// What an evaluation has counted so far.
struct Tally<'a> {
    labels: &'a [String],
    first_class: usize,
    keep: usize,
    count: usize,
    top1: usize,
    top5: usize,
    loss: f64,
    confusion: Vec<Vec<u32>>,
    mistakes: Vec<Mistake>,
}

impl<'a> Tally<'a> {
    fn new(labels: &'a [String], first_class: usize, keep: usize) -> Self {
        let confusion = vec![vec![0; labels.len()]; labels.len()];
        Self {
            labels,
            first_class,
            keep,
            count: 0,
            top1: 0,
            top5: 0,
            loss: 0.0,
            confusion,
            mistakes: Vec::new(),
        }
    }

    fn add(&mut self, answers: &Probabilities, labels: &[usize], indices: &[usize]) -> Result<()> {
        let classes = self.labels.len();
        let rows = answers.values.chunks_exact(answers.outputs);
        if answers.outputs != classes + self.first_class || rows.len() != labels.len() {
            return Err(Error::Batch {
                what: "logits",
                expected: format!("{} rows of {}", labels.len(), classes + self.first_class),
                found: format!("{} rows of {}", rows.len(), answers.outputs),
            });
        }
        for ((row, &label), &index) in rows.zip(labels).zip(indices) {
            if label >= classes {
                return Err(Error::Batch {
                    what: "label",
                    expected: format!("a class below {classes}"),
                    found: label.to_string(),
                });
            }
            if row.iter().any(|p| !p.is_finite()) {
                return Err(Error::Batch {
                    what: "logits",
                    expected: "finite numbers".into(),
                    found: format!(
                        "NaN for image {index}; the weights are damaged or their training diverged"
                    ),
                });
            }
            let row = &row[self.first_class..];
            let place = rank(row, label);
            self.count += 1;
            self.top1 += usize::from(place < 1);
            self.top5 += usize::from(place < 5);
            // A probability that is too small for f64 must not make the mean infinite.
            self.loss -= row[label].max(f64::MIN_POSITIVE).ln();
            let predicted =
                (0..classes).fold(0, |best, class| if row[class] > row[best] { class } else { best });
            self.confusion[label][predicted] += 1;
            if predicted != label {
                self.remember(Mistake {
                    index,
                    label,
                    predicted,
                    probability: row[predicted],
                    label_probability: row[label],
                });
            }
        }
        Ok(())
    }

    /// Keeps the mistake if it is among the worst, sorted by confidence, then by index.
    fn remember(&mut self, mistake: Mistake) {
        let place = self.mistakes.partition_point(|other| {
            (-other.probability, other.index) < (-mistake.probability, mistake.index)
        });
        if place < self.keep {
            self.mistakes.truncate(self.keep - 1);
            self.mistakes.insert(place, mistake);
        }
    }

    fn finish(self, seconds: f64) -> Result<Evaluation> {
        if self.count == 0 {
            return Err(Error::Batch {
                what: "images to evaluate",
                expected: "at least one".into(),
                found: "none".into(),
            });
        }
        let share = |part: usize, whole: usize| (whole > 0).then(|| part as f64 / whole as f64);
        let mut classes = Vec::with_capacity(self.labels.len());
        for (class, name) in self.labels.iter().enumerate() {
            let count = self.confusion[class].iter().map(|&n| n as usize).sum();
            let predicted = self.confusion.iter().map(|row| row[class] as usize).sum();
            let correct = self.confusion[class][class] as usize;
            classes.push(ClassScore {
                class: name.clone(),
                count,
                predicted,
                correct,
                precision: share(correct, predicted),
                recall: share(correct, count),
            });
        }
        Ok(Evaluation {
            top1: self.top1 as f64 / self.count as f64,
            top5: self.top5 as f64 / self.count as f64,
            loss: self.loss / self.count as f64,
            count: self.count,
            classes,
            confusion: self.confusion,
            mistakes: self.mistakes,
            seconds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch_source::mirror;

    fn labels(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("class {i}")).collect()
    }

    #[test]
    fn counts_by_hand() {
        let labels = labels(3);
        let mut tally = Tally::new(&labels, 0, 2);
        let rows = [
            ([0.7, 0.2, 0.1], 0),   // right
            ([0.1, 0.6, 0.3], 0),   // wrong, 0.6
            ([0.05, 0.05, 0.9], 1), // wrong, 0.9
            ([0.2, 0.5, 0.3], 2),   // wrong, 0.5: not among the two worst
        ];
        let answers = Probabilities { values: rows.iter().flat_map(|row| row.0).collect(), outputs: 3 };
        tally.add(&answers, &rows.map(|row| row.1), &[10, 11, 12, 13]).unwrap();
        let e = tally.finish(0.0).unwrap();
        assert_eq!((e.top1, e.top5, e.count), (0.25, 1.0, 4));
        let loss = -(0.7f64.ln() + 0.1f64.ln() + 0.05f64.ln() + 0.3f64.ln()) / 4.0;
        assert!((e.loss - loss).abs() < 1e-12);
        assert_eq!(e.confusion, [[1, 1, 0], [0, 0, 1], [0, 1, 0]]);
        let scores: Vec<_> = e.classes.iter().map(|c| (c.count, c.predicted, c.correct)).collect();
        assert_eq!(scores, [(2, 1, 1), (1, 2, 0), (1, 1, 0)]);
        assert_eq!((e.classes[0].precision, e.classes[0].recall), (Some(1.0), Some(0.5)));
        assert_eq!(e.mistakes.iter().map(|m| m.index).collect::<Vec<_>>(), [12, 11]);
        assert_eq!((e.mistakes[0].label, e.mistakes[0].predicted), (1, 2));
        assert_eq!(e.mistakes[0].label_probability, 0.05);
    }

    #[test]
    fn a_background_class_is_never_the_answer() {
        let labels = labels(2);
        let mut tally = Tally::new(&labels, 1, 2);
        let answers = Probabilities { values: vec![0.8, 0.05, 0.15], outputs: 3 };
        tally.add(&answers, &[1], &[0]).unwrap();
        let e = tally.finish(0.0).unwrap();
        assert_eq!(e.top1, 1.0);
        assert!((e.loss + 0.15f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn classes_without_images_have_no_recall() {
        let labels = labels(2);
        let mut tally = Tally::new(&labels, 0, 2);
        tally.add(&Probabilities { values: vec![0.8, 0.2], outputs: 2 }, &[0], &[0]).unwrap();
        let e = tally.finish(0.0).unwrap();
        assert_eq!((e.classes[1].precision, e.classes[1].recall), (None, None));
        assert!(Tally::new(&labels, 0, 2).finish(0.0).is_err());
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let labels = labels(2);
        let mut tally = Tally::new(&labels, 0, 2);
        let two = |values: Vec<f64>| Probabilities { values, outputs: 2 };
        assert!(tally.add(&two(vec![0.8, 0.2]), &[2], &[0]).is_err());
        assert!(tally.add(&Probabilities { values: vec![1.0; 3], outputs: 3 }, &[0], &[0]).is_err());
        let message = tally.add(&two(vec![f64::NAN, 0.2]), &[0], &[7]).unwrap_err().to_string();
        assert!(message.contains("NaN for image 7"), "{message}");
    }

    #[test]
    fn mirrors_rows_by_pixel() {
        let image = Tensor::new(&[1, 1, 3, 2], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        assert_eq!(mirror(&image).unwrap().data(), [5.0, 6.0, 3.0, 4.0, 1.0, 2.0]);
        assert!(mirror(&Tensor::zeros(&[2, 2])).is_err());
    }
}
