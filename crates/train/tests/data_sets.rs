//! Opening data sets: every layout that is understood, and every way in which one can be wrong.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use mobilenet_train::data::{
    self, DataError, DataOptions, Dataset, Splits, class_counts, list_images, statistics, typical_size,
};

fn picture(value: u8) -> RgbImage {
    RgbImage::from_fn(12, 9, |x, y| Rgb([value, (x * 20) as u8, (y * 25) as u8]))
}

/// Writes a picture; the extension decides the format.
fn put(path: impl AsRef<Path>, value: u8) {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    picture(value).save(path).unwrap();
}

/// A folder of `classes` with `count` images each.
fn folder(root: &Path, classes: &[&str], count: usize) {
    for (c, class) in classes.iter().enumerate() {
        for i in 0..count {
            put(root.join(class).join(format!("{i:02}.png")), (c * 40 + i) as u8);
        }
    }
}

fn at(path: &Path) -> DataOptions {
    DataOptions { data: Some(path.to_owned()), ..DataOptions::default() }
}

fn open(path: &Path) -> data::Result<Splits> {
    data::open(&at(path))
}

fn message(result: data::Result<Splits>) -> String {
    match result {
        Ok(splits) => panic!("opened: {}", splits.description),
        Err(error) => error.to_string(),
    }
}

fn names(dataset: &dyn Dataset) -> Vec<String> {
    (0..dataset.len()).map(|i| dataset.name(i)).collect()
}

#[test]
fn a_tree_is_split_by_seed_and_class() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), &["猫", "большая собака", "a horse"], 10);
    put(dir.path().join("a horse/deep/er/more.png"), 1);
    put(dir.path().join("a horse/.hidden.png"), 1);
    put(dir.path().join(".git/x.png"), 1);
    fs::write(dir.path().join("a horse/notes.txt"), "not an image").unwrap();

    let splits = open(dir.path()).unwrap();
    assert_eq!(splits.train.classes(), ["a horse", "большая собака", "猫"]);
    assert_eq!(splits.held_out.classes(), splits.train.classes());
    assert_eq!(class_counts(&*splits.train), [9, 8, 8]);
    assert_eq!(class_counts(&*splits.held_out), [2, 2, 2]);
    assert!(splits.skipped.is_empty());
    assert!(splits.description.contains("held out: 20 % of each class"), "{}", splits.description);
    let mut all = [names(&*splits.train), names(&*splits.held_out)].concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 31);

    let again = open(dir.path()).unwrap();
    assert_eq!(names(&*again.held_out), names(&*splits.held_out));
    let other = data::open(&DataOptions { seed: 5, ..at(dir.path()) }).unwrap();
    assert_ne!(names(&*other.held_out), names(&*splits.held_out));

    let image = splits.train.image(0, 3).unwrap();
    assert_eq!((image.width(), image.height()), (12, 9));
    assert_eq!(typical_size(&*splits.train), (12, 9));
    assert!(!splits.train.is_grey());
    assert!(matches!(splits.train.image(25, 3), Err(DataError::Index { index: 25, len: 25 })));
}

#[test]
fn train_and_val_folders_are_found_by_their_usual_names() {
    for name in ["val", "valid", "validation", "test", "Val"] {
        let dir = tempfile::tempdir().unwrap();
        folder(&dir.path().join("train"), &["a", "b"], 3);
        folder(&dir.path().join(name), &["a", "b"], 1);
        let splits = open(dir.path()).unwrap();
        assert_eq!((splits.train.len(), splits.held_out.len()), (6, 2));
        assert!(splits.description.ends_with(&format!("held out: {name}")));
    }
    // Only `train`: held out from it. And a class of that name is a class.
    let dir = tempfile::tempdir().unwrap();
    folder(&dir.path().join("train"), &["a", "b"], 5);
    assert_eq!(open(dir.path()).unwrap().held_out.len(), 2);
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), &["bus", "train"], 5);
    assert_eq!(open(dir.path()).unwrap().train.classes(), ["bus", "train"]);
    // `val` elsewhere.
    let val = tempfile::tempdir().unwrap();
    folder(val.path(), &["bus", "train"], 2);
    let options = DataOptions { val: Some(val.path().to_owned()), ..at(dir.path()) };
    assert_eq!(data::open(&options).unwrap().held_out.len(), 4);
}

#[test]
fn what_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    assert!(message(open(&root.join("nowhere"))).contains("nowhere: no such file or folder"));
    assert!(message(open(root)).contains("is empty; expected one sub-folder of images for each class"));
    put(root.join("x.png"), 1);
    assert!(message(open(root)).contains("holds 1 files but no folders"));
    folder(root, &["only"], 2);
    assert!(message(open(root)).contains("found one class only (only); a classifier needs at least two"));
    fs::create_dir(root.join("empty one")).unwrap();
    folder(root, &["b"], 2);
    assert!(message(open(root)).contains("no readable image in class `empty one`"));
    let file = root.join("data.bin");
    fs::write(&file, "x").unwrap();
    assert!(message(open(&file)).contains("not a data set"));
    let share = DataOptions { hold_out: 1.0, ..at(root) };
    assert!(message(data::open(&share)).contains("hold-out share: found 1, expected"));
}

