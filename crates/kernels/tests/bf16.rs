//! Products of bf16 against the f64 product of the rounded operands.

#[path = "support/amx.rs"]
mod amx;
mod support;

use half::{bf16, f16};
use mobilenet_kernels::bf16::conv::{ConvFilter, convolve_rows};
use mobilenet_kernels::bf16::{
    PackedBf16, assume_few_tile_registers, column_step, gemm, gemm_transposed, padded_stride,
};
use mobilenet_kernels::conv::{ConvGeometry, Unpadded};
use mobilenet_kernels::depthwise::Present;
use mobilenet_kernels::gemm::{Epilogue, MatrixMut, MatrixRef, Unpacked, column_blocks};
use mobilenet_kernels::parallel::Pool;
use mobilenet_kernels::{Buffer, Clamp, Element, Isa};
use mobilenet_reference::{Geometry, Pads, conv, dense, magnitudes, widen};
use support::{Random, SENTINEL, assert_within, with_gaps, without_gaps};

/// Depths and widths around pairs, vectors and tiles.
const SIZES: [usize; 12] = [1, 2, 15, 16, 17, 31, 32, 33, 64, 100, 512, 560];

/// Everything that can be tested here, and AMX if need be by emulation.
fn every_isa() -> Vec<Isa> {
    let mut all = Isa::testable();
    all.extend(amx::isa().filter(|isa| !all.contains(isa)));
    all
}

/// What is computed by the way for many tile registers, which must be the same by the one for few.
fn either_way(what: &str, compute: impl Fn() -> Vec<f32>) -> Vec<f32> {
    let [many, few] = [false, true].map(|few| {
        assume_few_tile_registers(few);
        compute()
    });
    assert!(many == few, "{what}: other bits with few tile registers");
    many
}

fn rounded(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|&value| bf16::from_f32(value)).collect()
}

fn widened(values: &[bf16]) -> Vec<f32> {
    values.iter().map(|value| value.to_f32()).collect()
}

/// Rows of `k` values, `stride` apart, with NaN between them and nothing after the last one.
fn spread(values: &[bf16], k: usize, stride: usize) -> Vec<bf16> {
    let rows = values.len() / k;
    let mut spread = vec![bf16::NAN; (rows - 1) * stride + k];
    for (to, from) in spread.chunks_mut(stride).zip(values.chunks_exact(k)) {
        to[..k].copy_from_slice(from);
    }
    spread
}

/// The values of `packed`: its product with the unit matrix.
fn unpacked(packed: &PackedBf16) -> Vec<f32> {
    let (k, n) = (packed.k(), packed.n());
    let mut unit = vec![bf16::ZERO; k * k];
    unit.iter_mut().step_by(k + 1).for_each(|one| *one = bf16::ONE);
    let mut values = vec![SENTINEL; k * n];
    let c = MatrixMut::new(&mut values, k, n, n);
    gemm(MatrixRef::new(&unit, k, k, k), packed, 0, c, Epilogue::default());
    values
}

