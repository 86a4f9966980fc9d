//! RMSprop, the paper's optimizer.

use mobilenet::Executor;

use super::{Optimizer, OptimizerState, Slots, WeightDecay, rate};
use crate::error::Result;

/// RMSprop as TensorFlow does it (`tf.compat.v1.train.RMSPropOptimizer`, not centred):
///
/// `g ← g + decay·w`, `s ← ρ·s + (1 − ρ)·g²` beginning at **1**, `m ← momentum·m + lr·g/√(s + ε)`
/// with ε **inside** the root and the learning rate inside the buffer, `w ← w − m`.
///
/// PyTorch's differs in all three; its runs do not carry over.
#[derive(Debug)]
pub struct RmsProp {
    lr: f64,
    body: f64,
    rho: f64,
    momentum: f64,
    epsilon: f64,
    decay: WeightDecay,
    slots: Slots<2>,
    steps: u64,
}

impl RmsProp {
    /// With a learning rate, the decay ρ of the mean square, momentum, ε, and a weight decay
    /// that holds for every parameter. TF-slim trains with ρ = 0.9, momentum 0.9, ε = 1.
    pub fn new(lr: f64, rho: f64, momentum: f64, epsilon: f64, weight_decay: f64) -> Self {
        Self {
            lr,
            body: 1.0,
            rho,
            momentum,
            epsilon,
            decay: WeightDecay::everywhere(weight_decay),
            slots: Slots::new(["mean_square", "momentum"], [1.0, 0.0]),
            steps: 0,
        }
    }

    /// With a share of the learning rate for the body; the classifier keeps all of it.
    #[must_use]
    pub fn body_lr_factor(self, body: f64) -> Self {
        Self { body, ..self }
    }

    /// With another weight decay.
    #[must_use]
    pub fn decay(self, decay: WeightDecay) -> Self {
        Self { decay, ..self }
    }
}

impl Optimizer for RmsProp {
    fn name(&self) -> &'static str {
        "rmsprop"
    }

    fn set_learning_rate(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn step(&mut self, executor: &mut dyn Executor) -> Result<()> {
        let (rho, momentum) = (self.rho as f32, self.momentum as f32);
        let (epsilon, rest) = (self.epsilon as f32, (1.0 - self.rho) as f32);
        for parameter in executor.parameters() {
            let lr = rate(self.lr, self.body, parameter.role) as f32;
            let decay = self.decay.of(parameter.role);
            let [squares, buffer] = self.slots.of(&parameter)?;
            let state = squares.iter_mut().zip(buffer);
            for ((w, &g), (s, m)) in parameter.value.iter_mut().zip(&*parameter.grad).zip(state) {
                let g = g + decay * *w;
                *s = rho * *s + rest * (g * g);
                *m = momentum * *m + lr * g / (*s + epsilon).sqrt();
                *w -= *m;
            }
        }
        self.steps += 1;
        Ok(())
    }

    fn state(&self) -> OptimizerState {
        self.slots.save(self.name(), self.steps)
    }

    fn restore(&mut self, state: OptimizerState) -> Result<()> {
        self.steps = self.slots.load("rmsprop", state)?;
        Ok(())
    }
}
