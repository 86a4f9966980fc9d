//! AVX-512F: sixteen lanes, thirty-two registers, masks.

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::transmute;

use half::bf16;

use super::{Kernel, Simd, TileWalk};

/// Proof that AVX-512F is present, and if `BF16` also AVX-512BW, VL and BF16.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const BF16: bool = false>;

/// # Safety
/// AVX-512F must be present, and the kernel's conditions hold.
#[target_feature(enable = "avx512f,avx2,fma")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    unsafe { kernel.run(Avx512::<false>) }
}

/// # Safety
/// AVX-512F, BW, VL and BF16 must be present, and the kernel's conditions hold.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
pub(super) unsafe fn run_bf16<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    unsafe { kernel.run(Avx512::<true>) }
}

#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    debug_assert!(n <= 16);
    ((1u32 << n) - 1) as __mmask16
}

#[inline(always)]
unsafe fn widen(v: __m256i) -> __m512 {
    // SAFETY: AVX-512F is present where this is inlined.
    unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(v))) }
}

/// Rounds to the nearest bf16, ties to even; a NaN keeps its upper half and becomes quiet.
#[inline(always)]
unsafe fn narrow(v: __m512) -> __m256i {
    // SAFETY: AVX-512F is present where this is inlined.
    unsafe {
        let bits = _mm512_castps_si512(v);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
        let quiet = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x0040_0000));
        _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(quiet))
    }
}

/// A row of a tile in one step: its value of A, at `$base` + `$a`, into both of its sums.
macro_rules! row {
    ($row:literal, $base:literal, $a:literal, $left:literal, $right:literal) => {
        concat!(
            ".if {rows} > ",
            $row,
            "\n",
            "vbroadcastss zmm30, dword ptr [",
            $base,
            $a,
            "]\n",
            "vfmadd231ps zmm",
            $left,
            ", zmm30, zmm28\n",
            "vfmadd231ps zmm",
            $right,
            ", zmm30, zmm29\n",
            ".endif\n",
        )
    };
}

/// A step of k: the row of B at `$b` and the column of A at `$a`.
macro_rules! step {
    ($b:literal, $a:literal) => {
        concat!(
            "vmovups zmm28, [{b} + ",
            $b,
            "]\n",
            "vmovups zmm29, [{b} + ",
            $b,
            " + 64]\n",
            row!(0, "{p0} + ", $a, 0, 1),
            row!(1, "{p0} + {row} + ", $a, 2, 3),
            row!(2, "{p0} + {row} * 2 + ", $a, 4, 5),
            row!(3, "{p0} + {row3} + ", $a, 6, 7),
            row!(4, "{p0} + {row} * 4 + ", $a, 8, 9),
            row!(5, "{p5} + ", $a, 10, 11),
            row!(6, "{p5} + {row} + ", $a, 12, 13),
            row!(7, "{p5} + {row} * 2 + ", $a, 14, 15),
            row!(8, "{p5} + {row3} + ", $a, 16, 17),
            row!(9, "{p5} + {row} * 4 + ", $a, 18, 19),
            row!(10, "{p10} + ", $a, 20, 21),
            row!(11, "{p10} + {row} + ", $a, 22, 23),
            row!(12, "{p10} + {row} * 2 + ", $a, 24, 25),
            row!(13, "{p10} + {row3} + ", $a, 26, 27),
            "prefetcht1 [{ahead}]\n",
            "add {ahead}, [{steps}]\n",
        )
    };
}

