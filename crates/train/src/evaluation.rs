//! What an evaluation finds: accuracies, the confusion matrix, the worst mistakes.

use serde::{Deserialize, Serialize};

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
