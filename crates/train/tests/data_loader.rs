//! The loader: the same batches whatever the number of threads, and no way to hang.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mobilenet::Architecture;
use mobilenet::image::Image;
use mobilenet_train::data::{
    self, Augmentation, Batch, ColourJitter, DataError, Dataset, Loader, LoaderOptions, PadMode,
    RandomResizedCrop,
};

/// `count` images of 40×30 with three channels; some misbehave.
struct Made {
    classes: Vec<String>,
    count: usize,
    decoded: AtomicUsize,
    bad: fn(usize) -> Bad,
}

enum Bad {
    No,
    Damaged,
    Vanished,
    Panics,
}

fn made(count: usize, bad: fn(usize) -> Bad) -> Arc<Made> {
    let classes = ["a", "b", "c"].map(str::to_owned).to_vec();
    Arc::new(Made { classes, count, decoded: AtomicUsize::new(0), bad })
}

impl Dataset for Made {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn len(&self) -> usize {
        self.count
    }

    fn label(&self, index: usize) -> usize {
        index % 3
    }

    fn name(&self, index: usize) -> String {
        format!("made#{index}")
    }

    fn image(&self, index: usize, channels: usize) -> data::Result<Arc<Image>> {
        self.decoded.fetch_add(1, Ordering::Relaxed);
        match (self.bad)(index) {
            Bad::No => {}
            Bad::Damaged => {
                let (path, problem) = (self.name(index).into(), "damaged".into());
                return Err(mobilenet::Error::Image { path, problem }.into());
            }
            Bad::Vanished => {
                let source = std::io::Error::from(std::io::ErrorKind::NotFound);
                return Err(mobilenet::Error::io(self.name(index), "read")(source).into());
            }
            Bad::Panics => panic!("image {index} is cursed"),
        }
        let data = (0..40 * 30 * 3).map(|i| (i * (index + 3) % 253) as u8).collect();
        Ok(Arc::new(Image::new(40, 30, 3, data)?.with_channels(channels)?))
    }

    fn size(&self, _index: usize) -> (usize, usize) {
        (40, 30)
    }

    fn is_grey(&self) -> bool {
        false
    }
}

fn options(batch_size: usize) -> LoaderOptions {
    let architecture = Architecture { resolution: 16, ..Architecture::default() };
    LoaderOptions { workers: 2, ..LoaderOptions::new(&architecture, batch_size) }
}

fn all_augmentations() -> [Augmentation; 3] {
    let colour = ColourJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4 };
    [
        Augmentation::default(),
        Augmentation {
            random_resized_crop: Some(RandomResizedCrop::default()),
            flip: true,
            colour,
            erase: 0.5,
            ..Augmentation::default()
        },
        Augmentation { pad_crop: Some(3), pad_mode: PadMode::Reflect, flip: true, ..Augmentation::default() },
    ]
}

fn batches(loader: &Loader, epoch: u64, first: usize) -> Vec<Batch> {
    loader.epoch(epoch, first).collect::<data::Result<_>>().unwrap()
}

#[test]
fn batches_depend_on_seed_and_epoch_alone() {
    for augmentation in all_augmentations() {
        let make = |workers, cache_bytes, ahead, seed| {
            let options = LoaderOptions {
                workers,
                cache_bytes,
                ahead,
                seed,
                shuffle: true,
                augmentation: augmentation.clone(),
                ..options(8)
            };
            Loader::new(made(37, |_| Bad::No), options).unwrap()
        };
        let reference = make(1, 0, 1, 3);
        assert_eq!(reference.batches(), 5);
        let expected = batches(&reference, 2, 0);
        assert_eq!(expected.len(), 5);
        assert_eq!(expected[4].images.shape(), [5, 16, 16, 3]);
        let mut seen: Vec<_> = expected.iter().flat_map(|b| b.indices.clone()).collect();
        assert_ne!(seen, (0..37).collect::<Vec<_>>());
        seen.sort();
        assert_eq!(seen, (0..37).collect::<Vec<_>>());
        for (workers, cache_bytes, ahead) in [(2, 1 << 30, 0), (3, 20_000, 7)] {
            let loader = make(workers, cache_bytes, ahead, 3);
            // Twice: from the decoder, then from the cache.
            for _ in 0..2 {
                assert_eq!(batches(&loader, 2, 0), expected);
            }
            assert_eq!(batches(&loader, 2, 3), expected[3..]);
        }
        assert_ne!(batches(&reference, 3, 0), expected);
        assert_ne!(batches(&make(1, 0, 1, 4), 2, 0), expected);
        assert!(reference.epoch(2, 9).next().is_none());
    }
}

#[test]
fn without_augmentation_it_is_the_evaluation_transform() {
    let dataset = made(5, |_| Bad::No);
    let loader = Loader::new(dataset.clone(), options(2)).unwrap();
    for batch in batches(&loader, 0, 0) {
        for ((row, &index), &label) in batch.images.rows().zip(&batch.indices).zip(&batch.labels) {
            let mut expected = vec![0.0; 16 * 16 * 3];
            let image = dataset.image(index, 3).unwrap();
            loader.options().preprocessing.apply(&image, 16, &mut expected).unwrap();
            assert_eq!(row, expected);
            assert_eq!(label, index % 3);
        }
    }
}