/// One product with every epilogue, with gaps between the rows of A and C, against the oracle.
fn check_product(isas: &[Isa], rows: usize, k: usize, n: usize, seed: u64) {
    let mut random = Random(seed);
    let a = rounded(&random.values(rows * k));
    let (weight, bias) = (random.values(n * k), random.values(n));
    // Narrow enough that both ends are met.
    let clamp = Clamp { low: 0.0, high: 0.75 };
    let lowered = random.values(n);
    let end = match seed % 4 {
        0 => Epilogue::default(),
        1 => Epilogue { bias: Some(&bias), clamp: None, lowered: None },
        2 => Epilogue { bias: Some(&bias), clamp: Some(clamp), lowered: None },
        _ => Epilogue { bias: Some(&bias), clamp: Some(clamp), lowered: Some(&lowered) },
    };

    let exact_bias = if end.bias.is_some() { widen(&bias) } else { vec![0.0; n] };
    let (exact_a, exact_weight) = (widen(&widened(&a)), widen(&widened(&rounded(&weight))));
    let mut exact = dense::linear(&exact_a, &exact_weight, &exact_bias, k);
    let magnitude =
        dense::linear(&magnitudes(&exact_a), &magnitudes(&exact_weight), &magnitudes(&exact_bias), k);
    if end.clamp.is_some() {
        for (i, exact) in exact.iter_mut().enumerate() {
            // Clamping brings values nearer, never further apart. (The bounds are f32.)
            let by = end.lowered.map_or(0.0, |lowered| lowered[i % n]);
            *exact = exact.clamp(f64::from(0.0 - by), f64::from(0.75 - by));
        }
    }

    for &isa in isas {
        let what = format!("{} {rows}x{k}x{n}", isa.name());
        let a_stride = if seed.is_multiple_of(2) { padded_stride(isa, k) } else { k + seed as usize % 5 };
        let c_stride = n + seed as usize % 3;
        let spread = spread(&a, k, a_stride);
        let a = MatrixRef::new(&spread, rows, k, a_stride);
        let mut packed = PackedBf16::new(isa, k, n);
        packed.pack_transposed(&weight);

        let found = either_way(&what, || {
            let mut c = vec![SENTINEL; rows * c_stride];
            gemm(a, &packed, 0, MatrixMut::new(&mut c, rows, n, c_stride), end);
            without_gaps(&c, rows, n, c_stride)
        });
        // Each product and addition rounds once at most; the bias is one term more, and the sums
        // of even and odd k come together in one more addition a step.
        assert_within(&what, &found, &exact, &magnitude, k + k.div_ceil(32) + 2);

        // In fewer bits it is the same number, rounded.
        check_rounded::<bf16>(&what, a, &packed, (n, c_stride), end, &found);
        check_rounded::<f16>(&what, a, &packed, (n, c_stride), end, &found);
    }
}

/// The product, `expected` in f32, with results of another type.
fn check_rounded<C: Element + PartialEq>(
    what: &str,
    a: MatrixRef<bf16>,
    packed: &PackedBf16,
    (n, stride): (usize, usize),
    end: Epilogue,
    expected: &[f32],
) {
    let sentinel = C::from_f32(SENTINEL);
    let rows = expected.len() / n;
    let mut c = vec![sentinel; rows * stride];
    gemm(a, packed, 0, MatrixMut::new(&mut c, rows, n, stride), end);
    for (i, c) in c.into_iter().enumerate() {
        let (row, column) = (i / stride, i % stride);
        let expected = if column < n { C::from_f32(expected[row * n + column]) } else { sentinel };
        // (By value: 0 and −0 are one.)
        let name = std::any::type_name::<C>();
        assert_eq!(c, expected, "{what} in {name}, row {row}, column {column}");
    }
}

#[test]
fn tile_edges() {
    let isas = every_isa();
    for rows in (1..=40).chain([49, 196]) {
        for (i, n) in SIZES.into_iter().enumerate() {
            let k = SIZES[(i * 7 + rows) % SIZES.len()];
            check_product(&isas, rows, k, n, (rows * 100 + n) as u64);
        }
    }
}

#[test]
fn long_sums() {
    let isas = every_isa();
    for k in [1023, 1024, 2001] {
        for (i, (rows, n)) in [(1, 1), (7, 17), (15, 33)].into_iter().enumerate() {
            check_product(&isas, rows, k, n, (k + i) as u64);
        }
    }
}

#[test]
fn empty_products_are_the_bias() {
    for isa in every_isa() {
        let packed = PackedBf16::new(isa, 0, 5);
        let bias = [1.0, -2.0, 3.0, -4.0, 5.0];
        let mut c = [SENTINEL; 10];
        let end = Epilogue { bias: Some(&bias), clamp: None, lowered: None };
        gemm(MatrixRef::new(&[], 2, 0, 0), &packed, 0, MatrixMut::new(&mut c, 2, 5, 5), end);
        assert_eq!(c, [1.0, -2.0, 3.0, -4.0, 5.0, 1.0, -2.0, 3.0, -4.0, 5.0]);
        // Several tile rows, of which the last two overlap.
        let mut c = [SENTINEL; 34 * 5];
        gemm(MatrixRef::new(&[], 34, 0, 0), &packed, 0, MatrixMut::new(&mut c, 34, 5, 5), end);
        assert!(c.chunks(5).all(|row| row == bias), "{}: {c:?}", isa.name());
        let mut none = [SENTINEL; 5];
        gemm(MatrixRef::new(&[], 0, 0, 0), &packed, 0, MatrixMut::new(&mut none, 0, 5, 5), end);
        assert_eq!(none, [SENTINEL; 5]);
    }
}

