//! A recipe: everything that a training run is told, as one TOML file.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use mobilenet::Body;
use mobilenet::conventions::{Activation, Interpolation, Padding, Preset, ResizeMode, WidthRounding};
use mobilenet::cpu::Precision;
use mobilenet::error::nearest;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::freeze::Freeze;

/// Which optimizer changes the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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

impl OptimizerKind {
    /// Every optimizer, in the order in which help lists them.
    pub const ALL: [Self; 3] = [Self::Sgd, Self::RmsProp, Self::AdamW];

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sgd => "sgd",
            Self::RmsProp => "rmsprop",
            Self::AdamW => "adamw",
        }
    }
}

impl FromStr for OptimizerKind {
    type Err = mobilenet::Error;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.map(Self::name);
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| mobilenet::Error::unknown_name("optimizer", name, &known))
    }
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

impl ScheduleKind {
    /// Every schedule, in the order in which help lists them.
    pub const ALL: [Self; 5] = [Self::Constant, Self::Step, Self::Exponential, Self::Cosine, Self::OneCycle];

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Step => "step",
            Self::Exponential => "exponential",
            Self::Cosine => "cosine",
            Self::OneCycle => "one-cycle",
        }
    }
}

impl FromStr for ScheduleKind {
    type Err = mobilenet::Error;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.map(Self::name);
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| mobilenet::Error::unknown_name("schedule", name, &known))
    }
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
    pub bn_epsilon: Option<f64>,
    /// Weight of the new batch in the running statistics.
    pub bn_momentum: Option<f64>,
    /// How thinned channel counts are rounded.
    pub width_rounding: Option<WidthRounding>,
    /// Whether output 0 is a background class.
    pub background_class: Option<bool>,
    /// Probability with which a pooled feature is dropped in training.
    pub dropout: Option<f64>,
    /// Subtracted from each channel, on the scale 0 to 1.
    pub mean: Option<Vec<f64>>,
    /// Divides each channel.
    pub std: Option<Vec<f64>>,
    /// How an image becomes square in evaluation.
    pub resize: Option<ResizeMode>,
    /// Share of the short edge that the centre crop keeps in evaluation.
    pub crop_fraction: Option<f64>,
    /// The resize filter.
    pub interpolation: Option<Interpolation>,
    /// A model file to start from, or `imagenet`; random weights when left out.
    pub init: Option<PathBuf>,
    /// What of `init` stays as it is: `body`, `none`, or the first so many blocks.
    pub freeze: Option<Freeze>,

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
    /// The share of it that is for the body, above 0 and at most 1; the classifier has all of it.
    pub body_lr_factor: Option<f64>,
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
    /// What feature maps, their gradients and the weights of products are computed in; weights, and what
    /// changes them, are f32 in either.
    pub precision: Option<Precision>,
    /// Threads that compute; all cores when left out. Results do not depend on it.
    pub threads: Option<usize>,
    /// Whether depthwise outputs are computed again on the way back instead of kept: less memory, a
    /// little more time. Results do not depend on it.
    pub recompute: Option<bool>,
    /// Seconds between saves within an epoch.
    pub save_seconds: Option<f64>,
    /// Whether evaluation averages each image with its mirror image.
    pub tta: Option<bool>,
}

/// The first keys of a recipe file's sections, with their headings.
const HEADINGS: [(&str, &str); 5] = [
    ("data", "Data"),
    ("body", "Network"),
    ("epochs", "Optimization"),
    ("flip", "Augmentation"),
    ("seed", "Run"),
];

impl Recipe {
    /// Reads a recipe file.
    ///
    /// # Errors
    /// When the file cannot be read, is not TOML, has an unknown key (the error names the
    /// nearest) or a value of the wrong kind.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
        Self::from_toml(&text, path)
    }

    /// Reads a recipe; `path` is for the errors.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub fn from_toml(text: &str, path: &Path) -> Result<Self> {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            let line = error.span().map(|span| 1 + text[..span.start].matches('\n').count());
            let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            let problem = format!("{place}{}", explain(error.message()));
            Error::Recipe { path: path.to_owned(), problem }
        })
    }

    /// The recipe as a TOML file.
    ///
    /// # Errors
    /// When a value cannot be written in TOML (a path that is not Unicode).
    pub fn to_toml(&self) -> Result<String> {
        let body = toml::to_string(self).map_err(|error| Error::Recipe {
            path: PathBuf::from("recipe.toml"),
            problem: error.to_string(),
        })?;
        let mut text = String::new();
        let mut headings = HEADINGS.iter();
        let keys = Self::keys();
        let position = |key: &str| keys.iter().position(|known| *known == key);
        let mut next = headings.next();
        for line in body.lines() {
            let key = line.split_once(" = ").and_then(|(key, _)| position(key));
            // The heading of the section that this key is in, if it is the first there.
            let mut due = None;
            while let (Some(key), Some((first, heading))) = (key, next) {
                if position(first).is_some_and(|first| first > key) {
                    break;
                }
                due = Some(heading);
                next = headings.next();
            }
            if let Some(heading) = due {
                let gap = if text.is_empty() { "" } else { "\n" };
                text.push_str(&format!("{gap}# {heading}\n"));
            }
            text.push_str(line);
            text.push('\n');
        }
        Ok(text)
    }

    /// This recipe, but with what `over` says where it says something (flags over a file).
    #[must_use]
    pub fn overlaid(&self, over: &Self) -> Self {
        let (Ok(serde_json::Value::Object(mut merged)), Ok(serde_json::Value::Object(over))) =
            (serde_json::to_value(self), serde_json::to_value(over))
        else {
            return over.clone();
        };
        merged.extend(over.into_iter().filter(|(_, value)| !value.is_null()));
        serde_json::from_value(serde_json::Value::Object(merged)).unwrap_or_else(|_| self.clone())
    }

    /// Every key that a recipe file may have, in order.
    pub fn keys() -> Vec<&'static str> {
        // Deserialising an unknown key makes serde list the known ones.
        struct Keys(Vec<&'static str>);
        impl<'de> serde::Deserializer<'de> for &mut Keys {
            type Error = serde::de::value::Error;

            fn deserialize_any<V: serde::de::Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
                Err(serde::de::Error::custom("only structs have keys"))
            }

            fn deserialize_struct<V: serde::de::Visitor<'de>>(
                self,
                _: &'static str,
                fields: &'static [&'static str],
                visitor: V,
            ) -> Result<V::Value, Self::Error> {
                self.0 = fields.to_vec();
                self.deserialize_any(visitor)
            }

            serde::forward_to_deserialize_any! {
                bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option
                unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier
                ignored_any
            }
        }
        let mut keys = Keys(Vec::new());
        let _ = Self::deserialize(&mut keys);
        keys.0
    }
}

