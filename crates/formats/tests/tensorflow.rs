//! Frozen graphs and checkpoints as TensorFlow wrote them, and as nobody should.

mod tensorflow_support;

use mobilenet::conventions::Activation;
use mobilenet_formats::chain::StepPadding;
use mobilenet_formats::{Chain, Content, StateDict, tensorflow};
use proptest::prelude::*;
use tensorflow_support::{chain, close, golden, hostile, tensors};

fn graph(name: &str) -> Chain {
    chain(tensorflow::read_graph(&golden(&format!("tensorflow/{name}.pb"))).unwrap())
}

fn dict(content: Content) -> StateDict {
    match content {
        Content::StateDict(dict) => dict,
        Content::Chain(_) => panic!("expected tensors by name"),
    }
}

fn object() -> StateDict {
    let index = golden("tensorflow/object.index");
    let shard = &mut |shard, count| {
        assert_eq!((shard, count), (0, 1));
        Ok(golden("tensorflow/object.data-00000-of-00001"))
    };
    dict(tensorflow::read_checkpoint_v2(&index, shard).unwrap())
}

fn version_2() -> StateDict {
    let index = golden("tensorflow/checkpoint.index");
    let shard = &mut |_, _| Ok(golden("tensorflow/checkpoint.data-00000-of-00001"));
    dict(tensorflow::read_checkpoint_v2(&index, shard).unwrap())
}

#[test]
fn a_slim_graph_is_a_chain_of_27_convolutions() {
    let chain = graph("slim_fused");
    assert_eq!(chain.steps.len(), 27);
    assert_eq!(chain.input_size, [64, 64]);
    assert_eq!(chain.steps[0].weight.shape(), [8, 3, 3, 3]);
    assert_eq!(chain.steps[1].weight.shape(), [8, 1, 3, 3]);
    assert_eq!(chain.steps[26].weight.shape(), [64, 64, 1, 1]);
    for (index, step) in chain.steps.iter().enumerate() {
        assert_eq!(step.depthwise, index % 2 == 1);
        assert_eq!(step.activation, Some(Activation::Relu6));
        assert_eq!((step.padding, step.dilation), (StepPadding::Same, 1));
        assert_eq!(step.stride, if [0, 3, 7, 11, 23].contains(&index) { 2 } else { 1 }, "{}", step.name);
        let batch_norm = step.batch_norm.as_ref().unwrap();
        assert!((batch_norm.epsilon - 0.001).abs() < 1e-9);
        assert!(batch_norm.mean.iter().any(|v| *v != 0.0) && step.bias.is_none());
    }
    let (weight, bias) = chain.classifier.unwrap();
    assert_eq!((weight.shape(), bias.len()), (&[11, 64][..], 11));
    assert_eq!(chain.hints.preprocessing, None);
}

#[test]
fn written_out_and_channels_first_graphs_are_the_same_network() {
    let (fused, decomposed, nchw) = (graph("slim_fused"), graph("slim_decomposed"), graph("slim_nchw"));
    for ((a, b), c) in fused.steps.iter().zip(&decomposed.steps).zip(&nchw.steps) {
        for other in [b, c] {
            assert_eq!(a.weight, other.weight);
            let (x, y) = (a.batch_norm.as_ref().unwrap(), other.batch_norm.as_ref().unwrap());
            assert_eq!((&x.weight, &x.bias, &x.mean), (&y.weight, &y.bias, &y.mean));
            assert_eq!((&x.variance, x.epsilon), (&y.variance, y.epsilon));
            assert_eq!((a.stride, a.padding), (other.stride, other.padding));
        }
    }
    assert_eq!(fused.classifier, decomposed.classifier);
    assert_eq!(fused.classifier, nchw.classifier);
    assert_eq!(nchw.input_size, [64, 64]);
}

#[test]
fn a_retrained_graph_is_its_new_classifier_on_the_network() {
    let logits = graph("retrained");
    assert_eq!(logits.steps.len(), 27);
    let (weight, bias) = logits.classifier.unwrap();
    assert_eq!((weight.shape(), bias.len()), (&[5, 64][..], 5));
    assert!(logits.hints.notes.iter().any(|note| note.contains("2 linear layers")), "{:?}", logits.hints);
    let pool = graph("retrained_pool");
    assert_eq!(pool.classifier.unwrap().0.shape(), [5, 64]);
    let note = &pool.hints.notes[0];
    assert!(note.contains("`head/dense/MatMul`") && note.contains("Logits/Conv2d_1c_1x1/Conv2D"), "{note}");
    for hints in [logits.hints, pool.hints] {
        let preprocessing = hints.preprocessing.unwrap();
        close(&preprocessing.mean, &[0.5; 3], 1e-6);
        close(&preprocessing.std, &[0.5; 3], 1e-6);
        assert_eq!((hints.resolution, preprocessing.crop_fraction), (Some(64), 1.0));
    }
}

