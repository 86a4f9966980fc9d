//! Graphs written and read back, written otherwise, of other networks, and damaged ones.

use std::path::Path;

use mobilenet::conventions::Padding;
use mobilenet::cpu::{CpuExecutor, CpuOptions};
use mobilenet::{Architecture, Body, Executor, Model, Preset, Tensor};
use proptest::prelude::*;
use prost::Message;

use super::proto::*;
use super::*;
use crate::assemble::{Overrides, assemble};

const OPTIONS: OnnxOptions =
    OnnxOptions { fold_batch_norm: false, with_preprocessing: false, probabilities: false };

/// A small network whose statistics are not those of a fresh one.
fn model(preset: Preset, architecture: Architecture) -> Model {
    let mut architecture = Architecture { classes: 5, conventions: preset.conventions(), ..architecture };
    if architecture.input_channels == 1 {
        architecture.conventions.preprocessing.mean.truncate(1);
        architecture.conventions.preprocessing.std.truncate(1);
    }
    let labels = ["a", "b", "c", "d \"e\"", "ü"].map(String::from).to_vec();
    let mut model = Model::random(architecture, labels, 3).unwrap();
    for spec in model.architecture.tensors().unwrap() {
        let mut tensor = model.weights.get(&spec.name).unwrap().clone();
        if spec.shape.len() == 1 {
            for (index, value) in tensor.data_mut().iter_mut().enumerate() {
                let share = (index * 37 + spec.name.len() * 11) % 101;
                *value += share as f32 / 202.0 - 0.2;
            }
        }
        model.weights.insert(spec.name, tensor);
    }
    model
}

fn small() -> Architecture {
    Architecture { width_multiplier: 0.25, resolution: 37, ..Architecture::default() }
}

fn chain(bytes: &[u8]) -> Result<Chain> {
    read(bytes).map(|content| match content {
        Content::Chain(chain) => chain,
        Content::StateDict(_) => panic!("ONNX files are graphs"),
    })
}

fn import(bytes: &[u8]) -> Result<Model> {
    assemble(read(bytes)?, &Overrides::default()).map(|imported| imported.model)
}

fn logits(model: &Model) -> Vec<f32> {
    let a = &model.architecture;
    let values = a.resolution * a.resolution * a.input_channels;
    let image =
        (0..values).map(|at| ((at * 31 % 97) as f32 / 48.0 - 1.0) * ((at % 7) as f32 - 2.0) / 2.0).collect();
    let image = Tensor::new(&[1, a.resolution, a.resolution, a.input_channels], image).unwrap();
    let options = CpuOptions { threads: Some(1), ..CpuOptions::default() };
    CpuExecutor::new(a, &model.weights, &options).unwrap().infer(&image).unwrap().into_data()
}

/// That both give the same logits, up to the rounding of folded weights.
fn same_logits(ours: &Model, theirs: &Model, what: &str) {
    let (ours, theirs) = (logits(ours), logits(theirs));
    let largest = ours.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    let difference = ours.iter().zip(&theirs).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(largest > 0.01 && ours.len() == theirs.len(), "{what}");
    assert!(difference <= 2e-5 * largest, "{what}: {difference} of {largest}");
}

/// A file of ours with its messages changed by `change`.
fn changed(model: &Model, options: &OnnxOptions, change: impl FnOnce(&mut ModelProto)) -> Vec<u8> {
    let mut proto = decode(&write(model, options).unwrap()).unwrap();
    change(&mut proto);
    proto.encode_to_vec()
}

fn nodes(proto: &mut ModelProto) -> &mut Vec<NodeProto> {
    &mut proto.graph.as_mut().unwrap().node
}

fn tensor(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        dims: dims.to_vec(),
        data_type: data_type::FLOAT,
        name: name.into(),
        float_data: values.to_vec(),
        ..TensorProto::default()
    }
}

fn integers(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        dims: vec![values.len() as i64],
        data_type: data_type::INT64,
        name: name.into(),
        int64_data: values.to_vec(),
        ..TensorProto::default()
    }
}