#[test]
fn held_out_classes_must_be_the_same() {
    let dir = tempfile::tempdir().unwrap();
    folder(&dir.path().join("train"), &["a", "b"], 2);
    folder(&dir.path().join("val"), &["a", "c"], 2);
    let message = message(open(dir.path()));
    assert!(message.contains("not expected here: `c`; missing here: `b`"), "{message}");
}

#[test]
fn unreadable_images_are_skipped_counted_and_listed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    folder(root, &["a", "b"], 4);
    fs::write(root.join("a/text.jpg"), "this is text").unwrap();
    fs::write(root.join("a/zero.png"), "").unwrap();
    let mut jpeg = std::io::Cursor::new(Vec::new());
    DynamicImage::ImageRgb8(picture(1)).write_to(&mut jpeg, ImageFormat::Jpeg).unwrap();
    let jpeg = jpeg.into_inner();
    fs::write(root.join("b/cut.jpg"), &jpeg[..jpeg.len() * 2 / 3]).unwrap();
    let splits = open(root).unwrap();
    assert_eq!(splits.train.len() + splits.held_out.len(), 8);
    let skipped: Vec<_> = splits
        .skipped
        .iter()
        .map(|s| (s.path.file_name().unwrap().to_str().unwrap(), s.problem.as_str()))
        .collect();
    assert_eq!(skipped.len(), 3, "{skipped:?}");
    assert!(skipped[0].0 == "text.jpg" && skipped[0].1.contains("found text"));
    assert!(skipped[1].0 == "zero.png" && skipped[1].1.contains("empty (0 bytes)"));
    assert!(skipped[2].0 == "cut.jpg" && skipped[2].1.contains("truncated JPEG"));

    let strict = message(data::open(&DataOptions { strict: true, ..at(root) }));
    assert!(strict.contains("text.jpg") && strict.contains("(3 such files"), "{strict}");

    // All of a class unreadable: the class is named.
    for i in 0..4 {
        fs::write(root.join(format!("b/{i:02}.png")), "").unwrap();
    }
    assert!(message(open(root)).contains("no readable image in class `b`"));
}

#[test]
fn lists_are_read_with_and_without_header() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for i in 0..12 {
        put(root.join(format!("images/{i}.png")), i);
    }
    let rows = |separator: char| -> String {
        (0..12).map(|i| format!("images/{i}.png{separator}{}\n", [2, 10][i % 2])).collect()
    };
    let plain = root.join("plain.csv");
    fs::write(&plain, rows(',')).unwrap();
    let tabs = root.join("tabs.tsv");
    fs::write(&tabs, format!("path\tlabel\n{}", rows('\t'))).unwrap();
    let wide = root.join("wide.csv");
    let body: String =
        (0..12).map(|i| format!("{i},\"{}\",images/{i}.png\n", ["x, y", "日本"][i % 2])).collect();
    fs::write(&wide, format!("\u{feff}number,Class,Image_Path\n{body}")).unwrap();
    for (list, classes) in [(&plain, ["2", "10"]), (&tabs, ["2", "10"]), (&wide, ["x, y", "日本"])] {
        let splits = open(list).unwrap();
        assert_eq!(splits.train.classes(), classes);
        assert_eq!(splits.train.len() + splits.held_out.len(), 12);
    }

    fs::write(&plain, "images/0.png,a\nimages/gone.png,a\nimages/1.png,b\nimages/2.png,a\n").unwrap();
    let splits = open(&plain).unwrap();
    assert!(splits.skipped[0].path.ends_with("gone.png"));
    assert!(splits.skipped[0].problem.contains("cannot read"));
    fs::write(&plain, "images/0.png,a\nimages/1.png\n").unwrap();
    assert!(message(open(&plain)).contains("line 2: expected a path and a label"));
    fs::write(&plain, "path,label\n").unwrap();
    assert!(message(open(&plain)).contains("lists no image"));
}

fn idx(dimensions: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dimensions.len() as u8];
    dimensions.iter().for_each(|d| bytes.extend(d.to_be_bytes()));
    bytes.extend(values);
    bytes
}

