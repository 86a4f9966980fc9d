//! TFLite models as TensorFlow's converter made them, our own, and hostile ones.

mod tensorflow_support;

use mobilenet::conventions::{Activation, Preset};
use mobilenet::{Architecture, Model, Tensor};
use mobilenet_formats::chain::StepPadding;
use mobilenet_formats::{Chain, Overrides, assemble, tflite};
use proptest::prelude::*;
use tensorflow_support::{chain, close, golden, hostile, infer};

fn read(name: &str) -> Chain {
    chain(tflite::read(&golden(&format!("tflite/{name}.tflite"))).unwrap())
}

#[test]
fn a_converted_keras_model_is_a_chain() {
    for name in ["keras_f32", "keras_f16"] {
        let chain = read(name);
        assert_eq!(chain.steps.len(), 27);
        assert_eq!(chain.input_size, [64, 64]);
        assert_eq!(chain.steps[0].weight.shape(), [4, 3, 3, 3]);
        assert_eq!(chain.steps[1].weight.shape(), [4, 1, 3, 3]);
        assert!(chain.steps.iter().all(|step| step.activation == Some(Activation::Relu6)));
        assert!(chain.steps.iter().all(|step| step.bias.is_some() && step.batch_norm.is_none()));
        assert_eq!(chain.classifier.unwrap().0.shape(), [10, 128]);
    }
}

#[test]
fn a_quantized_model_is_refused_with_what_to_do() {
    let error = tflite::read(&golden("tflite/quantized.tflite")).unwrap_err().to_string();
    assert!(error.contains("quantized") && error.contains("float32"), "{error}");
}

fn model(preset: Preset, resolution: usize) -> Model {
    let conventions = preset.conventions();
    let architecture = Architecture {
        width_multiplier: 0.25,
        resolution,
        classes: 3,
        conventions,
        ..Architecture::default()
    };
    let labels = ["cat", "dog", "newt"].map(String::from).to_vec();
    let mut model = Model::random(architecture, labels, 3).unwrap();
    let tensors: Vec<(String, Tensor)> =
        model.weights.iter().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
    for (name, mut tensor) in tensors {
        let (by, add) = if name.ends_with("running_var") { (0.5, 0.7) } else { (0.3, 0.1) };
        if name.contains(".bn.") {
            let values = tensor.data_mut().iter_mut().enumerate();
            values.for_each(|(i, v)| *v += by * ((i as f32 * 1.7).sin() + add));
        }
        model.weights.insert(name, tensor);
    }
    model
}

fn logits(model: &Model) -> Tensor {
    let input = model.architecture.input_shape();
    let data = (0..input.len()).map(|i| (i as f32 * 0.37).sin()).collect();
    let input = Tensor::new(&[1, input.height, input.width, input.channels], data).unwrap();
    infer(model, &input)
}

#[test]
fn what_is_written_comes_back_with_its_padding_labels_and_logits() {
    for (preset, resolution) in
        [(Preset::Reference, 32), (Preset::Reference, 35), (Preset::Keras, 47), (Preset::TfSlim, 33)]
    {
        let model = model(preset, resolution);
        let bytes = tflite::write(&model, tflite::Options { softmax: resolution == 33 }).unwrap();
        assert!(tflite::looks_like(&bytes[..16]));
        let content = tflite::read(&bytes).unwrap();
        let steps = &chain(content.clone()).steps;
        let pads = |step: usize| match steps[step].padding {
            StepPadding::Same => None,
            StepPadding::Explicit { top, bottom, .. } => Some((top, bottom)),
        };
        match (preset, resolution) {
            (Preset::Reference, 32) => {
                assert_eq!((pads(0), pads(1), pads(3)), (Some((1, 1)), None, Some((1, 1))))
            }
            (Preset::TfSlim, _) => assert!((0..27).all(|step| pads(step).is_none())),
            _ => {}
        }
        let back = assemble(content, &Overrides::default()).unwrap().model;
        assert_eq!(back.labels, model.labels);
        let (ours, theirs) = (&model.architecture.conventions, &back.architecture.conventions);
        assert_eq!((&ours.preprocessing, ours.activation), (&theirs.preprocessing, theirs.activation));
        let (expected, found) = (logits(&model), logits(&back));
        let largest = expected.data().iter().fold(0.0_f32, |most, v| most.max(v.abs()));
        close(found.data(), expected.data(), 1e-5 * largest);
    }
}

#[test]
fn every_buffer_is_aligned() {
    let model = model(Preset::Reference, 32);
    let bytes = tflite::write(&model, tflite::Options::default()).unwrap();
    assert_eq!(bytes.len() % 16, 0);
    // The classifier's weights are written as they are.
    let weight = model.weights.get("classifier.weight").unwrap().data();
    let wanted: Vec<u8> = weight.iter().flat_map(|v| v.to_le_bytes()).collect();
    let at = bytes.windows(wanted.len()).position(|window| window == wanted).unwrap();
    assert_eq!(at % 16, 0);
}

#[test]
fn damaged_files_are_errors_and_nothing_worse() {
    hostile(&golden("tflite/keras_f16.tflite"), 1500, |bytes| drop(tflite::read(bytes)));
    hostile(&golden("tflite/quantized.tflite"), 500, |bytes| drop(tflite::read(bytes)));
    // The tables of our own file lie at its beginning, where most changes fall.
    let own = tflite::write(&model(Preset::Reference, 32), tflite::Options::default()).unwrap();
    hostile(&own, 500, |bytes| drop(tflite::read(bytes)));
}

proptest! {
    #[test]
    fn any_bytes_are_no_panic(mut bytes in proptest::collection::vec(any::<u8>(), 8..400)) {
        bytes[..8].copy_from_slice(b"\x10\0\0\0TFL3");
        drop(tflite::read(&bytes));
    }
}