fn node(operator: &str, input: &[&str], output: &str) -> NodeProto {
    NodeProto {
        input: input.iter().map(ToString::to_string).collect(),
        output: vec![output.into()],
        name: output.into(),
        op_type: operator.into(),
        ..NodeProto::default()
    }
}

#[test]
fn what_is_written_is_read_back_with_all_options() {
    let cases = [
        (Preset::Reference, small()),
        (Preset::TfSlim, small()),
        (Preset::Keras, Architecture { resolution: 77, ..small() }),
        (Preset::Timm, Architecture { resolution: 64, ..small() }),
        (Preset::Hf, Architecture { body: Body::Shallow, ..small() }),
        (Preset::Reference, Architecture { body: Body::Full, ..small() }),
        (Preset::Reference, Architecture { input_channels: 1, stem_stride: 1, ..small() }),
        (Preset::TfSlim, Architecture { output_stride: 16, ..small() }),
    ];
    for (preset, architecture) in cases {
        let model = model(preset, architecture);
        for bits in 0..8 {
            let options = OnnxOptions {
                fold_batch_norm: bits & 1 > 0,
                with_preprocessing: bits & 2 > 0,
                probabilities: bits & 4 > 0,
            };
            let what = format!("{preset:?}, {options:?}");
            let bytes = write(&model, &options).unwrap();
            assert!(could_be(&bytes), "{what}");
            let mut found = import(&bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
            same_logits(&model, &found, &what);
            // How widths were rounded cannot be told from those that there are.
            found.architecture.conventions.width_rounding = model.architecture.conventions.width_rounding;
            assert_eq!(found.architecture.differences(&model.architecture), [], "{what}");
            assert_eq!(found.labels, model.labels, "{what}");
            if !options.fold_batch_norm {
                assert_eq!(found.weights, model.weights, "{what}");
            }
        }
    }
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    let model = model(Preset::TfSlim, small());
    assert_eq!(write(&model, &OPTIONS).unwrap(), write(&model, &OPTIONS).unwrap());
}

#[test]
fn a_normalisation_before_the_network_becomes_its_preprocessing() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/onnx/tf2onnx_slim_uint8.onnx");
    let hints = chain(&std::fs::read(path).unwrap()).unwrap().hints;
    let p = hints.preprocessing.expect("the graph tells");
    assert_eq!((p.mean, p.std), (vec![0.5; 3], vec![0.5; 3]));
    assert!(hints.notes.iter().any(|note| note.contains("Softmax")), "{:?}", hints.notes);
}

#[test]
fn decomposed_batch_normalisations_and_activations_are_read() {
    let model = model(Preset::TfSlim, small());
    let bytes = changed(&model, &OPTIONS, |proto| {
        let graph = proto.graph.as_mut().unwrap();
        graph.initializer.push(tensor("ε", &[], &[1e-3]));
        graph.initializer.push(tensor("six", &[1], &[6.0]));
        graph.initializer.push(tensor("zero", &[], &[0.0]));
        graph.initializer.push(integers("per channel", &[1, -1, 1, 1]));
        let mut rewritten = Vec::new();
        for old in std::mem::take(&mut graph.node) {
            let (x, y) = (old.input[0].as_str(), old.output[0].as_str());
            let own = |part: &str| format!("{y}/{part}");
            match old.op_type.as_str() {
                "BatchNormalization" => {
                    // ((x − μ) · (1 / √(σ² + ε))) · γ + β, with constants folded on the way.
                    let [gamma, beta, mean, variance] = [1, 2, 3, 4].map(|at| old.input[at].as_str());
                    for (part, of) in [("γ", gamma), ("β", beta), ("μ", mean)] {
                        rewritten.push(node("Reshape", &[of, "per channel"], &own(part)));
                    }
                    rewritten.push(node("Add", &[variance, "ε"], &own("v")));
                    rewritten.push(node("Sqrt", &[&own("v")], &own("σ")));
                    rewritten.push(node("Reciprocal", &[&own("σ")], &own("r")));
                    rewritten.push(node("Reshape", &[&own("r"), "per channel"], &own("R")));
                    rewritten.push(node("Sub", &[x, &own("μ")], &own("a")));
                    rewritten.push(node("Mul", &[&own("R"), &own("a")], &own("b")));
                    rewritten.push(node("Mul", &[&own("b"), &own("γ")], &own("c")));
                    rewritten.push(node("Add", &[&own("β"), &own("c")], y));
                }
                "Clip" => {
                    rewritten.push(node("Max", &[x, "zero"], &own("m")));
                    rewritten.push(node("Min", &["six", &own("m")], y));
                }
                _ => rewritten.push(old),
            }
        }
        graph.node = rewritten;
    });
    same_logits(&model, &import(&bytes).unwrap(), "decomposed");
}

