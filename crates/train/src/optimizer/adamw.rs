//! AdamW.

use mobilenet::Executor;

use super::{Optimizer, OptimizerState, Slots, WeightDecay, rate};
use crate::error::Result;

/// AdamW (Loshchilov and Hutter, 2019) exactly as `torch.optim.AdamW`:
///
/// `w ← w − lr·decay·w`, `m ← β₁·m + (1 − β₁)·g`, `v ← β₂·v + (1 − β₂)·g²`,
/// `w ← w − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)`.
#[derive(Debug)]
pub struct AdamW {
    lr: f64,
    body: f64,
    betas: (f64, f64),
    epsilon: f64,
    decay: WeightDecay,
    slots: Slots<2>,
    steps: u64,
}

impl AdamW {
    /// With a learning rate and a weight decay that holds for every parameter; β₁ = 0.9,
    /// β₂ = 0.999, ε = 1e-8.
    pub fn new(lr: f64, weight_decay: f64) -> Self {
        Self {
            lr,
            body: 1.0,
            betas: (0.9, 0.999),
            epsilon: 1e-8,
            decay: WeightDecay::everywhere(weight_decay),
            slots: Slots::new(["mean", "mean_square"], [0.0, 0.0]),
            steps: 0,
        }
    }

    /// With other decays of the two moments, and another ε.
    #[must_use]
    pub fn moments(self, beta1: f64, beta2: f64, epsilon: f64) -> Self {
        Self { betas: (beta1, beta2), epsilon, ..self }
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

impl Optimizer for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn set_learning_rate(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn step(&mut self, executor: &mut dyn Executor) -> Result<()> {
        let t = (self.steps + 1).min(i32::MAX as u64) as i32;
        let (beta1, beta2) = self.betas;
        let root = (1.0 - beta2.powi(t)).sqrt() as f32;
        let (rest1, rest2) = ((1.0 - beta1) as f32, (1.0 - beta2) as f32);
        let (beta2, epsilon) = (beta2 as f32, self.epsilon as f32);
        for parameter in executor.parameters() {
            let lr = rate(self.lr, self.body, parameter.role);
            let size = (lr / (1.0 - beta1.powi(t))) as f32;
            let keep = (1.0 - lr * f64::from(self.decay.of(parameter.role))) as f32;
            let [mean, squares] = self.slots.of(&parameter)?;
            let state = mean.iter_mut().zip(squares);
            for ((w, &g), (m, v)) in parameter.value.iter_mut().zip(&*parameter.grad).zip(state) {
                *m += rest1 * (g - *m);
                *v = beta2 * *v + rest2 * (g * g);
                *w = keep * *w - size * *m / (v.sqrt() / root + epsilon);
            }
        }
        self.steps += 1;
        Ok(())
    }

    fn state(&self) -> OptimizerState {
        self.slots.save(self.name(), self.steps)
    }

    fn restore(&mut self, state: OptimizerState) -> Result<()> {
        self.steps = self.slots.load("adamw", state)?;
        Ok(())
    }
}
