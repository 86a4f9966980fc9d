//! Optimizers: what they do to a parameter, and what they remember of it.

use std::collections::BTreeMap;

use mobilenet::{Executor, Parameter, Role};

use crate::error::{Error, Result};

mod adamw;
mod clip;
mod rms_prop;
mod sgd;

pub use adamw::AdamW;
pub use clip::clip_global_norm;
pub use rms_prop::RmsProp;
pub use sgd::Sgd;

/// Changes an executor's parameters by their gradients.
pub trait Optimizer: Send {
    /// The name in recipes and state files.
    fn name(&self) -> &'static str;

    /// The learning rate of the next step.
    fn set_learning_rate(&mut self, lr: f64);

    /// Changes every parameter by its gradient.
    ///
    /// # Errors
    /// When restored state does not fit the executor's parameters.
    fn step(&mut self, executor: &mut dyn Executor) -> Result<()>;

    /// Everything that it remembers between steps.
    fn state(&self) -> OptimizerState;

    /// Takes over what [`Optimizer::state`] gave; the next step is then the same to the bit.
    ///
    /// # Errors
    /// When the state is another optimizer's. Whether it fits the network shows at the next step.
    fn restore(&mut self, state: OptimizerState) -> Result<()>;
}

/// What an optimizer remembers between steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptimizerState {
    /// The optimizer's name.
    pub optimizer: String,
    /// Steps taken.
    pub steps: u64,
    /// Values by `slot/parameter`, as in `momentum/pointwise_7.weight`.
    pub slots: BTreeMap<String, Vec<f32>>,
}

/// How strongly weights are pulled towards zero, and which.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WeightDecay {
    /// The factor.
    pub rate: f64,
    /// Whether it holds for the filters of depthwise convolutions (the paper: little or none).
    pub depthwise: bool,
    /// Whether it holds for batch normalisation's γ and β.
    pub bn: bool,
    /// Whether it holds for the classifier's bias.
    pub bias: bool,
}

impl Default for WeightDecay {
    /// No decay.
    fn default() -> Self {
        Self::everywhere(0.0)
    }
}

impl WeightDecay {
    /// The same for every parameter, as PyTorch does.
    pub fn everywhere(rate: f64) -> Self {
        Self { rate, depthwise: true, bn: true, bias: true }
    }

    /// The factor for parameters of one role.
    pub fn of(&self, role: Role) -> f32 {
        let decays = match role {
            Role::ConvWeight | Role::PointwiseWeight | Role::ClassifierWeight => true,
            Role::DepthwiseWeight => self.depthwise,
            Role::BnWeight | Role::BnBias => self.bn,
            Role::ClassifierBias => self.bias,
            Role::RunningMean | Role::RunningVar => false,
        };
        if decays { self.rate as f32 } else { 0.0 }
    }
}

/// The learning rate of a parameter: the classifier has all of `lr`, the body `body` times that.
fn rate(lr: f64, body: f64, role: Role) -> f64 {
    match role {
        Role::ClassifierWeight | Role::ClassifierBias => lr,
        _ => lr * body,
    }
}

/// `K` buffers for every parameter, by its name.
#[derive(Debug)]
struct Slots<const K: usize> {
    kinds: [&'static str; K],
    fill: [f32; K],
    buffers: BTreeMap<String, [Vec<f32>; K]>,
    /// A parameter without buffers is an error once state was restored.
    restored: bool,
}

impl<const K: usize> Slots<K> {
    /// Buffers of these kinds, which begin with these values.
    fn new(kinds: [&'static str; K], fill: [f32; K]) -> Self {
        Self { kinds, fill, buffers: BTreeMap::new(), restored: false }
    }

    /// The buffers of a parameter, made at the first call.
    fn of(&mut self, parameter: &Parameter<'_>) -> Result<&mut [Vec<f32>; K]> {
        let (name, len) = (parameter.name, parameter.value.len());
        if !self.buffers.contains_key(name) {
            if self.restored {
                return Err(Error::OptimizerState(format!(
                    "nothing is known of {name}; was it saved with another architecture?"
                )));
            }
            self.buffers.insert(name.to_owned(), self.fill.map(|value| vec![value; len]));
        }
        match self.buffers.get_mut(name) {
            Some(buffers) if buffers.iter().all(|buffer| buffer.len() == len) => Ok(buffers),
            _ => Err(Error::OptimizerState(format!(
                "{name}: expected {len} values; was it saved with another architecture?"
            ))),
        }
    }

    fn save(&self, optimizer: &str, steps: u64) -> OptimizerState {
        let mut slots = BTreeMap::new();
        for (name, buffers) in &self.buffers {
            for (kind, buffer) in self.kinds.iter().zip(buffers) {
                slots.insert(format!("{kind}/{name}"), buffer.clone());
            }
        }
        OptimizerState { optimizer: optimizer.to_owned(), steps, slots }
    }

    /// Takes over the buffers of `state` and returns its number of steps.
    fn load(&mut self, optimizer: &str, state: OptimizerState) -> Result<u64> {
        if state.optimizer != optimizer {
            return Err(Error::OptimizerState(format!(
                "it is {}'s; the run now uses {optimizer}",
                state.optimizer
            )));
        }
        let mut buffers: BTreeMap<String, [Vec<f32>; K]> = BTreeMap::new();
        for (key, values) in state.slots {
            let place = key
                .split_once('/')
                .and_then(|(kind, name)| Some((self.kinds.iter().position(|k| *k == kind)?, name)));
            let Some((slot, name)) = place else {
                return Err(Error::OptimizerState(format!(
                    "{key}: {optimizer} only knows {}",
                    self.kinds.join(", ")
                )));
            };
            buffers.entry(name.to_owned()).or_insert_with(|| [const { Vec::new() }; K])[slot] = values;
        }
        self.restored = state.steps > 0;
        self.buffers = buffers;
        Ok(state.steps)
    }
}