#[test]
fn every_way_to_pack_rounds_to_the_nearest() {
    for isa in every_isa() {
        for (k, n) in [(1, 1), (3, 17), (9, 8), (33, 40), (130, 70)] {
            let mut random = Random(3);
            let b = random.values(k * n);
            let transposed: Vec<f32> = (0..n * k).map(|i| b[(i % k) * n + i / k]).collect();
            let expected = widened(&rounded(&b));
            let mut packed = PackedBf16::new(isa, k, n);
            assert_eq!((packed.k(), packed.n()), (k, n));
            packed.pack(&b);
            assert_eq!(unpacked(&packed), expected, "{} {k}x{n}", isa.name());
            packed.pack_with(|_, _| 9.0);
            packed.pack_transposed(&transposed);
            assert_eq!(unpacked(&packed), expected, "{} {k}x{n} transposed", isa.name());
            packed.pack_with(|_, _| 9.0);
            packed.pack_with(|row, column| b[row * n + column]);
            assert_eq!(unpacked(&packed), expected, "{} {k}x{n} with a function", isa.name());

            let scale: Vec<f64> = random.positive(n).into_iter().map(|s| f64::from(s) / 3.0).collect();
            packed.pack_transposed_scaled(&transposed, &scale);
            for (i, found) in unpacked(&packed).into_iter().enumerate() {
                let exact = f64::from(b[i]) * scale[i % n];
                let error = (f64::from(found) - exact).abs();
                let bits = bf16::from_f32(found).to_bits();
                for neighbour in [bits - 1, bits + 1] {
                    let other = (bf16::from_bits(neighbour).to_f64() - exact).abs();
                    assert!(error <= other, "{} {k}x{n} scaled: {found} for {exact}", isa.name());
                }
            }
        }
    }
}

#[test]
fn a_matrix_is_packed_again_by_several_threads() {
    let mut pool = Pool::new(3).unwrap();
    for isa in every_isa() {
        let mut again = PackedBf16::new(isa, 30, 150);
        again.pack_with(|_, _| f32::NAN);
        for (k, n) in [(1, 1), (70, 33), (9, 130), (150, 40), (33, 3)] {
            let b = Random(3).values(k * n);
            let mut fresh = PackedBf16::new(isa, k, n);
            fresh.pack(&b);
            again.reshape(k, n);
            again.pack_on(&mut pool, Unpacked::Rows(&b));
            assert_eq!(again.panels(0), fresh.panels(0), "{} {k}x{n}", isa.name());
            assert_eq!(unpacked(&again), unpacked(&fresh), "{} {k}x{n}", isa.name());
            fresh.pack_transposed(&b);
            again.pack_on(&mut pool, Unpacked::Columns(&b));
            assert_eq!(again.panels(0), fresh.panels(0), "{} {k}x{n} transposed", isa.name());
            assert_eq!(unpacked(&again), unpacked(&fresh), "{} {k}x{n} transposed", isa.name());
            again.pack_with(|_, _| f32::NAN);
        }
    }
}

