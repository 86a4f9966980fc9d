//! The instruction sets that kernels are compiled for, and which of them this machine has.

use std::str::FromStr;

/// An instruction set that this machine has: values are made by detection only, so holding one
/// proves that its instructions can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Isa(pub(crate) Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Portable,
    Wide,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// The environment variable that forces an instruction set (`portable`, `avx2`, `avx512`).
pub const ISA_VARIABLE: &str = "MOBILENET_ISA";

impl Isa {
    /// Plain Rust, on any machine.
    pub const PORTABLE: Self = Self(Kind::Portable);

    /// Plain Rust in the shape of AVX-512 (sixteen lanes, tiles of fourteen rows): slower than
    /// [`Isa::PORTABLE`], for tests of the paths that a machine without AVX-512 does not take.
    pub const WIDE: Self = Self(Kind::Wide);

    /// Every instruction set of this machine, slowest first.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut all = vec![Self::PORTABLE];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(Self(Kind::Avx2));
                if is_x86_feature_detected!("avx512f") {
                    all.push(Self(Kind::Avx512));
                }
            }
        }
        all
    }

    /// Everything that can be tested here: [`Isa::available`] and [`Isa::WIDE`].
    pub fn testable() -> Vec<Self> {
        Self::available().into_iter().chain([Self::WIDE]).collect()
    }

    /// The fastest instruction set of this machine.
    pub fn best() -> Self {
        *Self::available().last().expect("portable is always there")
    }

    /// What [`ISA_VARIABLE`] asks for, or else the best; an error if it asks for what this
    /// machine does not have.
    pub fn from_environment() -> Result<Self, String> {
        match std::env::var(ISA_VARIABLE) {
            Ok(name) if !name.is_empty() => name.parse(),
            _ => Ok(Self::best()),
        }
    }

    /// `portable`, `avx2` or `avx512`; `wide` for [`Isa::WIDE`].
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            Kind::Wide => "wide",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
        }
    }
}

impl FromStr for Isa {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let available = Self::available();
        Self::testable().into_iter().find(|isa| isa.name() == name).ok_or_else(|| {
            let names: Vec<_> = available.iter().map(|isa| isa.name()).collect();
            format!("instruction set `{name}`: this machine has {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_ones_are_refused() {
        for isa in Isa::testable() {
            assert_eq!(isa.name().parse(), Ok(isa));
        }
        assert!("mmx".parse::<Isa>().unwrap_err().contains("portable"));
    }
}
