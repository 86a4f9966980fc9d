//! The layers that follow from an architecture, its conventions, and what it refuses.

use mobilenet::architecture::{Layer, Operator};
use mobilenet::conventions::{Activation, Interpolation, Padding, ResizeMode, WidthRounding};
use mobilenet::{Architecture, Body, Preset, Role, Weights};
use proptest::prelude::*;

fn with_padding(padding: Padding, resolution: usize) -> Architecture {
    let mut architecture = Architecture { resolution, ..Architecture::default() };
    architecture.conventions.padding = padding;
    architecture
}

/// The sizes of the feature maps after each stride, the stem's first.
fn sizes(architecture: &Architecture) -> Vec<usize> {
    let layers = architecture.layers().unwrap();
    let strided = layers.iter().filter(|layer| layer.stride == 2);
    strided.map(|layer| layer.output.height).collect()
}

#[test]
fn sizes_at_odd_feature_maps_depend_on_the_padding() {
    assert_eq!(sizes(&with_padding(Padding::Fixed, 300)), [150, 75, 38, 19, 10]);
    assert_eq!(sizes(&with_padding(Padding::Same, 300)), [150, 75, 38, 19, 10]);
    assert_eq!(sizes(&with_padding(Padding::Keras, 300)), [150, 75, 37, 18, 9]);
    // Keras pads its stem with SAME: 225 → 113, and only then loses a pixel.
    assert_eq!(sizes(&with_padding(Padding::Keras, 225)), [113, 56, 28, 14, 7]);
    for padding in [Padding::Fixed, Padding::Same, Padding::Keras] {
        assert_eq!(sizes(&with_padding(padding, 224)), [112, 56, 28, 14, 7]);
    }
}

#[test]
fn pads_stand_where_each_family_puts_them() {
    let stem_and_strided = |padding, resolution| {
        let layers = with_padding(padding, resolution).layers().unwrap();
        let vertical = |name: &str| {
            let layer = layers.iter().find(|layer| layer.name == name).unwrap();
            assert_eq!((layer.pads.top, layer.pads.bottom), (layer.pads.left, layer.pads.right));
            (layer.pads.top, layer.pads.bottom)
        };
        [vertical("conv_0"), vertical("depthwise_1"), vertical("depthwise_2")]
    };
    assert_eq!(stem_and_strided(Padding::Fixed, 224), [(1, 1), (1, 1), (1, 1)]);
    assert_eq!(stem_and_strided(Padding::Same, 224), [(0, 1), (1, 1), (0, 1)]);
    assert_eq!(stem_and_strided(Padding::Keras, 224), [(0, 1), (1, 1), (0, 1)]);
    // 225 is odd, and so is the 113 that follows.
    assert_eq!(stem_and_strided(Padding::Same, 225), [(1, 1), (1, 1), (1, 1)]);
    assert_eq!(stem_and_strided(Padding::Keras, 225), [(1, 1), (1, 1), (0, 1)]);
}

#[test]
fn a_smaller_output_stride_dilates_what_would_stride_further() {
    let dilations = |output_stride| {
        let layers = Architecture { output_stride, ..Architecture::default() }.layers().unwrap();
        let last = layers.iter().rfind(|layer| layer.operator == Operator::Depthwise).unwrap();
        assert_eq!(last.output.height, 224 / output_stride);
        let depthwise = layers.iter().filter(|layer| layer.operator == Operator::Depthwise);
        depthwise.map(|layer| layer.dilation).collect::<Vec<_>>()
    };
    assert_eq!(dilations(32), [1; 13]);
    assert_eq!(dilations(16), [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2]);
    assert_eq!(dilations(8), [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 4]);
}

#[test]
fn small_images_keep_their_pixels_with_a_stem_of_stride_1() {
    let architecture = Architecture { resolution: 32, stem_stride: 1, ..Architecture::default() };
    assert_eq!(architecture.layers().unwrap()[0].output.height, 32);
    assert_eq!(sizes(&architecture), [16, 8, 4, 2]);
}

