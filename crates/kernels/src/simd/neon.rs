//! NEON of 64-bit Arm: four lanes, thirty-two registers.

use std::arch::aarch64::*;
use std::arch::asm;

use half::f16;

use super::{Kernel, Simd, load_all};

/// Proof that NEON is present.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// # Safety
/// NEON must be present, and the kernel's conditions hold.
#[target_feature(enable = "neon")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    unsafe { kernel.run(Neon) }
}

// SAFETY (of every block below): NEON is present where a `Neon` exists, and pointers are valid for
// the lanes touched, by the trait's contract; the `_n` forms touch the first n of them (0 < n < 4).
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Neon {
    type V = float32x4_t;
    const LANES: usize = 4;
    const REGISTERS: usize = 32;
    /// 16 sums, eight vectors of columns in [`Simd::lane_steps`], and as many of rows under way as
    /// the compiler likes (with ten rows it runs out of registers).
    const TILE_ROWS: usize = 8;
    const LANE_STEPS: usize = 4;

    #[inline(always)]
    unsafe fn splat(self, x: f32) -> Self::V {
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        unsafe { vld1q_f32(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::V) {
        unsafe { vst1q_f32(to, v) }
    }
    #[inline(always)]
    unsafe fn load_n(self, from: *const f32, n: usize) -> Self::V {
        debug_assert!(0 < n && n < 4);
        unsafe {
            let zeros = vdupq_n_f32(0.0);
            if n == 1 {
                return vld1q_lane_f32::<0>(from, zeros);
            }
            let two = vcombine_f32(vld1_f32(from), vget_low_f32(zeros));
            if n == 2 { two } else { vld1q_lane_f32::<2>(from.add(2), two) }
        }
    }
    #[inline(always)]
    unsafe fn store_n(self, to: *mut f32, v: Self::V, n: usize) {
        debug_assert!(0 < n && n < 4);
        unsafe {
            if n == 1 {
                return vst1q_lane_f32::<0>(to, v);
            }
            vst1_f32(to, vget_low_f32(v));
            if n > 2 {
                vst1q_lane_f32::<2>(to.add(2), v);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> Self::V {
        // (The intrinsics of f16 are not stable.)
        unsafe {
            let v: float32x4_t;
            asm!(
                "ldr {v:d}, [{from}]",
                "fcvtl {v:v}.4s, {v:v}.4h",
                v = out(vreg) v,
                from = in(reg) from,
                options(nostack, readonly),
            );
            v
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16, v: Self::V) {
        unsafe {
            asm!(
                "fcvtn {v:v}.4h, {v:v}.4s",
                "str {v:d}, [{to}]",
                v = inout(vreg) v => _,
                to = in(reg) to,
                options(nostack),
            );
        }
    }
    #[inline(always)]
    unsafe fn add(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    unsafe fn neg_mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe { vfmsq_f32(c, a, b) }
    }
    #[inline(always)]
    unsafe fn clamp(self, v: Self::V, low: Self::V, high: Self::V) -> Self::V {
        // FMAX and FMIN give NaN when either operand is (FMAXNM and FMINNM would not).
        unsafe { vminq_f32(vmaxq_f32(v, low), high) }
    }
    #[inline(always)]
    unsafe fn lane_steps<const ROWS: usize, const VECTORS: usize>(
        self,
        sums: &mut [[Self::V; VECTORS]; ROWS],
        (a, a_row): (*const f32, usize),
        (b, b_step): (*const f32, usize),
    ) {
        // Loading each value of A to all lanes (LD1R) would take a slot of the arithmetic units, too.
        unsafe {
            let mut columns = [[vdupq_n_f32(0.0); VECTORS]; 4];
            for (step, columns) in columns.iter_mut().enumerate() {
                *columns = load_all::<Self, false, VECTORS>(self, b.add(step * b_step), Self::LANES);
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let scalars = vld1q_f32(a.wrapping_add(row * a_row));
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = vfmaq_laneq_f32::<0>(*sum, columns[0][v], scalars);
                    *sum = vfmaq_laneq_f32::<1>(*sum, columns[1][v], scalars);
                    *sum = vfmaq_laneq_f32::<2>(*sum, columns[2][v], scalars);
                    *sum = vfmaq_laneq_f32::<3>(*sum, columns[3][v], scalars);
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn prefetch(self, at: *const f32) {
        // The intrinsic for it is not stable. PRFM faults at no address.
        unsafe {
            asm!("prfm pldl2keep, [{at}]", at = in(reg) at.addr(), options(nomem, nostack, preserves_flags));
        }
    }
    #[inline(always)]
    unsafe fn keep_inside(self, v: Self::V, x: Self::V, low: Self::V, high: Self::V) -> Self::V {
        unsafe {
            let inside = vandq_u32(vcgtq_f32(x, low), vcltq_f32(x, high));
            vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v), inside))
        }
    }
}
