//! The embedded model against TensorFlow: three crops of the example photos with the logits that
//! TensorFlow computed from the float32 weights.

use std::path::Path;

use mobilenet::classifier::likeliest;
use mobilenet::cpu::{CpuExecutor, CpuOptions};
use mobilenet::{Classifier, Executor, Model, Tensor};
use safetensors::SafeTensors;

const GOLDEN: &[u8] = include_bytes!("golden/tensorflow.safetensors");

/// The crops as the network reads them, and TensorFlow's logits.
fn golden() -> (Tensor, Tensor) {
    let file = SafeTensors::deserialize(GOLDEN).unwrap();
    let images = file.tensor("images_u8").unwrap();
    let pixels = images.data().iter().map(|&pixel| f32::from(pixel) / 127.5 - 1.0).collect();
    let logits = file.tensor("logits").unwrap();
    let values = logits.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    (Tensor::new(images.shape(), pixels).unwrap(), Tensor::new(logits.shape(), values).unwrap())
}

fn infer(model: &Model, input: &Tensor) -> Tensor {
    let mut executor = CpuExecutor::new(&model.architecture, &model.weights, &CpuOptions::default()).unwrap();
    executor.infer(input).unwrap()
}

fn largest_difference(found: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(found.shape(), expected.shape());
    found.data().iter().zip(expected.data()).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

#[test]
fn logits_are_tensorflows_within_what_16_bits_cost() {
    let model = mobilenet_imagenet::model().unwrap();
    let (input, expected) = golden();
    let found = infer(&model, &input);
    let difference = largest_difference(&found, &expected);
    assert!(difference <= 0.05, "logits differ by {difference}");
    // If it were far smaller, the weights would not be the rounded ones.
    assert!(difference >= 1e-4, "logits differ by only {difference}");
    for (found, expected) in found.rows().zip(expected.rows()) {
        let order = |logits| likeliest(&model, logits, 5).into_iter().map(|p| p.class).collect::<Vec<_>>();
        assert_eq!(order(found), order(expected));
    }
}

/// `MOBILENET_IMAGENET_FLOAT32=FILE cargo test -p mobilenet-imagenet -- --ignored`, where FILE is
/// the model imported from the float32 weights.
#[test]
#[ignore = "needs the float32 weights, which are not part of the repository"]
fn float32_logits_are_tensorflows() {
    let path = std::env::var("MOBILENET_IMAGENET_FLOAT32").expect("the path of the float32 model");
    let model = Model::load(path).unwrap();
    let (input, expected) = golden();
    let difference = largest_difference(&infer(&model, &input), &expected);
    println!("largest difference of a logit: {difference:e}");
    assert!(difference <= 2e-4, "logits differ by {difference}");
}

#[test]
fn the_photos_show_what_they_show() {
    let mut classifier = Classifier::new(mobilenet_imagenet::model().unwrap()).unwrap();
    let photos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/photos");
    let mut first = |name: &str| classifier.classify_file(photos.join(name), 1).unwrap().remove(0);
    let cat = first("chelsea.png");
    assert!(["Egyptian cat", "tabby, tabby cat"].contains(&cat.label.as_str()), "{cat:?}");
    let coffee = first("coffee.png");
    assert!(coffee.label == "espresso" && coffee.probability > 0.9, "{coffee:?}");
    let rocket = first("rocket.png");
    assert!(["missile", "projectile, missile"].contains(&rocket.label.as_str()), "{rocket:?}");
}

#[test]
fn the_labels_are_the_models() {
    let model = mobilenet_imagenet::model().unwrap();
    assert!(mobilenet_imagenet::labels().eq(model.labels.iter().map(String::as_str)));
    assert_eq!(model.architecture, mobilenet_imagenet::architecture());
    assert_eq!(model.labels.len(), 1000);
    assert_eq!(model.label(1), Some("tench, Tinca tinca"));
}
