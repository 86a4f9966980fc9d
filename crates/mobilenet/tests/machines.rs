//! What differs from machine to machine must not show: instruction sets, cores, threads (more of
//! them than cores, too), odd batches, and several executors at work at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mobilenet::cpu::{CpuExecutor, CpuOptions, Precision};
use mobilenet::rng::Rng;
use mobilenet::{Architecture, Executor, Tensor, Weights};
use mobilenet_kernels::Isa;

/// Batches that no number of threads here divides.
const ODD: [usize; 4] = [1, 3, 5, 7];

fn architecture() -> Architecture {
    Architecture { width_multiplier: 0.25, resolution: 48, classes: 11, ..Architecture::default() }
}

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

fn executor(threads: usize, isa: Option<Isa>) -> CpuExecutor {
    executor_in(Precision::F32, threads, isa)
}

fn executor_in(precision: Precision, threads: usize, isa: Option<Isa>) -> CpuExecutor {
    let a = architecture();
    let weights = Weights::random(&a, 7).unwrap();
    let options = CpuOptions { threads: Some(threads), isa, precision, ..CpuOptions::default() };
    CpuExecutor::new(&a, &weights, &options).unwrap()
}

fn images(batch: usize, resolution: usize) -> Tensor {
    let mut rng = Rng::keyed(3, &[batch as u64]);
    let shape = [batch, resolution, resolution, 3];
    let data = (0..shape.iter().product()).map(|_| rng.normal() as f32).collect();
    Tensor::new(&shape, data).unwrap()
}

/// One training pass: logits, gradients, and everything that is stored afterwards.
fn pass(executor: &mut CpuExecutor, images: &Tensor) -> (Tensor, BTreeMap<String, Vec<f32>>, Weights) {
    executor.zero_grad();
    let logits = executor.forward(images).unwrap();
    executor.backward(&logits).unwrap();
    let gradients = executor.parameters().into_iter().map(|p| (p.name.to_owned(), p.grad.to_vec())).collect();
    (logits, gradients, executor.weights())
}

/// The largest difference, relative to the largest expected value.
fn error(found: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(found.shape(), expected.shape());
    let largest = expected.data().iter().fold(0f32, |largest, x| largest.max(x.abs()));
    let pairs = found.data().iter().zip(expected.data());
    pairs.fold(0f32, |worst, (a, b)| if (a - b).is_nan() { f32::NAN } else { worst.max((a - b).abs()) })
        / largest
}

#[test]
fn an_executor_can_be_sent_and_shared() {
    fn send_and_sync<T: Send + Sync>() {}
    send_and_sync::<CpuExecutor>();
}

#[test]
fn instruction_sets_agree() {
    let images = images(2, 48);
    let results: Vec<_> = Isa::testable()
        .into_iter()
        .map(|isa| {
            let mut executor = executor(2, Some(isa));
            assert_eq!(executor.isa(), isa);
            (isa, executor.infer(&images).unwrap(), pass(&mut executor, &images).0)
        })
        .collect();
    let (_, inferred, trained) = &results[0];
    for (isa, found_inferred, found_trained) in &results[1..] {
        let errors = [error(found_inferred, inferred), error(found_trained, trained)];
        // Batch statistics of a few pixels divide by small deviations: training is less exact.
        assert!(errors[0] <= 1e-5 && errors[1] <= 1e-4, "{}: {errors:?}", isa.name());
    }
}

/// Threads get as much of an image's layers as they were fast, which is never the same here.
#[test]
fn a_core_that_is_busy_now_and_then_changes_no_bit() {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // (Not for ever, should anything below panic.)
            let begin = Instant::now();
            while !stop.load(Ordering::Relaxed) && begin.elapsed() < Duration::from_secs(60) {
                let start = Instant::now();
                while start.elapsed() < Duration::from_millis(3) {
                    std::hint::spin_loop();
                }
                thread::sleep(Duration::from_millis(4));
            }
        });
        let same = [Precision::F32, Precision::Bf16].map(|precision| {
            let a = architecture();
            let weights = Weights::random(&a, 7).unwrap();
            let image = images(1, 48);
            let mut executors = [1, 2, 3].map(|threads| {
                let options = CpuOptions { threads: Some(threads), precision, ..CpuOptions::default() };
                CpuExecutor::new(&a, &weights, &options).unwrap()
            });
            let [one, others @ ..] = &mut executors;
            let expected = one.infer(&image).unwrap();
            let same =
                |executor: &mut CpuExecutor| (0..50).all(|_| executor.infer(&image).unwrap() == expected);
            others.iter_mut().all(same)
        });
        stop.store(true, Ordering::Relaxed);
        assert_eq!(same, [true; 2], "in f32, in bf16");
    });
}

#[test]
fn more_threads_than_cores_change_no_bit() {
    for precision in PRECISIONS {
        let [mut one, mut many] = [1, 16].map(|threads| executor_in(precision, threads, None));
        assert_eq!(many.threads(), 16);
        for batch in ODD {
            let (images, what) = (images(batch, 48), format!("batch {batch}, {precision:?}"));
            assert_eq!(one.infer(&images).unwrap(), many.infer(&images).unwrap(), "{what}");
            assert!(pass(&mut one, &images) == pass(&mut many, &images), "a step with {what}");
        }
    }
}

