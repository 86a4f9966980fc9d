//! From what a reader found to a complete [`Model`].
//!
//! What a setting comes from, strongest first: what the user says ([`Overrides`]), what the file
//! tells ([`Hints`]), the family's known values. The last are listed in [`Imported::notes`].

mod from_chain;
mod from_state_dict;
mod width;

use mobilenet::conventions::{Activation, Interpolation, Padding, ResizeMode};
use mobilenet::{Architecture, Conventions, Model, Preset, Tensor, Weights};

use crate::error::{Error, Result};
use crate::state_dict::Hints;
use crate::{Content, Family};

/// What the user says against or beyond what a file tells.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Take this family's values wherever the file does not tell.
    pub preset: Option<Preset>,
    /// Height and width of the input in pixels.
    pub resolution: Option<usize>,
    /// Padding of the 3×3 convolutions.
    pub padding: Option<Padding>,
    /// The non-linearity.
    pub activation: Option<Activation>,
    /// BN's ε.
    pub bn_epsilon: Option<f32>,
    /// Whether output 0 is a background class.
    pub background_class: Option<bool>,
    /// Preprocessing: the mean of each channel.
    pub mean: Option<Vec<f32>>,
    /// Preprocessing: the standard deviation of each channel.
    pub std: Option<Vec<f32>>,
    /// Preprocessing: the share that the centre crop keeps.
    pub crop_fraction: Option<f64>,
    /// Preprocessing: the filter.
    pub interpolation: Option<Interpolation>,
    /// Preprocessing: how an image becomes square.
    pub resize: Option<ResizeMode>,
    /// Class names in place of the file's.
    pub labels: Option<Vec<String>>,
    /// Class names for a file that has none but as many classes (ImageNet's 1000).
    pub usual_labels: Vec<String>,
}

/// A model made of a foreign file, and what the user should know of how.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The model.
    pub model: Model,
    /// The family of its names; none for a graph, which is recognised by its structure.
    pub family: Option<Family>,
    /// A sentence each: which values were not told by the file, what was preferred or left out.
    pub notes: Vec<String>,
}

/// Makes a model of what a reader found.
///
/// # Errors
/// [`Error::OtherNetwork`] when it is another network; [`Error::Tensors`] naming every tensor that
/// is missing, unexpected or of another shape; [`Error::Unsupported`] when settings contradict each
/// other.
pub fn assemble(content: Content, overrides: &Overrides) -> Result<Imported> {
    let imported = match content {
        Content::StateDict(state_dict) => from_state_dict::assemble(state_dict, overrides)?,
        Content::Chain(chain) => from_chain::assemble(chain, overrides)?,
    };
    imported.model.check()?;
    Ok(imported)
}

/// The conventions, and a note on those that nobody told.
fn conventions(
    family_preset: Preset,
    family: &str,
    hints: &Hints,
    overrides: &Overrides,
    input_channels: usize,
    notes: &mut Vec<String>,
) -> Conventions {
    let preset = overrides.preset.unwrap_or(family_preset);
    let mut conventions = preset.conventions();
    let mut assumed = Vec::new();
    /// The user's value, else the file's, else the family's, which is then noted.
    macro_rules! settle {
        ($field:ident, $flag:literal, $show:expr) => {
            match overrides.$field.or(hints.$field) {
                Some(value) => conventions.$field = value,
                None if overrides.preset.is_none() => {
                    assumed.push(format!(concat!("{} (", $flag, ")"), $show(&conventions.$field)))
                }
                None => {}
            }
        };
    }
    settle!(padding, "--padding", |padding: &Padding| format!("{padding:?} padding").to_lowercase());
    settle!(activation, "--activation", |activation: &Activation| format!("{activation:?}").to_lowercase());
    settle!(bn_epsilon, "--bn-epsilon", |epsilon: &f32| format!("BN epsilon {epsilon}"));
    if let Some(momentum) = hints.bn_momentum {
        conventions.bn_momentum = momentum;
    }
    if let Some(dropout) = hints.dropout {
        conventions.dropout = dropout;
    }

    match &hints.preprocessing {
        Some(told) => conventions.preprocessing = told.clone(),
        None if overrides.preset.is_none() && overrides.mean.is_none() => {
            let p = &conventions.preprocessing;
            assumed.push(format!("input mean {:?}, std {:?} (--mean, --std)", p.mean, p.std));
        }
        None => {}
    }
    let p = &mut conventions.preprocessing;
    macro_rules! preprocess {
        ($($field:ident),*) => { $(if let Some(value) = &overrides.$field { p.$field = value.clone() })* };
    }
    preprocess!(mean, std, crop_fraction, interpolation, resize);
    for values in [&mut p.mean, &mut p.std] {
        if values.len() != input_channels && !values.is_empty() {
            let average = values.iter().sum::<f32>() / values.len() as f32;
            *values = vec![average; input_channels];
        }
    }
    if !assumed.is_empty() {
        notes.push(format!(
            "not told by the file, so {family}'s known values are used: {}",
            assumed.join(", ")
        ));
    }
    conventions
}

