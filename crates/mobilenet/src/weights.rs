//! The named tensors of a network, and which there must be.
//!
//! Layouts are PyTorch's: convolutions `[out, in, 3, 3]`, depthwise `[channels, 1, 3, 3]`,
//! pointwise `[out, in, 1, 1]`, classifier `[outputs, features]`.

use std::collections::BTreeMap;

use crate::architecture::{Architecture, Operator};
use crate::error::{Error, Result};
use crate::rng::Rng;
use crate::tensor::Tensor;

/// What a tensor is in its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Filter of a full 3×3 convolution.
    ConvWeight,
    /// Filter of a depthwise convolution.
    DepthwiseWeight,
    /// Filter of a 1×1 convolution.
    PointwiseWeight,
    /// BN's γ.
    BnWeight,
    /// BN's β.
    BnBias,
    /// BN's running mean: state, not trained.
    RunningMean,
    /// BN's running variance (unbiased, as in PyTorch): state, not trained.
    RunningVar,
    /// Weight of the classifier.
    ClassifierWeight,
    /// Bias of the classifier.
    ClassifierBias,
}

impl Role {
    /// Whether an optimizer changes it.
    pub fn is_trainable(self) -> bool {
        !matches!(self, Self::RunningMean | Self::RunningVar)
    }
}

/// Name, shape and role of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// `pointwise_7.weight`, `depthwise_3.bn.running_mean`, `classifier.bias` …
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// What it is.
    pub role: Role,
}

impl TensorSpec {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it holds no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Architecture {
    /// Every tensor that weights for this architecture must hold, in the order of the layers.
    pub fn tensors(&self) -> Result<Vec<TensorSpec>> {
        let mut specs = Vec::new();
        for layer in self.layers()? {
            let (input, output) = (layer.input.channels, layer.output.channels);
            let mut push = |suffix: &str, shape: &[usize], role| {
                specs.push(TensorSpec {
                    name: format!("{}.{suffix}", layer.name),
                    shape: shape.to_vec(),
                    role,
                });
            };
            match layer.operator {
                Operator::GlobalPool => continue,
                Operator::Classifier => {
                    push("weight", &[output, input], Role::ClassifierWeight);
                    push("bias", &[output], Role::ClassifierBias);
                    continue;
                }
                Operator::Conv => push("weight", &[output, input, 3, 3], Role::ConvWeight),
                Operator::Depthwise => push("weight", &[output, 1, 3, 3], Role::DepthwiseWeight),
                Operator::Pointwise => push("weight", &[output, input, 1, 1], Role::PointwiseWeight),
            }
            push("bn.weight", &[output], Role::BnWeight);
            push("bn.bias", &[output], Role::BnBias);
            push("bn.running_mean", &[output], Role::RunningMean);
            push("bn.running_var", &[output], Role::RunningVar);
        }
        Ok(specs)
    }
}

/// Where the first value is that is infinite or not a number.
fn not_finite(values: &[f32]) -> Option<usize> {
    const CHUNK: usize = 256;
    // No branch a value, so that the compiler takes a vector of them at a time, on any machine.
    let wrong = |v: &f32| u32::from(v.to_bits() & INFINITE == INFINITE);
    let whole = |chunk: &[f32]| chunk.iter().fold(0, |any, v| any | wrong(v)) == 0;
    let chunk = values.chunks(CHUNK).position(|chunk| !whole(chunk))?;
    values.iter().skip(chunk * CHUNK).position(|v| !v.is_finite()).map(|at| chunk * CHUNK + at)
}

/// The bits of positive infinity: the exponent, all of whose bits only NaN and infinity have.
const INFINITE: u32 = f32::INFINITY.to_bits();

/// The tensors of a network by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights {
    tensors: BTreeMap<String, Tensor>,
}

impl Weights {
    /// No tensors yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Random weights for `architecture`: convolutions normal with variance 2 / fan-in (He et
    /// al. 2015), classifier uniform within 1/√features as in PyTorch, BN γ = 1, β = 0.
    pub fn random(architecture: &Architecture, seed: u64) -> Result<Self> {
        let mut weights = Self::new();
        for (index, spec) in architecture.tensors()?.into_iter().enumerate() {
            let mut rng = Rng::keyed(seed, &[0x7765_6967_6874, index as u64]);
            let fan_in: usize = spec.shape[1..].iter().product();
            let value: Box<dyn FnMut() -> f32> = match spec.role {
                Role::ConvWeight | Role::DepthwiseWeight | Role::PointwiseWeight => {
                    let deviation = (2.0 / fan_in as f64).sqrt();
                    Box::new(move || (rng.normal() * deviation) as f32)
                }
                Role::ClassifierWeight => {
                    let bound = 1.0 / (fan_in as f64).sqrt();
                    Box::new(move || rng.range(-bound, bound) as f32)
                }
                Role::BnWeight | Role::RunningVar => Box::new(|| 1.0),
                Role::BnBias | Role::RunningMean | Role::ClassifierBias => Box::new(|| 0.0),
            };
            let data = std::iter::repeat_with(value).take(spec.len()).collect();
            weights.insert(spec.name, Tensor::new(&spec.shape, data)?);
        }
        Ok(weights)
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// Puts a tensor in, in place of one of the same name.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.tensors.insert(name.into(), tensor);
    }

    /// Takes a tensor out.
    pub fn remove(&mut self, name: &str) -> Option<Tensor> {
        self.tensors.remove(name)
    }

    /// All tensors, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Checks that these are the tensors of `architecture`, of the right shapes, all finite.
    pub fn check(&self, architecture: &Architecture) -> Result<()> {
        let wrong =
            |tensor: &str, problem: String| Err(Error::Weights { tensor: tensor.to_owned(), problem });
        let specs = architecture.tensors()?;
        for spec in &specs {
            let Some(tensor) = self.get(&spec.name) else {
                return wrong(&spec.name, format!("missing; expected shape {:?}", spec.shape));
            };
            if tensor.shape() != spec.shape {
                let hint = match spec.role {
                    Role::ClassifierWeight | Role::ClassifierBias => {
                        "was this saved with another number of classes?"
                    }
                    _ => "was this saved with another width multiplier, body or number of input channels?",
                };
                return wrong(
                    &spec.name,
                    format!("expected {:?}, found {:?}; {hint}", spec.shape, tensor.shape()),
                );
            }
            if let Some(at) = not_finite(tensor.data()) {
                return wrong(
                    &spec.name,
                    format!(
                        "value {at} is {}; the file is damaged or its training diverged",
                        tensor.data()[at]
                    ),
                );
            }
        }
        let known: std::collections::HashSet<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
        match self.tensors.keys().find(|name| !known.contains(name.as_str())) {
            Some(extra) => wrong(extra, "unexpected; no layer of this architecture has it".into()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_that_is_not_finite_is_found_wherever_it_is() {
        for len in [1, 255, 256, 257, 1000] {
            let mut values: Vec<f32> =
                (0..len).map(|i| if i % 2 == 0 { f32::MAX } else { -f32::MAX }).collect();
            assert_eq!(not_finite(&values), None);
            for at in [len - 1, len / 2, 0] {
                values[at] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN][at % 4];
                assert_eq!(not_finite(&values), Some(at), "{len}");
            }
        }
        assert_eq!(not_finite(&[]), None);
    }
}
