//! Features of images in each format.

use std::path::Path;

use mobilenet::cpu::{CpuExecutor, CpuOptions};
use mobilenet::image::{DecodeLimits, decode_file};
use mobilenet::{Architecture, Executor, Model, Tensor};
use serde_json::Value;

use crate::common::{run_in, squares};

/// Six images of two classes, and a small model with random weights.
fn place(folder: &Path) -> Model {
    squares(&folder.join("data"), &["a", "b, or \"c\""], 3);
    let architecture =
        Architecture { width_multiplier: 0.25, resolution: 32, classes: 2, ..Architecture::default() };
    let model = Model::random(architecture, vec!["a".into(), "b".into()], 3).unwrap();
    model.save(folder.join("model.safetensors")).unwrap();
    model
}

/// What the library computes for one image.
fn features(model: &Model, path: &Path) -> Vec<f32> {
    let options = CpuOptions::default();
    let mut executor = CpuExecutor::new(&model.architecture, &model.weights, &options).unwrap();
    let image = decode_file(path, 3, &DecodeLimits::default()).unwrap();
    let mut input = vec![0.0; 32 * 32 * 3];
    model.architecture.conventions.preprocessing.apply(&image, 32, &mut input).unwrap();
    executor.features(&Tensor::new(&[1, 32, 32, 3], input).unwrap()).unwrap().into_data()
}

const EMBED: [&str; 3] = ["embed", "--model", "model.safetensors"];

const PATHS: [&str; 6] = [
    "data/b, or \"c\"/002.png",
    "data/a/000.png",
    "data/a/001.png",
    "data/a/002.png",
    "data/b, or \"c\"/000.png",
    "data/b, or \"c\"/001.png",
];

#[test]
fn every_format_holds_the_same_numbers_in_the_given_order() {
    let place_ = tempfile::tempdir().unwrap();
    let folder = place_.path();
    let model = place(folder);
    let expected: Vec<Vec<f32>> = PATHS.iter().map(|path| features(&model, &folder.join(path))).collect();
    assert_eq!(expected[0].len(), 256);
    assert_ne!(expected[0], expected[1]);
    // One by itself first, then folders; in batches that do not divide them.
    let inputs = [PATHS[0], "data/a", PATHS[4], PATHS[5], "--batch", "4"];
    let embed = |more: &[&str]| run_in(folder, &[&EMBED[..], &inputs, more].concat());

    let answer = embed(&["-o", "x.npy", "--json"]).json();
    assert_eq!(answer["paths"], "x.txt");
    assert_eq!((&answer["count"], &answer["features"]), (&6.into(), &256.into()));
    let text = std::fs::read_to_string(folder.join("x.txt")).unwrap();
    assert_eq!(text.lines().collect::<Vec<_>>(), PATHS);
    let bytes = std::fs::read(folder.join("x.npy")).unwrap();
    assert!(String::from_utf8_lossy(&bytes[..128]).contains("'shape': (6, 256), "));
    assert_eq!(bytes[128..], expected.concat().iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());

    let shown = embed(&["-o", "x.jsonl"]);
    assert!(shown.succeeded().stdout.contains("x.jsonl: 256 features of 6 images"), "{shown:?}");
    let text = std::fs::read_to_string(folder.join("x.jsonl")).unwrap();
    for ((line, path), features) in text.lines().zip(PATHS).zip(&expected) {
        let row: Value = serde_json::from_str(line).unwrap();
        assert_eq!(row["path"], path);
        let found = row["features"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32);
        assert_eq!(&found.collect::<Vec<f32>>(), features);
    }

    embed(&["-o", "x.out", "--format", "csv"]).succeeded();
    let text = std::fs::read_to_string(folder.join("x.out")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("path,feature_0,feature_1,") && lines[0].ends_with(",feature_255"));
    assert_eq!(lines.len(), 7);
    let numbers = lines[1].strip_prefix("\"data/b, or \"\"c\"\"/002.png\",").unwrap();
    assert_eq!(numbers.split(',').map(|v| v.parse::<f32>().unwrap()).collect::<Vec<_>>(), expected[0]);

    // interop/check_parquet.py reads the whole of it with pyarrow and pandas.
    embed(&["-o", "x.parquet"]).succeeded();
    let bytes = std::fs::read(folder.join("x.parquet")).unwrap();
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
    let values: Vec<u8> = expected.concat().iter().flat_map(|v| v.to_le_bytes()).collect();
    assert!(bytes.windows(values.len()).any(|window| window == values));

    // Neither temporary files nor others are left.
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 7);
}

#[test]
fn bad_files_are_reported_and_left_out() {
    let place_ = tempfile::tempdir().unwrap();
    let folder = place_.path();
    place(folder);
    std::fs::write(folder.join("data/a/broken.jpg"), "no image").unwrap();
    std::fs::create_dir(folder.join("empty")).unwrap();
    let ran =
        run_in(folder, &[&EMBED[..], &["data/a", "gone.png", "empty", "-o", "x.jsonl", "--json"]].concat());
    ran.failed(1, &["broken.jpg", "gone.png", "no images in this folder", "3 of 6 left out"]);
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(answer["count"], 3);
    let failed: Vec<_> = answer["failed"].as_array().unwrap().iter().map(|f| f["path"].clone()).collect();
    assert_eq!(failed, ["empty", "data/a/broken.jpg", "gone.png"]);
    assert_eq!(std::fs::read_to_string(folder.join("x.jsonl")).unwrap().lines().count(), 3);

    // What was written into a folder of images is none of them the next time.
    for name in ["x.npy", "x.parquet", "x.csv", "x.jsonl"] {
        let into = format!("data/b, or \"c\"/{name}");
        let answer =
            run_in(folder, &[&EMBED[..], &["data/b, or \"c\"", "-o", &into, "--json"]].concat()).json();
        assert_eq!(answer["count"], 3);
    }

    // Nothing good: no file, and what was there stays.
    let before = std::fs::read(folder.join("x.jsonl")).unwrap();
    let none = [&EMBED[..], &["data/a/broken.jpg", "-o", "x.jsonl"]].concat();
    run_in(folder, &none).failed(1, &["broken.jpg", "no image is left; nothing was written"]);
    assert_eq!(std::fs::read(folder.join("x.jsonl")).unwrap(), before);
}

#[test]
fn a_format_must_be_known_and_a_place_must_be_there() {
    let place_ = tempfile::tempdir().unwrap();
    let folder = place_.path();
    place(folder);
    let embed = |more: &[&str]| run_in(folder, &[&EMBED[..], &["data"], more].concat());
    embed(&["-o", "x.json"]).failed(2, &["found x.json, expected a name that ends in .npy, .csv, .parquet"]);
    embed(&["-o", "x.txt", "--format", "npy"]).failed(2, &["x.txt", "another name"]);
    embed(&["-o", "x.csv", "--batch", "0"]).failed(2, &["--batch: found 0, expected 1 to"]);
    embed(&["-o", "x.csv", "--threads", "0"]).failed(2, &["--threads: found 0, expected 1 to"]);
    embed(&["-o", "no/such/x.csv"]).failed(1, &["no/such: cannot create a file in"]);
    std::fs::create_dir(folder.join("y.csv")).unwrap();
    embed(&["-o", "y.csv"]).failed(1, &["y.csv", "it is a folder"]);
}
