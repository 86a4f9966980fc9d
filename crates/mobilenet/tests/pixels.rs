//! Inference from 8-bit pixels: what the first convolution normalises as it reads is what would have been
//! normalised before.

use mobilenet::cpu::{CpuExecutor, CpuOptions, Precision};
use mobilenet::preprocess::normalise;
use mobilenet::{Architecture, Executor, Model, Preset, Tensor};
use mobilenet_kernels::Isa;

/// A small network of so many input channels.
fn model(preset: Preset, input_channels: usize, resolution: usize) -> Model {
    let mut conventions = preset.conventions();
    if input_channels == 1 {
        conventions.preprocessing.mean = vec![0.3];
        conventions.preprocessing.std = vec![0.25];
    }
    let architecture = Architecture {
        width_multiplier: 0.25,
        resolution,
        input_channels,
        classes: 5,
        conventions,
        ..Architecture::default()
    };
    Model::random(architecture, (0..5).map(|class| class.to_string()).collect(), 3).unwrap()
}

fn pixels(architecture: &Architecture, batch: usize) -> Vec<u8> {
    // Every value is among them.
    (0..batch * architecture.input_shape().len()).map(|at| (at * 167 + at / 251) as u8).collect()
}

fn normalised(architecture: &Architecture, pixels: &[u8]) -> Tensor {
    let side = architecture.resolution;
    let channels = architecture.input_channels;
    let mut images = Tensor::zeros(&[pixels.len() / (side * side * channels), side, side, channels]);
    normalise(pixels, &architecture.conventions.preprocessing.tables(), images.data_mut());
    images
}

#[test]
fn bits_are_those_of_normalised_images() {
    for isa in Isa::testable() {
        for precision in [Precision::F32, Precision::Bf16] {
            // Odd rows: what is left behind whole vectors is no whole pixel.
            for (preset, channels, resolution) in
                [(Preset::Reference, 3, 33), (Preset::TfSlim, 3, 32), (Preset::Reference, 1, 35)]
            {
                let Model { architecture, weights, .. } = model(preset, channels, resolution);
                for threads in [1, 2, 3] {
                    let options = CpuOptions {
                        threads: Some(threads),
                        isa: Some(isa),
                        precision,
                        ..CpuOptions::default()
                    };
                    let mut executor = CpuExecutor::new(&architecture, &weights, &options).unwrap();
                    // One image and a few: rows are shared out, or images.
                    for batch in [1, 5] {
                        let pixels = pixels(&architecture, batch);
                        let expected = executor.infer(&normalised(&architecture, &pixels)).unwrap();
                        let found = executor.infer_pixels(&pixels).unwrap();
                        assert_eq!(found, expected, "{} {precision:?}, batch {batch}", isa.name());
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_no_whole_image_is_refused() {
    let Model { architecture, weights, .. } = model(Preset::Reference, 3, 32);
    let mut executor = CpuExecutor::new(&architecture, &weights, &CpuOptions::default()).unwrap();
    for wrong in [0, 1, 32 * 32 * 3 - 1, 32 * 32 * 3 + 3] {
        let error = executor.infer_pixels(&vec![0; wrong]).unwrap_err().to_string();
        let expected =
            format!("8-bit pixels: expected whole images of 32×32×3 = 3072 bytes, found {wrong} bytes");
        assert!(error.contains(&expected), "{error}");
    }
    assert_eq!(executor.infer_pixels(&vec![7; 2 * 3072]).unwrap().shape(), [2, 5]);
}

#[test]
fn values_are_those_of_the_formula() {
    for preset in [Preset::Reference, Preset::TfSlim] {
        let preprocessing = preset.conventions().preprocessing;
        for (channel, table) in preprocessing.tables().iter().enumerate() {
            let (mean, std) = (f64::from(preprocessing.mean[channel]), f64::from(preprocessing.std[channel]));
            for (x, &value) in table.iter().enumerate() {
                let exact = (x as f64 / 255.0 - mean) / std;
                // The factors are rounded, the product and the sum: of values up to 4.4 and 2.1.
                let bound = f64::from(f32::EPSILON) / 2.0
                    * (2.0 * (x as f64 / 255.0 / std) + mean / std + exact.abs());
                assert!((f64::from(value) - exact).abs() <= bound, "{preset:?} {x}: {value}, {exact}");
            }
        }
    }
}
