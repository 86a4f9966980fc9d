//! What the machine does at most, measured here and now, and how fast that lets a layer be.

use std::time::Duration;

use mobilenet::cost::Effort;
use mobilenet_kernels::parallel::Pool;
use mobilenet_kernels::{Isa, bandwidth, peak};
use serde::Serialize;

use crate::failure::Outcome;
use mobilenet::cpu::Precision;

/// What one number of threads does at most.
#[derive(Clone, Debug, Serialize)]
pub struct Roof {
    pub threads: usize,
    /// Multiply-adds a second in the precision that is measured.
    pub peak_mult_adds_per_s: f64,
    pub read_bandwidth: Vec<Bandwidth>,
}

/// How fast the threads together read a buffer of this size.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Bandwidth {
    pub level: Level,
    /// Of the buffer that was read.
    pub bytes: usize,
    pub bytes_per_s: f64,
    /// Data up to this many bytes are taken to be read at this speed, as they come round again.
    #[serde(skip)]
    reach: u64,
}

/// Where data lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// In the second-level caches of the cores in use.
    L2,
    /// In what lies behind these: a third-level cache, where there is one.
    BeyondL2,
    /// In memory.
    Memory,
}

/// What keeps a layer from being faster than its roof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// The multiply-adds.
    Compute,
    /// The bytes moved, most of the time at this level.
    #[serde(untagged)]
    Reading(Level),
}

impl Bound {
    pub fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Reading(Level::L2) => "L2",
            Self::Reading(Level::BeyondL2) => "beyond L2",
            Self::Reading(Level::Memory) => "memory",
        }
    }
}

/// How much data comes round again before it is used the next time: this decides from where it is
/// read.
#[derive(Clone, Copy, Debug)]
pub struct Footprint {
    /// Bytes of all weights of the network.
    pub weights: u64,
    /// Bytes of a layer's input and output.
    pub activations: u64,
}

impl Roof {
    /// Measures it for `threads` threads.
    pub fn measure(precision: Precision, isa: Isa, threads: usize) -> Outcome<Self> {
        const TIME: Duration = Duration::from_millis(300);
        const MIB: usize = 1 << 20;
        let mut pool = Pool::new(threads)?;
        let peak_mult_adds_per_s = match precision {
            Precision::F32 => peak::multiply_adds_per_second(isa, &mut pool, TIME),
            Precision::Bf16 => peak::multiply_adds_per_second_bf16(isa, &mut pool, TIME),
        };
        // Half of the cache, since other things are in it too.
        let caches = threads * bandwidth::second_level_cache().unwrap_or(MIB);
        let beyond = (4 * caches).max(32 * MIB);
        let mut read = |level, bytes, reach: usize| {
            let bytes_per_s = bandwidth::read_bandwidth(isa, &mut pool, bytes, TIME);
            Bandwidth { level, bytes, bytes_per_s, reach: reach as u64 }
        };
        let read_bandwidth = vec![
            read(Level::L2, caches / 2, caches),
            read(Level::BeyondL2, beyond, beyond),
            read(Level::Memory, (2 * beyond).max(256 * MIB), usize::MAX),
        ];
        Ok(Self { threads, peak_mult_adds_per_s, read_bandwidth })
    }

    /// The least seconds in which `effort` can be done, and what it is that takes them. Computing
    /// and reading go on side by side; writing is taken to be as fast as reading.
    pub fn of(&self, effort: &Effort, footprint: Footprint) -> (f64, Bound) {
        let compute = effort.mult_adds as f64 / self.peak_mult_adds_per_s;
        let time = |bytes: u64, footprint: u64| {
            let from = self.read_bandwidth.iter().find(|from| footprint <= from.reach);
            from.map_or((0.0, Level::Memory), |from| (bytes as f64 / from.bytes_per_s, from.level))
        };
        let weights = time(effort.weight_bytes, footprint.weights);
        let activations = time(effort.activation_bytes(), footprint.activations);
        let moving = weights.0 + activations.0;
        if compute >= moving {
            return (compute, Bound::Compute);
        }
        let slower = if weights.0 > activations.0 { weights.1 } else { activations.1 };
        (moving, Bound::Reading(slower))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thousand multiply-adds a second; a hundred bytes a second from L2 (up to 10 bytes), ten
    /// from behind it (up to 50), one from memory.
    fn roof() -> Roof {
        let at = |level, bytes_per_s, reach| Bandwidth { level, bytes: 0, bytes_per_s, reach };
        let read_bandwidth =
            vec![at(Level::L2, 100.0, 10), at(Level::BeyondL2, 10.0, 50), at(Level::Memory, 1.0, u64::MAX)];
        Roof { threads: 1, peak_mult_adds_per_s: 1000.0, read_bandwidth }
    }

    #[test]
    fn the_slower_of_computing_and_moving_is_the_roof() {
        let effort = Effort {
            mult_adds: 2000,
            weight_bytes: 100,
            read_bytes: 60,
            written_bytes: 40,
            ..Effort::default()
        };
        let of = |weights, activations| roof().of(&effort, Footprint { weights, activations });
        // Two seconds of products; bytes from L2 take one each.
        assert_eq!(of(10, 10), (2.0, Bound::Compute));
        assert_eq!(of(11, 10), (11.0, Bound::Reading(Level::BeyondL2)));
        assert_eq!(of(10, 50), (11.0, Bound::Reading(Level::BeyondL2)));
        assert_eq!(of(50, 51), (110.0, Bound::Reading(Level::Memory)));
        let moved = Effort { mult_adds: 0, ..effort };
        assert_eq!(
            roof().of(&moved, Footprint { weights: 0, activations: 0 }),
            (2.0, Bound::Reading(Level::L2))
        );
    }

    #[test]
    fn bounds_have_the_names_that_are_documented() {
        for (bound, name) in [
            (Bound::Compute, "\"compute\""),
            (Bound::Reading(Level::L2), "\"l2\""),
            (Bound::Reading(Level::BeyondL2), "\"beyond-l2\""),
            (Bound::Reading(Level::Memory), "\"memory\""),
        ] {
            assert_eq!(serde_json::to_string(&bound).unwrap(), name);
        }
    }
}
