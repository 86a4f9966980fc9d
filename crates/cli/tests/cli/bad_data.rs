//! Data and models that cannot be used, and some that only look so.

use std::path::Path;

use crate::common::{Ran, run, run_in, squares, text};

/// One cheap epoch.
const TRAIN: &[&str] = &[
    "train",
    "--width",
    "0.25",
    "--resolution",
    "32",
    "--epochs",
    "1",
    "--batch-size",
    "8",
    "--data",
    "data",
    "--out",
    "run",
];

fn train(folder: &Path, more: &[&str]) -> Ran {
    run_in(folder, &[TRAIN, more].concat())
}

#[test]
fn folders_that_are_no_data_set() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    train(folder, &[]).failed(1, &["data"]);
    std::fs::create_dir(folder.join("data")).unwrap();
    train(folder, &[]).failed(1, &["data"]);
    squares(&folder.join("data"), &["only"], 8);
    train(folder, &[]).failed(1, &["data", "class"]);
    std::fs::create_dir(folder.join("data/none here")).unwrap();
    train(folder, &[]).failed(1, &["none here"]);
    assert!(!folder.join("run").exists(), "nothing is made for a run that cannot begin");
}

/// A BMP header of 20000 × 20000 pixels, and no pixels.
fn huge_bmp() -> Vec<u8> {
    let mut bytes = b"BM".to_vec();
    for field in [1_200_000_054u32, 0, 54, 40, 20_000, 20_000] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.extend([1, 0, 24, 0]);
    bytes.extend([0; 24]);
    bytes
}

#[test]
fn unreadable_files_are_skipped_counted_and_listed() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    squares(&folder.join("data"), &["a", "b"], 8);
    let class = folder.join("data/a");
    std::fs::write(class.join("text.jpg"), "only text").unwrap();
    std::fs::write(class.join("zero.png"), "").unwrap();
    std::fs::write(class.join("huge.bmp"), huge_bmp()).unwrap();
    let square = image::open(class.join("000.png")).unwrap();
    let mut jpeg = std::io::Cursor::new(Vec::new());
    square.write_to(&mut jpeg, image::ImageFormat::Jpeg).unwrap();
    let jpeg = jpeg.into_inner();
    std::fs::write(class.join("cut.jpg"), &jpeg[..jpeg.len() / 2]).unwrap();

    let bad = ["cut.jpg", "huge.bmp", "text.jpg", "zero.png"];
    let strict = train(folder, &["--strict"]);
    assert_eq!(strict.status, Some(1), "{strict:?}");
    assert!(bad.iter().any(|name| strict.stderr.contains(name)), "{strict:?}");

    let ran = train(folder, &["--json"]);
    let found = ran.json();
    let skipped: Vec<_> =
        found["skipped"].as_array().unwrap().iter().map(|s| s["path"].as_str().unwrap()).collect();
    assert_eq!(skipped.len(), 4, "{ran:?}");
    for (path, name) in skipped.iter().zip(bad) {
        assert!(path.ends_with(name), "{path}");
    }
    assert_eq!(found["images"].as_u64().unwrap() + found["held_out"].as_u64().unwrap(), 16);
    assert!(ran.stderr.contains("4 files"), "{ran:?}");
    for name in bad {
        assert!(ran.stderr.contains(name), "{name}: {ran:?}");
    }
    let ran = run_in(folder, &["classify", "--model", "run", "data/a/huge.bmp"]);
    ran.failed(1, &["huge.bmp", "20000"]);
}

#[test]
fn tiny_and_narrow_images_are_images() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    for (class, (width, height)) in [("one pixel", (1, 1)), ("narrow", (3, 5000))] {
        let class = folder.join("data").join(class);
        std::fs::create_dir_all(&class).unwrap();
        for n in 0..8u8 {
            let image = image::RgbImage::from_pixel(width, height, image::Rgb([20 * n; 3]));
            image.save(class.join(format!("{n}.png"))).unwrap();
        }
    }
    train(folder, &[]).succeeded();
    run_in(folder, &["evaluate", "--model", "run"]).succeeded();
    run_in(folder, &["classify", "--model", "run", "data/one pixel/0.png", "data/narrow/0.png"]).succeeded();
}

#[test]
fn model_files_that_cannot_be_used() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    squares(&folder.join("data"), &["a", "b"], 8);
    train(folder, &[]).succeeded();
    let good = std::fs::read(folder.join("run/best.safetensors")).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
    write("cut.safetensors", &good[..good.len() / 2]);
    write("head.safetensors", &good[..20]);
    write("empty.safetensors", &[]);
    let mut nan = good.clone();
    let end = nan.len() - 4;
    nan[end..].copy_from_slice(&f32::NAN.to_le_bytes());
    write("nan.safetensors", &nan);
    write("text.safetensors", b"this is not a model");
    for (model, parts) in [
        ("cut.safetensors", &["cut.safetensors", "cut short"][..]),
        ("head.safetensors", &["head.safetensors"]),
        ("empty.safetensors", &["empty.safetensors", "empty"]),
        ("nan.safetensors", &["nan.safetensors", "NaN"]),
        ("text.safetensors", &["text.safetensors", "not a model"]),
        ("data/a/000.png", &["000.png"]),
        ("data", &["data", "best.safetensors"]),
        ("gone.safetensors", &["gone.safetensors", "cannot read"]),
    ] {
        for command in [
            &["classify", "--model", model, "data/a/000.png"][..],
            &["evaluate", "--model", model, "--data", "data"],
            &["summary", "--model", model],
            &["train", "--data", "data", "--init", model],
        ] {
            let ran = run_in(folder, command);
            ran.failed(1, parts);
            assert_eq!(ran.stderr.matches("error:").count(), 1, "{ran:?}");
        }
    }

    // Of another architecture, of other classes.
    let ran = run_in(folder, &["train", "--data", "data", "--init", "run", "--width", "0.5", "--out", "new"]);
    assert!(matches!(ran.status, Some(1 | 2)), "{ran:?}");
    assert!(ran.stderr.contains("width"), "{ran:?}");
    squares(&folder.join("others"), &["a", "b", "c"], 8);
    run_in(folder, &["evaluate", "--model", "run", "--data", "others"])
        .failed(1, &["others", "the model's", "`c`"]);
    // Fine-tuning to other classes begins with what fits.
    run_in(folder, &["train", "--data", "others", "--init", "run", "--epochs", "1", "--out", "tuned"])
        .succeeded();
}

#[test]
fn places_that_cannot_be_written() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    squares(&folder.join("data"), &["a", "b"], 8);
    // Neither works for root.
    train(folder, &["--out", "data/a/000.png/run"]).failed(1, &["data/a/000.png/run"]);
    if cfg!(target_os = "linux") {
        train(folder, &["--out", "/proc/run"]).failed(1, &["/proc/run"]);
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let closed = folder.join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o555)).unwrap();
        // Root may write here all the same.
        if std::fs::write(closed.join("probe"), "").is_err() {
            train(folder, &["--out", "closed/run"]).failed(1, &["closed/run", "ermission denied"]);
        }
    }
    // An existing folder of something else is not touched.
    std::fs::create_dir(folder.join("mine")).unwrap();
    std::fs::write(folder.join("mine/letter.txt"), "dear").unwrap();
    train(folder, &["--out", "mine"]).failed(1, &["mine"]);
    assert_eq!(std::fs::read_dir(folder.join("mine")).unwrap().count(), 1);
    run(&["train", "--resume", text(&folder.join("mine"))]).failed(1, &["mine"]);
}
