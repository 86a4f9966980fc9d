//! Keras' files, as Keras 3 and tf.keras wrote them (interop/make_keras_goldens.py), and ours.

use std::path::PathBuf;

use mobilenet::conventions::{Activation, Padding};
use mobilenet::cpu::{CpuExecutor, CpuOptions};
use mobilenet::{Architecture, Body, Executor, Model, Preset, Tensor};
use mobilenet_formats::keras::{self, Classifier};
use mobilenet_formats::{Content, Error, Imported, Overrides, StateDict, assemble};
use safetensors::SafeTensors;

/// What each golden file is, and the padding that it tells.
const GOLDENS: [(&str, bool); 7] = [
    ("whole_keras3.h5", true),
    ("weights_keras3.weights.h5", false),
    ("no_top_keras3.weights.h5", false),
    ("transfer_keras3.keras", true),
    ("latest.h5", false),
    ("weights_keras2.h5", false),
    ("transfer_keras2.keras", true),
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/keras")
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap()
}

fn state_dict(bytes: &[u8]) -> StateDict {
    match keras::read(bytes).unwrap() {
        Content::StateDict(state_dict) => state_dict,
        Content::Chain(_) => panic!("a chain"),
    }
}

fn import(bytes: &[u8]) -> Imported {
    let overrides = Overrides { resolution: Some(32), ..Overrides::default() };
    assemble(keras::read(bytes).unwrap(), &overrides).unwrap()
}

/// The tensor of that name in the safetensors file beside a golden.
fn beside(name: &str, tensor: &str) -> Tensor {
    let stem = name.split('.').next().unwrap();
    let bytes = bytes(&format!("{stem}.safetensors"));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor(tensor).unwrap();
    let values = view.data().as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect();
    Tensor::new(view.shape(), values).unwrap()
}

/// The logits of `model` for inputs as Keras' Rescaling layer takes them (0…255), or as they are.
fn logits(model: &Model, mut inputs: Tensor, raw: bool) -> Tensor {
    if raw {
        let preprocessing = &model.architecture.conventions.preprocessing;
        let (mean, std) = (preprocessing.mean[0], preprocessing.std[0]);
        for value in inputs.data_mut() {
            *value = (*value / 255.0 - mean) / std;
        }
    }
    let mut executor = CpuExecutor::new(&model.architecture, &model.weights, &CpuOptions::default()).unwrap();
    executor.infer(&inputs).unwrap()
}

/// The largest difference, relative to the largest value.
fn relative_error(found: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(found.shape(), expected.shape());
    let largest = expected.data().iter().fold(0f32, |most, value| most.max(value.abs()));
    found.data().iter().zip(expected.data()).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / largest
}

#[test]
fn every_golden_file_gives_keras_logits() {
    for (name, told) in GOLDENS.iter().filter(|(name, _)| !name.starts_with("no_top")) {
        let imported = import(&bytes(name));
        let expected = beside(name, "logits");
        let raw = name.ends_with(".keras");
        let found = logits(&imported.model, beside(name, "input"), raw);
        let error = relative_error(&found, &expected);
        assert!(error < 1e-5, "{name}: {error:e}");
        let assumed = imported.notes.iter().any(|note| note.contains("--padding"));
        assert_eq!(assumed, !told, "{name}: {:?}", imported.notes);
    }
}

#[test]
fn a_file_without_top_gives_the_body() {
    let state_dict = state_dict(&bytes("no_top_keras3.weights.h5"));
    assert!(state_dict.tensors.contains_key("conv_pw_13_bn/moving_variance"));
    assert!(!state_dict.tensors.keys().any(|name| name.starts_with("conv_preds")));
    // A classifier that passes the features on makes them visible.
    let mut model = import(&bytes("no_top_keras3.weights.h5")).model;
    let features = 64;
    model.architecture.classes = features;
    model.labels = (0..features).map(|class| class.to_string()).collect();
    let identity = (0..features * features).map(|i| f32::from(i / features == i % features)).collect();
    model.weights.insert("classifier.weight", Tensor::new(&[features, features], identity).unwrap());
    model.weights.insert("classifier.bias", Tensor::zeros(&[features]));
    let found = logits(&model, beside("no_top_keras3", "input"), false);
    let error = relative_error(&found, &beside("no_top_keras3", "logits"));
    assert!(error < 1e-5, "{error:e}");
}

#[test]
fn configurations_tell_the_conventions() {
    let hints = state_dict(&bytes("whole_keras3.h5")).hints;
    assert_eq!(hints.padding, Some(Padding::Keras));
    assert_eq!(hints.activation, Some(Activation::Relu6));
    assert_eq!(hints.bn_epsilon, Some(1e-3));
    assert!((hints.bn_momentum.unwrap() - 0.01).abs() < 1e-6);
    assert_eq!(hints.resolution, Some(32));
    assert_eq!(hints.dropout, Some(1e-3));
    assert_eq!(hints.preprocessing, None);
    for name in ["transfer_keras3.keras", "transfer_keras2.keras"] {
        let hints = state_dict(&bytes(name)).hints;
        let preprocessing = hints.preprocessing.unwrap();
        assert!((preprocessing.mean[0] - 0.5).abs() < 1e-6 && (preprocessing.std[2] - 0.5).abs() < 1e-6);
        assert_eq!(hints.dropout, Some(0.2), "{name}");
        assert_eq!(hints.padding, Some(Padding::Keras), "{name}");
    }
}

