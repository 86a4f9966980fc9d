//! Full convolutions as products over patches, against the f64 oracle.

mod support;

use mobilenet_kernels::Isa;
use mobilenet_kernels::conv::{ConvGeometry, Unpadded, convolve_rows};
use mobilenet_kernels::depthwise::Present;
use mobilenet_kernels::gemm::{
    Ahead, Epilogue, MatrixMut, MatrixRef, PackedB, column_step, gemm, gemm_transposed, padded_stride,
};
use mobilenet_kernels::im2col::{Windows, gather, scatter_add};
use mobilenet_reference::{Geometry, Pads, conv, magnitudes, widen};
use proptest::prelude::*;
use support::{Random, SENTINEL, assert_within, on_every_isa};

/// The image with its zero padding.
fn pad(x: &[f32], channels: usize, g: &Geometry) -> Vec<f32> {
    let (height, width) = (g.height + g.pads.top + g.pads.bottom, g.width + g.pads.left + g.pads.right);
    let mut padded = vec![0.0; height * width * channels];
    for (row, from) in x.chunks_exact(g.width * channels).enumerate() {
        let at = ((row + g.pads.top) * width + g.pads.left) * channels;
        padded[at..][..from.len()].copy_from_slice(from);
    }
    padded
}

/// The inside of a padded image.
fn crop(padded: &[f32], channels: usize, g: &Geometry) -> Vec<f32> {
    let width = g.width + g.pads.left + g.pads.right;
    (0..g.height)
        .flat_map(|row| {
            let at = ((row + g.pads.top) * width + g.pads.left) * channels;
            padded[at..][..g.width * channels].to_vec()
        })
        .collect()
}

/// `[out, in, 3, 3]` as `[out][ky][kx][in]`: the order of a patch.
fn by_patch(weight: &[f32], inputs: usize) -> Vec<f32> {
    let mut arranged = Vec::with_capacity(weight.len());
    for filter in weight.chunks_exact(9 * inputs) {
        arranged.extend((0..9 * inputs).map(|i| filter[i % inputs * 9 + i / inputs]));
    }
    arranged
}

