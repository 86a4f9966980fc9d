//! A recipe: everything that a training run is told, as one TOML file.

use std::path::PathBuf;

use mobilenet::Body;
use mobilenet::conventions::{Activation, Interpolation, Padding, Preset, ResizeMode, WidthRounding};
use serde::{Deserialize, Serialize};

/// Which optimizer changes the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    /// Stochastic gradient descent, PyTorch's semantics.
    #[default]
    Sgd,
    /// RMSprop, TensorFlow's semantics (the paper's optimizer).
    #[serde(rename = "rmsprop", alias = "rms-prop")]
    RmsProp,
    /// AdamW (Loshchilov and Hutter 2019), PyTorch's semantics.
    #[serde(rename = "adamw", alias = "adam-w")]
    AdamW,
}

/// How the learning rate changes over the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// Always `lr`.
    Constant,
    /// Times `step_factor` every `step_epochs` epochs.
    Step,
    /// Times `decay_factor` every `decay_epochs` epochs, in steps (TensorFlow's staircase).
    Exponential,
    /// Half a cosine from `lr` down to 0.
    Cosine,
    /// Up to `lr` and down again, each half a cosine (PyTorch's `OneCycleLR`).
    #[default]
    OneCycle,
}

/// Everything that `train` takes. What is left out is chosen from the data; the run folder's
/// `recipe.toml` has every choice in it and so repeats the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// Folder, IDX folder or list to train on; the embedded sample when left out.
    pub data: Option<PathBuf>,
    /// Data to evaluate on; when left out, the data set's own held-out part, or `hold_out`.
    pub val: Option<PathBuf>,
    /// Share of each class held out when the data set has no held-out part of its own.
    pub hold_out: Option<f64>,
    /// Whether a file that is not an image is an error, instead of being skipped and listed.
    pub strict: Option<bool>,
    /// Number of classes that the data must have.
    pub classes: Option<usize>,
    /// Decoded images kept in memory, in MiB.
    pub cache_mib: Option<u64>,
    /// Threads that decode and augment.
    pub workers: Option<usize>,

    /// What a block is made of.
    pub body: Option<Body>,
    /// The width multiplier α.
    pub width: Option<f64>,
    /// Height and width of the network's input, in pixels.
    pub resolution: Option<usize>,
    /// 1 (grey) or 3 (RGB).
    pub channels: Option<usize>,
    /// Stride of the first convolution, 1 or 2.
    pub stem_stride: Option<usize>,
    /// 8, 16 or 32: by how much the last feature map is smaller than the input.
    pub output_stride: Option<usize>,
    /// The family whose conventions hold where none of the following says otherwise.
    pub conventions: Option<Preset>,
    /// Padding of the 3×3 convolutions.
    pub padding: Option<Padding>,
    /// The non-linearity.
    pub activation: Option<Activation>,
    /// Added to the variance in batch normalisation.
    pub bn_epsilon: Option<f32>,
    /// Weight of the new batch in the running statistics.
    pub bn_momentum: Option<f32>,
    /// How thinned channel counts are rounded.
    pub width_rounding: Option<WidthRounding>,
    /// Whether output 0 is a background class.
    pub background_class: Option<bool>,
    /// Probability with which a pooled feature is dropped in training.
    pub dropout: Option<f32>,
    /// Subtracted from each channel, on the scale 0 to 1.
    pub mean: Option<Vec<f32>>,
    /// Divides each channel.
    pub std: Option<Vec<f32>>,
    /// How an image becomes square in evaluation.
    pub resize: Option<ResizeMode>,
    /// Share of the short edge that the centre crop keeps in evaluation.
    pub crop_fraction: Option<f64>,
    /// The resize filter.
    pub interpolation: Option<Interpolation>,
    /// A model file to start from; random weights when left out.
    pub init: Option<PathBuf>,

    /// Passes over the training data.
    pub epochs: Option<usize>,
    /// Images a batch.
    pub batch_size: Option<usize>,
    /// Batches whose gradients are averaged into one step.
    pub accumulate: Option<usize>,
    /// Which optimizer.
    pub optimizer: Option<OptimizerKind>,
    /// The (peak) learning rate.
    pub lr: Option<f64>,
    /// Momentum of SGD and RMSprop.
    pub momentum: Option<f64>,
    /// Whether SGD looks ahead (Nesterov).
    pub nesterov: Option<bool>,
    /// Decay of RMSprop's mean square.
    pub rms_decay: Option<f64>,
    /// AdamW's decay of the first moment.
    pub beta1: Option<f64>,
    /// AdamW's decay of the second moment.
    pub beta2: Option<f64>,
    /// The ε of RMSprop (inside the root) or AdamW (outside).
    pub epsilon: Option<f64>,
    /// Weight decay.
    pub weight_decay: Option<f64>,
    /// Whether weight decay also holds for depthwise filters.
    pub decay_depthwise: Option<bool>,
    /// Whether weight decay also holds for batch normalisation's γ and β.
    pub decay_bn: Option<bool>,
    /// Whether weight decay also holds for the classifier's bias.
    pub decay_bias: Option<bool>,
    /// The gradient's largest allowed norm over all tensors; 0 for no limit.
    pub clip_norm: Option<f64>,
    /// Share of each label spread over all classes.
    pub label_smoothing: Option<f64>,
    /// Decay of the exponential moving average of the weights; 0 for none.
    pub ema: Option<f64>,

    /// How the learning rate changes.
    pub schedule: Option<ScheduleKind>,
    /// Epochs over which the learning rate first rises from 0 in a straight line.
    pub warmup_epochs: Option<f64>,
    /// Schedule `step`: epochs between changes.
    pub step_epochs: Option<f64>,
    /// Schedule `step`: the factor of each change.
    pub step_factor: Option<f64>,
    /// Schedule `exponential`: epochs between changes.
    pub decay_epochs: Option<f64>,
    /// Schedule `exponential`: the factor of each change.
    pub decay_factor: Option<f64>,
    /// Schedule `one-cycle`: the share of the steps spent rising.
    pub cycle_rise: Option<f64>,
    /// Schedule `one-cycle`: `lr` divided by the first learning rate.
    pub cycle_div: Option<f64>,
    /// Schedule `one-cycle`: the first learning rate divided by the last.
    pub cycle_final_div: Option<f64>,

    /// Augmentation: mirror half of the images.
    pub flip: Option<bool>,
    /// Augmentation: zero pixels around the image before a crop at a random place; 0 for none.
    pub pad_crop: Option<usize>,
    /// Augmentation: the smallest share of the area that a random crop, then resized, may keep;
    /// 0 for none (0.08 is usual for photos).
    pub random_crop: Option<f64>,
    /// Augmentation: how much brightness, contrast and saturation may change, 0 to 1.
    pub jitter: Option<f64>,
    /// Augmentation: the probability with which a random rectangle is erased.
    pub erase: Option<f64>,

    /// Seed of everything random.
    pub seed: Option<u64>,
    /// Threads that compute; all cores when left out. Results do not depend on it.
    pub threads: Option<usize>,
    /// Seconds between saves within an epoch.
    pub save_seconds: Option<f64>,
    /// Whether evaluation averages each image with its mirror image.
    pub tta: Option<bool>,
}