#[test]
fn the_bodies_differ_as_tables_4_and_5_say() {
    let layers = |body| Architecture { body, ..Architecture::default() }.layers().unwrap();
    let count = |layers: &[Layer], operator| layers.iter().filter(|l| l.operator == operator).count();
    let full = layers(Body::Full);
    assert_eq!((count(&full, Operator::Conv), count(&full, Operator::Depthwise)), (14, 0));
    let shallow = layers(Body::Shallow);
    assert_eq!(count(&shallow, Operator::Depthwise), 8);
    let same = |layer: &&Layer| layer.operator == Operator::Pointwise && layer.input == layer.output;
    assert!(shallow.iter().filter(same).all(|layer| layer.input.channels != 512));
    // Numbered without a gap, so that names stay those of a network of nine blocks.
    assert_eq!(shallow[shallow.len() - 3].name, "pointwise_8");
}

#[test]
fn thinned_channels_are_rounded_as_each_family_rounds() {
    let channels = |preset: Preset, width_multiplier| {
        let conventions = preset.conventions();
        let architecture = Architecture { width_multiplier, conventions, ..Architecture::default() };
        let layers = architecture.layers().unwrap();
        let pointwise = layers.iter().filter(|layer| layer.operator == Operator::Pointwise);
        let mut channels = vec![layers[0].output.channels];
        channels.extend(pointwise.map(|layer| layer.output.channels));
        channels.dedup();
        channels
    };
    assert_eq!(channels(Preset::TfSlim, 0.1), [8, 12, 25, 51, 102]);
    assert_eq!(channels(Preset::Keras, 0.1), [3, 6, 12, 25, 51, 102]);
    // round to 8, but never below 90 %: 12.8 → 16, 25.6 → 24, 51.2 → 48, 102.4 → 104.
    assert_eq!(channels(Preset::Timm, 0.1), [8, 16, 24, 48, 104]);
    // 32·0.36 = 11.52 would round to 8, which is below 90 %: 16.
    assert_eq!(channels(Preset::Timm, 0.36)[0], 16);
    for preset in Preset::ALL {
        assert_eq!(channels(preset, 0.5), [16, 32, 64, 128, 256, 512]);
    }
}

#[test]
fn the_presets_are_what_their_projects_use() {
    use Activation::{Relu, Relu6};
    use ResizeMode::{ShortEdge, Squash};
    use WidthRounding::{AtLeast8, MultipleOf8, Truncate};
    let rows = [
        (Preset::Reference, Padding::Fixed, Relu, 1e-5, 0.1, AtLeast8, false, 0.0, ShortEdge, 0.875),
        (Preset::TfSlim, Padding::Same, Relu6, 1e-3, 0.0003, AtLeast8, true, 0.001, Squash, 0.875),
        (Preset::Keras, Padding::Keras, Relu6, 1e-3, 0.01, Truncate, false, 0.001, Squash, 1.0),
        (Preset::Timm, Padding::Fixed, Relu6, 1e-5, 0.1, MultipleOf8, false, 0.0, ShortEdge, 0.875),
        (Preset::Hf, Padding::Same, Relu6, 1e-3, 0.0003, AtLeast8, true, 0.001, ShortEdge, 0.875),
    ];
    for (preset, padding, activation, epsilon, momentum, rounding, background, dropout, resize, crop) in rows
    {
        let c = preset.conventions();
        let name = preset.name();
        assert_eq!(name.parse::<Preset>().unwrap(), preset);
        assert_eq!((c.padding, c.activation, c.width_rounding), (padding, activation, rounding), "{name}");
        assert_eq!((c.bn_epsilon, c.bn_momentum, c.dropout), (epsilon, momentum, dropout), "{name}");
        assert_eq!(c.background_class, background, "{name}");
        assert_eq!((c.preprocessing.resize, c.preprocessing.crop_fraction), (resize, crop), "{name}");
        let cubic = c.preprocessing.interpolation == Interpolation::Bicubic;
        assert_eq!(cubic, preset == Preset::Timm, "{name}");
        let half = c.preprocessing.mean == [0.5; 3] && c.preprocessing.std == [0.5; 3];
        assert_eq!(half, preset != Preset::Reference, "{name}");
    }
    let reference = Preset::Reference.conventions().preprocessing;
    assert_eq!((reference.mean, reference.std), (vec![0.485, 0.456, 0.406], vec![0.229, 0.224, 0.225]));
}