/// Makes serde's message about an unknown name one for people: with the nearest, not all of them.
fn explain(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let what = match message {
        m if m.starts_with("unknown field") => "key",
        m if m.starts_with("unknown variant") => "value",
        _ => return message.to_owned(),
    };
    let found = quoted.next().unwrap_or_default();
    let known: Vec<&str> = quoted.collect();
    match nearest(&found.replace('-', "_"), &known).or_else(|| nearest(found, &known)) {
        Some(near) => format!("unknown {what} `{found}`; did you mean `{near}`?"),
        None => format!("unknown {what} `{found}`; known: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Recipe> {
        Recipe::from_toml(text, Path::new("my.toml"))
    }

    #[test]
    fn unknown_keys_and_values_name_the_nearest() {
        let message = read("epochs = 3\nlabel_smothing = 0.1").unwrap_err().to_string();
        assert_eq!(message, "my.toml: line 2: unknown key `label_smothing`; did you mean `label_smoothing`?");
        let message = read("stem-stride = 1").unwrap_err().to_string();
        assert!(message.ends_with("did you mean `stem_stride`?"), "{message}");
        let message = read("schedule = \"cosin\"").unwrap_err().to_string();
        assert!(message.ends_with("unknown value `cosin`; did you mean `cosine`?"), "{message}");
        let message = read("body = \"zzzzzzzzz\"").unwrap_err().to_string();
        assert!(message.ends_with("known: separable, full, shallow"), "{message}");
        let message = read("epochs = \"many\"").unwrap_err().to_string();
        assert!(message.starts_with("my.toml: line 1: ") && message.contains("string"), "{message}");
        assert!(read("epochs =").unwrap_err().to_string().starts_with("my.toml: line 1: "));
        let missing = Recipe::load(Path::new("/no/such/recipe.toml")).unwrap_err().to_string();
        assert!(missing.starts_with("/no/such/recipe.toml: cannot read: "), "{missing}");
    }

    #[test]
    fn names_on_the_command_line_are_those_in_files() {
        for kind in OptimizerKind::ALL {
            assert_eq!(read(&format!("optimizer = \"{}\"", kind.name())).unwrap().optimizer, Some(kind));
            assert_eq!(kind.name().parse::<OptimizerKind>().unwrap(), kind);
        }
        for kind in ScheduleKind::ALL {
            assert_eq!(read(&format!("schedule = \"{}\"", kind.name())).unwrap().schedule, Some(kind));
            assert_eq!(kind.name().parse::<ScheduleKind>().unwrap(), kind);
        }
        assert!("rmsprp".parse::<OptimizerKind>().unwrap_err().to_string().contains("`rmsprop`"));
    }

    #[test]
    fn a_written_recipe_reads_back_the_same() {
        let recipe = Recipe {
            data: Some("my data/träning".into()),
            width: Some(0.25),
            mean: Some(vec![0.1, 0.2, 0.3]),
            epochs: Some(7),
            lr: Some(0.1 + 0.2),
            schedule: Some(ScheduleKind::OneCycle),
            flip: Some(true),
            seed: Some(9),
            ..Recipe::default()
        };
        let text = recipe.to_toml().unwrap();
        assert_eq!(read(&text).unwrap(), recipe);
        let headings: Vec<_> = text.lines().filter(|line| line.starts_with('#')).collect();
        assert_eq!(headings, ["# Data", "# Network", "# Optimization", "# Augmentation", "# Run"]);
    }

    #[test]
    fn flags_go_over_a_file() {
        let file = Recipe { epochs: Some(3), lr: Some(0.5), flip: Some(true), ..Recipe::default() };
        let flags = Recipe { lr: Some(0.1), flip: Some(false), seed: Some(u64::MAX), ..Recipe::default() };
        let both = file.overlaid(&flags);
        assert_eq!((both.epochs, both.lr, both.flip), (Some(3), Some(0.1), Some(false)));
        assert_eq!(both.seed, Some(u64::MAX));
    }

    #[test]
    fn keys_are_the_fields() {
        let keys = Recipe::keys();
        assert!(keys.contains(&"label_smoothing") && keys[0] == "data");
        for (first, _) in HEADINGS {
            assert!(keys.contains(&first));
        }
    }
}