#[test]
fn an_image_does_not_know_of_its_batch() {
    let rows = |tensor: &Tensor| tensor.rows().map(<[f32]>::to_vec).collect::<Vec<_>>();
    let cases = PRECISIONS.into_iter().flat_map(|precision| [1, 2, 3, 8].map(|threads| (precision, threads)));
    for (precision, threads) in cases {
        let mut alone = executor_in(precision, 1, None);
        // One executor for all: the batch grows and shrinks, and finds what others left behind.
        let mut executor = executor_in(precision, threads, None);
        for batch in ODD.into_iter().chain(ODD.into_iter().rev()) {
            let images = images(batch, 48);
            let expected: Vec<_> = rows(&images)
                .into_iter()
                .flat_map(|image| rows(&alone.infer(&Tensor::new(&[1, 48, 48, 3], image).unwrap()).unwrap()))
                .collect();
            let found = rows(&executor.infer(&images).unwrap());
            assert_eq!(found, expected, "{batch} on {threads} threads, {precision:?}");
        }
    }
}

/// One image's last product and its classifier are one piece of work, and each a piece of its own while layers are
/// timed and in a batch; with maps large enough for every form of tile.
#[test]
fn one_image_has_the_logits_that_it_has_in_a_batch() {
    let large = Architecture { resolution: 192, ..architecture() };
    let weights = Weights::random(&large, 7).unwrap();
    let images = images(2, 192);
    let first = Tensor::new(&[1, 192, 192, 3], images.rows().next().unwrap().to_vec()).unwrap();
    for precision in PRECISIONS {
        for isa in Isa::testable() {
            let mut found = Vec::new();
            for threads in [1, 3] {
                let options =
                    CpuOptions { threads: Some(threads), isa: Some(isa), precision, ..CpuOptions::default() };
                let mut executor = CpuExecutor::new(&large, &weights, &options).unwrap();
                let one = executor.infer(&first).unwrap();
                let both = executor.infer(&images).unwrap();
                executor.time_layers();
                found.extend([one, executor.infer(&first).unwrap()].map(|logits| logits.data().to_vec()));
                found.push(both.rows().next().unwrap().to_vec());
            }
            assert!(found.iter().all(|logits| logits == &found[0]), "{} {precision:?}", isa.name());
        }
    }
}

#[test]
fn another_resolution_is_refused_until_it_is_set() {
    let mut executor = executor(2, None);
    let expected = executor.infer(&images(2, 48)).unwrap();
    for wrong in [47, 49, 64] {
        let error = executor.infer(&images(2, wrong)).unwrap_err().to_string();
        assert!(error.contains("[N ≥ 1, 48, 48, 3]") && error.contains(&wrong.to_string()), "{error}");
        assert!(executor.forward(&images(2, wrong)).is_err());
    }
    for impossible in [0, 7, 5000] {
        assert!(executor.set_resolution(impossible).is_err());
    }
    assert_eq!(executor.infer(&images(2, 48)).unwrap(), expected, "after refusals");
}

/// Smaller, larger, and back: as if each resolution had an executor of its own.
#[test]
fn resolutions_may_change_between_calls() {
    for precision in PRECISIONS {
        for frozen in [None, Some(2)] {
            let options = CpuOptions { threads: Some(2), precision, ..CpuOptions::default() };
            let made = |resolution, weights: &Weights| {
                let a = Architecture { resolution, ..architecture() };
                let mut executor = CpuExecutor::new(&a, weights, &options).unwrap();
                executor.freeze(frozen).unwrap();
                executor
            };
            let mut changing = made(48, &Weights::random(&architecture(), 7).unwrap());
            for resolution in [48, 33, 64, 8, 48] {
                changing.set_resolution(resolution).unwrap();
                assert_eq!(changing.architecture().resolution, resolution);
                let mut own = made(resolution, &changing.weights());
                for batch in [3, 2] {
                    let what = format!("{batch} of {resolution}, {precision:?}, frozen {frozen:?}");
                    let images = images(batch, resolution);
                    assert_eq!(changing.infer(&images).unwrap(), own.infer(&images).unwrap(), "{what}");
                    assert!(pass(&mut changing, &images) == pass(&mut own, &images), "a step with {what}");
                    assert_eq!(changing.infer(&images).unwrap(), own.infer(&images).unwrap(), "{what}, then");
                }
            }
            let logits = changing.forward(&images(3, 48)).unwrap();
            changing.set_resolution(64).unwrap();
            assert!(changing.backward(&logits).is_err(), "there is no way back to another resolution");
        }
    }
}

#[test]
fn executors_at_work_at_once_do_not_meet() {
    let images = images(3, 48);
    let expected = PRECISIONS.map(|precision| {
        let mut first = executor_in(precision, 1, None);
        (precision, first.infer(&images).unwrap(), pass(&mut first, &images))
    });
    thread::scope(|scope| {
        for threads in [1, 2, 3, 4] {
            for (precision, inferred, trained) in &expected {
                // Made here, at work there.
                let mut executor = executor_in(*precision, threads, None);
                let images = &images;
                scope.spawn(move || {
                    for _ in 0..10 {
                        assert_eq!(&executor.infer(images).unwrap(), inferred);
                    }
                    let found = pass(&mut executor, images);
                    assert!(&found == trained, "a step on {threads} threads, {precision:?}");
                });
            }
        }
    });
}

#[test]
fn an_executor_moves_from_thread_to_thread() {
    let images = images(3, 48);
    let mut executor = executor(2, None);
    let expected = executor.infer(&images).unwrap();
    for _ in 0..3 {
        let images = &images;
        let (back, found) = thread::scope(|scope| {
            scope
                .spawn(move || {
                    let found = executor.infer(images).unwrap();
                    (executor, found)
                })
                .join()
                .unwrap()
        });
        executor = back;
        assert_eq!(found, expected);
    }
}
