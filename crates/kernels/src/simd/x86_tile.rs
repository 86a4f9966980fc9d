//! The loop of a GEMM tile in assembly, the same for the vectors of AVX2 and of AVX-512.
//!
//! Left to the compiler, each row of A gets a pointer of its own, most of which do not fit into the
//! registers and are loaded from the stack in every step; and how far it is from one prefetch to the
//! next is divided anew in every step. Here three pointers reach all rows.

use std::arch::x86_64::*;

use super::{TileWalk, VALUE};

/// A row of a tile in step `$k` from where the pointers are: its value of A, at `$a`, into each of its sums.
macro_rules! add_row {
    ($with:tt, $k:literal, $row:literal, $a:literal, $sums:tt) => {
        add_row!($with, $k, if ("{rows} > ", $row), $a, $sums)
    };
    (
        ($multiply:tt $v:tt [$($columns:tt)*] $scalar:tt), $k:literal,
        if ($($condition:tt)*), $a:literal, [$($sum:literal)*]
    ) => {
        concat!(
            ".if ",
            $($condition)*,
            "\n",
            "vbroadcastss ",
            $scalar,
            ", dword ptr [",
            $a,
            " + 4 * ",
            $k,
            "]\n",
            $($multiply, " ", $v, $sum, ", ", $scalar, ", ", $columns, "\n",)*
            ".endif\n",
        )
    };
}

/// [`add_row`] of a tile of two vectors.
macro_rules! row {
    (($multiply:tt $v:tt $columns:tt $more:tt $scalar:tt), $k:literal, $row:literal, $a:literal, $left:literal, $right:literal) => {
        row!(($multiply $v $columns $more $scalar), $k, $row, if ("{rows} > ", $row), $a, $left, $right)
    };
    (($multiply:tt $v:tt $columns:tt $more:tt $scalar:tt), $k:literal, $row:literal, if $condition:tt, $a:literal, $left:literal, $right:literal) => {
        add_row!(($multiply $v [$columns $more] $scalar), $k, if $condition, $a, [$left $right])
    };
}

/// [`add_row`] of a tile of one vector.
macro_rules! row_of_one {
    (($multiply:tt $v:tt $columns:tt $more:tt $scalar:tt), $k:literal, $row:literal, $a:literal, $left:literal, $right:literal) => {
        add_row!(($multiply $v [$columns] $scalar), $k, $row, $a, [$row])
    };
    (($multiply:tt $v:tt $columns:tt $more:tt $scalar:tt), $k:literal, $row:literal, if $condition:tt, $a:literal, $left:literal, $right:literal) => {
        add_row!(($multiply $v [$columns] $scalar), $k, if $condition, $a, [$row])
    };
}

/// Step `$k` from where the pointers are: a row of B and a column of A.
macro_rules! step {
    ($row:ident ($multiply:tt $v:tt [$columns:tt $more:tt] $scalar:tt), $k:literal) => {
        concat!(
            "vmovups ",
            $columns,
            ", [{b} + {pitch} * ",
            $k,
            "]\n",
            ".if {vectors} > 1\n",
            "vmovups ",
            $more,
            ", [{b} + {pitch} * ",
            $k,
            " + {bytes}]\n",
            ".endif\n",
            $row!(($multiply $v $columns $more $scalar), $k, 0, "{p0}", 0, 1),
            $row!(($multiply $v $columns $more $scalar), $k, 1, "{p0} + {row}", 2, 3),
            $row!(($multiply $v $columns $more $scalar), $k, 2, "{p0} + {row} * 2", 4, 5),
            $row!(($multiply $v $columns $more $scalar), $k, 3, "{p0} + {row3}", 6, 7),
            $row!(($multiply $v $columns $more $scalar), $k, 4, "{p0} + {row} * 4", 8, 9),
            $row!(($multiply $v $columns $more $scalar), $k, 5, if ("{rows} == 6"), "{p0} + {p5}", 10, 11),
            $row!(($multiply $v $columns $more $scalar), $k, 5, if ("{rows} > 6"), "{p5}", 10, 11),
            $row!(($multiply $v $columns $more $scalar), $k, 6, "{p5} + {row}", 12, 13),
            $row!(($multiply $v $columns $more $scalar), $k, 7, "{p5} + {row} * 2", 14, 15),
            $row!(($multiply $v $columns $more $scalar), $k, 8, "{p5} + {row3}", 16, 17),
            $row!(($multiply $v $columns $more $scalar), $k, 9, "{p5} + {row} * 4", 18, 19),
            $row!(($multiply $v $columns $more $scalar), $k, 10, "{p10}", 20, 21),
            $row!(($multiply $v $columns $more $scalar), $k, 11, "{p10} + {row}", 22, 23),
            $row!(($multiply $v $columns $more $scalar), $k, 12, "{p10} + {row} * 2", 24, 25),
            $row!(($multiply $v $columns $more $scalar), $k, 13, "{p10} + {row3}", 26, 27),
        )
    };
}