#[test]
fn settings_out_of_range_are_named_with_what_is_allowed() {
    let message = |change: fn(&mut Architecture)| {
        let mut architecture = Architecture::default();
        change(&mut architecture);
        architecture.layers().unwrap_err().to_string()
    };
    let width = "expected a number above 0 and at most 2";
    assert_eq!(message(|a| a.width_multiplier = 0.0), format!("width multiplier: found 0, {width}"));
    assert_eq!(message(|a| a.width_multiplier = -1.0), format!("width multiplier: found -1, {width}"));
    assert_eq!(message(|a| a.width_multiplier = 2.5), format!("width multiplier: found 2.5, {width}"));
    assert_eq!(message(|a| a.width_multiplier = f64::NAN), format!("width multiplier: found NaN, {width}"));
    assert_eq!(message(|a| a.resolution = 0), "resolution: found 0, expected 8 to 4096 pixels");
    assert_eq!(message(|a| a.resolution = 5000), "resolution: found 5000, expected 8 to 4096 pixels");
    assert_eq!(message(|a| a.stem_stride = 3), "stem stride: found 3, expected 1 or 2");
    assert_eq!(message(|a| a.output_stride = 4), "output stride: found 4, expected 8, 16 or 32");
    assert_eq!(message(|a| a.classes = 0), "classes: found 0, expected 1 to 1000000");
    assert_eq!(message(|a| a.input_channels = 4), "input channels: found 4, expected 1 (grey) or 3 (RGB)");
    assert!(message(|a| a.input_channels = 1).starts_with("preprocessing mean: found [0.485"));
    assert!(message(|a| a.conventions.bn_epsilon = 0.0).starts_with("BN epsilon: found 0"));
    assert!(message(|a| a.conventions.bn_epsilon = f32::NAN).starts_with("BN epsilon: found NaN"));
    // Keep and drop, decay and momentum are told apart by these bounds only at the edges.
    assert!(message(|a| a.conventions.dropout = 1.0).starts_with("dropout: found 1"));
    assert!(message(|a| a.conventions.bn_momentum = 1.5).starts_with("BN momentum: found 1.5"));
    assert!(message(|a| a.conventions.preprocessing.std[1] = 0.0).starts_with("preprocessing std"));
    assert!(message(|a| a.conventions.preprocessing.crop_fraction = 0.0).starts_with("crop fraction"));
}

#[test]
fn a_width_that_leaves_a_layer_no_channel_is_refused() {
    let conventions = Preset::Keras.conventions();
    let architecture = Architecture { width_multiplier: 0.02, conventions, ..Architecture::default() };
    let message = architecture.layers().unwrap_err().to_string();
    assert!(message.contains("large enough to leave every layer a channel"), "{message}");
}

#[test]
fn a_resolution_that_keras_padding_shrinks_to_nothing_is_refused() {
    assert!(with_padding(Padding::Same, 8).layers().is_ok());
    let message = with_padding(Padding::Keras, 8).layers().unwrap_err().to_string();
    assert!(message.contains("1×1 pixels at depthwise_6"), "{message}");
}

#[test]
fn unknown_names_come_with_the_nearest() {
    let message = "seperable".parse::<Body>().unwrap_err().to_string();
    assert_eq!(
        message,
        "unknown body `seperable`; known: separable, full, shallow; did you mean `separable`?"
    );
    let message = "tfslim".parse::<Preset>().unwrap_err().to_string();
    assert!(message.ends_with("did you mean `tf-slim`?"), "{message}");
}

#[test]
fn differences_name_the_setting_and_both_values() {
    let ours = Architecture::default();
    assert!(ours.differences(&ours).is_empty());
    let mut theirs = Architecture { width_multiplier: 0.5, ..ours.clone() };
    theirs.conventions.padding = Padding::Same;
    let list: Vec<String> = ours.differences(&theirs).iter().map(ToString::to_string).collect();
    assert_eq!(
        list,
        [
            "conventions.padding: found \"fixed\", expected \"same\"",
            "width_multiplier: found 1.0, expected 0.5"
        ]
    );
}