/// The labels for `outputs` outputs, and whether output 0 is a background class.
fn labels(
    outputs: usize,
    usually_background: bool,
    hints: &Hints,
    overrides: &Overrides,
    notes: &mut Vec<String>,
) -> Result<(Vec<String>, bool)> {
    let told = overrides.labels.as_ref().or(hints.labels.as_ref());
    let by_count = match told {
        Some(labels) if labels.len() == outputs => Some(false),
        Some(labels) if labels.len() + 1 == outputs => Some(true),
        _ => None,
    };
    let background = overrides
        .background_class
        .or(hints.background_class)
        .or(by_count)
        .unwrap_or(usually_background && outputs == 1001);
    let classes = outputs - usize::from(background);
    if classes == 0 {
        return Err(Error::Unsupported("the only output is the background class".into()));
    }
    if let Some(labels) = told {
        if labels.len() != classes {
            let background = if background { " and a background class" } else { "" };
            return Err(Error::Unsupported(format!(
                "{} labels, but the file's classifier has {outputs} outputs: {classes} classes{background}; \
                 give as many labels as classes",
                labels.len()
            )));
        }
        return Ok((labels.clone(), background));
    }
    if overrides.usual_labels.len() == classes {
        notes.push(format!(
            "the file has no class names; {classes} classes are taken to be ImageNet's (--labels)"
        ));
        return Ok((overrides.usual_labels.clone(), background));
    }
    notes.push("the file has no class names; they are numbered (--labels)".into());
    Ok(((0..classes).map(|class| format!("class_{class}")).collect(), background))
}

/// A classifier for a file that has none: zeros, whose outputs say nothing until it is trained.
fn no_classifier(
    features: usize,
    overrides: &Overrides,
    hints: &Hints,
    notes: &mut Vec<String>,
) -> (Tensor, Vec<f32>) {
    let labels = overrides.labels.as_ref().or(hints.labels.as_ref());
    let outputs = labels.map_or(1000, Vec::len).max(1);
    notes.push(format!(
        "the file has no classifier; it is zero, with {outputs} outputs, until it is trained (train --init)"
    ));
    (Tensor::zeros(&[outputs, features]), vec![0.0; outputs])
}

/// Checks `weights` against `architecture`, naming every tensor that does not fit.
fn check(architecture: &Architecture, weights: &Weights, unexpected: Vec<String>) -> Result<()> {
    let mut problems = Vec::new();
    let specs = architecture.tensors()?;
    for spec in &specs {
        match weights.get(&spec.name) {
            None => problems.push(format!("{}: missing, expected {:?}", spec.name, spec.shape)),
            Some(tensor) if tensor.shape() != spec.shape => {
                problems.push(format!("{}: expected {:?}, found {:?}", spec.name, spec.shape, tensor.shape()))
            }
            Some(_) => {}
        }
    }
    let known: std::collections::HashSet<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let ours = weights.iter().map(|(name, _)| name).filter(|name| !known.contains(name)).map(str::to_owned);
    problems.extend(ours.chain(unexpected).map(|name| format!("{name}: unexpected")));
    if problems.is_empty() {
        return Ok(());
    }
    let count = problems.len();
    let rest = if count > 12 { format!("; and {} more", count - 12) } else { String::new() };
    problems.truncate(12);
    Err(Error::Tensors(format!("{count} tensors do not fit: {}{rest}", problems.join("; "))))
}

/// A model of this project's own format with what the user says in place of what it carries.
///
/// # Errors
/// [`Error::Unsupported`] when the labels do not fit; the architecture's own errors.
pub(crate) fn override_model(mut model: Model, overrides: &Overrides) -> Result<Model> {
    let architecture = &mut model.architecture;
    if let Some(resolution) = overrides.resolution {
        architecture.resolution = resolution;
    }
    let outputs = architecture.outputs();
    let hints = Hints {
        padding: Some(architecture.conventions.padding),
        activation: Some(architecture.conventions.activation),
        bn_epsilon: Some(architecture.conventions.bn_epsilon),
        background_class: Some(architecture.conventions.background_class),
        preprocessing: Some(architecture.conventions.preprocessing.clone()),
        labels: Some(model.labels),
        ..Hints::default()
    };
    let (rounding, momentum, dropout) = (
        architecture.conventions.width_rounding,
        architecture.conventions.bn_momentum,
        architecture.conventions.dropout,
    );
    let channels = architecture.input_channels;
    let unnoted = &mut Vec::new();
    architecture.conventions = Conventions {
        width_rounding: rounding,
        bn_momentum: momentum,
        dropout,
        ..conventions(Preset::Reference, "", &hints, overrides, channels, unnoted)
    };
    let (labels, background) = labels(outputs, false, &hints, overrides, unnoted)?;
    architecture.classes = labels.len();
    architecture.conventions.background_class = background;
    model.labels = labels;
    model.check()?;
    Ok(model)
}
