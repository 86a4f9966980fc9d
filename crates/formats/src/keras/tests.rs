use super::*;
use crate::hdf5::NewGroup;

/// A file with these layers, each with a kernel of that shape, as Keras 1 and 2 lay it out.
fn legacy(layers: &[(&str, &[usize])]) -> Vec<u8> {
    let mut root = NewGroup::default();
    for (name, shape) in layers {
        let group = root.group(&format!("{name}/{name}")).unwrap();
        let values = vec![0.5; shape.iter().product()];
        group.dataset("kernel:0", shape, values).unwrap();
    }
    hdf5::to_bytes(&root).unwrap()
}

/// The layers of a body that are needed to be taken for one.
const BODY: [(&str, &[usize]); 3] =
    [("conv1", &[3, 3, 3, 8]), ("conv_dw_1", &[3, 3, 8, 1]), ("conv_pw_1", &[1, 1, 8, 16])];

fn with(layers: &[(&'static str, &'static [usize])]) -> Result<Vec<String>> {
    let layers: Vec<_> = BODY.iter().chain(layers).copied().collect();
    match read(&legacy(&layers))? {
        Content::StateDict(state_dict) => Ok(state_dict.tensors.into_keys().collect()),
        Content::Chain(_) => unreachable!("Keras files give tensors"),
    }
}

#[test]
fn a_dense_layer_of_any_name_is_the_classifier() {
    let names = with(&[("my_head", &[16, 4])]).unwrap();
    let body = ["conv1/kernel", "conv_dw_1/depthwise_kernel", "conv_preds/bias", "conv_preds/kernel"];
    assert_eq!(names[..4], body);
}

#[test]
fn heads_that_are_no_classifier_are_refused_by_name() {
    let problem = with(&[("hidden", &[16, 8]), ("out", &[8, 4])]).unwrap_err().to_string();
    assert!(problem.contains("2 layers with weights (`hidden`, `out`)"), "{problem}");
    let problem = with(&[("flat", &[16 * 49, 4])]).unwrap_err().to_string();
    assert!(problem.contains("flat/kernel") && problem.contains("flattens"), "{problem}");
}

#[test]
fn other_networks_are_named() {
    for (layer, network) in [
        ("block_1_expand", "MobileNet v2 (Keras)"),
        ("conv2_block1_1_conv", "ResNet (Keras)"),
        ("block1_conv1", "VGG (Keras)"),
    ] {
        let error = read(&legacy(&[(layer, &[1, 1, 4, 4])])).unwrap_err();
        assert!(matches!(&error, Error::OtherNetwork(what) if what.contains(network)), "{error}");
    }
    let mut root = NewGroup::default();
    root.text(
        "model_config",
        r#"{"config": {"name": "efficientnetb0", "layers": [{"class_name": "Conv2D", "config": {}}]}}"#,
    );
    root.group("model_weights/x/x").unwrap().dataset("kernel:0", &[1], vec![1.0]).unwrap();
    let error = read(&hdf5::to_bytes(&root).unwrap()).unwrap_err();
    assert!(error.to_string().contains("EfficientNet, by its name `efficientnetb0`"), "{error}");
    let error = read(&legacy(&[("dense", &[4, 4])])).unwrap_err();
    assert!(matches!(&error, Error::OtherNetwork(what) if what.contains("`dense`")), "{error}");
}

