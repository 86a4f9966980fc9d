//! bf16 beside f32 where it is hard: channels that vary by little around values far from zero.

use mobilenet::conventions::{Activation, Conventions, Preset};
use mobilenet::cpu::{CpuExecutor, CpuOptions, Precision};
use mobilenet::rng::Rng;
use mobilenet::{Architecture, Executor, Tensor, Weights};
use mobilenet_kernels::Isa;

const MEAN: f32 = 3.0;
const DEVIATION: f32 = 0.05;

fn small(conventions: Conventions) -> Architecture {
    Architecture {
        width_multiplier: 0.25,
        resolution: 96,
        classes: 5,
        conventions,
        ..Architecture::default()
    }
}

fn images(architecture: &Architecture, batch: usize) -> Tensor {
    let mut rng = Rng::keyed(5, &[]);
    let side = architecture.resolution;
    let values = (0..batch * side * side * 3).map(|_| rng.normal() as f32).collect();
    Tensor::new(&[batch, side, side, 3], values).unwrap()
}

/// A network all of whose channels are [`MEAN`] ± [`DEVIATION`] for these images.
fn network(architecture: &Architecture, images: &Tensor) -> Weights {
    let random = Weights::random(architecture, 3).unwrap();
    let mut weights = Weights::new();
    for (name, tensor) in random.iter() {
        let mut tensor = tensor.clone();
        if name.ends_with(".bn.weight") {
            tensor.data_mut().fill(DEVIATION);
        } else if name.ends_with(".bn.bias") {
            tensor.data_mut().fill(MEAN);
        }
        weights.insert(name, tensor);
    }
    let mut executor = CpuExecutor::new(architecture, &weights, &CpuOptions::default()).unwrap();
    // With a momentum of 1 the running statistics become those of this batch.
    executor.forward(images).unwrap();
    executor.weights()
}

#[test]
fn what_varies_is_kept() {
    for activation in [Activation::Relu, Activation::Relu6] {
        let conventions = Conventions { activation, bn_momentum: 1.0, ..Preset::Reference.conventions() };
        let architecture = small(conventions);
        let images = images(&architecture, 2);
        let weights = network(&architecture, &images);
        let mut exact = CpuExecutor::new(&architecture, &weights, &CpuOptions::default()).unwrap();
        for isa in Isa::testable() {
            let options = CpuOptions { isa: Some(isa), precision: Precision::Bf16, ..CpuOptions::default() };
            let mut rounded = CpuExecutor::new(&architecture, &weights, &options).unwrap();
            for blocks in 0..8 {
                let expected = exact.feature_maps_behind(&images, blocks).unwrap();
                let found = rounded.feature_maps_behind(&images, blocks).unwrap();
                let pairs = found.data().iter().zip(expected.data());
                let squares: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
                let error = (squares / expected.data().len() as f64).sqrt() / f64::from(DEVIATION);
                // Up to 2^-9 from each rounding: one in the stem, three in a block (its weights, what its
                // depthwise and what its pointwise layer give), of random sign. Twice that for what padding
                // makes of channels at the edges. (Rounded as it is, 3 alone would be off by 0.09.)
                let bound = 2.0 * 2f64.powi(-9) * (1.0 + 3.0 * blocks as f64).sqrt();
                let what = format!("{activation:?}, {}, {blocks} blocks", isa.name());
                assert!(error > 0.0 && error < bound, "{what}: off by {error}, at most {bound} expected");
            }
        }
    }
}