#[test]
fn the_cache_holds_what_fits() {
    let decoded_in_second_epoch = |cache_bytes| {
        let dataset = made(20, |_| Bad::No);
        let options = LoaderOptions { cache_bytes, ..options(4) };
        let loader = Loader::new(dataset.clone(), options).unwrap();
        batches(&loader, 0, 0);
        assert_eq!(dataset.decoded.swap(0, Ordering::Relaxed), 20);
        batches(&loader, 1, 0);
        dataset.decoded.load(Ordering::Relaxed)
    };
    assert_eq!(decoded_in_second_epoch(1 << 20), 0);
    assert_eq!(decoded_in_second_epoch(0), 20);
    // Prepared images are 16·16·3 = 768 bytes.
    assert_eq!(decoded_in_second_epoch(5 * 768 + 1), 15);
}

#[test]
fn a_damaged_image_is_left_out_unless_strict() {
    let bad = |index| if index == 5 { Bad::Damaged } else { Bad::No };
    let loader = Loader::new(made(12, bad), options(4)).unwrap();
    let all = batches(&loader, 0, 0);
    assert_eq!(all.iter().map(|b| b.labels.len()).collect::<Vec<_>>(), [4, 3, 4]);
    assert_eq!(all[1].indices, [4, 6, 7]);
    assert_eq!(all[1].images.shape()[0], 3);
    assert_eq!(all[1].skipped[0].problem, "damaged");
    let strict = LoaderOptions { strict: true, ..options(4) };
    let results: Vec<_> = Loader::new(made(12, bad), strict).unwrap().epoch(0, 0).collect();
    assert!(results[0].is_ok() && results[2].is_ok());
    assert_eq!(results[1].as_ref().unwrap_err().to_string(), "made#5: damaged");
}

#[test]
fn failures_of_workers_reach_the_consumer() {
    let results = |bad| -> Vec<_> { Loader::new(made(12, bad), options(4)).unwrap().epoch(0, 0).collect() };
    let vanished = results(|index| if index == 1 { Bad::Vanished } else { Bad::No });
    assert!(vanished[0].as_ref().unwrap_err().to_string().starts_with("made#1: cannot read"));
    let panics = results(|index| if index == 9 { Bad::Panics } else { Bad::No });
    assert_eq!(panics.len(), 3);
    let error = panics[2].as_ref().unwrap_err();
    assert!(matches!(error, DataError::Worker { batch: 2, .. }));
    assert!(error.to_string().contains("image 9 is cursed"));
    let all_damaged = results(|index| if index < 4 { Bad::Damaged } else { Bad::No });
    assert!(matches!(all_damaged[0], Err(DataError::Unreadable { count: 4, .. })));
    assert!(all_damaged[1].is_ok());
}

#[test]
fn dropping_an_epoch_ends_its_threads() {
    let dataset = made(10_000, |_| Bad::No);
    let loader = Loader::new(dataset.clone(), LoaderOptions { cache_bytes: 0, ..options(4) }).unwrap();
    let mut epoch = loader.epoch(0, 0);
    assert_eq!(epoch.len(), 2500);
    epoch.next().unwrap().unwrap();
    drop(epoch);
    let decoded = dataset.decoded.load(Ordering::Relaxed);
    // One taken, four ahead, and what the two workers were at.
    assert!(decoded <= (1 + 4 + 2) * 4, "{decoded}");
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(dataset.decoded.load(Ordering::Relaxed), decoded);
    // The threads' copies of the data set are gone with them.
    assert_eq!(Arc::strong_count(&dataset), 2);
}

#[test]
fn options_out_of_range_are_named() {
    let check = |options: LoaderOptions| {
        Loader::new(made(3, |_| Bad::No), options).err().expect("refused").to_string()
    };
    assert_eq!(check(options(0)), "batch size: found 0, expected at least 1");
    let dropped = check(LoaderOptions { drop_last: true, ..options(4) });
    assert!(dropped.starts_with("batch size: found 4 for 3 images"), "{dropped}");
    assert!(check(LoaderOptions { channels: 2, ..options(1) }).starts_with("input channels: found 2"));
    assert!(check(LoaderOptions { channels: 1, ..options(1) }).contains("3 and 3 values for 1 channels"));
    let kept = Loader::new(made(9, |_| Bad::No), LoaderOptions { drop_last: true, ..options(4) }).unwrap();
    assert_eq!(batches(&kept, 0, 0).len(), 2);
}

#[test]
fn throughput_counts_every_image() {
    let loader = Loader::new(made(50, |_| Bad::No), options(16)).unwrap();
    let throughput = loader.throughput(0).unwrap();
    assert_eq!(throughput.images, 50);
    assert!(throughput.images_per_second() > 0.0);
}

/// Prints images a second for one thread: `cargo test --release --test data_loader -- --ignored
/// --nocapture`.
#[test]
#[ignore = "measures; run it alone and optimised"]
fn one_thread_makes_enough_small_images() {
    let splits = data::open(&data::DataOptions::default()).unwrap();
    let preprocessing = mobilenet::conventions::Preprocessing {
        mean: vec![0.286],
        std: vec![0.353],
        crop_fraction: 1.0,
        ..Architecture::default().conventions.preprocessing
    };
    let augmentation = Augmentation { pad_crop: Some(2), flip: true, ..Augmentation::default() };
    let options = LoaderOptions {
        workers: 1,
        resolution: 28,
        channels: 1,
        preprocessing,
        augmentation,
        shuffle: true,
        ..options(128)
    };
    let loader = Loader::new(splits.train, options).unwrap();
    let best = (0..5).map(|epoch| loader.throughput(epoch).unwrap().images_per_second()).fold(0.0, f64::max);
    println!("padded crop and flip of 28×28 images, one thread: {best:.0} images/s");
    assert!(best > 100_000.0);
}
