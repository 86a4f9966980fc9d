//! The cost model against the paper's tables and against the tensors that a network really has.

use mobilenet::cost::{Block, Cost, Kind};
use mobilenet::{Architecture, Body, Preset};
use proptest::prelude::*;

fn cost(body: Body, width_multiplier: f64, resolution: usize) -> Cost {
    let architecture = Architecture { body, width_multiplier, resolution, ..Architecture::default() };
    architecture.cost(1).unwrap()
}

#[test]
fn every_width_and_resolution_of_tables_6_and_7() {
    let rows = [
        (1.0, 4_231_976, [568_740_352, 418_121_728, 290_675_200, 186_400_768]),
        (0.75, 2_585_560, [325_400_448, 239_273_472, 166_396_800, 106_770_432]),
        (0.5, 1_331_592, [149_497_088, 109_970_432, 76_524_800, 49_160_192]),
        (0.25, 470_072, [41_030_272, 30_212_608, 21_059_200, 13_570_048]),
    ];
    for (alpha, parameters, mult_adds) in rows {
        for (resolution, mult_adds) in [224, 192, 160, 128].into_iter().zip(mult_adds) {
            let cost = cost(Body::Separable, alpha, resolution);
            assert_eq!(cost.mult_adds(), mult_adds, "{alpha}-{resolution}");
            assert_eq!(cost.parameters(), parameters, "{alpha}-{resolution}");
        }
    }
}

#[test]
fn the_full_and_the_shallow_body_of_tables_4_and_5() {
    let full = cost(Body::Full, 1.0, 224);
    assert_eq!(full.mult_adds_without_classifier(), 4_866_269_184);
    assert_eq!(full.mult_adds(), 4_866_269_184 + 1024 * 1000);
    assert_eq!(full.parameters(), 29_294_088);
    let shallow = cost(Body::Shallow, 1.0, 224);
    assert_eq!(shallow.mult_adds(), 307_323_392);
    assert_eq!(shallow.parameters(), 2_887_976);
}

#[test]
fn the_rows_of_table_1() {
    // Name, output size and channels, multiply-adds.
    let rows: [(&str, usize, usize, u64); 29] = [
        ("conv_0", 112, 32, 10_838_016),
        ("depthwise_1", 112, 32, 3_612_672),
        ("pointwise_1", 112, 64, 25_690_112),
        ("depthwise_2", 56, 64, 1_806_336),
        ("pointwise_2", 56, 128, 25_690_112),
        ("depthwise_3", 56, 128, 3_612_672),
        ("pointwise_3", 56, 128, 51_380_224),
        ("depthwise_4", 28, 128, 903_168),
        ("pointwise_4", 28, 256, 25_690_112),
        ("depthwise_5", 28, 256, 1_806_336),
        ("pointwise_5", 28, 256, 51_380_224),
        ("depthwise_6", 14, 256, 451_584),
        ("pointwise_6", 14, 512, 25_690_112),
        ("depthwise_7", 14, 512, 903_168),
        ("pointwise_7", 14, 512, 51_380_224),
        ("depthwise_8", 14, 512, 903_168),
        ("pointwise_8", 14, 512, 51_380_224),
        ("depthwise_9", 14, 512, 903_168),
        ("pointwise_9", 14, 512, 51_380_224),
        ("depthwise_10", 14, 512, 903_168),
        ("pointwise_10", 14, 512, 51_380_224),
        ("depthwise_11", 14, 512, 903_168),
        ("pointwise_11", 14, 512, 51_380_224),
        ("depthwise_12", 7, 512, 225_792),
        ("pointwise_12", 7, 1024, 25_690_112),
        ("depthwise_13", 7, 1024, 451_584),
        ("pointwise_13", 7, 1024, 51_380_224),
        ("pool", 1, 1024, 0),
        ("classifier", 1, 1000, 1_024_000),
    ];
    let cost = cost(Body::Separable, 1.0, 224);
    assert_eq!(cost.layers.len(), rows.len());
    for (found, (name, size, channels, mult_adds)) in cost.layers.iter().zip(rows) {
        assert_eq!(found.layer.name, name);
        assert_eq!(found.layer.output.height, size, "{name}");
        assert_eq!(found.layer.output.width, size, "{name}");
        assert_eq!(found.layer.output.channels, channels, "{name}");
        assert_eq!(found.mult_adds, mult_adds, "{name}");
        assert_eq!(found.activation_bytes, (4 * size * size * channels) as u64, "{name}");
    }
}

