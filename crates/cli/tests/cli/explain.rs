//! Class activation maps as a user asks for them.

use std::path::Path;

use mobilenet::{Architecture, Model, Preset};

use crate::common::{run, run_in, squares};

/// A model with random weights and a background class that reads 64×64 crops.
fn model(folder: &Path) -> Model {
    let architecture = Architecture {
        width_multiplier: 0.25,
        resolution: 64,
        classes: 3,
        conventions: Preset::TfSlim.conventions(),
        ..Architecture::default()
    };
    let labels = ["tabby, tabby cat", "lynx", "crane"].map(String::from).to_vec();
    let model = Model::random(architecture, labels, 4).unwrap();
    model.save(folder.join("model.safetensors")).unwrap();
    model
}

/// A wide photo, so that there is something outside of the crop.
fn photo(folder: &Path) {
    let pixels = image::RgbImage::from_fn(150, 80, |x, y| image::Rgb([(x + 100) as u8, (y * 3) as u8, 200]));
    pixels.save(folder.join("photo.png")).unwrap();
}

#[test]
fn a_picture_and_the_map_in_numbers() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    model(folder);
    photo(folder);
    let explain = ["explain", "--model", "model.safetensors", "photo.png"];
    let shown = run_in(folder, &[&explain[..], &["-o", "heat.png"]].concat());
    assert!(shown.succeeded().stdout.contains("heat.png"), "{shown:?}");
    let classified =
        run_in(folder, &["classify", "--model", "model.safetensors", "photo.png", "--json"]).json();
    let best = &classified[0]["predictions"][0];
    assert!(shown.stdout.contains(best["label"].as_str().unwrap()), "{shown:?}");

    // The picture: of the photo's size, dimmed beside the crop, other within.
    let before = image::open(folder.join("photo.png")).unwrap().to_rgb8();
    let after = image::open(folder.join("heat.png")).unwrap().to_rgb8();
    assert_eq!(after.dimensions(), (150, 80));
    let dimmed = before.get_pixel(3, 40).0.map(|channel| (0.35 * f64::from(channel)).round() as u8);
    assert_eq!(after.get_pixel(3, 40).0, dimmed);
    assert_ne!(after.get_pixel(75, 40).0, before.get_pixel(75, 40).0);

    // The numbers, for the likeliest class and for each by name.
    let found = run_in(folder, &[&explain[..], &["--json"]].concat()).json();
    assert_eq!((&found["class"], &found["label"]), (&best["class"], &best["label"]));
    assert!((found["probability"].as_f64().unwrap() - best["probability"].as_f64().unwrap()).abs() < 1e-9);
    assert!(found["output"].is_null());
    for (name, class) in [("tabby", 0), ("LYNX", 1), ("2", 2)] {
        let found = run_in(folder, &[&explain[..], &["--json", "--class", name]].concat()).json();
        assert_eq!(found["class"], class);
        let rows = found["map"].as_array().unwrap();
        let values: Vec<f64> = rows
            .iter()
            .flat_map(|row| row.as_array().unwrap())
            .map(|value| value.as_f64().unwrap())
            .collect();
        assert_eq!((rows.len(), values.len()), (2, 4));
        let mean = values.iter().sum::<f64>() / 4.0;
        let (logit, bias) = (found["logit"].as_f64().unwrap(), found["bias"].as_f64().unwrap());
        assert!((mean + bias - logit).abs() < 1e-4 * (1.0 + logit.abs()), "{found}");
        // The crop of 0.875 of both edges, in whole pixels.
        assert_eq!((&found["width"], &found["height"]), (&150.into(), &80.into()));
        let edge = |key: &str| found["region"][key].as_f64().unwrap();
        assert_eq!((edge("left"), edge("top")), (9.0, 5.0));
        assert_eq!((edge("width"), edge("height")), (132.0, 70.0));
    }
}

#[test]
fn a_grey_model_explains_on_a_photo_in_colour() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    squares(&folder.join("data"), &["a", "b"], 1);
    let mut architecture =
        Architecture { width_multiplier: 0.25, resolution: 32, classes: 2, ..Architecture::default() };
    architecture.input_channels = 1;
    architecture.conventions.preprocessing.mean = vec![0.5];
    architecture.conventions.preprocessing.std = vec![0.5];
    let labels = vec!["a".into(), "b".into()];
    Model::random(architecture, labels, 1).unwrap().save(folder.join("grey.safetensors")).unwrap();
    run_in(folder, &["explain", "--model", "grey.safetensors", "data/a/000.png", "-o", "heat"]).succeeded();
    let bytes = std::fs::read(folder.join("heat")).unwrap();
    let picture = image::load_from_memory(&bytes).unwrap();
    assert_eq!((picture.width(), picture.height(), picture.color()), (32, 32, image::ColorType::Rgb8));
}

#[test]
fn what_cannot_be_meant_and_what_is_not_there() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    model(folder);
    photo(folder);
    let explain = ["explain", "--model", "model.safetensors", "photo.png"];
    let failed = |more: &[&str], status: i32, parts: &[&str]| {
        let ran = run_in(folder, &[&explain[..], more].concat());
        assert_eq!(ran.failed(status, parts).stdout, "");
    };
    failed(&[], 2, &["expected -o FILE for the picture, or --json"]);
    failed(&["-o", "heat.jpg"], 2, &["found a name that ends in .jpg, expected .png"]);
    failed(&["--json", "--class", "taby"], 2, &["none of the model's 3 classes; did you mean `tabby`?"]);
    failed(&["--json", "--class", "3"], 2, &["--class: found 3, expected 0 to 2, or a name"]);
    failed(&["-o", "no/such/heat.png"], 1, &["no/such: cannot create a file in"]);
    std::fs::write(folder.join("text.jpg"), "no image").unwrap();
    for (photo, part) in [("text.jpg", "text.jpg: not an image"), ("gone.png", "gone.png: cannot read")] {
        run_in(folder, &["explain", "--model", "model.safetensors", photo, "-o", "heat.png"])
            .failed(1, &[part]);
    }
    assert!(!folder.join("heat.png").exists());
    run(&["explain", "--model", "no/such", "x.png", "--json"]).failed(1, &["no/such"]);
}

#[test]
fn without_a_model_it_explains_imagenets_classes() {
    let photo = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/photos/coffee.png");
    let found = run(&["explain", photo, "--json"]).json();
    assert_eq!((&found["class"], &found["label"]), (&967.into(), &"espresso".into()));
    let map: Vec<Vec<f64>> = serde_json::from_value(found["map"].clone()).unwrap();
    let inner: f64 = map[1..4].iter().flat_map(|row| &row[2..5]).sum();
    let lowest: f64 = map[6].iter().sum();
    assert!(inner / 9.0 > 2.0 * lowest / 7.0, "the cup is above the middle: {map:?}");
}
