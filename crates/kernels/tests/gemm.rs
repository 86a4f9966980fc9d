//! Matrix products against the f64 oracle.

mod support;

use mobilenet_kernels::gemm::{
    Ahead, Epilogue, MatrixMut, MatrixRef, PackedB, Unpacked, column_blocks, column_step, gemm,
    gemm_accumulate, gemm_ahead, gemm_transposed, gemm_transposed_blocks, padded_stride, transposed_blocks,
};
use mobilenet_kernels::parallel::Pool;
use mobilenet_kernels::{Clamp, Isa};
use mobilenet_reference::{activation, dense, magnitudes, widen};
use proptest::prelude::*;
use support::{CHANNELS, Random, SENTINEL, assert_within, on_every_isa, with_gaps, without_gaps};

/// More rows than two of the tallest tiles have.
const ROWS: std::ops::RangeInclusive<usize> = 1..=29;

/// Which epilogue a product ends with.
#[derive(Clone, Copy, Debug)]
enum End {
    Plain,
    Bias,
    Clamped,
    /// With bounds of their own for every column.
    Lowered,
}

const ENDS: [End; 4] = [End::Plain, End::Bias, End::Clamped, End::Lowered];

fn epilogue<'a>(end: End, bias: &'a [f32], lowered: &'a [f32]) -> Epilogue<'a> {
    // Narrow enough that both ends are met.
    let clamp = Clamp { low: 0.0, high: 0.75 };
    match end {
        End::Plain => Epilogue::default(),
        End::Bias => Epilogue { bias: Some(bias), clamp: None, lowered: None },
        End::Clamped => Epilogue { bias: Some(bias), clamp: Some(clamp), lowered: None },
        End::Lowered => Epilogue { bias: Some(bias), clamp: Some(clamp), lowered: Some(lowered) },
    }
}

/// One product, with gaps between the rows of A and C, against the oracle.
fn check_product(isa: Isa, rows: usize, k: usize, n: usize, end: End, seed: u64) {
    let what = format!("{} {rows}x{k}x{n} {end:?}", isa.name());
    let mut random = Random(seed);
    let (a, weight, bias) = (random.values(rows * k), random.values(n * k), random.values(n));
    let lowered = random.values(n);
    let (a_stride, c_stride) = (k + seed as usize % 3, n + seed as usize % 5);
    let spread = with_gaps(&a, k, a_stride, f32::NAN);

    let mut packed = PackedB::new(isa, k, n);
    packed.pack_transposed(&weight);
    let mut c = vec![SENTINEL; rows * c_stride];
    gemm(
        MatrixRef::new(&spread, rows, k, a_stride),
        &packed,
        0,
        MatrixMut::new(&mut c, rows, n, c_stride),
        epilogue(end, &bias, &lowered),
    );
    let found = without_gaps(&c, rows, n, c_stride);

    let bias = if matches!(end, End::Plain) { vec![0.0; n] } else { widen(&bias) };
    let (a, weight) = (widen(&a), widen(&weight));
    let mut exact = dense::linear(&a, &weight, &bias, k);
    let magnitude = dense::linear(&magnitudes(&a), &magnitudes(&weight), &magnitudes(&bias), k);
    if matches!(end, End::Clamped) {
        // Clamping brings values nearer, never further apart.
        exact = activation::relu(&exact, Some(0.75));
    }
    if matches!(end, End::Lowered) {
        for (exact, &by) in exact.iter_mut().zip(lowered.iter().cycle()) {
            // (The bounds are f32.)
            *exact = exact.clamp(f64::from(0.0 - by), f64::from(0.75 - by));
        }
    }
    // Each product and addition rounds once at most; the bias is one term more, and so is each
    // partial sum that passes through C.
    assert_within(&what, &found, &exact, &magnitude, k + k.div_ceil(384) + 3);
}

#[test]
fn tile_edges() {
    on_every_isa(|isa| {
        for rows in ROWS {
            for (i, n) in CHANNELS.into_iter().enumerate() {
                let k = CHANNELS[(i * 7 + rows) % CHANNELS.len()];
                let end = ENDS[(rows + i) % ENDS.len()];
                check_product(isa, rows, k, n, end, (rows * 100 + n) as u64);
            }
        }
    });
}

/// Columns of several panels, which a tile may take some of two of, and rows enough for that, or just not.
#[test]
fn several_panels() {
    on_every_isa(|isa| {
        for (i, rows) in [18, 19, 27, 28, 29, 46, 56].into_iter().enumerate() {
            for (j, n) in [64, 70, 96, 97, 128, 144, 160, 192, 200, 256, 300].into_iter().enumerate() {
                let k = [1, 6, 27, 35, 70][(i + j) % 5];
                check_product(isa, rows, k, n, ENDS[(i + 2 * j) % ENDS.len()], (rows * 1000 + n) as u64);
            }
        }
        for (i, n) in [64, 96, 160, 200].into_iter().enumerate() {
            check_product(isa, 30, 700, n, ENDS[i], n as u64);
        }
    });
}

