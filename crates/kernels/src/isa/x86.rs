//! Which of the x86-64 instruction sets a machine can run.

use super::{Kind, tiles};

/// What a processor and its system have, as far as kernels differ by it. (A hypervisor may hide any of it.)
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Machine {
    /// AVX2, with FMA and F16C.
    avx2: bool,
    /// AVX-512F.
    avx512: bool,
    /// AVX-512BW, VL and BF16.
    pairs: bool,
    /// See [`pairs_are_fast`].
    fast_pairs: bool,
    /// AMX-TILE and AMX-BF16, which the system saves and lets this process use.
    tiles: bool,
}

impl Machine {
    /// This one. (What needs AVX-512 is asked for only where that is, permission to use tiles included.)
    pub fn here() -> Self {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        let avx512 = is_x86_feature_detected!("avx512f");
        let pairs = avx512
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bf16");
        Self { avx2, avx512, pairs, fast_pairs: pairs_are_fast(), tiles: avx2 && pairs && tiles::available() }
    }

    /// The instruction sets that it can run, slowest first. Each is taken to need all that the kernels of the one
    /// before use.
    pub fn kinds(self) -> Vec<Kind> {
        let Self { avx2, avx512, pairs, fast_pairs, tiles } = self;
        let mut kinds = Vec::new();
        if avx2 {
            kinds.push(Kind::Avx2);
        }
        if avx2 && avx512 {
            kinds.push(Kind::Avx512);
            if pairs {
                kinds.insert(if fast_pairs { 2 } else { 1 }, Kind::Avx512Bf16);
                if tiles {
                    kinds.push(Kind::Amx);
                }
            }
        }
        kinds
    }
}

/// Whether VDPBF16PS is worth more than the multiply-adds of f32: not on Intel's processors, where (measured
/// on Sapphire Rapids) it comes at a quarter of their rate and does twice their work. On AMD's (measured on
/// Zen 4) it comes at the same rate.
fn pairs_are_fast() -> bool {
    #[allow(unused_unsafe, reason = "safe to call since a later Rust than ours")]
    // SAFETY: every x86-64 processor has CPUID.
    let vendor = unsafe { std::arch::x86_64::__cpuid(0) };
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_run_what_all_of_is_there() {
        use Kind::{Amx, Avx2, Avx512, Avx512Bf16};
        let none = Machine::default();
        let haswell = Machine { avx2: true, ..none };
        let skylake_x = Machine { avx512: true, ..haswell };
        let zen_4 = Machine { pairs: true, fast_pairs: true, ..skylake_x };
        let cooper_lake = Machine { fast_pairs: false, ..zen_4 };
        let sapphire_rapids = Machine { tiles: true, ..cooper_lake };
        let cases: [(&str, Machine, &[Kind]); 10] = [
            ("none", none, &[]),
            ("Haswell, Zen 3", haswell, &[Avx2]),
            ("Skylake-X", skylake_x, &[Avx2, Avx512]),
            ("Zen 4", zen_4, &[Avx2, Avx512, Avx512Bf16]),
            ("Cooper Lake", cooper_lake, &[Avx2, Avx512Bf16, Avx512]),
            ("Sapphire Rapids", sapphire_rapids, &[Avx2, Avx512Bf16, Avx512, Amx]),
            ("… whose hypervisor hides AVX-512", Machine { avx512: false, ..sapphire_rapids }, &[Avx2]),
            ("… or AVX512-BF16", Machine { pairs: false, ..sapphire_rapids }, &[Avx2, Avx512]),
            ("… or FMA", Machine { avx2: false, ..sapphire_rapids }, &[]),
            ("tiles on AMD's", Machine { tiles: true, ..zen_4 }, &[Avx2, Avx512, Avx512Bf16, Amx]),
        ];
        for (name, machine, expected) in cases {
            assert_eq!(machine.kinds(), expected, "{name}");
        }
    }
}
