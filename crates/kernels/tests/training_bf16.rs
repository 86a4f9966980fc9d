//! Kernels of training on values that are kept in bf16: the numbers of the f32 kernel on the widened values,
//! rounded where they are stored.

mod support;

use half::bf16;
use mobilenet_kernels::batch_norm::{
    Affine, Correction, GradientSums, Moments, Normalisation, activate, backward,
};
use mobilenet_kernels::depthwise_backward::{BackwardGeometry, RowGradients, backward_row};
use mobilenet_kernels::element::convert;
use mobilenet_kernels::im2col::{Windows, gather, scatter_add};
use mobilenet_kernels::pooling::global_average_backward;
use mobilenet_kernels::{Clamp, Element};
use support::{CHANNELS, Random, SENTINEL, on_every_isa};

fn rounded(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|&value| bf16::from_f32(value)).collect()
}

fn widened(values: &[bf16]) -> Vec<f32> {
    values.iter().map(|value| value.to_f32()).collect()
}

/// What normalises a layer of `channels`, by turns within, below and above an activation's bounds.
struct Layer {
    scale: Vec<f32>,
    shift: Vec<f32>,
    mean: Vec<f32>,
}

impl Layer {
    fn new(random: &mut Random, channels: usize) -> Self {
        let scale = random.positive(channels).iter().map(|scale| 4.0 * scale).collect();
        Self { scale, shift: random.values(channels), mean: random.values(channels) }
    }

    fn affine(&self) -> Affine<'_> {
        Affine { scale: &self.scale, shift: &self.shift }
    }

    fn normalisation(&self) -> Normalisation<'_> {
        Normalisation { affine: self.affine(), mean: &self.mean, clamp: Clamp::RELU6 }
    }
}

#[test]
fn values_are_converted_to_the_nearest() {
    on_every_isa(|isa| {
        for len in [0, 1, 7, 16, 33, 100] {
            let values = Random(len as u64).values(len);
            let mut found = vec![bf16::ZERO; len];
            convert(isa, &values, &mut found);
            assert_eq!(found, rounded(&values), "{}: {len} values", isa.name());
            let mut back = vec![SENTINEL; len];
            convert(isa, &found, &mut back);
            assert_eq!(back, widened(&found), "{}: {len} values", isa.name());
            let mut same = vec![SENTINEL; len];
            convert(isa, &values, &mut same);
            assert_eq!(same, values, "{}: {len} values", isa.name());
        }
    });
}

#[test]
fn normalisation_there_and_back() {
    on_every_isa(|isa| {
        for (channels, rows) in CHANNELS.into_iter().flat_map(|channels| [(channels, 1), (channels, 9)]) {
            let mut random = Random(channels as u64);
            let layer = Layer::new(&mut random, channels);
            let z = rounded(&random.values(rows * channels));
            let d = rounded(&random.values(rows * channels));
            let (wide_z, wide_d) = (widened(&z), widened(&d));
            let (offset, slope) = (random.values(channels), random.values(channels));
            let correction = Correction { offset: &offset, slope: &slope };
            let sentinel = bf16::from_f32(SENTINEL);
            let stride = channels + 3;
            let same = |what: &str, found: &[f32], expected: &[f32]| {
                assert_eq!(found, expected, "{} {what}: {rows} rows, {channels} channels", isa.name());
            };
            let mut expected = vec![SENTINEL; rows * stride];
            activate(isa, layer.affine(), Clamp::RELU6, &wide_z, &mut expected, stride);
            let mut found = vec![SENTINEL; rows * stride];
            activate(isa, layer.affine(), Clamp::RELU6, &z, &mut found, stride);
            same("activate", &found, &expected);
            let mut found = vec![sentinel; rows * stride];
            activate(isa, layer.affine(), Clamp::RELU6, &z, &mut found, stride);
            let expected = widened(&rounded(&expected));
            same("activate to bf16", &widened(&found), &expected);

            let mut expected = vec![SENTINEL; rows * stride];
            backward(isa, layer.normalisation(), correction, &wide_d, &wide_z, &mut expected, stride);
            let mut found = vec![SENTINEL; rows * stride];
            backward(isa, layer.normalisation(), correction, &d, &z, &mut found, stride);
            same("backward", &found, &expected);
            let mut found = vec![sentinel; rows * stride];
            backward(isa, layer.normalisation(), correction, &d, &z, &mut found, stride);
            let expected = widened(&rounded(&expected));
            same("backward to bf16", &widened(&found), &expected);

            let (mut found, mut expected) = (Moments::new(channels), Moments::new(channels));
            found.add_rows(isa, &z);
            expected.add_rows(isa, &wide_z);
            assert_eq!(found.mean(), expected.mean(), "{} {channels} channels", isa.name());
            assert!(found.biased_variance().eq(expected.biased_variance()), "{}", isa.name());
            let (mut found, mut expected) = (GradientSums::new(channels), GradientSums::new(channels));
            found.add_rows(isa, layer.normalisation(), &d, &z);
            expected.add_rows(isa, layer.normalisation(), &wide_d, &wide_z);
            assert_eq!(found.d(), expected.d(), "{} {channels} channels", isa.name());
            assert_eq!(found.d_deviation(), expected.d_deviation(), "{} {channels} channels", isa.name());
        }
    });
}