#[test]
fn long_sums_cross_blocks() {
    on_every_isa(|isa| {
        for k in [383, 384, 385, 767, 768, 769, 1024, 2000] {
            for (rows, n) in [(1, 1), (7, 17), (15, 33)] {
                for end in ENDS {
                    check_product(isa, rows, k, n, end, k as u64);
                }
            }
        }
    });
}

/// A sum in two parts, the second of which ends it.
#[test]
fn products_are_added_to_what_is_there() {
    on_every_isa(|isa| {
        for (rows, k, n) in [(1, 96, 1000), (1, 7, 70), (5, 40, 33), (30, 20, 170), (29, 600, 96)] {
            let what = format!("{} {rows}x{k}x{n} added", isa.name());
            let mut random = Random((rows * k + n) as u64);
            let first = 1 + k / 3;
            let (a, weight, bias) = (random.values(rows * k), random.values(n * k), random.values(n));
            let mut c = vec![SENTINEL; rows * n];
            let whole = MatrixRef::new(&a, rows, k, k);
            for steps in [0..first, first..k] {
                let rows_of: Vec<f32> =
                    weight.chunks_exact(k).flat_map(|row| row[steps.clone()].to_vec()).collect();
                let mut packed = PackedB::new(isa, steps.len(), n);
                packed.pack_transposed(&rows_of);
                let (a, c) = (whole.some_columns(steps.clone()), MatrixMut::new(&mut c, rows, n, n));
                match steps.start {
                    0 => gemm(a, &packed, 0, c, Epilogue::default()),
                    _ => gemm_accumulate(a, &packed, 0, c, epilogue(End::Clamped, &bias, &[])),
                }
            }
            let (a, weight, bias) = (widen(&a), widen(&weight), widen(&bias));
            let exact = activation::relu(&dense::linear(&a, &weight, &bias, k), Some(0.75));
            let magnitude = dense::linear(&magnitudes(&a), &magnitudes(&weight), &magnitudes(&bias), k);
            assert_within(&what, &c, &exact, &magnitude, k + k.div_ceil(384) + 4);
        }
    });
}

#[test]
fn empty_products_are_the_bias() {
    on_every_isa(|isa| {
        let packed = PackedB::new(isa, 0, 5);
        let bias = [1.0, -2.0, 3.0, -4.0, 5.0];
        let mut c = [SENTINEL; 10];
        let end = Epilogue { bias: Some(&bias), clamp: None, lowered: None };
        gemm(MatrixRef::new(&[], 2, 0, 0), &packed, 0, MatrixMut::new(&mut c, 2, 5, 5), end);
        assert_eq!(c, [1.0, -2.0, 3.0, -4.0, 5.0, 1.0, -2.0, 3.0, -4.0, 5.0]);
        let mut none = [SENTINEL; 5];
        gemm(MatrixRef::new(&[], 0, 0, 0), &packed, 0, MatrixMut::new(&mut none, 0, 5, 5), end);
        assert_eq!(none, [SENTINEL; 5]);
    });
}

#[test]
fn the_three_ways_to_pack_agree() {
    on_every_isa(|isa| {
        for (k, n) in [(1, 1), (3, 17), (9, 8), (20, 33)] {
            let mut random = Random(3);
            let (a, b) = (random.values(4 * k), random.values(k * n));
            let transposed: Vec<f32> = (0..n * k).map(|i| b[(i % k) * n + i / k]).collect();
            let product = |packed: &PackedB| {
                assert_eq!((packed.k(), packed.n()), (k, n));
                let mut c = vec![0.0; 4 * n];
                let out = MatrixMut::new(&mut c, 4, n, n);
                gemm(MatrixRef::new(&a, 4, k, k), packed, 0, out, Epilogue::default());
                c
            };
            let mut packed = PackedB::new(isa, k, n);
            packed.pack(&b);
            let plain = product(&packed);
            packed.pack_transposed(&transposed);
            assert_eq!(product(&packed), plain);
            packed.pack_with(|row, column| b[row * n + column]);
            assert_eq!(product(&packed), plain);
        }
    });
}