fn gzip(path: PathBuf, bytes: &[u8]) {
    let mut encoder =
        flate2::write::GzEncoder::new(fs::File::create(path).unwrap(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap();
}

#[test]
fn idx_folders_are_read_plain_and_compressed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let values: Vec<u8> = (0..6 * 4 * 5).map(|v| v as u8).collect();
    let images = idx(&[6, 4, 5], &values);
    fs::write(root.join("train-images-idx3-ubyte"), &images).unwrap();
    gzip(root.join("train-labels-idx1-ubyte.gz"), &idx(&[6], &[0, 1, 2, 0, 1, 2]));
    gzip(root.join("t10k-images-idx3-ubyte.gz"), &idx(&[2, 4, 5], &values[..40]));
    fs::write(root.join("t10k-labels-idx1-ubyte"), idx(&[2], &[1, 0])).unwrap();
    let splits = open(root).unwrap();
    assert_eq!(splits.train.classes(), ["0", "1", "2"]);
    assert_eq!((splits.train.len(), splits.held_out.len()), (6, 2));
    assert_eq!(splits.held_out.classes(), splits.train.classes());
    assert!(splits.train.is_grey());
    assert_eq!(splits.train.name(3), "train-images-idx3-ubyte#3");
    assert_eq!(typical_size(&*splits.train), (5, 4));
    assert_eq!(splits.train.image(1, 1).unwrap().data(), &values[20..40]);
    assert_eq!(splits.train.image(1, 3).unwrap().data()[..6], [20, 20, 20, 21, 21, 21]);

    // One file: held out from it. Names from a file beside it.
    fs::write(root.join("classes.txt"), "zero\none\ntwo\n").unwrap();
    let one = open(&root.join("train-images-idx3-ubyte")).unwrap();
    assert_eq!((one.train.len(), one.held_out.len()), (3, 3));
    assert_eq!(one.train.classes(), ["zero", "one", "two"]);

    fs::write(root.join("train-images-idx3-ubyte"), &images[..images.len() - 1]).unwrap();
    assert!(message(open(root)).contains("ends in image 5 of 6; the file is cut short"));
    fs::write(root.join("train-images-idx3-ubyte"), idx(&[5, 4, 5], &values)).unwrap();
    assert!(message(open(root)).contains("holds 6 labels for the 5 images"));
    fs::write(root.join("train-images-idx3-ubyte"), "no idx at all").unwrap();
    assert!(message(open(root)).contains("not an IDX file of images"));
    fs::remove_file(root.join("train-labels-idx1-ubyte.gz")).unwrap();
    assert!(message(open(root)).contains("its labels are missing: no file `train-labels-idx1-ubyte`"));
}

#[test]
fn the_embedded_sample_is_balanced_and_small() {
    let splits = data::open(&DataOptions::default()).unwrap();
    assert_eq!(class_counts(&*splits.train), [1200; 10]);
    assert_eq!(class_counts(&*splits.held_out), [200; 10]);
    assert_eq!(splits.train.classes()[0], "T-shirt/top");
    assert_eq!(splits.train.classes()[9], "Ankle boot");
    assert_eq!(typical_size(&*splits.train), (28, 28));
    let moments = statistics(&*splits.train, 1, 2000).unwrap();
    // The whole set's are 0.2860 and 0.3530.
    assert!((moments.mean[0] - 0.286).abs() < 0.01 && (moments.std[0] - 0.353).abs() < 0.01, "{moments:?}");
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/fashion-mnist");
    let bytes: u64 = fs::read_dir(assets).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < 6_000_000, "{bytes}");
}

#[test]
fn evaluation_data_is_matched_to_a_models_classes() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    folder(&root.join("train"), &["x"], 1);
    folder(&root.join("val"), &["dog", "cat"], 2);
    let model = ["dog", "cow", "cat"].map(str::to_owned);
    let opened = data::open_for_evaluation(&at(root), &model).unwrap();
    assert_eq!(opened.dataset.classes(), model);
    assert_eq!(class_counts(&*opened.dataset), [2, 0, 2]);
    let other = ["dog", "cow"].map(str::to_owned);
    let error = data::open_for_evaluation(&at(root), &other).err().unwrap().to_string();
    assert!(error.contains("(the model's); not expected here: `cat`"), "{error}");
    // IDX files without names go by number.
    let idx_dir = tempfile::tempdir().unwrap();
    fs::write(idx_dir.path().join("t10k-images-idx3-ubyte"), idx(&[3, 1, 1], &[1, 2, 3])).unwrap();
    fs::write(idx_dir.path().join("t10k-labels-idx1-ubyte"), idx(&[3], &[2, 0, 2])).unwrap();
    let opened = data::open_for_evaluation(&at(idx_dir.path()), &model).unwrap();
    assert_eq!(class_counts(&*opened.dataset), [1, 0, 2]);
    assert!(data::open_for_evaluation(&at(idx_dir.path()), &other).is_err());
    assert!(message(open(idx_dir.path())).contains("the training files are missing"));
    // The embedded test images for a model trained on the embedded sample.
    let fashion = data::open(&DataOptions::default()).unwrap().train.classes().to_vec();
    let opened = data::open_for_evaluation(&DataOptions::default(), &fashion).unwrap();
    assert_eq!(opened.dataset.len(), 2000);
}

#[test]
fn images_of_a_folder_are_listed_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["b.png", "a/z.png", ".c.png"] {
        put(dir.path().join(name), 1);
    }
    let listed = list_images(dir.path()).unwrap();
    assert_eq!(listed, [dir.path().join("a/z.png"), dir.path().join("b.png")]);
    assert_eq!(list_images(&listed[0]).unwrap(), listed[..1]);
    assert!(matches!(list_images(&dir.path().join("none")), Err(DataError::NotFound { .. })));
}
