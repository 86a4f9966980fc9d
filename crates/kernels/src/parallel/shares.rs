//! How much of a piece of work each thread gets.

use std::ops::Range;

/// What a share follows the last measurement by.
const FOLLOW: f64 = 0.25;

/// The shares of a pool's threads in a piece of work that recurs, such as a layer.
///
/// Cores differ: some are made slower, some are busy with something else, or share with another what a
/// piece of work needs most. Every thread's share follows the speed at which it did its last ones, so that all are
/// done at the same time.
#[derive(Clone, Debug, Default)]
pub struct Shares {
    /// Each thread's speed, against the mean.
    speeds: Vec<f64>,
    /// Where its items end.
    ends: Vec<usize>,
}

impl Shares {
    /// Cuts `0..items` into a range a thread. None is empty that need not be.
    pub(super) fn cut(&mut self, items: usize, threads: usize) {
        if self.speeds.len() != threads {
            self.speeds = vec![1.0; threads];
            self.ends = vec![0; threads];
        }
        let all: f64 = self.speeds.iter().sum();
        let (mut sum, mut before) = (0.0, 0);
        for (worker, speed) in self.speeds.iter().enumerate() {
            sum += speed;
            let end = (items as f64 * sum / all).round() as usize;
            let left = threads - 1 - worker;
            let most = items.saturating_sub(left).max(before);
            let end = if left == 0 { items } else { end.clamp((before + 1).min(most), most) };
            self.ends[worker] = end;
            before = end;
        }
    }

    /// The items of a thread.
    pub(super) fn range(&self, worker: usize) -> Range<usize> {
        let start = worker.checked_sub(1).map_or(0, |before| self.ends[before]);
        start..self.ends[worker]
    }

    /// Learns what each thread took for its share, in any unit; 0 if it did not do it.
    pub(super) fn learn(&mut self, taken: impl Fn(usize) -> u64) {
        let threads = self.speeds.len();
        // Only what all of them did can be compared.
        if threads < 2 || (0..threads).any(|worker| taken(worker) == 0 || self.range(worker).is_empty()) {
            return;
        }
        let speed = |worker: usize, shares: &Self| shares.range(worker).len() as f64 / taken(worker) as f64;
        let mean = (0..threads).map(|worker| speed(worker, self)).sum::<f64>() / threads as f64;
        for worker in 0..threads {
            let known = self.speeds[worker];
            // (A thread that was interrupted is not slow.)
            let found = (speed(worker, self) / mean).clamp(known / 2.0, known * 2.0);
            self.speeds[worker] = known + FOLLOW * (found - known);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(shares: &Shares) -> Vec<usize> {
        (0..shares.ends.len()).map(|worker| shares.range(worker).len()).collect()
    }

    /// Threads that take so long for an item, and the same for whatever they do.
    fn settled(times: &[u64], fixed: u64, items: usize) -> Vec<usize> {
        let mut shares = Shares::default();
        for _ in 0..100 {
            shares.cut(items, times.len());
            let done = lengths(&shares);
            shares.learn(|worker| fixed + times[worker] * done[worker] as u64);
        }
        shares.cut(items, times.len());
        lengths(&shares)
    }

    #[test]
    fn shares_follow_speed() {
        assert_eq!(settled(&[100, 100], 0, 14), [7, 7]);
        assert_eq!(settled(&[100, 200], 0, 300), [200, 100]);
        assert_eq!(settled(&[300, 100], 0, 300), [75, 225]);
        assert_eq!(settled(&[100, 200, 200, 100], 0, 60), [20, 10, 10, 20]);
        // 1,000 + 100 · 15 = 1,000 + 300 · 5
        assert_eq!(settled(&[100, 300], 1000, 20), [15, 5]);
    }

    #[test]
    fn every_item_is_in_one_share() {
        for threads in 1..5 {
            for items in 0..20 {
                let mut shares = Shares::default();
                for round in 0..10 {
                    shares.cut(items, threads);
                    assert!(shares.ends.is_sorted() && shares.ends[threads - 1] == items);
                    let filled = lengths(&shares).into_iter().filter(|&items| items > 0).count();
                    assert_eq!(filled, threads.min(items), "{items} items, {threads} threads");
                    shares.learn(|worker| 1 + (worker as u64 * 7 + round) % 5 * 1000);
                }
            }
        }
    }

    #[test]
    fn a_thread_that_was_not_there_changes_nothing() {
        let mut shares = Shares::default();
        shares.cut(10, 2);
        shares.learn(|worker| [5, 0][worker]);
        shares.cut(10, 2);
        assert_eq!(lengths(&shares), [5, 5]);
    }
}