/// A model as Keras has it.
fn keras_model(seed: u64) -> Model {
    let architecture = Architecture {
        width_multiplier: 0.125,
        resolution: 64,
        classes: 5,
        conventions: Preset::Keras.conventions(),
        ..Architecture::default()
    };
    let labels = (0..5).map(|class| format!("class_{class}")).collect();
    let mut model = Model::random(architecture, labels, seed).unwrap();
    for (index, spec) in model.architecture.tensors().unwrap().into_iter().enumerate() {
        if spec.name.contains(".bn.") {
            let value = |i: usize| 0.2 + 0.01 * ((i * 7 + index * 3) % 50) as f32;
            let data = (0..spec.len()).map(value).collect();
            model.weights.insert(spec.name, Tensor::new(&spec.shape, data).unwrap());
        }
    }
    model
}

#[test]
fn what_is_written_comes_back() {
    let model = keras_model(1);
    let overrides = Overrides { resolution: Some(64), ..Overrides::default() };
    for write in [keras::write_h5, keras::write_weights_h5] {
        let written = write(&model, Classifier::Include).unwrap();
        let read = assemble(keras::read(&written).unwrap(), &overrides).unwrap().model;
        assert_eq!(read.weights, model.weights);
        assert_eq!(read.architecture, model.architecture);
        let body = write(&model, Classifier::LeaveOut).unwrap();
        assert!(body.len() < written.len());
        let tensors = state_dict(&body).tensors;
        assert_eq!(tensors.len(), 27 * 5);
        assert!(!tensors.contains_key("conv_preds/kernel"));
    }
}

#[test]
fn another_epsilon_moves_into_the_variance_and_where_it_cannot_into_gamma() {
    let mut model = keras_model(2);
    model.architecture.conventions.bn_epsilon = 1e-5;
    for variance in [0.3, 5e-4] {
        model.weights.insert("pointwise_3.bn.running_var", {
            let shape = model.weights.get("pointwise_3.bn.running_var").unwrap().shape().to_vec();
            Tensor::new(&shape, vec![variance; shape[0]]).unwrap()
        });
        let written = keras::write_h5(&model, Classifier::Include).unwrap();
        let overrides = Overrides { resolution: Some(64), ..Overrides::default() };
        let read = assemble(keras::read(&written).unwrap(), &overrides).unwrap().model;
        assert_eq!(read.architecture.conventions.bn_epsilon, 1e-3);
        let variances = read.weights.get("pointwise_3.bn.running_var").unwrap();
        assert!(variances.data().iter().all(|&v| v >= 0.0));
        let inputs = (0..64 * 64 * 3).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        let inputs = Tensor::new(&[1, 64, 64, 3], inputs).unwrap();
        let error = relative_error(&logits(&read, inputs.clone(), false), &logits(&model, inputs, false));
        assert!(error < 1e-5, "variance {variance}: {error:e}");
    }
}

#[test]
fn what_keras_cannot_express_is_refused_and_said() {
    let refused = |change: &dyn Fn(&mut Architecture)| {
        let mut architecture = keras_model(3).architecture;
        change(&mut architecture);
        let labels = vec![String::new(); architecture.classes];
        let model = Model::random(architecture, labels, 1).unwrap();
        match keras::write_h5(&model, Classifier::Include) {
            Err(Error::Unsupported(problem)) => problem,
            other => panic!("{other:?}"),
        }
    };
    assert!(refused(&|a| a.conventions.activation = Activation::Relu).contains("ReLU6"));
    assert!(refused(&|a| a.conventions.padding = Padding::Fixed).contains("pads Fixed"));
    assert!(refused(&|a| a.body = Body::Shallow).contains("shallow"));
    assert!(refused(&|a| a.body = Body::Full).contains("full"));
    assert!(refused(&|a| a.output_stride = 16).contains("output stride 16"));
    let rounded =
        |a: &mut Architecture| a.conventions.width_rounding = mobilenet::conventions::WidthRounding::AtLeast8;
    assert!(refused(&rounded).contains("channels"));
    // SAME is Keras' own padding at even sizes, and not at odd ones.
    let mut same = keras_model(3);
    same.architecture.conventions.padding = Padding::Same;
    assert!(keras::write_h5(&same, Classifier::Include).is_ok());
    assert!(
        refused(&|a| (a.conventions.padding, a.resolution) = (Padding::Same, 100))
            .contains("pads Same at 100")
    );
}

#[test]
fn damaged_files_are_errors_and_never_panics() {
    for (name, _) in GOLDENS {
        let whole = bytes(name);
        for part in 1..64 {
            let cut = &whole[..whole.len() * part / 64];
            assert!(keras::read(cut).is_err(), "{name}: cut at {}", cut.len());
        }
    }
    // Where the structures are, and anywhere.
    for (name, tries) in [("latest.h5", 700), ("weights_keras2.h5", 300), ("transfer_keras3.keras", 150)] {
        let whole = bytes(name);
        let mut state = 0x2545_f491_4f6c_dd1du64;
        let mut next = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        for _ in 0..tries {
            let mut changed = whole.clone();
            for _ in 0..1 + next(4) {
                let at = next(whole.len());
                changed[at] = [0, 1, 0x7f, 0xff, changed[at] ^ 1 << next(8)][next(5)];
            }
            let _ = keras::read(&changed);
        }
    }
}