#[test]
fn the_shares_of_table_2() {
    let cost = cost(Body::Separable, 1.0, 224);
    assert_eq!(cost.filter_parameters(), 4_209_088);
    // In per cent, to the paper's digits; it prints 1.19 for the 3×3 convolution's multiply-adds,
    // where its own network gives 1.906.
    let rows = [
        (Kind::Pointwise, 94.86, 74.59),
        (Kind::Depthwise, 3.06, 1.06),
        (Kind::Conv, 1.91, 0.02),
        (Kind::Classifier, 0.18, 24.33),
    ];
    let shares = cost.shares();
    assert_eq!(shares.len(), rows.len());
    for (share, (kind, mult_adds, parameters)) in shares.iter().zip(rows) {
        assert_eq!(share.kind, kind);
        assert!((100.0 * share.mult_adds_share - mult_adds).abs() < 0.005, "{share:?}");
        assert!((100.0 * share.parameters_share - parameters).abs() < 0.005, "{share:?}");
    }
    assert!((100.0 * shares[2].mult_adds_share - 1.906).abs() < 0.0005);
    let whole: f64 = shares.iter().map(|share| share.mult_adds_share).sum();
    assert!((whole - 1.0).abs() < 1e-12);
}

#[test]
fn the_isolated_layers_of_table_3() {
    let block = Block::default();
    let conv = block.conv();
    assert_eq!((conv.mult_adds, conv.filter_parameters), (462_422_016, 2_359_296));
    let separable = block.separable();
    assert_eq!((separable.mult_adds, separable.filter_parameters), (52_283_392, 266_752));
    let thin = Block { width_multiplier: 0.75, ..block };
    let cost = thin.separable();
    assert_eq!((cost.mult_adds, cost.filter_parameters), (29_578_752, 150_912));
    let small = Block { resolution_multiplier: 0.714, ..thin };
    let cost = small.separable();
    assert_eq!((cost.mult_adds, cost.filter_parameters), (15_091_200, 150_912));
    // Section 3.1: the ratio is 1/N + 1/9.
    let ratio = separable.mult_adds as f64 / conv.mult_adds as f64;
    assert!((ratio - (1.0 / 512.0 + 1.0 / 9.0)).abs() < 1e-12);
}

#[test]
fn activations_are_counted_for_the_batch() {
    let architecture = Architecture::default();
    let (one, many) = (architecture.cost(1).unwrap(), architecture.cost(32).unwrap());
    assert_eq!(many.activation_bytes(), 32 * one.activation_bytes());
    assert_eq!(many.mult_adds(), one.mult_adds());
    let message = architecture.cost(0).unwrap_err().to_string();
    assert!(message.starts_with("batch: expected 1 to"), "{message}");
}

fn any_architecture() -> impl Strategy<Value = Architecture> {
    let body = prop::sample::select(Body::ALL.to_vec());
    let preset = prop::sample::select(Preset::ALL.to_vec());
    let strides = (1_usize..=2, prop::sample::select(vec![8_usize, 16, 32]));
    (body, preset, 0.05_f64..=2.0, 32_usize..=300, strides, 1_usize..2000).prop_map(
        |(body, preset, width_multiplier, resolution, (stem_stride, output_stride), classes)| Architecture {
            body,
            width_multiplier,
            resolution,
            stem_stride,
            output_stride,
            classes,
            input_channels: 3,
            conventions: preset.conventions(),
        },
    )
}

proptest! {
    #[test]
    fn parameters_are_the_trainable_tensors(architecture in any_architecture()) {
        let specs = architecture.tensors().unwrap();
        let trainable = specs.iter().filter(|spec| spec.role.is_trainable());
        let expected: usize = trainable.map(|spec| spec.len()).sum();
        prop_assert_eq!(architecture.cost(1).unwrap().parameters(), expected as u64);
    }

    /// Counted tap by tap: every output value of a layer takes one product for each value of the
    /// filter that makes it.
    #[test]
    fn mult_adds_are_outputs_times_taps(architecture in any_architecture()) {
        let specs = architecture.tensors().unwrap();
        for layer in architecture.cost(1).unwrap().layers {
            let name = format!("{}.weight", layer.layer.name);
            let taps = specs.iter().find(|spec| spec.name == name).map_or(0, |spec| spec.shape[1..].iter().product());
            prop_assert_eq!(layer.mult_adds, (layer.layer.output.len() * taps) as u64, "{}", name);
        }
    }
}