#[test]
fn pad_nodes_same_upper_and_channels_last_are_read() {
    for same_upper in [false, true] {
        let mut model = model(Preset::TfSlim, small());
        let bytes = changed(&model, &OPTIONS, |proto| {
            let graph = proto.graph.as_mut().unwrap();
            // Each node but Conv works channels last, between transposes.
            let perm = |values: [i64; 4]| AttributeProto {
                name: "perm".into(),
                ints: values.into(),
                ..Default::default()
            };
            graph.input[0]
                .r#type
                .as_mut()
                .unwrap()
                .tensor_type
                .as_mut()
                .unwrap()
                .shape
                .as_mut()
                .unwrap()
                .dim
                .swap(1, 3);
            let mut rewritten = Vec::new();
            for mut old in std::mem::take(&mut graph.node) {
                let (x, y) = (old.input[0].clone(), old.output[0].clone());
                let own = |part: &str| format!("{y}/{part}");
                match old.op_type.as_str() {
                    "Conv" => {
                        let pads = old.attribute.iter().position(|a| a.name == "pads").unwrap();
                        let pads = old.attribute.remove(pads).ints;
                        let mut inner = x.clone();
                        if same_upper {
                            old.attribute.push(AttributeProto {
                                name: "auto_pad".into(),
                                s: b"SAME_UPPER".into(),
                                ..Default::default()
                            });
                        } else if pads != [0; 4] {
                            let all = [0, pads[0], pads[1], 0, 0, pads[2], pads[3], 0];
                            graph.initializer.push(integers(&own("pads"), &all));
                            rewritten.push(node("Pad", &[&inner, &own("pads")], &own("padded")));
                            inner = own("padded");
                        }
                        let mut first = node("Transpose", &[&inner], &own("first"));
                        first.attribute.push(perm([0, 3, 1, 2]));
                        rewritten.push(first);
                        old.input[0] = own("first");
                        old.output[0] = own("conv");
                        rewritten.push(old);
                        // The batch normalisation stays channels first.
                    }
                    "BatchNormalization" => {
                        old.input[0] = format!("{x}/conv");
                        old.output[0] = own("bn");
                        rewritten.push(old);
                        let mut last = node("Transpose", &[&own("bn")], &y);
                        last.attribute.push(perm([0, 2, 3, 1]));
                        rewritten.push(last);
                    }
                    "GlobalAveragePool" => {
                        let axis = |axis: i64, keep: i64| {
                            vec![
                                AttributeProto {
                                    name: "axes".into(),
                                    ints: vec![axis],
                                    ..Default::default()
                                },
                                AttributeProto { name: "keepdims".into(), i: keep, ..Default::default() },
                            ]
                        };
                        let mut rows = node("ReduceMean", &[&x], &own("rows"));
                        rows.attribute = axis(1, 0);
                        let mut columns = node("ReduceMean", &[&own("rows")], &y);
                        columns.attribute = axis(-2, 1);
                        rewritten.extend([rows, columns]);
                    }
                    "Flatten" => {
                        graph.initializer.push(integers("one", &[1]));
                        rewritten.push(node("Squeeze", &[&x, "one"], &y));
                    }
                    "Gemm" => {
                        rewritten.push(node("Transpose", &["classifier.weight"], "turned"));
                        rewritten.push(node("MatMul", &[&x, "turned"], "product"));
                        rewritten.push(node("Add", &["product", "classifier.bias"], "sum"));
                        rewritten.push(node("Identity", &["sum"], &y));
                    }
                    _ => rewritten.push(old),
                }
            }
            graph.node = rewritten;
        });
        let found = import(&bytes).unwrap_or_else(|error| panic!("same_upper {same_upper}: {error}"));
        assert_eq!(found.architecture.conventions.padding, Padding::Same);
        model.architecture.conventions.preprocessing = found.architecture.conventions.preprocessing.clone();
        same_logits(&model, &found, "channels last");
    }
}