#[test]
fn a_matrix_is_packed_again_by_several_threads() {
    let mut pool = Pool::new(3).unwrap();
    on_every_isa(|isa| {
        let mut again = PackedB::new(isa, 30, 150);
        again.pack_with(|_, _| f32::NAN);
        for (k, n) in [(1, 1), (70, 33), (9, 130), (150, 40), (0, 3)] {
            let b = Random(3).values(k * n);
            let mut fresh = PackedB::new(isa, k, n);
            fresh.pack(&b);
            again.reshape(k, n);
            again.pack_on(&mut pool, Unpacked::Rows(&b));
            assert_eq!(again.panels(0), fresh.panels(0), "{} {k}x{n}", isa.name());
            fresh.pack_transposed(&b);
            again.pack_on(&mut pool, Unpacked::Columns(&b));
            assert_eq!(again.panels(0), fresh.panels(0), "{} {k}x{n} transposed", isa.name());
            again.pack_with(|_, _| f32::NAN);
        }
    });
}

#[test]
fn bits_do_not_depend_on_how_the_work_is_cut() {
    on_every_isa(|isa| {
        let (rows, k, n) = (61, 600, 170);
        let mut random = Random(4);
        let (a, b, bias) = (random.values(rows * k), random.values(k * n), random.values(n));
        let mut packed = PackedB::new(isa, k, n);
        packed.pack(&b);
        let end = epilogue(End::Clamped, &bias, &[]);
        let mut whole = vec![0.0; rows * n];
        gemm(MatrixRef::new(&a, rows, k, k), &packed, 0, MatrixMut::new(&mut whole, rows, n, n), end);

        for cut in (1..rows).step_by(4) {
            let mut parts = vec![0.0; rows * n];
            let (above, below) = parts.split_at_mut(cut * n);
            gemm(MatrixRef::new(&a, cut, k, k), &packed, 0, MatrixMut::new(above, cut, n, n), end);
            let rest = MatrixRef::new(&a[cut * k..], rows - cut, k, k);
            gemm(rest, &packed, 0, MatrixMut::new(below, rows - cut, n, n), end);
            assert!(parts == whole, "{} cut after row {cut}", isa.name());
        }

        for threads in [1, 3] {
            let mut pool = Pool::new(threads).unwrap();
            let block = column_step(isa);
            let mut parts = vec![0.0; rows * n];
            let mut scratch = vec![(); threads];
            pool.run(
                n.div_ceil(block),
                &mut scratch,
                column_blocks(&mut parts, (n, n), block),
                |item, (), c| {
                    gemm(MatrixRef::new(&a, rows, k, k), &packed, item * block, c, end);
                },
            );
            assert!(parts == whole, "{} in blocks of columns", isa.name());
        }
    });
}

/// C += Aᵀ·B, with NaN in B's slack and gaps between the rows of C.
fn check_transposed(isa: Isa, rows: usize, m: usize, n: usize, seed: u64) {
    let what = format!("{} transposed {rows}x{m}x{n}", isa.name());
    let mut random = Random(seed);
    let (a, b, before) = (random.values(rows * m), random.values(rows * n), random.values(m * n));
    let (a_stride, c_stride) = (m + seed as usize % 3, n + seed as usize % 4);
    let b_stride = padded_stride(isa, n) + seed as usize % 2 * 16;
    assert!(b_stride >= n);
    let spread_a = with_gaps(&a, m, a_stride, f32::NAN);
    let spread_b = with_gaps(&b, n, b_stride, f32::NAN);
    let mut c = with_gaps(&before, n, c_stride, SENTINEL);
    gemm_transposed(
        isa,
        MatrixRef::new(&spread_a, rows, m, a_stride),
        MatrixRef::new(&spread_b, rows, n, b_stride),
        (MatrixMut::new(&mut c, m, n, c_stride), true),
        Ahead::of([&spread_a, &[]]),
    );
    let found = without_gaps(&c, m, n, c_stride);

    // In blocks of columns it is the same.
    let blocks = transposed_blocks(isa, m, n);
    let starts = std::iter::once(0).chain(blocks.iter().map(|block| block.end));
    assert!(blocks.iter().map(|block| block.start).eq(starts.take(blocks.len())), "{what}: {blocks:?}");
    assert!(blocks.last().is_some_and(|last| last.end == n), "{what}: {blocks:?}");
    let block_of = |column: usize| blocks.iter().find(|block| block.contains(&column)).unwrap();
    let at = |row: usize, column: usize| {
        let block = block_of(column);
        block.start * m + row * block.len() + column - block.start
    };
    let mut c = vec![SENTINEL; m * n];
    for (index, &value) in before.iter().enumerate() {
        c[at(index / n, index % n)] = value;
    }
    let product = |c: &mut [f32], accumulate: bool| {
        gemm_transposed_blocks(
            isa,
            MatrixRef::new(&spread_a, rows, m, a_stride),
            MatrixRef::new(&spread_b, rows, n, b_stride),
            (c, accumulate),
            Ahead::of([&spread_a, &[]]),
        );
    };
    product(&mut c, true);
    let in_blocks: Vec<f32> = (0..m * n).map(|index| c[at(index / n, index % n)]).collect();
    assert!(in_blocks == found, "{what}: other bits in blocks");

    // What is not added to need not be there.
    let (mut zeros, mut nothing) = (vec![0.0; m * n], vec![f32::NAN; m * n]);
    product(&mut zeros, true);
    product(&mut nothing, false);
    assert!(zeros == nothing, "{what}: other bits where nothing is added to");

    let (a, b, before) = (widen(&a), widen(&b), widen(&before));
    // The gradient of a weight [out, in] from x [rows, in] and d [rows, out].
    let mut exact = dense::pointwise_d_weight(&b, &a, n, m);
    let mut magnitude = dense::pointwise_d_weight(&magnitudes(&b), &magnitudes(&a), n, m);
    for ((exact, magnitude), before) in exact.iter_mut().zip(&mut magnitude).zip(before) {
        *exact += before;
        *magnitude += before.abs();
    }
    assert_within(&what, &found, &exact, &magnitude, rows + 3);
}