/// [`step`] of a tile of three vectors: those of a panel, and one `{p10}` from there.
macro_rules! step_of_three {
    (($multiply:tt $v:tt [$first:tt $second:tt $third:tt] $scalar:tt), $k:literal) => {
        step_of_three!(@ $first $second $third, $k, ($multiply $v [$first $second $third] $scalar))
    };
    (@ $first:tt $second:tt $third:tt, $k:literal, $with:tt) => {
        concat!(
            "vmovups ", $first, ", [{b} + {pitch} * ", $k, "]\n",
            "vmovups ", $second, ", [{b} + {pitch} * ", $k, " + {bytes}]\n",
            "vmovups ", $third, ", [{b} + {p10} + {pitch} * ", $k, "]\n",
            add_row!($with, $k, 0, "{p0}", [0 1 2]),
            add_row!($with, $k, 1, "{p0} + {row}", [3 4 5]),
            add_row!($with, $k, 2, "{p0} + {row} * 2", [6 7 8]),
            add_row!($with, $k, 3, "{p0} + {row3}", [9 10 11]),
            add_row!($with, $k, 4, "{p0} + {row} * 4", [12 13 14]),
            add_row!($with, $k, 5, "{p5}", [15 16 17]),
            add_row!($with, $k, 6, "{p5} + {row}", [18 19 20]),
            add_row!($with, $k, 7, "{p5} + {row} * 2", [21 22 23]),
            add_row!($with, $k, 8, "{p5} + {row3}", [24 25 26]),
        )
    };
}

/// [`step`] of a tile of four vectors: those of a panel, and two `{p10}` from there.
macro_rules! step_of_four {
    (($multiply:tt $v:tt [$first:tt $second:tt $third:tt $fourth:tt] $scalar:tt), $k:literal) => {
        step_of_four!(@ $first $second $third $fourth, $k, ($multiply $v [$first $second $third $fourth] $scalar))
    };
    (@ $first:tt $second:tt $third:tt $fourth:tt, $k:literal, $with:tt) => {
        concat!(
            "vmovups ", $first, ", [{b} + {pitch} * ", $k, "]\n",
            "vmovups ", $second, ", [{b} + {pitch} * ", $k, " + {bytes}]\n",
            "vmovups ", $third, ", [{b} + {p10} + {pitch} * ", $k, "]\n",
            "vmovups ", $fourth, ", [{b} + {p10} + {pitch} * ", $k, " + {bytes}]\n",
            add_row!($with, $k, 0, "{p0}", [0 1 2 3]),
            add_row!($with, $k, 1, "{p0} + {row}", [4 5 6 7]),
            add_row!($with, $k, 2, "{p0} + {row} * 2", [8 9 10 11]),
            add_row!($with, $k, 3, "{p0} + {row3}", [12 13 14 15]),
            add_row!($with, $k, 4, "{p0} + {row} * 4", [16 17 18 19]),
            add_row!($with, $k, 5, "{p5}", [20 21 22 23]),
        )
    };
}

/// Asks for what comes in one step.
macro_rules! ask {
    () => {
        concat!("prefetcht1 [{ahead}]\n", "add {ahead}, [{pace}]\n")
    };
}

