//! An exponential moving average of the weights.

use mobilenet::{Tensor, Weights};

use crate::error::{Error, Result};

/// Follows the weights, running statistics included, smoothing out the noise of single steps.
///
/// After step t (counted from 0) each value moves by the share 1 − d towards the weights' own,
/// with d = min(decay, (1 + t) / (10 + t)), so that the first, random weights are soon forgotten.
#[derive(Clone, Debug, PartialEq)]
pub struct Ema {
    decay: f64,
    steps: u64,
    tensors: Vec<(String, Tensor)>,
}

impl Ema {
    /// Begins at `weights`, with a decay in `(0, 1)`.
    pub fn new(decay: f64, weights: &Weights) -> Self {
        let tensors = weights.iter().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
        Self { decay, steps: 0, tensors }
    }

    /// Goes on where [`Ema::steps`] and [`Ema::weights`] of another left off.
    pub fn restore(decay: f64, steps: u64, weights: &Weights) -> Self {
        Self { steps, ..Self::new(decay, weights) }
    }

    /// Updates taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Moves the average towards `weights`.
    ///
    /// # Errors
    /// When these are not the tensors that it began with.
    pub fn update(&mut self, weights: &Weights) -> Result<()> {
        let t = self.steps as f64;
        let share = (1.0 - self.decay.min((1.0 + t) / (10.0 + t))) as f32;
        let mut current = weights.iter();
        for (name, average) in &mut self.tensors {
            match current.next() {
                Some((other, tensor)) if other == name && tensor.shape() == average.shape() => {
                    for (a, &w) in average.data_mut().iter_mut().zip(tensor.data()) {
                        // A value that stays, as frozen ones do, keeps its bits (−0 too).
                        if w != *a {
                            *a += share * (w - *a);
                        }
                    }
                }
                _ => {
                    return Err(Error::OptimizerState(format!(
                        "the moving average of {name} does not fit the network's weights"
                    )));
                }
            }
        }
        self.steps += 1;
        Ok(())
    }

    /// The averaged weights.
    pub fn weights(&self) -> Weights {
        let mut weights = Weights::new();
        for (name, tensor) in &self.tensors {
            weights.insert(name.clone(), tensor.clone());
        }
        weights
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(value: f32) -> Weights {
        let mut weights = Weights::new();
        weights.insert("a", Tensor::new(&[2], vec![value, -value]).unwrap());
        weights
    }

    #[test]
    fn ramps_up_and_then_follows_its_decay() {
        let mut ema = Ema::new(0.5, &weights(0.0));
        // Decays 0.1, 2/11, then in time 0.5.
        ema.update(&weights(1.0)).unwrap();
        assert!((ema.weights().get("a").unwrap().data()[0] - 0.9).abs() < 1e-6);
        for _ in 0..100 {
            ema.update(&weights(1.0)).unwrap();
        }
        ema.update(&weights(3.0)).unwrap();
        assert_eq!(ema.weights().get("a").unwrap().data(), [2.0, -2.0]);
    }

    #[test]
    fn goes_on_where_it_left_off() {
        let mut whole = Ema::new(0.9, &weights(0.3));
        let mut parts = whole.clone();
        for i in 0..20 {
            whole.update(&weights(i as f32)).unwrap();
            parts = Ema::restore(0.9, parts.steps(), &parts.weights());
            parts.update(&weights(i as f32)).unwrap();
        }
        assert_eq!(whole, parts);
    }

    #[test]
    fn other_weights_are_an_error() {
        let mut ema = Ema::new(0.9, &weights(0.3));
        assert!(ema.update(&Weights::new()).is_err());
    }
}