#[test]
fn what_is_asked_for_ahead_changes_nothing() {
    on_every_isa(|isa| {
        let (m, k, n) = (30, 400, 300);
        let mut random = Random(3);
        let (a, next) = (random.values(m * k), random.values(1000));
        let mut b = PackedB::new(isa, k, n);
        b.pack(&random.values(k * n));
        let mut expected = vec![0.0; m * n];
        let a = MatrixRef::new(&a, m, k, k);
        gemm(a, &b, 0, MatrixMut::new(&mut expected, m, n, n), Epilogue::default());
        for (first, second) in [(0, 1000), (1000, 0), (1, 999), (500, 500), (3, 0), (0, 0)] {
            let ahead = Ahead::of([&next[..first], &next[..second]]);
            let mut found = vec![0.0; m * n];
            let c = MatrixMut::new(&mut found, m, n, n);
            gemm_ahead(a, &b, 0, c, Epilogue::default(), ahead);
            assert_eq!(found, expected, "{}", isa.name());
        }
        // What is behind some of the columns: as many, fewer, or nothing.
        let step = column_step(isa);
        for block in [step, 2 * step, 3 * step, n.next_multiple_of(step)] {
            let mut found = vec![0.0; m * n];
            for first in (0..n).step_by(block) {
                let columns = block.min(n - first);
                let c = MatrixMut::new(&mut found[first..], m, columns, n);
                let ahead = Ahead { columns: true, ..Ahead::default() };
                gemm_ahead(a, &b, first, c, Epilogue::default(), ahead);
            }
            assert_eq!(found, expected, "{} in blocks of {block}", isa.name());
        }
    });
}

#[test]
fn transposed_products() {
    on_every_isa(|isa| {
        for m in ROWS {
            for (i, n) in CHANNELS.into_iter().enumerate() {
                check_transposed(isa, 1 + (m * 5 + i * 3) % 40, m, n, (m * 100 + n) as u64);
            }
        }
        check_transposed(isa, 1000, 33, 17, 7);
        for (i, m) in [18, 19, 28, 45].into_iter().enumerate() {
            for n in [64, 96, 128, 170, 256] {
                check_transposed(isa, [1, 7, 24, 50][i], m, n, (m * 100 + n) as u64);
            }
        }
    });
}

#[test]
fn transposed_products_refuse_rows_without_slack() {
    on_every_isa(|isa| {
        let values = vec![0.0; 64];
        let mut c = vec![0.0; 3];
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            gemm_transposed(
                isa,
                MatrixRef::new(&values, 2, 1, 1),
                MatrixRef::new(&values, 2, 3, 3),
                (MatrixMut::new(&mut c, 1, 3, 3), true),
                Ahead::default(),
            );
        }));
        assert!(panic.is_err(), "{} read beyond the rows of B", isa.name());
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_product(rows in 0usize..40, k in 1usize..500, n in 1usize..80, end in 0usize..4, seed: u64) {
        for isa in Isa::testable() {
            check_product(isa, rows, k, n, ENDS[end], seed >> 1);
        }
    }

    #[test]
    fn any_transposed_product(rows in 1usize..300, m in 1usize..40, n in 1usize..80, seed: u64) {
        for isa in Isa::testable() {
            check_transposed(isa, rows, m, n, seed >> 1);
        }
    }
}
