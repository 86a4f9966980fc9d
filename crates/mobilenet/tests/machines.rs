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

fn executor(threads: usize, isa: Option<Isa>) -> CpuExecutor {
    let a = architecture();
    let weights = Weights::random(&a, 7).unwrap();
    CpuExecutor::new(&a, &weights, &CpuOptions { threads: Some(threads), isa, ..CpuOptions::default() })
        .unwrap()
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
    let (mut one, mut many) = (executor(1, None), executor(16, None));
    assert_eq!(many.threads(), 16);
    for batch in ODD {
        let images = images(batch, 48);
        assert_eq!(one.infer(&images).unwrap(), many.infer(&images).unwrap(), "batch {batch}");
        assert!(pass(&mut one, &images) == pass(&mut many, &images), "a step with batch {batch}");
    }
}

#[test]
fn an_image_does_not_know_of_its_batch() {
    let mut alone = executor(1, None);
    let rows = |tensor: &Tensor| tensor.rows().map(<[f32]>::to_vec).collect::<Vec<_>>();
    for threads in [1, 2, 3, 8] {
        // One executor for all: the batch grows and shrinks, and finds what others left behind.
        let mut executor = executor(threads, None);
        for batch in ODD.into_iter().chain(ODD.into_iter().rev()) {
            let images = images(batch, 48);
            let expected: Vec<_> = rows(&images)
                .into_iter()
                .flat_map(|image| rows(&alone.infer(&Tensor::new(&[1, 48, 48, 3], image).unwrap()).unwrap()))
                .collect();
            assert_eq!(rows(&executor.infer(&images).unwrap()), expected, "{batch} on {threads} threads");
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
    for precision in [Precision::F32, Precision::Bf16] {
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
fn another_resolution_is_refused_and_another_executor_takes_it() {
    let mut small = executor(2, None);
    let expected = small.infer(&images(2, 48)).unwrap();
    for wrong in [47, 49, 64] {
        let error = small.infer(&images(2, wrong)).unwrap_err().to_string();
        assert!(error.contains("[N ≥ 1, 48, 48, 3]") && error.contains(&wrong.to_string()), "{error}");
        assert!(small.forward(&images(2, wrong)).is_err());
    }
    assert_eq!(small.infer(&images(2, 48)).unwrap(), expected, "after refusals");
    // The weights are those of every resolution.
    let larger = Architecture { resolution: 64, ..architecture() };
    let mut large = CpuExecutor::new(&larger, &small.weights(), &CpuOptions::default()).unwrap();
    assert_eq!(large.infer(&images(2, 64)).unwrap().shape(), [2, 11]);
    assert!(large.infer(&images(2, 48)).is_err());
}

#[test]
fn executors_at_work_at_once_do_not_meet() {
    let images = images(3, 48);
    let mut first = executor(1, None);
    let (inferred, trained) = (first.infer(&images).unwrap(), pass(&mut first, &images));
    thread::scope(|scope| {
        for threads in [1, 2, 3, 4] {
            // Made here, at work there.
            let mut executor = executor(threads, None);
            let (images, inferred, trained) = (&images, &inferred, &trained);
            scope.spawn(move || {
                for _ in 0..10 {
                    assert_eq!(&executor.infer(images).unwrap(), inferred);
                }
                assert!(&pass(&mut executor, images) == trained, "a step on {threads} threads");
            });
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