/// The sums of a tile of two vectors of columns, row after row, by inline assembly: left to the
/// compiler, each row of A gets a pointer of its own, most of which do not fit into the registers
/// and are loaded from the stack in every step. Here three of them reach all rows.
///
/// # Safety
/// AVX-512F must be present, and the walk's matrices there.
#[inline]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn sums_of_two<const ROWS: usize>(walk: TileWalk) -> [__m512; 28] {
    const { assert!(ROWS <= 14) };
    const VALUE: usize = size_of::<f32>();
    let mut sums = [_mm512_setzero_ps(); 28];
    if walk.steps == 0 || walk.segments.is_empty() {
        return sums;
    }
    let segments = walk.segments.as_ptr_range();
    // Four steps at a time where the values of a row of A, and the rows of a panel of B, follow one another.
    let fours = if walk.a_step == 1 && walk.b_step == 32 { walk.steps / 4 } else { 0 };
    // What is read from memory: there are not registers enough.
    let steps = [
        walk.ahead_step * VALUE,
        walk.next_step * VALUE,
        walk.b_step * VALUE,
        walk.a * VALUE,
        fours,
        walk.steps - 4 * fours,
        segments.end.addr(),
    ];
    // SAFETY: the caller's promises; prefetching touches nothing.
    unsafe {
        asm!(
                "vpxord zmm0, zmm0, zmm0",
                "vpxord zmm1, zmm1, zmm1",
                "vpxord zmm2, zmm2, zmm2",
                "vpxord zmm3, zmm3, zmm3",
                "vpxord zmm4, zmm4, zmm4",
                "vpxord zmm5, zmm5, zmm5",
                "vpxord zmm6, zmm6, zmm6",
                "vpxord zmm7, zmm7, zmm7",
                "vpxord zmm8, zmm8, zmm8",
                "vpxord zmm9, zmm9, zmm9",
                "vpxord zmm10, zmm10, zmm10",
                "vpxord zmm11, zmm11, zmm11",
                "vpxord zmm12, zmm12, zmm12",
                "vpxord zmm13, zmm13, zmm13",
                "vpxord zmm14, zmm14, zmm14",
                "vpxord zmm15, zmm15, zmm15",
                "vpxord zmm16, zmm16, zmm16",
                "vpxord zmm17, zmm17, zmm17",
                "vpxord zmm18, zmm18, zmm18",
                "vpxord zmm19, zmm19, zmm19",
                "vpxord zmm20, zmm20, zmm20",
                "vpxord zmm21, zmm21, zmm21",
                "vpxord zmm22, zmm22, zmm22",
                "vpxord zmm23, zmm23, zmm23",
                "vpxord zmm24, zmm24, zmm24",
                "vpxord zmm25, zmm25, zmm25",
                "vpxord zmm26, zmm26, zmm26",
                "vpxord zmm27, zmm27, zmm27",
                // A segment.
                "2:",
                "mov {p0}, [{segment}]",
                "add {p0}, [{steps} + 24]",
                "lea {p5}, [{p0} + {row} * 4]",
                "add {p5}, {row}",
                "lea {p10}, [{p5} + {row} * 4]",
                "add {p10}, {row}",
                "mov {left}, [{steps} + 32]",
                "test {left}, {left}",
                "jz 4f",
                // Four steps.
                ".p2align 4",
                "3:",
                step!("0", "0"),
                step!("128", "4"),
                "prefetcht1 [{next}]",
                "add {next}, [{steps} + 8]",
                "add {next}, [{steps} + 8]",
                step!("256", "8"),
                step!("384", "12"),
                "prefetcht1 [{next}]",
                "add {next}, [{steps} + 8]",
                "add {next}, [{steps} + 8]",
                "add {p0}, 16",
                "add {p5}, 16",
                "add {p10}, 16",
                "add {b}, 512",
                "dec {left}",
                "jnz 3b",
                // What is left, one by one.
                "4:",
                "mov {left}, [{steps} + 40]",
                "test {left}, {left}",
                "jz 6f",
                "5:",
                step!("0", "0"),
                "prefetcht1 [{next}]",
                "add {next}, [{steps} + 8]",
                "add {p0}, {step}",
                "add {p5}, {step}",
                "add {p10}, {step}",
                "add {b}, [{steps} + 16]",
                "dec {left}",
                "jnz 5b",
                "6:",
                "add {segment}, 8",
                "cmp {segment}, [{steps} + 48]",
                "jne 2b",
                rows = const ROWS,
                segment = inout(reg) segments.start => _,
                steps = in(reg) steps.as_ptr(),
                row = in(reg) walk.a_row * VALUE,
                row3 = in(reg) 3 * walk.a_row * VALUE,
                step = in(reg) walk.a_step * VALUE,
                b = inout(reg) walk.b => _,
                ahead = inout(reg) walk.ahead => _,
                next = inout(reg) walk.next => _,
                p0 = out(reg) _,
                p5 = out(reg) _,
                p10 = out(reg) _,
                left = out(reg) _,
                out("zmm0") sums[0],
                out("zmm1") sums[1],
                out("zmm2") sums[2],
                out("zmm3") sums[3],
                out("zmm4") sums[4],
                out("zmm5") sums[5],
                out("zmm6") sums[6],
                out("zmm7") sums[7],
                out("zmm8") sums[8],
                out("zmm9") sums[9],
                out("zmm10") sums[10],
                out("zmm11") sums[11],
                out("zmm12") sums[12],
                out("zmm13") sums[13],
                out("zmm14") sums[14],
                out("zmm15") sums[15],
                out("zmm16") sums[16],
                out("zmm17") sums[17],
                out("zmm18") sums[18],
                out("zmm19") sums[19],
                out("zmm20") sums[20],
                out("zmm21") sums[21],
                out("zmm22") sums[22],
                out("zmm23") sums[23],
                out("zmm24") sums[24],
                out("zmm25") sums[25],
                out("zmm26") sums[26],
                out("zmm27") sums[27],
                out("zmm28") _, out("zmm29") _, out("zmm30") _,
                options(nostack, readonly),
        );
    }
    sums
}

