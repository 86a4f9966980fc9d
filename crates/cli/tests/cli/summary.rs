//! `summary` gives the paper's figures, exactly.

use serde_json::Value;

use crate::common::run;

fn summary(flags: &[&str]) -> Value {
    run(&[&["summary", "--json"], flags].concat()).json()
}

/// α, resolution, exact mult-adds, trainable parameters at 1000 classes.
const PAIRS: [(&str, &str, u64, u64); 16] = [
    ("1.0", "224", 568_740_352, 4_231_976),
    ("1.0", "192", 418_121_728, 4_231_976),
    ("1.0", "160", 290_675_200, 4_231_976),
    ("1.0", "128", 186_400_768, 4_231_976),
    ("0.75", "224", 325_400_448, 2_585_560),
    ("0.75", "192", 239_273_472, 2_585_560),
    ("0.75", "160", 166_396_800, 2_585_560),
    ("0.75", "128", 106_770_432, 2_585_560),
    ("0.5", "224", 149_497_088, 1_331_592),
    ("0.5", "192", 109_970_432, 1_331_592),
    ("0.5", "160", 76_524_800, 1_331_592),
    ("0.5", "128", 49_160_192, 1_331_592),
    ("0.25", "224", 41_030_272, 470_072),
    ("0.25", "192", 30_212_608, 470_072),
    ("0.25", "160", 21_059_200, 470_072),
    ("0.25", "128", 13_570_048, 470_072),
];

#[test]
fn tables_6_and_7_width_and_resolution() {
    for (width, resolution, mult_adds, params) in PAIRS {
        let found = summary(&["--width", width, "--resolution", resolution]);
        assert_eq!(found["mult_adds"], mult_adds, "{width} {resolution}");
        assert_eq!(found["params"], params, "{width} {resolution}");
    }
}

#[test]
fn tables_4_and_5_bodies() {
    let full = summary(&["--body", "full"]);
    assert_eq!(full["mult_adds_without_classifier"], 4_866_269_184u64);
    assert_eq!(full["params"], 29_294_088);
    let shallow = summary(&["--body", "shallow"]);
    assert_eq!(shallow["mult_adds"], 307_323_392);
    assert_eq!(shallow["params"], 2_887_976);
}

#[test]
fn table_1_layers() {
    let found = summary(&[]);
    // Output size and channels after each row, depthwise and pointwise.
    let mut expected = vec![("conv_0".to_owned(), 112, 32)];
    let rows = [
        (112, 64),
        (56, 128),
        (56, 128),
        (28, 256),
        (28, 256),
        (14, 512),
        (14, 512),
        (14, 512),
        (14, 512),
        (14, 512),
        (14, 512),
        (7, 1024),
        (7, 1024),
    ];
    let mut channels = 32;
    for (number, (size, out)) in (1..).zip(rows) {
        expected.push((format!("depthwise_{number}"), size, channels));
        expected.push((format!("pointwise_{number}"), size, out));
        channels = out;
    }
    expected.push(("pool".into(), 1, 1024));
    expected.push(("classifier".into(), 1, 1000));
    let layers: Vec<_> = found["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| {
            let size = |i: usize| layer["output"][i].as_u64().unwrap();
            assert_eq!(size(0), size(1));
            (layer["name"].as_str().unwrap().to_owned(), size(0), size(2))
        })
        .collect();
    assert_eq!(layers, expected);
    for (key, total) in [("mult_adds", "mult_adds"), ("params", "params"), ("filter_params", "filter_params")]
    {
        let sum: u64 = found["layers"].as_array().unwrap().iter().map(|l| l[key].as_u64().unwrap()).sum();
        assert_eq!(found[total], sum, "{key}");
    }
}

#[test]
fn table_2_shares() {
    let found = summary(&[]);
    assert_eq!(found["filter_params"], 4_209_088);
    let expected = [
        ("pointwise", 94.86, 74.59),
        ("depthwise", 3.06, 1.06),
        ("conv", 1.906, 0.02),
        ("classifier", 0.18, 24.33),
    ];
    let shares = found["shares"].as_array().unwrap();
    assert_eq!(shares.len(), expected.len());
    for (share, (operator, mult_adds, params)) in shares.iter().zip(expected) {
        let percent = |key: &str| 100.0 * share[key].as_f64().unwrap();
        assert_eq!(share["operator"], operator);
        assert!((percent("mult_adds_share") - mult_adds).abs() <= 0.005, "{share}");
        assert!((percent("filter_params_share") - params).abs() <= 0.005, "{share}");
    }
}

#[test]
fn table_3_one_block() {
    // The seventh block of the reference network is the paper's 14×14×512 → 512.
    let cost = |flags: &[&str], names: &[&str]| {
        let found = summary(flags);
        let sum = |key: &str| -> u64 {
            let layers = found["layers"].as_array().unwrap().iter();
            layers
                .filter(|l| names.contains(&l["name"].as_str().unwrap()))
                .map(|l| l[key].as_u64().unwrap())
                .sum()
        };
        (sum("mult_adds"), sum("filter_params"))
    };
    let separable = ["depthwise_7", "pointwise_7"];
    assert_eq!(cost(&["--body", "full"], &["conv_7"]), (462_422_016, 2_359_296));
    assert_eq!(cost(&[], &separable), (52_283_392, 266_752));
    assert_eq!(cost(&["--width", "0.75"], &separable), (29_578_752, 150_912));
    assert_eq!(cost(&["--width", "0.75", "--resolution", "160"], &separable), (15_091_200, 150_912));
}

#[test]
fn the_text_has_the_totals_and_no_colour_in_a_pipe() {
    let ran = run(&["summary"]);
    ran.succeeded();
    for part in ["568,740,352", "4,231,976", "94.86 %", "74.59 %", "pointwise_13", "7×7×1024", "MiB"] {
        assert!(ran.stdout.contains(part), "{part}");
    }
    assert!(!ran.stdout.contains('\x1b'));
}

#[test]
fn padding_shows_at_odd_sizes() {
    let sizes = |family: &str| {
        let found = summary(&["--resolution", "300", "--conventions", family]);
        let layers = found["layers"].as_array().unwrap().clone();
        let of = |name: &str| layers.iter().find(|l| l["name"] == name).unwrap()["output"][0].clone();
        [of("pointwise_5"), of("pointwise_11"), of("pointwise_13")]
    };
    assert_eq!(sizes("reference"), [38, 19, 10]);
    assert_eq!(sizes("tf-slim"), [38, 19, 10]);
    assert_eq!(sizes("keras"), [37, 18, 9]);
}