#[test]
fn a_graph_without_classifier_keeps_its_body() {
    let model = model(Preset::Timm, small());
    let bytes = changed(&model, &OPTIONS, |proto| {
        nodes(proto).pop();
    });
    let found = chain(&bytes).unwrap();
    assert!(found.classifier.is_none());
    assert_eq!((found.steps.len(), found.input_size), (27, [37, 37]));
}

#[test]
fn other_networks_are_named() {
    let model = model(Preset::Timm, small());
    let named =
        |change: &dyn Fn(&mut Vec<NodeProto>)| match import(&changed(&model, &OPTIONS, |p| change(nodes(p))))
        {
            Err(Error::OtherNetwork(what)) => what,
            other => panic!("expected another network, found {:?}", other.map(|model| model.architecture)),
        };
    // Puts a node between the one at `at` and the next.
    let insert = |nodes: &mut Vec<NodeProto>, at: usize, mut new: NodeProto| {
        let value = nodes[at].output[0].clone();
        new.input.insert(0, value);
        new.output = vec!["new".into()];
        nodes[at + 1].input[0] = "new".into();
        nodes.insert(at + 1, new);
    };
    let v2 = named(&|nodes| insert(nodes, 14, node("Add", &["conv_0.relu6"], "residual")));
    assert!(v2.contains("MobileNet v2") && v2.contains("`residual` (Add)"), "{v2}");
    let v3 = named(&|nodes| insert(nodes, 1, node("HardSwish", &[], "swish")));
    assert!(v3.contains("MobileNet v3"), "{v3}");
    let vgg = named(&|nodes| insert(nodes, 2, node("MaxPool", &[], "max")));
    assert!(vgg.contains("VGG"), "{vgg}");
    let efficient = named(&|nodes| {
        insert(nodes, 1, node("Sigmoid", &[], "s"));
        insert(nodes, 1, node("Sigmoid", &[], "t"));
    });
    assert!(efficient.contains("EfficientNet") || efficient.contains("there already"), "{efficient}");
    let resnet = named(&|nodes| {
        nodes.iter_mut().for_each(|node| node.attribute.retain(|attribute| attribute.name != "group"));
        insert(nodes, 5, node("Add", &["conv_0.relu6"], "residual"));
    });
    assert!(resnet.contains("ResNet") || resnet.contains("reads"), "{resnet}");
    let clipped = named(&|nodes| {
        nodes.iter_mut().filter(|node| node.op_type == "Clip").for_each(|node| node.input.swap(1, 2));
    });
    assert!(clipped.contains("clipped to 6 … 0"), "{clipped}");
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    let model = model(Preset::Timm, small());
    let refusal = |change: &dyn Fn(&mut ModelProto)| {
        import(&changed(&model, &OPTIONS, change)).unwrap_err().to_string()
    };
    let unknown = refusal(&|proto| nodes(proto)[2].op_type = "Celu".into());
    assert!(unknown.contains("`conv_0.relu6` (Celu) is not read"), "{unknown}");
    let foreign = refusal(&|proto| nodes(proto)[2].domain = "com.example".into());
    assert!(foreign.contains("com.example.Clip"), "{foreign}");
    let quantised = refusal(&|proto| nodes(proto)[0].op_type = "QLinearConv".into());
    assert!(quantised.contains("quantised"), "{quantised}");
    let external = refusal(&|proto| proto.graph.as_mut().unwrap().initializer[0].data_location = 1);
    assert!(external.contains("conv_0.weight") && external.contains("one file"), "{external}");
    let unsorted = refusal(&|proto| nodes(proto).swap(0, 1));
    assert!(unsorted.contains("which no earlier node writes"), "{unsorted}");
    let twice = refusal(&|proto| nodes(proto)[1].output[0] = "conv_0".into());
    assert!(twice.contains("already"), "{twice}");
    let two = refusal(&|proto| {
        let graph = proto.graph.as_mut().unwrap();
        let mut other = graph.input[0].clone();
        other.name = "mask".into();
        graph.input.push(other);
    });
    assert!(two.contains("`mask`"), "{two}");
    let branch = refusal(&|proto| nodes(proto)[4].input[0] = "input".into());
    assert!(branch.contains("branch") || branch.contains("already") || branch.contains("reads"), "{branch}");
    let local = refusal(&|proto| {
        let pool = nodes(proto).iter_mut().find(|n| n.op_type == "GlobalAveragePool").unwrap();
        pool.op_type = "AveragePool".into();
        pool.attribute.push(AttributeProto {
            name: "kernel_shape".into(),
            ints: vec![1, 1],
            ..Default::default()
        });
    });
    assert!(local.contains("the mean over all"), "{local}");
    let empty = ModelProto { ir_version: 8, ..ModelProto::default() }.encode_to_vec();
    assert!(read(&empty).unwrap_err().to_string().contains("no graph"));
}

