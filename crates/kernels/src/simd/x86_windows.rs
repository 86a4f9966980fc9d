//! The sums of neighbouring 3×3 windows in assembly, for the sixteen registers of AVX2.
//!
//! Left to the compiler, each of the pixels that a group reads gets a pointer of its own, which is loaded from the
//! stack before every load of a pixel, and the filter goes there as well.

use std::arch::x86_64::*;

use super::WINDOWS;

macro_rules! load_f32 {
    ($($at:tt)*) => {
        concat!("vmovups ymm13, ymmword ptr [", $($at)*, "]\n")
    };
}

macro_rules! load_bf16 {
    ($($at:tt)*) => {
        concat!("vpmovzxwd ymm13, xmmword ptr [", $($at)*, "]\n", "vpslld ymm13, ymm13, 16\n")
    };
}

macro_rules! load_f16 {
    ($($at:tt)*) => {
        concat!("vcvtph2ps ymm13, xmmword ptr [", $($at)*, "]\n")
    };
}

/// A column of pixels, at `$at` from the pointers to the rows, into sums, each with what its weights are in, row by
/// row; if `$there`.
macro_rules! column {
    ($load:ident, $there:literal, $at:literal, $([$sum:literal: $top:literal $middle:literal $bottom:literal])*) => {
        concat!(
            ".if ", $there, "\n",
            $load!("{top}", $at),
            $("vfmadd231ps ymm", $sum, ", ymm13, ymm", $top, "\n",)*
            $load!("{middle}", $at),
            $("vfmadd231ps ymm", $sum, ", ymm13, ymm", $middle, "\n",)*
            $load!("{bottom}", $at),
            $("vfmadd231ps ymm", $sum, ", ymm13, ymm", $bottom, "\n",)*
            ".endif\n",
        )
    };
}

/// Defines the function for one way of storing pixels, and columns between neighbouring windows.
macro_rules! windows {
    ($name:ident, $load:ident, [$($register:ident $times:literal),*] $([$there:literal, $at:literal, $($sums:tt)*])*) => {
        /// Adds [`WINDOWS`] windows to `sums`, column by column, where pixels are `pixel` bytes apart. The `FIRST` and
        /// the `LAST` column may be missing.
        ///
        /// # Safety
        /// The instruction set must be present, and the pixels there.
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        pub(super) unsafe fn $name<E, const FIRST: bool, const LAST: bool>(
            [top, middle, bottom]: [*const E; 3],
            pixel: usize,
            weights: &[[__m256; 3]; 3],
            mut sums: [__m256; WINDOWS],
        ) -> [__m256; WINDOWS] {
            // SAFETY: the caller's promises.
            unsafe {
                std::arch::asm!(
                    $(column!($load, $there, $at, $($sums)*),)*
                    first = const FIRST as usize,
                    last = const LAST as usize,
                    top = in(reg) top,
                    middle = in(reg) middle,
                    bottom = in(reg) bottom,
                    p = in(reg) pixel,
                    $($register = in(reg) $times * pixel,)*
                    in("ymm0") weights[0][0],
                    in("ymm1") weights[0][1],
                    in("ymm2") weights[0][2],
                    in("ymm3") weights[1][0],
                    in("ymm4") weights[1][1],
                    in("ymm5") weights[1][2],
                    in("ymm6") weights[2][0],
                    in("ymm7") weights[2][1],
                    in("ymm8") weights[2][2],
                    inout("ymm9") sums[0],
                    inout("ymm10") sums[1],
                    inout("ymm11") sums[2],
                    inout("ymm12") sums[3],
                    out("ymm13") _,
                    options(pure, nostack, readonly),
                );
            }
            sums
        }
    };
}

/// [`windows`] one column apart, and two.
macro_rules! of_strides {
    ($every:ident, $every_other:ident, $load:ident) => {
        windows! { $every, $load, [p3 3, p5 5]
            ["{first}", "", [9: 0 3 6]]
            ["1", " + {p}", [9: 1 4 7] [10: 0 3 6]]
            ["1", " + {p} * 2", [9: 2 5 8] [10: 1 4 7] [11: 0 3 6]]
            ["1", " + {p3}", [10: 2 5 8] [11: 1 4 7] [12: 0 3 6]]
            ["1", " + {p} * 4", [11: 2 5 8] [12: 1 4 7]]
            ["{last}", " + {p5}", [12: 2 5 8]]
        }

        windows! { $every_other, $load, [p3 3, p5 5, p7 7]
            ["{first}", "", [9: 0 3 6]]
            ["1", " + {p}", [9: 1 4 7]]
            ["1", " + {p} * 2", [9: 2 5 8] [10: 0 3 6]]
            ["1", " + {p3}", [10: 1 4 7]]
            ["1", " + {p} * 4", [10: 2 5 8] [11: 0 3 6]]
            ["1", " + {p5}", [11: 1 4 7]]
            ["1", " + {p3} * 2", [11: 2 5 8] [12: 0 3 6]]
            ["1", " + {p7}", [12: 1 4 7]]
            ["{last}", " + {p} * 8", [12: 2 5 8]]
        }
    };
}

of_strides!(every_f32, every_other_f32, load_f32);
of_strides!(every_bf16, every_other_bf16, load_bf16);
of_strides!(every_f16, every_other_f16, load_f16);