/// Moves the pointers to rows of A on by `$bytes`.
macro_rules! go_on {
    ($bytes:literal) => {
        concat!(
            "add {p0}, ",
            $bytes,
            "\n",
            ".if {rows} > 6 || {vectors} > 2\n",
            "add {p5}, ",
            $bytes,
            "\n",
            ".endif\n",
            ".if {rows} > 10 && {vectors} < 3\n",
            "add {p10}, ",
            $bytes,
            "\n",
            ".endif\n",
        )
    };
}

/// Defines the function; `clear` is the exclusive or of registers, `multiply` adds products to sums.
macro_rules! sums {
    (
        name: $name:ident, vectors: $vectors:literal of $step:ident $($row:ident)?,
        features: $features:tt,
        vector: $vector:ty, $zero:path, $v:tt, $lanes:literal,
        clear: $clear:tt, multiply: $multiply:tt,
        sums: $count:literal, [$($sum:literal $register:tt),*],
        columns: [$($columns:tt)*],
        scalar: $scalar:tt,
    ) => {
        /// The sums of a tile, of which the first `VECTORS` vectors of columns are wanted; rows of a panel of B
        /// are usually `PITCH` bytes apart.
        ///
        /// # Safety
        /// The instruction set must be present, and the walk's matrices there.
        #[inline]
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<const ROWS: usize, const VECTORS: usize, const PITCH: usize>(
            walk: TileWalk,
        ) -> [[$vector; VECTORS]; ROWS] {
            debug_assert!($vectors * ROWS <= $count && VECTORS <= $vectors);
            if walk.pace.steps() == 0 || walk.segments.is_empty() {
                return [[$zero(); VECTORS]; ROWS];
            }
            let mut sums = [$zero(); $count];
            // SAFETY: the caller's promises; prefetching touches nothing.
            unsafe {
                std::arch::asm!(
                    $(concat!($clear, " ", $register, ", ", $register, ", ", $register),)*
                    // A segment.
                    "2:",
                    "mov {p0}, [{segment}]",
                    "add {p0}, [{pace} + 16]",
                    ".if {rows} == 6 && {vectors} < 3",
                    "lea {p5}, [{row} + {row} * 4]",
                    ".else",
                    "lea {p5}, [{p0} + {row} * 4]",
                    "add {p5}, {row}",
                    ".endif",
                    ".if {vectors} < 3",
                    "lea {p10}, [{p5} + {row} * 4]",
                    "add {p10}, {row}",
                    ".endif",
                    "mov {left}, [{pace} + 32]",
                    "test {left}, {left}",
                    "jz 7f",
                    // Eight steps.
                    ".p2align 4",
                    "3:",
                    $step!($($row)? ($multiply $v [$($columns)*] $scalar), 0),
                    $step!($($row)? ($multiply $v [$($columns)*] $scalar), 1),
                    "prefetcht1 [{ahead}]",
                    "add {ahead}, [{pace} + 64]",
                    $step!($($row)? ($multiply $v [$($columns)*] $scalar), 2),
                    $step!($($row)? ($multiply $v [$($columns)*] $scalar), 3),
                    $step!($($row)? ($multiply $v [$($columns)*] $scalar), 4),
                    $step!($($row)? ($multiply $v [$($columns)*] $scalar), 5),
                    "prefetcht1 [{ahead}]",
                    "add {ahead}, [{pace} + 64]",
                    $step!($($row)? ($multiply $v [$($columns)*] $scalar), 6),
                    "prefetcht1 [{next}]",
                    "add {next}, [{pace} + 72]",
                    $step!($($row)? ($multiply $v [$($columns)*] $scalar), 7),
                    go_on!(32),
                    "add {b}, 8 * {pitch}",
                    "dec {left}",
                    "jnz 3b",
                    "7:",
                    "mov {left}, [{pace} + 40]",
                    "test {left}, {left}",
                    "jz 4f",
                    // Four steps.
                    ".p2align 4",
                    "8:",
                    $step!($($row)? ($multiply $v [$($columns)*] $scalar), 0),
                    ask!(),
                    $step!($($row)? ($multiply $v [$($columns)*] $scalar), 1),
                    ask!(),
                    "prefetcht1 [{next}]",
                    "add {next}, [{pace} + 8]",
                    "add {next}, [{pace} + 8]",
                    $step!($($row)? ($multiply $v [$($columns)*] $scalar), 2),
                    ask!(),
                    $step!($($row)? ($multiply $v [$($columns)*] $scalar), 3),
                    ask!(),
                    "prefetcht1 [{next}]",
                    "add {next}, [{pace} + 8]",
                    "add {next}, [{pace} + 8]",
                    go_on!(16),
                    "add {b}, 4 * {pitch}",
                    "dec {left}",
                    "jnz 8b",
                    // Four steps further apart.
                    "4:",
                    "mov {left}, [{pace} + 80]",
                    "test {left}, {left}",
                    "jz 14f",
                    ".p2align 4",
                    "9:",
                    $step!($($row)? ($multiply $v [$($columns)*] $scalar), 0),
                    go_on!("{step}"),
                    "add {b}, [{pace} + 24]",
                    $step!($($row)? ($multiply $v [$($columns)*] $scalar), 0),
                    "prefetcht1 [{ahead}]",
                    "add {ahead}, [{pace} + 64]",
                    go_on!("{step}"),
                    "add {b}, [{pace} + 24]",
                    $step!($($row)? ($multiply $v [$($columns)*] $scalar), 0),
                    go_on!("{step}"),
                    "add {b}, [{pace} + 24]",
                    $step!($($row)? ($multiply $v [$($columns)*] $scalar), 0),
                    "prefetcht1 [{next}]",
                    "add {next}, [{pace} + 88]",
                    go_on!("{step}"),
                    "add {b}, [{pace} + 24]",
                    "dec {left}",
                    "jnz 9b",
                    // What is left, one by one.
                    "14:",
                    "mov {left}, [{pace} + 48]",
                    "test {left}, {left}",
                    "jz 6f",
                    "5:",
                    $step!($($row)? ($multiply $v [$($columns)*] $scalar), 0),
                    ask!(),
                    "prefetcht1 [{next}]",
                    "add {next}, [{pace} + 8]",
                    go_on!("{step}"),
                    "add {b}, [{pace} + 24]",
                    "dec {left}",
                    "jnz 5b",
                    "6:",
                    "add {segment}, 8",
                    "cmp {segment}, [{pace} + 56]",
                    "jne 2b",
                    rows = const ROWS,
                    vectors = const $vectors,
                    bytes = const $lanes * VALUE,
                    pitch = const PITCH,
                    segment = inout(reg) walk.segments.as_ptr() => _,
                    pace = in(reg) walk.pace,
                    step = in(reg) walk.pace.a_step,
                    row = in(reg) walk.a_row,
                    row3 = in(reg) 3 * walk.a_row,
                    b = inout(reg) walk.b => _,
                    ahead = inout(reg) walk.ahead => _,
                    next = inout(reg) walk.next => _,
                    p0 = out(reg) _,
                    p5 = out(reg) _,
                    p10 = inout(reg) walk.others => _,
                    left = out(reg) _,
                    $(out($columns) _,)*
                    out($scalar) _,
                    $(out($register) sums[$sum],)*
                    options(nostack, readonly),
                );
            }
            let mut found = [[$zero(); VECTORS]; ROWS];
            for (found, sums) in found.iter_mut().zip(sums.chunks_exact($vectors)) {
                found.copy_from_slice(&sums[..VECTORS]);
            }
            found
        }
    };
}

