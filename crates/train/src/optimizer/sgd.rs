//! Stochastic gradient descent.

use mobilenet::Executor;

use super::{Optimizer, OptimizerState, Slots, WeightDecay, rate};
use crate::error::Result;

/// Gradient descent with momentum, exactly as `torch.optim.SGD` with dampening 0:
///
/// `g ← g + decay·w`, `b ← momentum·b + g`, `w ← w − lr·b`, or with Nesterov's look-ahead
/// `w ← w − lr·(g + momentum·b)`. The learning rate is not part of `b`.
#[derive(Debug)]
pub struct Sgd {
    lr: f64,
    body: f64,
    momentum: f64,
    nesterov: bool,
    decay: WeightDecay,
    slots: Slots<1>,
    steps: u64,
}

impl Sgd {
    /// With a learning rate, momentum and a weight decay that holds for every parameter.
    pub fn new(lr: f64, momentum: f64, weight_decay: f64) -> Self {
        Self {
            lr,
            body: 1.0,
            momentum,
            nesterov: false,
            decay: WeightDecay::everywhere(weight_decay),
            slots: Slots::new(["momentum"], [0.0]),
            steps: 0,
        }
    }

    /// With or without Nesterov's look-ahead.
    #[must_use]
    pub fn nesterov(self, nesterov: bool) -> Self {
        Self { nesterov, ..self }
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

impl Optimizer for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn set_learning_rate(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn step(&mut self, executor: &mut dyn Executor) -> Result<()> {
        let momentum = self.momentum as f32;
        for parameter in executor.parameters() {
            let lr = rate(self.lr, self.body, parameter.role) as f32;
            let decay = self.decay.of(parameter.role);
            if momentum == 0.0 {
                for (w, &g) in parameter.value.iter_mut().zip(&*parameter.grad) {
                    *w -= lr * (g + decay * *w);
                }
                continue;
            }
            let [buffer] = self.slots.of(&parameter)?;
            let values = parameter.value.iter_mut().zip(&*parameter.grad).zip(buffer);
            if self.nesterov {
                for ((w, &g), b) in values {
                    let g = g + decay * *w;
                    *b = momentum * *b + g;
                    *w -= lr * (g + momentum * *b);
                }
            } else {
                for ((w, &g), b) in values {
                    *b = momentum * *b + (g + decay * *w);
                    *w -= lr * *b;
                }
            }
        }
        self.steps += 1;
        Ok(())
    }

    fn state(&self) -> OptimizerState {
        self.slots.save(self.name(), self.steps)
    }

    fn restore(&mut self, state: OptimizerState) -> Result<()> {
        self.steps = self.slots.load("sgd", state)?;
        Ok(())
    }
}