#[test]
fn the_reference_network_has_the_tensors_of_a_state_dict() {
    let specs = Architecture::default().tensors().unwrap();
    assert_eq!(specs.len(), 137);
    let shape = |name: &str| &specs.iter().find(|spec| spec.name == name).unwrap().shape[..];
    assert_eq!(shape("conv_0.weight"), [32, 3, 3, 3]);
    assert_eq!(shape("depthwise_1.weight"), [32, 1, 3, 3]);
    assert_eq!(shape("pointwise_13.weight"), [1024, 1024, 1, 1]);
    assert_eq!(shape("pointwise_7.bn.running_var"), [512]);
    assert_eq!(shape("classifier.weight"), [1000, 1024]);
    let state = specs.iter().filter(|spec| matches!(spec.role, Role::RunningMean | Role::RunningVar));
    assert_eq!(state.count(), 54);
}

#[test]
fn random_weights_are_of_the_seed_and_of_the_right_spread() {
    let architecture = Architecture { width_multiplier: 0.5, ..Architecture::default() };
    let weights = Weights::random(&architecture, 3).unwrap();
    weights.check(&architecture).unwrap();
    assert_eq!(weights, Weights::random(&architecture, 3).unwrap());
    assert_ne!(weights, Weights::random(&architecture, 4).unwrap());
    let spread = |name: &str| {
        let data = weights.get(name).unwrap().data();
        let square: f64 = data.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        (square / data.len() as f64).sqrt()
    };
    // He: √(2 / fan-in); 256 channels in.
    assert!((spread("pointwise_9.weight") / (2.0_f64 / 256.0).sqrt() - 1.0).abs() < 0.02);
    assert!((spread("depthwise_13.weight") / (2.0_f64 / 9.0).sqrt() - 1.0).abs() < 0.05);
    // Uniform within ±1/√512 has a deviation of a √3-rd of that.
    assert!((spread("classifier.weight") * 512.0_f64.sqrt() * 3.0_f64.sqrt() - 1.0).abs() < 0.02);
}

proptest! {
    #[test]
    fn layers_follow_one_another(
        padding in prop::sample::select(vec![Padding::Fixed, Padding::Same, Padding::Keras]),
        body in prop::sample::select(Body::ALL.to_vec()),
        resolution in 8_usize..400,
        width_multiplier in 0.01_f64..=2.0,
        stem_stride in 1_usize..=2,
        output_stride in prop::sample::select(vec![8_usize, 16, 32]),
    ) {
        let architecture = Architecture {
            body,
            width_multiplier,
            stem_stride,
            output_stride,
            ..with_padding(padding, resolution)
        };
        let Ok(layers) = architecture.layers() else {
            prop_assert!(padding == Padding::Keras && resolution < 64);
            return Ok(());
        };
        prop_assert_eq!(layers[0].input, architecture.input_shape());
        for pair in layers.windows(2) {
            prop_assert_eq!(pair[0].output, pair[1].input);
        }
        for layer in &layers {
            if layer.kernel == 3 {
                let reach = 2 * layer.dilation + 1;
                let padded = layer.input.height + layer.pads.top + layer.pads.bottom;
                prop_assert_eq!(layer.output.height, (padded - reach) / layer.stride + 1);
                if padding != Padding::Keras {
                    prop_assert_eq!(layer.output.height, layer.input.height.div_ceil(layer.stride));
                }
            }
        }
        let last = layers[layers.len() - 1].clone();
        prop_assert_eq!((last.output.pixels(), last.output.channels), (1, architecture.outputs()));
    }

    #[test]
    fn json_gives_the_same_architecture_back(
        width_multiplier in 0.0001_f64..=2.0,
        bn_momentum in 0.0_f32..=1.0,
        mean in -1.0_f32..1.0,
        preset in prop::sample::select(Preset::ALL.to_vec()),
    ) {
        let mut architecture = Architecture { width_multiplier, conventions: preset.conventions(), ..Architecture::default() };
        architecture.conventions.bn_momentum = bn_momentum;
        architecture.conventions.preprocessing.mean[0] = mean;
        let text = serde_json::to_string(&architecture).unwrap();
        prop_assert_eq!(serde_json::from_str::<Architecture>(&text).unwrap(), architecture);
    }
}

#[test]
fn json_with_a_setting_that_nobody_knows_is_refused() {
    let mut value = serde_json::to_value(Architecture::default()).unwrap();
    value["conventions"]["squeeze"] = true.into();
    let message = serde_json::from_value::<Architecture>(value).unwrap_err().to_string();
    assert!(message.contains("unknown field `squeeze`"), "{message}");
}