/// A layer of a configuration.
fn layer(class: &str, config: &str) -> String {
    format!(r#"{{"class_name": "{class}", "config": {{{config}}}}}"#)
}

fn hints(layers: &[String]) -> Result<crate::Hints> {
    let text = format!(r#"{{"config": {{"name": "mobilenet_0.50_160", "layers": [{}]}}}}"#, layers.join(","));
    config::Config::parse(&text)?.hints()
}

#[test]
fn every_generation_of_padding_is_told() {
    use mobilenet::conventions::Padding;
    let network = |pad: &str, stem: &str, blocks: &str| {
        let mut layers = Vec::new();
        let mut conv = |class: &str, mode: &str, stride: usize| {
            if mode == "valid" {
                layers.push(layer("ZeroPadding2D", &format!(r#""padding": {pad}"#)));
            }
            layers.push(layer(class, &format!(r#""padding": "{mode}", "strides": [{stride}, {stride}]"#)));
        };
        conv("Conv2D", stem, 2);
        for stride in [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1] {
            let mode = if stride == 1 && pad != "[1, 1]" { "same" } else { blocks };
            conv("DepthwiseConv2D", mode, stride);
        }
        hints(&layers)
    };
    assert_eq!(network("", "same", "same").unwrap().padding, Some(Padding::Same));
    let behind = "[[0, 1], [0, 1]]";
    assert_eq!(network(behind, "same", "valid").unwrap().padding, Some(Padding::Keras));
    assert_eq!(network(behind, "valid", "valid").unwrap().padding, Some(Padding::Keras));
    assert_eq!(network("[1, 1]", "valid", "valid").unwrap().padding, Some(Padding::Fixed));
    assert_eq!(network("[1, 1]", "valid", "valid").unwrap().width_multiplier, Some(0.5));
    assert!(network("[1, 1]", "same", "valid").unwrap_err().to_string().contains("the same for both"));
    assert!(network("[[2, 1], [0, 1]]", "same", "valid").is_err());
}

#[test]
fn what_a_configuration_changes_is_refused_by_layer() {
    let depthwise = layer("DepthwiseConv2D", r#""name": "dw", "padding": "same", "strides": [1, 1]"#);
    let refused = |class: &str, config: &str| {
        hints(&[depthwise.clone(), layer(class, config)]).unwrap_err().to_string()
    };
    assert!(refused("ReLU", r#""name": "r", "max_value": 4.0"#).contains("r: a ReLU up to 4"));
    assert!(refused("Activation", r#""name": "a", "activation": "swish""#).contains("`swish`"));
    assert!(refused("DepthwiseConv2D", r#""padding": "same", "strides": [1, 1]"#).contains("expected 2"));
    assert!(refused("GlobalMaxPooling2D", r#""name": "p""#).contains("averages"));
    assert!(refused("Normalization", r#""name": "n""#).contains("--mean"));
    let norms = [
        depthwise.clone(),
        layer("BatchNormalization", r#""epsilon": 0.001"#),
        layer("BatchNormalization", r#""name": "odd", "epsilon": 0.01"#),
    ];
    assert!(hints(&norms).unwrap_err().to_string().contains("odd: epsilon 0.01"));
}

#[test]
fn hostile_configurations_and_archives_are_errors() {
    let deep = "[".repeat(100_000);
    assert!(config::Config::parse(&deep).is_err());
    assert!(config::Config::parse("{}").is_err());
    assert!(read(b"PK\x03\x04 and no more").is_err());
    assert!(!could_be(b"PK\x03\x04 and no more"));
    // A bomb: an entry that unpacks to a thousand times the archive.
    use std::io::Write;
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, size) in [(CONFIG, 10), (WEIGHTS, 10 << 20)] {
        archive.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(&vec![b' '; size]).unwrap();
    }
    let bomb = archive.finish().unwrap().into_inner();
    assert!(could_be(&bomb));
    let error = read(&bomb).unwrap_err().to_string();
    assert!(error.contains("unpacks to more than 16 times"), "{error}");
}

proptest::proptest! {
    #[test]
    fn any_json_configuration_is_hints_or_an_error(
        text in r#"\{"config": \{"name": "[a-z_0-9.]{0,20}", "layers": \[(\{"class_name": "(Conv2D|DepthwiseConv2D|ReLU|ZeroPadding2D|Rescaling|InputLayer)", "config": \{"(padding|strides|scale|batch_shape|max_value)": (1|-1|"same"|\[1\]|\[\[0,1\]\]|null|1e300|\[null,8,8,3\])\}\},){0,6}\{"class_name": "DepthwiseConv2D", "config": \{"padding": "same"\}\}\]\}\}"#,
    ) {
        let _ = config::Config::parse(&text).and_then(|config| config.hints());
    }
}
