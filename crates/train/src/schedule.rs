//! Learning rates: a function of the step, and of nothing else.

use std::f64::consts::PI;

/// How the learning rate moves after the warm-up. Periods are in optimizer steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// Always the base rate.
    Constant,
    /// Times `factor` after every `period` steps: with a period of 30 epochs and 0.1 the
    /// description's "÷10 every 30 epochs", with 2.5 epochs and 0.94 TF-slim's staircase.
    Staircase {
        /// Steps between changes.
        period: f64,
        /// The factor of each change.
        factor: f64,
    },
    /// Half a cosine from the base rate at the first step to 0 just after the last.
    Cosine,
    /// PyTorch's `OneCycleLR` with cosine annealing in two phases: from `base / div` up to the
    /// base rate over the share `rise` of the steps, then down to `base / div / final_div` at
    /// the last step.
    OneCycle {
        /// Share of the steps spent rising (`pct_start`).
        rise: f64,
        /// The base rate divided by the first (`div_factor`).
        div: f64,
        /// The first rate divided by the last (`final_div_factor`).
        final_div: f64,
    },
}

/// The learning rate of every step of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The base rate; the peak of a cycle.
    pub lr: f64,
    /// What it does after the warm-up.
    pub shape: Shape,
    /// Steps over which the rate first rises in a straight line to where `shape` begins.
    pub warmup_steps: u64,
    /// Steps in the whole run, warm-up included.
    pub total_steps: u64,
}

impl Schedule {
    /// Always `lr`.
    pub fn constant(lr: f64) -> Self {
        Self { lr, shape: Shape::Constant, warmup_steps: 0, total_steps: 0 }
    }

    /// The learning rate of step `step`, counted from 0. From the end of the run on it stays
    /// what it was at the last step.
    pub fn at(&self, step: u64) -> f64 {
        let step = step.min(self.total_steps.saturating_sub(1).max(self.warmup_steps));
        if self.shape == Shape::Constant && step >= self.warmup_steps {
            return self.lr;
        }
        if step < self.warmup_steps {
            // The first step already moves; the step after the warm-up has the full rate.
            return self.after_warmup(0.0) * (step + 1) as f64 / (self.warmup_steps + 1) as f64;
        }
        self.after_warmup((step - self.warmup_steps) as f64)
    }

    /// The rate `step` steps after the warm-up.
    fn after_warmup(&self, step: f64) -> f64 {
        let steps = self.total_steps.saturating_sub(self.warmup_steps) as f64;
        match self.shape {
            Shape::Constant => self.lr,
            Shape::Staircase { period, factor } => {
                // A period of 2.5 epochs of 391 steps changes between steps 977 and 978.
                self.lr * factor.powf((step / period.max(1.0)).floor())
            }
            Shape::Cosine => anneal(self.lr, 0.0, step / steps.max(1.0)),
            Shape::OneCycle { rise, div, final_div } => {
                let (first, last) = (self.lr / div, self.lr / div / final_div);
                let (peak, end) = (rise * steps - 1.0, steps - 1.0);
                if step < peak {
                    anneal(first, self.lr, step / peak)
                } else if end > peak {
                    anneal(self.lr, last, ((step - peak) / (end - peak)).min(1.0))
                } else {
                    self.lr
                }
            }
        }
    }
}

/// From `start` at 0 to `end` at 1 along half a cosine.
fn anneal(start: f64, end: f64, share: f64) -> f64 {
    end + (start - end) / 2.0 * (1.0 + (PI * share).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(shape: Shape, warmup_steps: u64, total_steps: u64) -> Schedule {
        Schedule { lr: 0.2, shape, warmup_steps, total_steps }
    }

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
    }

    #[test]
    fn step_divides_by_ten_every_thirty_epochs() {
        let steps = schedule(Shape::Staircase { period: 300.0, factor: 0.1 }, 0, 900);
        for (step, lr) in [(0, 0.2), (299, 0.2), (300, 0.02), (599, 0.02), (600, 0.002), (899, 0.002)] {
            close(steps.at(step), lr);
        }
    }

    #[test]
    fn a_staircase_may_change_within_an_epoch() {
        let stairs = schedule(Shape::Staircase { period: 2.5 * 391.0, factor: 0.94 }, 0, 10_000);
        close(stairs.at(977), 0.2);
        close(stairs.at(978), 0.2 * 0.94);
        close(stairs.at(1955), 0.2 * 0.94 * 0.94);
    }

    #[test]
    fn cosine_halves_at_the_middle() {
        let cosine = schedule(Shape::Cosine, 0, 100);
        close(cosine.at(0), 0.2);
        close(cosine.at(50), 0.1);
        assert!(cosine.at(99) > 0.0 && cosine.at(99) < 1e-4);
        close(cosine.at(10_000), cosine.at(99));
    }

    #[test]
    fn one_cycle_begins_peaks_and_ends_where_it_should() {
        let cycle = schedule(Shape::OneCycle { rise: 0.3, div: 25.0, final_div: 1e4 }, 0, 100);
        close(cycle.at(0), 0.2 / 25.0);
        close(cycle.at(29), 0.2);
        close(cycle.at(99), 0.2 / 25.0 / 1e4);
        for step in 0..99 {
            assert_eq!(cycle.at(step + 1) > cycle.at(step), step < 29, "{step}");
        }
    }

    #[test]
    fn a_cycle_of_a_few_steps_stays_finite() {
        for total in 1..6 {
            let cycle = schedule(Shape::OneCycle { rise: 0.3, div: 25.0, final_div: 1e4 }, 0, total);
            for step in 0..total + 2 {
                let lr = cycle.at(step);
                assert!((0.0..=0.2 + 1e-12).contains(&lr), "{total} {step} {lr}");
            }
        }
    }

    #[test]
    fn warm_up_is_a_line_to_where_the_schedule_begins() {
        let warm = schedule(Shape::Cosine, 4, 104);
        for (step, share) in [(0, 0.2), (1, 0.4), (2, 0.6), (3, 0.8), (4, 1.0)] {
            close(warm.at(step), 0.2 * share);
        }
        close(warm.at(54), 0.1);
        let constant = schedule(Shape::Constant, 4, 104);
        close(constant.at(1), 0.08);
        close(constant.at(103), 0.2);
        close(Schedule::constant(0.3).at(12), 0.3);
    }
}