/// A row back through a depthwise layer: its gradient, the filter's, and the sums of the layer before.
fn depthwise_row<E: Element>(
    isa: mobilenet_kernels::Isa,
    geometry: BackwardGeometry,
    layer: &Layer,
    (rows, taps): (&[Vec<f32>; 3], &[f32]),
    z: &[E],
) -> (Vec<E>, Vec<f32>, [Vec<f64>; 2]) {
    let mut d_input = vec![E::from_f32(SENTINEL); z.len()];
    let mut filter = vec![0.5; taps.len()];
    let mut sums = GradientSums::new(geometry.channels);
    let d_rows = [Some(&rows[0][..]), None, Some(&rows[2][..])];
    let gradients = RowGradients { filter: &mut filter, sums: &mut sums };
    backward_row(isa, geometry, d_rows, taps, layer.normalisation(), z, &mut d_input, gradients, [&[]; 2]);
    sums.flush();
    (d_input, filter, [sums.d().to_vec(), sums.d_deviation().to_vec()])
}

#[test]
fn depthwise_back() {
    on_every_isa(|isa| {
        for channels in CHANNELS {
            for (stride, dilation) in [(1, 1), (2, 1), (1, 2)] {
                let mut random = Random(channels as u64);
                let inputs = 11;
                let geometry = BackwardGeometry {
                    inputs,
                    outputs: inputs.div_ceil(stride),
                    channels,
                    pixel_stride: channels + 1,
                    left: dilation,
                    stride,
                    dilation,
                };
                let layer = Layer::new(&mut random, channels);
                let z = rounded(&random.values(inputs * channels));
                let rows = [0, 1, 2].map(|_| random.values(geometry.gradient_row_len()));
                let taps = random.values(9 * channels);
                let what = format!("{} {channels} channels, stride {stride}", isa.name());
                let (found, filter, sums) = depthwise_row(isa, geometry, &layer, (&rows, &taps), &z);
                let exact = depthwise_row(isa, geometry, &layer, (&rows, &taps), &widened(&z));
                assert_eq!(found, rounded(&exact.0), "{what}");
                assert_eq!(filter, exact.1, "{what}: filter");
                assert_eq!(sums, exact.2, "{what}: sums");
            }
        }
    });
}

#[test]
fn patches_and_the_pool_back() {
    for channels in [1, 3, 17] {
        let windows = Windows { height: 9, width: 7, channels, stride: 2, dilation: 1 };
        let (patch, pixels) = (windows.patch_len(), windows.outputs_high() * windows.outputs_wide());
        let mut random = Random(channels as u64);
        let image = rounded(&random.values(windows.image_len()));
        let (mut found, mut exact) = (vec![bf16::ZERO; pixels * patch], vec![0.0; pixels * patch]);
        gather(windows, &image, 0, pixels, &mut found, patch);
        gather(windows, &widened(&image), 0, pixels, &mut exact, patch);
        assert_eq!(widened(&found), exact);
        // Sums of patches are f32.
        let (mut sums, mut exact_sums) = (vec![0.0; image.len()], vec![0.0; image.len()]);
        scatter_add(windows, &found, patch, 0, pixels, &mut sums);
        scatter_add(windows, &exact, patch, 0, pixels, &mut exact_sums);
        assert_eq!(sums, exact_sums);

        let d_mean = random.values(channels);
        let (mut found, mut exact) = (vec![bf16::ZERO; 5 * channels], vec![0.0; 5 * channels]);
        global_average_backward(&d_mean, &mut found);
        global_average_backward(&d_mean, &mut exact);
        assert_eq!(found, rounded(&exact));
    }
}
