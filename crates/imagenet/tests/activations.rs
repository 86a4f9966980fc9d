//! Feature maps inside the network against TensorFlow's, for the first golden image.
//!
//! These were computed from the float32 weights. The embedded 16-bit ones come near; the weights
//! that they were rounded from, which are not part of the repository, must agree to 1e-4.

use mobilenet::cpu::{CpuExecutor, CpuOptions};
use mobilenet::{Model, Tensor};
use safetensors::SafeTensors;

const IMAGES: &[u8] = include_bytes!("golden/tensorflow.safetensors");
const ACTIVATIONS: &[u8] = include_bytes!("golden/activations.safetensors");

/// Name in the golden file, blocks before the map, and every how many-th row and column there is.
const MAPS: [(&str, usize, usize); 3] =
    [("conv2d_0", 0, 8), ("conv2d_6_pointwise", 6, 2), ("conv2d_13_pointwise", 13, 1)];

fn first_image() -> Tensor {
    let file = SafeTensors::deserialize(IMAGES).unwrap();
    let pixels = &file.tensor("images_u8").unwrap().data()[..224 * 224 * 3];
    Tensor::new(&[1, 224, 224, 3], pixels.iter().map(|&p| f32::from(p) / 127.5 - 1.0).collect()).unwrap()
}

fn feature_map(model: &Model, blocks: usize) -> Tensor {
    let mut executor = CpuExecutor::new(&model.architecture, &model.weights, &CpuOptions::default()).unwrap();
    executor.feature_maps_behind(&first_image(), blocks).unwrap()
}

/// The largest difference between a map, thinned out, and TensorFlow's, as a share of the largest
/// value. Only the first channels are compared where there are more than in the golden file.
fn difference(map: &Tensor, name: &str, step: usize) -> f32 {
    let file = SafeTensors::deserialize(ACTIVATIONS).unwrap();
    let golden = file.tensor(name).unwrap();
    let expected = golden.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
    let [height, width, kept] = *golden.shape() else { panic!("{:?}", golden.shape()) };
    let [1, rows, columns, channels] = *map.shape() else { panic!("{:?}", map.shape()) };
    assert_eq!((rows.div_ceil(step), columns.div_ceil(step)), (height, width), "{name}");
    let pixels =
        (0..rows).step_by(step).flat_map(|y| (0..columns).step_by(step).map(move |x| y * columns + x));
    let found = pixels.flat_map(|pixel| &map.data()[pixel * channels..][..kept]);
    let (mut most, mut largest) = (0f32, 0f32);
    for (found, expected) in found.zip(expected) {
        most = most.max((found - expected).abs());
        largest = largest.max(expected.abs());
    }
    assert!(largest > 1.0, "{name}: nothing to compare");
    most / largest
}

/// The model with a first pointwise layer that lets its 32 inputs through as they are, so that the
/// depthwise output before it, which never lies in memory, can be seen.
fn with_open_first_block(mut model: Model) -> Model {
    let epsilon = model.architecture.conventions.bn_epsilon;
    let mut set = |name: &str, shape: &[usize], value: &dyn Fn(usize) -> f32| {
        let values = (0..shape.iter().product()).map(value).collect();
        model.weights.insert(format!("pointwise_1.{name}"), Tensor::new(shape, values).unwrap());
    };
    set("weight", &[64, 32, 1, 1], &|at| if at / 32 == at % 32 { 1.0 } else { 0.0 });
    set("bn.weight", &[64], &|_| 1.0);
    set("bn.bias", &[64], &|_| 0.0);
    set("bn.running_mean", &[64], &|_| 0.0);
    set("bn.running_var", &[64], &|_| 1.0 - epsilon);
    model
}

/// Every difference, by name.
fn differences(model: Model) -> Vec<(&'static str, f32)> {
    let mut found: Vec<_> = MAPS
        .iter()
        .map(|&(name, blocks, step)| (name, difference(&feature_map(&model, blocks), name, step)))
        .collect();
    let map = feature_map(&with_open_first_block(model), 1);
    found.push(("conv2d_1_depthwise", difference(&map, "conv2d_1_depthwise", 8)));
    found
}

#[test]
fn activations_of_the_16_bit_weights_are_near_tensorflows() {
    for (name, difference) in differences(mobilenet_imagenet::model().unwrap()) {
        assert!(difference <= 0.03, "{name}: {difference} of the largest value");
    }
}

/// `MOBILENET_IMAGENET_FLOAT32=FILE cargo test -p mobilenet-imagenet -- --ignored`, as in `golden.rs`.
#[test]
#[ignore = "needs the float32 weights, which are not part of the repository"]
fn float32_activations_are_tensorflows() {
    let path = std::env::var("MOBILENET_IMAGENET_FLOAT32").expect("the path of the float32 model");
    for (name, difference) in differences(Model::load(path).unwrap()) {
        println!("{name}: {difference:e} of the largest value");
        assert!(difference <= 1e-4, "{name}: {difference} of the largest value");
    }
}