#[test]
fn both_versions_of_a_checkpoint_give_the_moving_averages() {
    let expected = tensors("tensorflow/checkpoint");
    let files =
        [dict(tensorflow::read_checkpoint_v1(&golden("tensorflow/checkpoint.v1")).unwrap()), version_2()];
    for dict in files {
        for (name, value) in &dict.tensors {
            assert!(value == &expected[name], "{name}");
        }
        // Besides those of the network there are the input, the logits and one that is no average.
        assert_eq!(dict.tensors.len() + 3, expected.len());
        assert_ne!(dict.tensors["MobilenetV1/Conv2d_0/weights"], expected["raw"]);
        assert!(dict.hints.notes[0].contains("ExponentialMovingAverage"), "{:?}", dict.hints.notes);
    }
}

#[test]
fn an_object_checkpoint_gives_keras_names() {
    let dict = object();
    assert_eq!(dict.tensors.len(), 27 * 5 + 2);
    assert_eq!(dict.tensors["conv1/kernel"].shape(), [3, 3, 3, 2]);
    assert_eq!(dict.tensors["conv_dw_13_bn/moving_variance"].shape(), [64]);
    assert_eq!(dict.tensors["conv_preds/bias"].shape(), [10]);
}

#[test]
fn a_checkpoint_is_found_by_any_of_its_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let data = "model.ckpt-7.data-00000-of-00001";
    std::fs::write(path("model.ckpt-7.index"), golden("tensorflow/checkpoint.index")).unwrap();
    std::fs::write(path(data), golden("tensorflow/checkpoint.data-00000-of-00001")).unwrap();
    std::fs::write(path("checkpoint"), "model_checkpoint_path: \"/home/somebody/model.ckpt-7\"\n").unwrap();
    std::fs::write(path("other"), "").unwrap();
    for name in ["", "model.ckpt-7", "model.ckpt-7.index", "model.ckpt-7.meta", data] {
        let found = tensorflow::find_checkpoint_index(&path(name));
        assert_eq!(found, Some(path("model.ckpt-7.index")), "{name}");
    }
    assert_eq!(tensorflow::find_checkpoint_index(&path("other")), None);
    let found = dict(tensorflow::load_checkpoint(&path("model.ckpt-7.index")).unwrap());
    assert_eq!(found.tensors, version_2().tensors);
    std::fs::remove_file(path(data)).unwrap();
    let error = tensorflow::load_checkpoint(&path("model.ckpt-7.index")).unwrap_err().to_string();
    assert!(error.contains(data), "{error}");
}

#[test]
fn kinds_of_files_are_told_apart() {
    let (graph, index, single) = (
        golden("tensorflow/slim_fused.pb"),
        golden("tensorflow/checkpoint.index"),
        golden("tensorflow/checkpoint.v1"),
    );
    let data = golden("tensorflow/checkpoint.data-00000-of-00001");
    assert!(tensorflow::looks_like_graph(&graph[..64]));
    assert!(!tensorflow::looks_like_graph(&index) && !tensorflow::looks_like_graph(&data));
    assert!(tensorflow::looks_like_checkpoint(&index) && tensorflow::looks_like_checkpoint(&single));
    assert!(!tensorflow::looks_like_checkpoint(&graph) && !tensorflow::looks_like_checkpoint(&data));
    assert!(tensorflow::looks_like_checkpoint_index(&index));
    assert!(!tensorflow::looks_like_checkpoint_index(&single));
    let mut saved = vec![0x08, 0x01, 0x12, 0x80, 0x02];
    saved.extend([0; 300]);
    assert!(tensorflow::looks_like_saved_model(&saved));
    let error = tensorflow::read_graph(&saved).unwrap_err().to_string();
    assert!(error.contains("variables.index"), "{error}");
}

#[test]
fn a_changed_value_is_noticed_by_its_checksum() {
    let index = golden("tensorflow/checkpoint.index");
    let shard = &mut |_, _| {
        let mut data = golden("tensorflow/checkpoint.data-00000-of-00001");
        let middle = data.len() / 2;
        data[middle..].iter_mut().for_each(|byte| *byte ^= 0x10);
        Ok(data)
    };
    let error = tensorflow::read_checkpoint_v2(&index, shard).err().unwrap().to_string();
    assert!(error.contains("checksum of `MobilenetV1/"), "{error}");
}

#[test]
fn damaged_files_are_errors_and_nothing_worse() {
    hostile(&golden("tensorflow/slim_decomposed.pb"), 600, |bytes| drop(tensorflow::read_graph(bytes)));
    hostile(&golden("tensorflow/retrained.pb"), 600, |bytes| drop(tensorflow::read_graph(bytes)));
    hostile(&golden("tensorflow/checkpoint.v1"), 300, |bytes| drop(tensorflow::read_checkpoint_v1(bytes)));
    let data = golden("tensorflow/checkpoint.data-00000-of-00001");
    hostile(&golden("tensorflow/checkpoint.index"), 600, |bytes| {
        drop(tensorflow::read_checkpoint_v2(bytes, &mut |_, _| Ok(data.clone())));
    });
}

proptest! {
    #[test]
    fn any_bytes_are_no_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        drop(tensorflow::read_graph(&bytes));
        tensorflow::looks_like_graph(&bytes);
        bytes.extend(0xdb47_7524_8b80_fb57_u64.to_le_bytes());
        drop(tensorflow::read_checkpoint_v1(&bytes));
        drop(tensorflow::read_checkpoint_v2(&bytes, &mut |_, _| Ok(Vec::new())));
        tensorflow::looks_like_checkpoint_index(&bytes);
    }
}