fn check(isa: Isa, (inputs, outputs): (usize, usize), g: Geometry, strip: usize, seed: u64) {
    let what = format!("{} {inputs} to {outputs}, strips of {strip}, {g:?}", isa.name());
    let mut random = Random(seed);
    let x = random.values(g.input_pixels() * inputs);
    let weight = random.values(9 * inputs * outputs);
    let d_y = random.values(g.output_pixels() * outputs);
    let padded = pad(&x, inputs, &g);
    let windows = Windows {
        height: g.height + g.pads.top + g.pads.bottom,
        width: g.width + g.pads.left + g.pads.right,
        channels: inputs,
        stride: g.stride,
        dilation: g.dilation,
    };
    assert_eq!((windows.outputs_high(), windows.outputs_wide()), (g.output_height(), g.output_width()));
    let (patch, pixels) = (windows.patch_len(), g.output_pixels());
    let stride = padded_stride(isa, patch);
    let arranged = by_patch(&weight, inputs);
    let mut forward = PackedB::new(isa, patch, outputs);
    forward.pack_transposed(&arranged);
    let mut backward = PackedB::new(isa, outputs, patch);
    backward.pack(&arranged);

    // Without patches, by rows; all columns or from the second panel on.
    let geometry = ConvGeometry {
        outputs: windows.outputs_wide(),
        channels: inputs,
        stride: g.stride,
        dilation: g.dilation,
    };
    let row_len = windows.width * inputs;
    let rows: Vec<[&[f32]; 3]> = (0..windows.outputs_high())
        .map(|y| [0, 1, 2].map(|k| &padded[(y * g.stride + k * g.dilation) * row_len..][..row_len]))
        .collect();
    let mut by_rows = vec![0.0; pixels * outputs];
    let out = MatrixMut::new(&mut by_rows, pixels, outputs, outputs);
    convolve_rows((geometry, None), &rows, &forward, 0, out, Epilogue::default());
    // Rows as they are, without padding.
    let nothing = vec![0.0; g.width * inputs];
    let unpadded: Vec<[&[f32]; 3]> = (0..windows.outputs_high())
        .map(|y| {
            [0, 1, 2].map(|k| match (y * g.stride + k * g.dilation).checked_sub(g.pads.top) {
                Some(y) if y < g.height => &x[y * g.width * inputs..][..g.width * inputs],
                _ => &nothing,
            })
        })
        .collect();
    let present = Present { left: g.pads.left, count: g.width };
    let mut found = vec![SENTINEL; pixels * outputs];
    let out = MatrixMut::new(&mut found, pixels, outputs, outputs);
    let as_it_is = Unpadded { present, beyond: &nothing[..inputs], ahead: &x[x.len() / 2..] };
    convolve_rows((geometry, Some(as_it_is)), &unpadded, &forward, 0, out, Epilogue::default());
    assert_eq!(found, by_rows, "{what}: without padding");
    let second = column_step(isa);
    if second < outputs {
        let mut found = vec![SENTINEL; pixels * outputs];
        let out = MatrixMut::new(&mut found, pixels, outputs - second, outputs);
        convolve_rows((geometry, None), &rows, &forward, second, out, Epilogue::default());
        for (found, expected) in found.chunks(outputs).zip(by_rows.chunks(outputs)) {
            assert_eq!(found[..outputs - second], expected[second..], "{what}: columns");
            assert!(found[outputs - second..].iter().all(|&v| v == SENTINEL), "{what}: beside them");
        }
    }

    let mut y = vec![0.0; pixels * outputs];
    let mut d_weight = vec![0.0; weight.len()];
    let mut d_padded = vec![0.0; padded.len()];
    for first in (0..pixels).step_by(strip) {
        let count = strip.min(pixels - first);
        let range = first * outputs..(first + count) * outputs;
        let mut patches = vec![f32::NAN; count * stride];
        gather(windows, &padded, first, count, &mut patches, stride);
        let rows = MatrixRef::new(&patches, count, patch, stride);
        let out = MatrixMut::new(&mut y[range.clone()], count, outputs, outputs);
        gemm(rows, &forward, 0, out, Epilogue::default());
        let d = MatrixRef::new(&d_y[range], count, outputs, outputs);
        let grad = MatrixMut::new(&mut d_weight, outputs, patch, patch);
        gemm_transposed(isa, d, rows, (grad, true), Ahead::default());
        let mut d_patches = vec![f32::NAN; count * stride];
        gemm(d, &backward, 0, MatrixMut::new(&mut d_patches, count, patch, stride), Epilogue::default());
        scatter_add(windows, &d_patches, stride, first, count, &mut d_padded);
    }

    let (x, weight, d_y) = (widen(&x), widen(&weight), widen(&d_y));
    let (ax, aw, ad) = (magnitudes(&x), magnitudes(&weight), magnitudes(&d_y));
    let exact = conv::conv2d(&x, &weight, inputs, outputs, &g);
    let magnitude = conv::conv2d(&ax, &aw, inputs, outputs, &g);
    assert_within(&format!("{what}: forward"), &y, &exact, &magnitude, patch + 4);
    assert_within(&format!("{what}: by rows"), &by_rows, &exact, &magnitude, patch + 4);

    let exact = conv::conv2d_d_weight(&x, &d_y, inputs, outputs, &g);
    let magnitude = conv::conv2d_d_weight(&ax, &ad, inputs, outputs, &g);
    let reorder = |values: &[f64]| -> Vec<f64> {
        values
            .chunks_exact(patch)
            .flat_map(|filter| (0..patch).map(move |i| filter[i % inputs * 9 + i / inputs]))
            .collect()
    };
    assert_within(
        &format!("{what}: filter"),
        &d_weight,
        &reorder(&exact),
        &reorder(&magnitude),
        2 * pixels + 2,
    );

    let exact = conv::conv2d_d_input(&d_y, &weight, inputs, outputs, &g);
    let magnitude = conv::conv2d_d_input(&ad, &aw, inputs, outputs, &g);
    let d_x = crop(&d_padded, inputs, &g);
    assert_within(&format!("{what}: input"), &d_x, &exact, &magnitude, outputs + 9 + 4);
}

fn geometry(height: usize, width: usize, stride: usize, dilation: usize, pads: Pads) -> Geometry {
    Geometry { batch: 1, height, width, kernel: 3, stride, dilation, pads }
}

#[test]
fn convolutions_of_the_network() {
    let behind = Pads { bottom: 1, right: 1, ..Pads::default() };
    on_every_isa(|isa| {
        for (inputs, outputs) in [(1, 8), (3, 32), (3, 7), (8, 16), (17, 33), (64, 5)] {
            for (stride, dilation, pads) in
                [(1, 1, Pads::all(1)), (2, 1, Pads::all(1)), (2, 1, behind), (1, 2, Pads::all(2))]
            {
                for strip in [5, 1000] {
                    check(isa, (inputs, outputs), geometry(7, 9, stride, dilation, pads), strip, 1);
                }
            }
        }
        // Rows long enough for tiles that take some of two panels.
        for (outputs, dilation) in [(64, 1), (100, 1), (160, 2)] {
            let geometry = geometry(3, 61, 2, dilation, Pads::all(dilation));
            check(isa, (3, outputs), geometry, 1000, 1);
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_convolution(
        (height, width) in (1usize..10, 1usize..10),
        (inputs, outputs) in (1usize..20, 1usize..40),
        (stride, dilation) in (1usize..3, 1usize..4),
        (top, bottom, left, right) in (0usize..4, 0usize..4, 0usize..4, 0usize..4),
        strip in 1usize..40,
        seed: u64,
    ) {
        let reach = 2 * dilation + 1;
        prop_assume!(height + top + bottom >= reach && width + left + right >= reach);
        let g = geometry(height, width, stride, dilation, Pads { top, bottom, left, right });
        for isa in Isa::testable() {
            check(isa, (inputs, outputs), g, strip, seed);
        }
    }
}