sums! {
    name: in_ymm, vectors: 2 of step row,
    features: "avx2,fma",
    vector: __m256, _mm256_setzero_ps, "ymm", 8,
    clear: "vpxor", multiply: "vfmadd231ps",
    sums: 12, [
        0 "ymm0", 1 "ymm1", 2 "ymm2", 3 "ymm3", 4 "ymm4", 5 "ymm5", 6 "ymm6", 7 "ymm7", 8 "ymm8", 9 "ymm9",
        10 "ymm10", 11 "ymm11"
    ],
    columns: ["ymm12" "ymm13"],
    scalar: "ymm14",
}

// Half of AVX-512's vectors, too, which some processors take two of for one of those.
sums! {
    name: in_one_ymm, vectors: 1 of step row_of_one,
    features: "avx2,fma",
    vector: __m256, _mm256_setzero_ps, "ymm", 8,
    clear: "vpxor", multiply: "vfmadd231ps",
    sums: 12, [
        0 "ymm0", 1 "ymm1", 2 "ymm2", 3 "ymm3", 4 "ymm4", 5 "ymm5", 6 "ymm6", 7 "ymm7", 8 "ymm8", 9 "ymm9",
        10 "ymm10", 11 "ymm11"
    ],
    columns: ["ymm12" "ymm13"],
    scalar: "ymm14",
}