// SAFETY (of every block below): AVX-512F is present where an `Avx512` exists, and pointers are
// valid for the lanes touched, by the trait's contract; masked lanes are not touched.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<const BF16: bool> Simd for Avx512<BF16> {
    type V = __m512;
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    const TILE_ROWS: usize = 14;

    #[inline(always)]
    unsafe fn tile<const ROWS: usize, const VECTORS: usize>(
        self,
        walk: TileWalk,
    ) -> [[Self::V; VECTORS]; ROWS] {
        unsafe {
            if VECTORS == 2 && ROWS > 3 {
                let sums = sums_of_two::<ROWS>(walk);
                let mut found = [[self.splat(0.0); VECTORS]; ROWS];
                for (found, sums) in found.as_flattened_mut().iter_mut().zip(sums) {
                    *found = sums;
                }
                return found;
            }
            walk.sums::<Self, ROWS, VECTORS>(self)
        }
    }
    #[inline(always)]
    unsafe fn splat(self, x: f32) -> Self::V {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::V) {
        unsafe { _mm512_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn load_n(self, from: *const f32, n: usize) -> Self::V {
        unsafe { _mm512_maskz_loadu_ps(mask(n), from) }
    }
    #[inline(always)]
    unsafe fn store_n(self, to: *mut f32, v: Self::V, n: usize) {
        unsafe { _mm512_mask_storeu_ps(to, mask(n), v) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> Self::V {
        unsafe { widen(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, v: Self::V) {
        unsafe {
            if BF16 {
                // (Denormal values become zero.)
                _mm256_storeu_si256(to.cast(), transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v)));
            } else {
                _mm256_storeu_si256(to.cast(), narrow(v));
            }
        }
    }
    #[inline(always)]
    unsafe fn store_bf16_pair(self, to: *mut bf16, left: Self::V, right: Self::V) {
        unsafe {
            if BF16 {
                let both = _mm512_cvtne2ps_pbh(right, left);
                _mm512_storeu_si512(to.cast(), transmute::<__m512bh, __m512i>(both));
            } else {
                self.store_bf16(to, left);
                self.store_bf16(to.add(Self::LANES), right);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_n(self, from: *const bf16, n: usize) -> Self::V {
        let mut lanes = [bf16::ZERO; 16];
        unsafe {
            if BF16 {
                return widen(_mm256_maskz_loadu_epi16(mask(n), from.cast()));
            }
            // (Masked loads of 16-bit lanes need AVX-512BW.)
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), n);
            self.load_bf16(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_bf16_n(self, to: *mut bf16, v: Self::V, n: usize) {
        let mut lanes = [bf16::ZERO; 16];
        unsafe {
            if BF16 {
                let values = transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
                return _mm256_mask_storeu_epi16(to.cast(), mask(n), values);
            }
            self.store_bf16(lanes.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, n);
        }
    }
    #[inline(always)]
    unsafe fn add(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn neg_mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn clamp(self, v: Self::V, low: Self::V, high: Self::V) -> Self::V {
        // VMAXPS and VMINPS return their second operand when either is NaN.
        unsafe { _mm512_min_ps(high, _mm512_max_ps(low, v)) }
    }
    #[inline(always)]
    unsafe fn at_least(self, v: Self::V, low: Self::V) -> Self::V {
        unsafe { _mm512_max_ps(low, v) }
    }
    #[inline(always)]
    unsafe fn prefetch(self, at: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn keep_inside(self, v: Self::V, x: Self::V, low: Self::V, high: Self::V) -> Self::V {
        unsafe {
            let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, low);
            let inside = _mm512_mask_cmp_ps_mask::<_CMP_LT_OQ>(above, x, high);
            _mm512_maskz_mov_ps(inside, v)
        }
    }
}