#[test]
fn bombs_are_refused() {
    let model = model(Preset::Timm, small());
    let with = |extra: Vec<NodeProto>, constant: TensorProto| {
        let bytes = changed(&model, &OPTIONS, |proto| {
            proto.graph.as_mut().unwrap().initializer.push(constant);
            nodes(proto).extend(extra);
        });
        read(&bytes).unwrap_err().to_string()
    };
    let filled =
        with(vec![node("ConstantOfShape", &["huge"], "bomb")], integers("huge", &[1 << 20, 1 << 20]));
    assert!(filled.contains("far larger than the file"), "{filled}");
    // Each concatenation doubles.
    let mut doubling = vec![node("Identity", &["seed"], "b0")];
    for round in 0..40 {
        let name = format!("b{round}");
        let mut double = node("Concat", &[&name, &name], &format!("b{}", round + 1));
        double.attribute.push(AttributeProto { name: "axis".into(), ..Default::default() });
        doubling.push(double);
    }
    let doubled = with(doubling, integers("seed", &[1; 64]));
    assert!(doubled.contains("far larger than the file"), "{doubled}");
    let lying = with(Vec::new(), TensorProto { dims: vec![1 << 40], ..tensor("lying", &[], &[1.0]) });
    assert!(lying.contains("`lying`: 1 values"), "{lying}");
    // Two bytes a node.
    let graph = [0x0a, 0].repeat(300_000);
    let mut many = vec![0x08, 8, 0x3a];
    prost::encoding::encode_varint(graph.len() as u64, &mut many);
    many.extend(graph);
    let many = read(&many).unwrap_err().to_string();
    assert!(many.contains("more than 200000 parts"), "{many}");
    let mut cut = vec![0x08, 8, 0x3a];
    prost::encoding::encode_varint(u64::MAX >> 2, &mut cut);
    assert!(could_be(&cut));
    assert!(matches!(read(&cut), Err(Error::Damaged { .. })));
}

#[test]
fn only_onnx_is_taken_for_onnx() {
    assert!(!could_be(b""));
    assert!(!could_be(b"\x0a\x10whatever a TensorFlow graph begins with"));
    assert!(!could_be(b"\x89PNG\r\n\x1a\n"));
    assert!(!could_be(b"PK\x03\x04"));
    assert!(!could_be(b"{\"a\": 1}"));
}