/// Maps are kept in f16, whose range is small: what lies beyond is bounded, not made infinite.
#[test]
fn what_f16_has_no_room_for_is_bounded() {
    let conventions = Conventions { activation: Activation::Relu, ..Preset::Reference.conventions() };
    let architecture = small(conventions);
    let mut weights = Weights::new();
    for (name, tensor) in Weights::random(&architecture, 3).unwrap().iter() {
        let mut tensor = tensor.clone();
        // The stem's outputs, and with them those behind it: far beyond 65,504.
        if name.starts_with("conv_0") && name.ends_with(".bn.weight") {
            tensor.data_mut().fill(1e7);
        }
        weights.insert(name, tensor);
    }
    let images = images(&architecture, 1);
    let mut exact = CpuExecutor::new(&architecture, &weights, &CpuOptions::default()).unwrap();
    let largest = exact.feature_maps_behind(&images, 0).unwrap().data().iter().copied().fold(0.0, f32::max);
    assert!(largest > 1e5, "a network that goes beyond f16: {largest}");
    for isa in Isa::testable() {
        let options = CpuOptions { isa: Some(isa), precision: Precision::Bf16, ..CpuOptions::default() };
        let mut rounded = CpuExecutor::new(&architecture, &weights, &options).unwrap();
        for blocks in 0..4 {
            let found = rounded.feature_maps_behind(&images, blocks).unwrap();
            assert!(found.data().iter().all(|v| v.is_finite()), "{}, {blocks} blocks", isa.name());
            assert!(found.data().iter().any(|&v| v > 0.0), "{}, {blocks} blocks", isa.name());
        }
        assert!(rounded.infer(&images).unwrap().data().iter().all(|v| v.is_finite()), "{}", isa.name());
    }
}

/// The last frozen stage's outputs are bounded by what the layer behind it, which learns, has room for.
#[test]
fn a_frozen_map_is_bounded_by_what_reads_it_now() {
    let conventions = Conventions { activation: Activation::Relu, ..Preset::Reference.conventions() };
    let architecture = small(conventions);
    // Far more than the running statistics say, so that bounds are met.
    let mut images = images(&architecture, 2);
    images.data_mut().iter_mut().for_each(|value| *value *= 1e3);
    let options = CpuOptions { precision: Precision::Bf16, ..CpuOptions::default() };
    let weights = Weights::random(&architecture, 3).unwrap();
    let mut executor = CpuExecutor::new(&architecture, &weights, &options).unwrap();
    executor.freeze(Some(1)).unwrap();
    for factor in [1.0, 20.0, 0.1] {
        for parameter in executor.parameters() {
            if parameter.name.contains("depthwise_2") && parameter.name.ends_with("depthwise_2.weight") {
                parameter.value.iter_mut().for_each(|value| *value *= factor);
            }
        }
        let mut fresh = CpuExecutor::new(&architecture, &executor.weights(), &options).unwrap();
        for blocks in [1, 2] {
            let expected = fresh.feature_maps_behind(&images, blocks).unwrap();
            let found = executor.feature_maps_behind(&images, blocks).unwrap();
            assert_eq!(found, expected, "{blocks} blocks, filter times {factor}");
        }
    }
}

/// A filter that f16 has no room for is not rounded to it, however small what it reads is.
#[test]
fn a_filter_beyond_f16_stays_finite() {
    let conventions = Conventions { activation: Activation::Relu, ..Preset::Reference.conventions() };
    let architecture = small(conventions);
    let images = images(&architecture, 1);
    let random = Weights::random(&architecture, 3).unwrap();
    let mut weights = Weights::new();
    for (name, tensor) in random.iter() {
        let mut tensor = tensor.clone();
        if name.starts_with("pointwise_1.bn.") && (name.ends_with("weight") || name.ends_with("bias")) {
            tensor.data_mut().fill(1e-6);
        } else if name == "depthwise_2.weight" {
            tensor.data_mut().fill(1e5);
        }
        weights.insert(name, tensor);
    }
    weights.check(&architecture).unwrap();
    for isa in Isa::testable() {
        let options = CpuOptions { isa: Some(isa), precision: Precision::Bf16, ..CpuOptions::default() };
        let mut executor = CpuExecutor::new(&architecture, &weights, &options).unwrap();
        let maps = executor.feature_maps_behind(&images, 2).unwrap();
        assert!(maps.data().iter().all(|value| value.is_finite()), "{}", isa.name());
    }
}