#[test]
fn bits_do_not_depend_on_how_the_work_is_cut() {
    for isa in every_isa() {
        let (rows, k, n) = (49, 210, 70);
        let mut random = Random(4);
        let a = rounded(&random.values(rows * k));
        let bias = random.values(n);
        let mut packed = PackedBf16::new(isa, k, n);
        packed.pack(&random.values(k * n));
        let end = Epilogue { bias: Some(&bias), clamp: Some(Clamp { low: -1.5, high: 2.5 }), lowered: None };
        let mut whole = vec![0.0; rows * n];
        gemm(MatrixRef::new(&a, rows, k, k), &packed, 0, MatrixMut::new(&mut whole, rows, n, n), end);

        for cut in 1..rows {
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
    }
}

/// Images and filters whose values bf16 has, so that every way multiplies the same numbers.
#[test]
fn first_convolutions() {
    for isa in every_isa() {
        for (i, width) in [3, 4, 17, 31, 33, 34, 100].into_iter().enumerate() {
            for (channels, stride, outputs) in [(3, 2, 32), (3, 1, 9), (1, 2, 40), (2, 1, 64), (4, 2, 33)] {
                let what = format!("{} {width}x{channels} stride {stride} to {outputs}", isa.name());
                let g = Geometry {
                    batch: 1,
                    height: 5,
                    width,
                    kernel: 3,
                    stride,
                    dilation: 1,
                    pads: Pads::default(),
                };
                let mut random = Random((i * 10 + channels) as u64);
                let x = widened(&rounded(&random.values(g.height * width * channels)));
                let weight = widened(&rounded(&random.values(outputs * channels * 9)));
                let bias = random.values(outputs);
                let end = Epilogue { bias: Some(&bias), clamp: None, lowered: None };
                let filter = ConvFilter::new(isa, (channels, 1), outputs, |row, out| {
                    weight[(out * channels + row % channels) * 9 + row / channels]
                });
                let geometry = ConvGeometry { outputs: g.output_width(), channels, stride, dilation: 1 };
                let row = |y: usize| &x[y * width * channels..][..width * channels];
                let inputs: Vec<[&[f32]; 3]> =
                    (0..g.output_height()).map(|y| [0, 1, 2].map(|k| row(y * stride + k))).collect();
                let pixels = g.output_pixels();
                let found = either_way(&what, || {
                    let mut y = vec![SENTINEL; pixels * outputs];
                    let c = MatrixMut::new(&mut y, pixels, outputs, outputs);
                    convolve_rows((geometry, None), &inputs, &filter, 0, c, end, &mut Buffer::default());
                    y
                });
                let with_bias = |mut y: Vec<f64>, bias: Vec<f64>| {
                    y.iter_mut().enumerate().for_each(|(i, y)| *y += bias[i % outputs]);
                    y
                };
                let exact = conv::conv2d(&widen(&x), &widen(&weight), channels, outputs, &g);
                let magnitude = conv::conv2d(
                    &magnitudes(&widen(&x)),
                    &magnitudes(&widen(&weight)),
                    channels,
                    outputs,
                    &g,
                );
                let exact = with_bias(exact, widen(&bias));
                let magnitude = with_bias(magnitude, magnitudes(&widen(&bias)));
                assert_within(&what, &found, &exact, &magnitude, 9 * channels + 3);
            }
        }
    }
}

#[test]
fn first_convolutions_of_rows_without_padding() {
    const CHANNELS: usize = 3;
    for isa in every_isa() {
        let outputs = 40;
        let mut random = Random(1);
        let weight = random.values(outputs * 9 * CHANNELS);
        let filter =
            ConvFilter::new(isa, (CHANNELS, 1), outputs, |row, out| weight[out * 9 * CHANNELS + row]);
        for (width, stride) in [(1_usize, 1), (1, 2), (2, 1), (2, 2), (3, 2), (17, 1), (17, 2), (64, 2)] {
            for (left, right) in [(0, 0), (1, 1), (0, 1), (2, 2), (4, 5)] {
                let Some(last) = (left + width + right).checked_sub(3) else { continue };
                // NaN is what may not be read.
                let rows: Vec<f32> = (0..3)
                    .flat_map(|_| [random.values(width * CHANNELS), vec![f32::NAN; 40]].concat())
                    .collect();
                let rows: Vec<&[f32]> =
                    rows.chunks(width * CHANNELS + 40).map(|row| &row[..width * CHANNELS]).collect();
                let padded: Vec<Vec<f32>> = rows
                    .iter()
                    .map(|row| [&vec![0.0; left * CHANNELS], *row, &vec![0.0; right * CHANNELS]].concat())
                    .collect();
                let pixels = last / stride + 1;
                let geometry = ConvGeometry { outputs: pixels, channels: CHANNELS, stride, dilation: 1 };
                let convolve = |unpadded, rows: [&[f32]; 3]| {
                    let mut y = vec![SENTINEL; pixels * outputs];
                    let c = MatrixMut::new(&mut y, pixels, outputs, outputs);
                    let scratch = &mut Buffer::default();
                    convolve_rows((geometry, unpadded), &[rows], &filter, 0, c, Epilogue::default(), scratch);
                    y
                };
                let expected = convolve(None, [&padded[0], &padded[1], &padded[2]]);
                let present = Present { left, count: width };
                let unpadded = Unpadded { present, beyond: &[0.0; CHANNELS], ahead: &[] };
                let found = convolve(Some(unpadded), [rows[0], rows[1], rows[2]]);
                let what = format!("{} {left}+{width}+{right} stride {stride}", isa.name());
                assert_eq!(found, expected, "{what}");
            }
        }
    }
}

#[test]
fn rows_are_whole_lines_and_not_all_on_one_set() {
    for isa in every_isa() {
        for columns in SIZES {
            let stride = padded_stride(isa, columns);
            assert!(stride >= columns && stride.is_multiple_of(32) && stride / 32 % 2 == 1, "{stride}");
        }
    }
}

/// C += Aᵀ·B, with NaN in the gaps between the rows of A and B and in the scratch memory.
fn check_transposed(isas: &[Isa], rows: usize, m: usize, n: usize, seed: u64) {
    let mut random = Random(seed);
    let (a, b) = (rounded(&random.values(rows * m)), rounded(&random.values(rows * n)));
    let before = random.values(m * n);

    let (exact_a, exact_b, exact_before) = (widen(&widened(&a)), widen(&widened(&b)), widen(&before));
    // The gradient of a weight [out, in] from x [rows, in] and d [rows, out].
    let mut exact = dense::pointwise_d_weight(&exact_b, &exact_a, n, m);
    let mut magnitude = dense::pointwise_d_weight(&magnitudes(&exact_b), &magnitudes(&exact_a), n, m);
    for ((exact, magnitude), before) in exact.iter_mut().zip(&mut magnitude).zip(exact_before) {
        *exact += before;
        *magnitude += before.abs();
    }

    for &isa in isas {
        let what = format!("{} transposed {rows}x{m}x{n}", isa.name());
        let stride = |columns: usize, more: u64| {
            if more == 0 { padded_stride(isa, columns) } else { columns + more as usize - 1 }
        };
        let (a_stride, b_stride) = (stride(m, seed % 3), stride(n, seed / 3 % 3));
        let c_stride = n + seed as usize % 4;
        let (spread_a, spread_b) = (spread(&a, m, a_stride), spread(&b, n, b_stride));
        let product = |before: &[f32], accumulate: bool| {
            let mut c = with_gaps(before, n, c_stride, SENTINEL);
            let mut scratch = Buffer::zeros(10_000);
            scratch.fill(f32::NAN);
            gemm_transposed(
                isa,
                MatrixRef::new(&spread_a, rows, m, a_stride),
                MatrixRef::new(&spread_b, rows, n, b_stride),
                (MatrixMut::new(&mut c, m, n, c_stride), accumulate),
                &mut scratch,
            );
            without_gaps(&c, m, n, c_stride)
        };
        let found = either_way(&what, || product(&before, true));
        // What is not added to need not be there.
        let alone = either_way(&what, || product(&vec![f32::NAN; m * n], false));
        assert!(alone == product(&vec![0.0; m * n], true), "{what}: other bits where nothing is added to");
        // As above; where rows are taken in blocks, each adds to C once.
        assert_within(&what, &found, &exact, &magnitude, rows + rows.div_ceil(32) + 3);
    }
}

#[test]
fn transposed_products() {
    let isas = every_isa();
    for m in (1..=40).chain([63, 64, 65, 96]) {
        for (i, n) in SIZES[..10].iter().copied().enumerate() {
            let rows = [1, 2, 3, 30, 31, 32, 33, 56, 64, 65, 96][(i * 7 + m) % 11];
            check_transposed(&isas, rows, m, n, (m * 100 + n) as u64);
        }
    }
}

#[test]
fn transposed_products_of_many_rows() {
    let isas = every_isa();
    for (i, rows) in [448, 511, 512, 513, 1024, 1400].into_iter().enumerate() {
        check_transposed(&isas, rows, 33, 17, i as u64);
        check_transposed(&isas, rows, 16, 50, i as u64);
    }
}

/// More panels and rows than are got ready at a time, where they are.
#[test]
fn wide_transposed_products() {
    let isas = every_isa();
    for (i, (rows, m, n)) in
        [(40, 300, 33), (520, 260, 20), (300, 1000, 40), (530, 33, 1000)].into_iter().enumerate()
    {
        check_transposed(&isas, rows, m, n, i as u64);
    }
}

#[test]
fn transposed_products_without_rows_change_nothing() {
    for isa in every_isa() {
        let mut scratch = Buffer::default();
        let mut c = [SENTINEL; 6];
        let none = |columns| MatrixRef::new(&[], 0, columns, columns);
        gemm_transposed(isa, none(2), none(3), (MatrixMut::new(&mut c, 2, 3, 3), true), &mut scratch);
        assert_eq!(c, [SENTINEL; 6]);
        gemm_transposed(isa, none(2), none(2), (MatrixMut::new(&mut c, 2, 2, 3), false), &mut scratch);
        assert_eq!(c, [0.0, 0.0, SENTINEL, 0.0, 0.0, SENTINEL]);
        let values = [bf16::ONE; 10];
        let a = MatrixRef::new(&values, 5, 2, 2);
        let b = MatrixRef::new(&[], 5, 0, 0);
        gemm_transposed(isa, a, b, (MatrixMut::new(&mut [], 2, 0, 0), true), &mut scratch);
        gemm_transposed(isa, b, a, (MatrixMut::new(&mut [], 0, 2, 2), true), &mut scratch);
    }
}

#[test]
fn bits_of_transposed_products_do_not_depend_on_how_the_work_is_cut() {
    // (The second shape has more columns and rows than are got ready at a time, and its parts do not.)
    for (isa, (rows, m, n)) in
        every_isa().into_iter().flat_map(|isa| [(isa, (535, 70, 67)), (isa, (300, 1000, 20))])
    {
        let mut random = Random(5);
        let (a, b) = (rounded(&random.values(rows * m)), rounded(&random.values(rows * n)));
        let before = random.values(m * n);
        let mut scratch = Buffer::default();
        // The columns of A and B from `first` on, into their place in C.
        let mut add = |c: &mut [f32], (i, parts_m): (usize, usize), (j, parts_n): (usize, usize)| {
            let a = MatrixRef::new(&a[i..], rows, parts_m, m);
            let b = MatrixRef::new(&b[j..], rows, parts_n, n);
            let c = MatrixMut::new(&mut c[i * n + j..], parts_m, parts_n, n);
            gemm_transposed(isa, a, b, (c, true), &mut scratch);
        };
        let mut whole = before.clone();
        add(&mut whole, (0, m), (0, n));
        for cut in (1..m).step_by(m / 23).chain([16, 32, 48, 64, m / 2]) {
            let mut parts = before.clone();
            add(&mut parts, (0, cut), (0, n));
            add(&mut parts, (cut, m - cut), (0, n));
            assert!(parts == whole, "{} cut before row {cut}", isa.name());
        }
        for cut in (1..n).step_by(3).chain([16, 32, 48, 64].into_iter().filter(|&cut| cut < n)) {
            let mut parts = before.clone();
            add(&mut parts, (0, m), (0, cut));
            add(&mut parts, (0, m), (cut, n - cut));
            assert!(parts == whole, "{} cut before column {cut}", isa.name());
        }
    }
}

#[test]
fn transposed_products_refuse_shapes_that_do_not_fit() {
    let values = vec![bf16::ONE; 12];
    for (a, b, c) in [((3, 2), (4, 2), (2, 2)), ((3, 2), (3, 2), (3, 2)), ((3, 2), (3, 2), (2, 3))] {
        let panic = std::panic::catch_unwind(|| {
            let mut memory = vec![0.0; 12];
            gemm_transposed(
                Isa::PORTABLE,
                MatrixRef::new(&values, a.0, a.1, a.1),
                MatrixRef::new(&values, b.0, b.1, b.1),
                (MatrixMut::new(&mut memory, c.0, c.1, c.1), true),
                &mut Buffer::default(),
            );
        });
        assert!(panic.is_err());
    }
}