#[test]
fn truncated_and_mutated_files_are_errors_not_panics() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/onnx");
    let ours = write(&model(Preset::Timm, small()), &OPTIONS).unwrap();
    let foreign = ["torchscript_hf", "tf2onnx_slim_uint8", "dynamo_hf"]
        .map(|name| std::fs::read(folder.join(name).with_extension("onnx")).unwrap());
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for file in foreign.iter().chain([&ours]) {
        for part in 0..64 {
            // Damage in the last fields may leave a whole graph; a shorter file never does.
            let cut = &file[..file.len() * part / 64];
            assert!(read(cut).is_err(), "{part}/64");
        }
        // Most bytes are weights; structure is hit by looking for it.
        let structure: Vec<usize> =
            (4..file.len() - 1).filter(|&at| file[at - 4..at].iter().any(u8::is_ascii_lowercase)).collect();
        for _ in 0..600 {
            let mut bytes = file.clone();
            for _ in 0..=random(3) {
                let at = structure[random(structure.len())];
                bytes[at] = random(256) as u8;
            }
            let _ = import(&bytes);
        }
    }
}

/// Nodes of all operators that are read, over the input, constants and each other.
fn any_graph() -> impl Strategy<Value = ModelProto> {
    const OPERATORS: [&str; 32] = [
        "Conv",
        "Relu",
        "Clip",
        "Add",
        "Mul",
        "Div",
        "Sub",
        "BatchNormalization",
        "Pad",
        "Transpose",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Gemm",
        "MatMul",
        "ReduceMean",
        "AveragePool",
        "GlobalAveragePool",
        "Gather",
        "Slice",
        "Concat",
        "Shape",
        "Cast",
        "Expand",
        "ConstantOfShape",
        "Identity",
        "Softmax",
        "Min",
        "Max",
        "Mod",
        "Constant",
    ];
    const NAMES: [&str; 10] = [
        "group",
        "pads",
        "strides",
        "axis",
        "axes",
        "perm",
        "kernel_shape",
        "keepdims",
        "value_ints",
        "transB",
    ];
    let number = prop_oneof![4 => -2i64..5, 1 => any::<i64>()];
    let attribute =
        (0..NAMES.len(), number.clone(), proptest::collection::vec(number.clone(), 0..9)).prop_map(
            |(name, i, ints)| AttributeProto { name: NAMES[name].into(), i, ints, ..Default::default() },
        );
    let node = (
        0..OPERATORS.len(),
        proptest::collection::vec(0usize..14, 0..5),
        proptest::collection::vec(attribute, 0..4),
    );
    let constant = (proptest::collection::vec(prop_oneof![9 => 0i64..4, 1 => any::<i64>()], 0..5), number);
    (proptest::collection::vec(node, 1..12), proptest::collection::vec(constant, 6)).prop_map(
        |(nodes, constants)| {
            let mut graph = GraphProto::default();
            let dim =
                [1, 3, 4, 4].map(|value| Dimension { dim_value: Some(value), dim_param: None }).to_vec();
            let tensor_type = Some(TensorType { elem_type: 1, shape: Some(TensorShapeProto { dim }) });
            graph.input.push(ValueInfoProto { name: "v0".into(), r#type: Some(TypeProto { tensor_type }) });
            for (at, (dims, value)) in constants.into_iter().enumerate() {
                let values: i64 =
                    dims.iter().fold(1, |product: i64, &extent| product.saturating_mul(extent.max(0)));
                let int64_data = vec![value; values.min(64) as usize];
                let name = format!("v{}", at + 1);
                graph.initializer.push(TensorProto {
                    dims,
                    data_type: data_type::INT64,
                    name,
                    int64_data,
                    ..Default::default()
                });
            }
            for (at, (operator, inputs, attribute)) in nodes.into_iter().enumerate() {
                let input = inputs.into_iter().map(|input| format!("v{}", input.min(6 + at))).collect();
                graph.node.push(NodeProto {
                    input,
                    output: vec![format!("v{}", 7 + at)],
                    op_type: OPERATORS[operator].into(),
                    attribute,
                    ..Default::default()
                });
            }
            ModelProto { ir_version: 8, graph: Some(graph), ..Default::default() }
        },
    )
}

proptest! {
    #[test]
    fn any_bytes_are_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = could_be(&bytes);
        let _ = read(&bytes);
    }

    #[test]
    fn any_graph_is_no_panic(proto in any_graph()) {
        let _ = import(&proto.encode_to_vec());
    }
}