/// [`sums`] in the registers of AVX-512.
macro_rules! sums_in_zmm {
    ($name:ident, $of_three:ident, $of_four:ident, $features:tt, $multiply:tt) => {
        sums! {
            name: $name, vectors: 2 of step row,
            features: $features,
            vector: __m512, _mm512_setzero_ps, "zmm", 16,
            clear: "vpxord", multiply: $multiply,
            sums: 28, [
                0 "zmm0", 1 "zmm1", 2 "zmm2", 3 "zmm3", 4 "zmm4", 5 "zmm5", 6 "zmm6", 7 "zmm7", 8 "zmm8",
                9 "zmm9", 10 "zmm10", 11 "zmm11", 12 "zmm12", 13 "zmm13", 14 "zmm14", 15 "zmm15", 16 "zmm16",
                17 "zmm17", 18 "zmm18", 19 "zmm19", 20 "zmm20", 21 "zmm21", 22 "zmm22", 23 "zmm23", 24 "zmm24",
                25 "zmm25", 26 "zmm26", 27 "zmm27"
            ],
            columns: ["zmm28" "zmm29"],
            scalar: "zmm30",
        }

        sums! {
            name: $of_three, vectors: 3 of step_of_three,
            features: $features,
            vector: __m512, _mm512_setzero_ps, "zmm", 16,
            clear: "vpxord", multiply: $multiply,
            sums: 27, [
                0 "zmm0", 1 "zmm1", 2 "zmm2", 3 "zmm3", 4 "zmm4", 5 "zmm5", 6 "zmm6", 7 "zmm7", 8 "zmm8",
                9 "zmm9", 10 "zmm10", 11 "zmm11", 12 "zmm12", 13 "zmm13", 14 "zmm14", 15 "zmm15", 16 "zmm16",
                17 "zmm17", 18 "zmm18", 19 "zmm19", 20 "zmm20", 21 "zmm21", 22 "zmm22", 23 "zmm23", 24 "zmm24",
                25 "zmm25", 26 "zmm26"
            ],
            columns: ["zmm27" "zmm28" "zmm29"],
            scalar: "zmm30",
        }

        sums! {
            name: $of_four, vectors: 4 of step_of_four,
            features: $features,
            vector: __m512, _mm512_setzero_ps, "zmm", 16,
            clear: "vpxord", multiply: $multiply,
            sums: 24, [
                0 "zmm0", 1 "zmm1", 2 "zmm2", 3 "zmm3", 4 "zmm4", 5 "zmm5", 6 "zmm6", 7 "zmm7", 8 "zmm8",
                9 "zmm9", 10 "zmm10", 11 "zmm11", 12 "zmm12", 13 "zmm13", 14 "zmm14", 15 "zmm15", 16 "zmm16",
                17 "zmm17", 18 "zmm18", 19 "zmm19", 20 "zmm20", 21 "zmm21", 22 "zmm22", 23 "zmm23"
            ],
            columns: ["zmm24" "zmm25" "zmm26" "zmm27"],
            scalar: "zmm28",
        }
    };
}

sums_in_zmm!(in_zmm, three_in_zmm, four_in_zmm, "avx512f,avx2,fma", "vfmadd231ps");
// Values of A and B are pairs of bf16.
sums_in_zmm!(
    pairs_in_zmm,
    three_pairs_in_zmm,
    four_pairs_in_zmm,
    "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma",
    "vdpbf16ps"
);
