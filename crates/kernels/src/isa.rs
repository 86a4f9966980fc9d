//! The instruction sets that kernels are compiled for, and which of them this machine has.

#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::str::FromStr;

/// An instruction set that this machine has: values are made by detection only, so holding one
/// proves that its instructions can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Isa(pub(crate) Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Portable,
    #[cfg(debug_assertions)]
    Wide,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// f32 as [`Kind::Avx512`]; products of bf16 by VDPBF16PS.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// f32 as [`Kind::Avx512`]; products of bf16 in tiles (AMX).
    #[cfg(target_arch = "x86_64")]
    Amx,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// The environment variable that forces an instruction set (`portable`; `avx2`, `avx512`,
/// `avx512bf16` and `amx` on x86-64; `neon` on 64-bit Arm).
pub const ISA_VARIABLE: &str = "MOBILENET_ISA";

impl Isa {
    /// Plain Rust, on any machine.
    pub const PORTABLE: Self = Self(Kind::Portable);

    /// Plain Rust in the shape of AVX-512 (sixteen lanes, tiles of fourteen rows): slower than
    /// [`Isa::PORTABLE`], for tests of the paths that a machine without AVX-512 does not take. (Builds with debug
    /// assertions have it only: it takes long to compile.)
    #[cfg(debug_assertions)]
    pub const WIDE: Self = Self(Kind::Wide);

    /// AMX, for tests on a machine that lacks it and emulates its instructions.
    ///
    /// # Safety
    /// The machine must have what `avx512bf16` stands for, and in every thread that runs kernels of
    /// products of bf16 with this value the instructions of AMX-TILE and AMX-BF16 must work, by
    /// hardware (which [`Isa::available`] then lists) or by an emulator.
    #[cfg(target_arch = "x86_64")]
    #[doc(hidden)]
    pub unsafe fn amx_for_emulation() -> Self {
        Self(Kind::Amx)
    }

    /// Every instruction set of this machine, slowest first.
    ///
    /// (`avx512bf16` comes before `avx512` on Intel's processors, whose bf16 instructions are slow.)
    ///
    /// `avx512bf16` and `amx` differ from `avx512` in products of bf16 only ([`crate::bf16`]): in f32
    /// they are the same kernels. `amx` asks Linux, once, to let the process use its tiles, and is
    /// there only if that is granted; other systems are not asked.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut all = vec![Self::PORTABLE];
        #[cfg(target_arch = "x86_64")]
        all.extend(x86::Machine::here().kinds().into_iter().map(Self));
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            all.push(Self(Kind::Neon));
        }
        all
    }

    /// Everything that can be tested here: [`Isa::available`] and, where it is compiled, `Isa::WIDE`.
    pub fn testable() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut all = Self::available();
        #[cfg(debug_assertions)]
        all.push(Self::WIDE);
        all
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

    /// Whether there is arithmetic in half precision beside it: AVX512-FP16, which processors with tiles have.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn has_half_arithmetic(self) -> bool {
        self.0 == Kind::Amx && is_x86_feature_detected!("avx512fp16")
    }

    /// `portable`, `avx2`, `avx512`, `avx512bf16`, `amx` or `neon`; `wide` for `Isa::WIDE`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(debug_assertions)]
            Kind::Wide => "wide",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16 => "avx512bf16",
            #[cfg(target_arch = "x86_64")]
            Kind::Amx => "amx",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => "neon",
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
