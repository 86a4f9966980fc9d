//! Fine-tuning through the training loop: what stays, what resumes, what cached features give.

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use common::Stripes;
use mobilenet::cpu::{CpuExecutor, CpuOptions};
use mobilenet::{Architecture, Executor, Model};
use mobilenet_train::data::{Loader, LoaderOptions, Splits};
use mobilenet_train::optimizer::{AdamW, Optimizer, RmsProp, Sgd};
use mobilenet_train::recipe::{OptimizerKind, Recipe};
use mobilenet_train::state::TrainingState;
use mobilenet_train::{Event, Facts, Freeze, Outcome, Plan, RunFolder, train};

/// A network that was trained on something else.
fn init() -> Model {
    let mut architecture = Architecture {
        width_multiplier: 0.1,
        resolution: 12,
        stem_stride: 1,
        input_channels: 1,
        classes: 7,
        ..Architecture::default()
    };
    let p = &mut architecture.conventions.preprocessing;
    (p.mean, p.std, p.crop_fraction) = (vec![0.4], vec![0.3], 1.0);
    let labels = (0..7).map(|i| i.to_string()).collect();
    let mut model = Model::random(architecture, labels, 3).unwrap();
    let stems: Vec<_> =
        model.weights.iter().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
    for (name, mut tensor) in stems {
        let values = tensor.data_mut().iter_mut().enumerate();
        if name == "pointwise_3.weight" {
            // A zero keeps its sign too.
            values.take(3).for_each(|(_, value)| *value = -0.0);
        }
        model.weights.insert(name, tensor);
    }
    // Statistics of images like those to come, so that something gets through so many layers.
    model.architecture.conventions.bn_momentum = 1.0;
    let loader = Loader::new(data().train, LoaderOptions::new(&model.architecture, 45)).unwrap();
    let mut network = CpuExecutor::new(&model.architecture, &model.weights, &CpuOptions::default()).unwrap();
    network.forward(&loader.epoch(0, 0).next().unwrap().unwrap().images).unwrap();
    model.weights = network.weights();
    model.architecture.conventions.bn_momentum = 0.1;
    model
}

fn recipe(freeze: Freeze) -> Recipe {
    Recipe {
        init: Some("imagenet".into()),
        freeze: Some(freeze),
        epochs: Some(4),
        batch_size: Some(8),
        optimizer: Some(OptimizerKind::AdamW),
        lr: Some(0.01),
        dropout: Some(0.2),
        flip: Some(true),
        random_crop: Some(0.0),
        pad_crop: Some(0),
        save_seconds: Some(1e6),
        seed: Some(5),
        ..Recipe::default()
    }
}

fn data() -> Splits {
    Stripes::splits(45, 30)
}

fn plan(recipe: &Recipe, data: &Splits, init: Option<&Model>) -> Plan {
    recipe.resolve(&Facts::measure(&*data.train).unwrap(), init.map(|model| &model.architecture)).unwrap()
}

/// Begins a run, or goes on with it, until the observer raises the flag.
fn go(
    recipe: &Recipe,
    folder: &Path,
    threads: usize,
    observe: &mut dyn FnMut(&Event<'_>, &AtomicBool),
) -> Outcome {
    let data = data();
    let (mut run, plan, weights, state) = match RunFolder::open(folder) {
        Ok((run, recipe, state)) => (run, plan(&recipe, &data, None), state.weights.clone(), Some(state)),
        Err(_) => {
            let init = init();
            let plan = plan(recipe, &data, Some(&init));
            let model = plan.model(data.train.classes(), Some(&init)).unwrap();
            (RunFolder::create(folder, &plan.recipe).unwrap(), plan, model.weights, None)
        }
    };
    let options = CpuOptions { threads: Some(threads), ..CpuOptions::default() };
    let mut network = CpuExecutor::new(&plan.architecture, &weights, &options).unwrap();
    let stop = AtomicBool::new(false);
    train(&mut network, &plan, &data, &mut run, state, &stop, &mut |event| observe(event, &stop)).unwrap()
}

fn whole(recipe: &Recipe, folder: &Path) -> Outcome {
    go(recipe, folder, 2, &mut |_, _| ())
}

fn models(folder: &Path) -> [Vec<u8>; 2] {
    ["best.safetensors", "last.safetensors"].map(|name| std::fs::read(folder.join(name)).unwrap())
}

/// Whether a tensor belongs to the first convolution or one of the first blocks.
fn is_within(name: &str, blocks: usize) -> bool {
    let layer = name.split('.').next().unwrap();
    layer.rsplit_once('_').is_some_and(|(_, number)| number.parse::<usize>().unwrap() <= blocks)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn what_is_frozen_keeps_its_bits_and_the_rest_learns() {
    let init = init();
    for (freeze, blocks) in [(Freeze::Body, 13), (Freeze::Blocks(13), 13), (Freeze::Blocks(4), 4)] {
        for ema in [0.0, 0.9] {
            let temporary = tempfile::tempdir().unwrap();
            let folder = temporary.path().join("run");
            let outcome = whole(&Recipe { ema: Some(ema), ..recipe(freeze) }, &folder);
            assert_eq!((outcome.interrupted, outcome.step), (false, 20));
            for name in ["best.safetensors", "last.safetensors"] {
                let model = Model::load(folder.join(name)).unwrap();
                assert_eq!(model.labels, data().train.classes());
                for (name, tensor) in model.weights.iter() {
                    let before = init.weights.get(name).unwrap();
                    if is_within(name, blocks) {
                        assert_eq!(bits(tensor.data()), bits(before.data()), "{name}, {freeze}, {ema}");
                    } else if name.ends_with("running_mean") {
                        assert_ne!(tensor, before, "{name}, {freeze}, {ema}");
                    }
                }
            }
            // The optimizer remembers nothing of what does not learn.
            let state = TrainingState::load(&folder.join("state.safetensors")).unwrap();
            let remembered = state.optimizer.slots.keys().map(|key| key.split_once('/').unwrap().1);
            assert!(remembered.clone().all(|name| !is_within(name, blocks)));
            assert!(remembered.count() > 0);
            let written = Recipe::load(&folder.join("recipe.toml")).unwrap();
            assert_eq!((written.freeze, written.init), (Some(freeze), Some("imagenet".into())));
        }
    }
}

#[test]
fn a_classifier_learns_from_cached_features() {
    let temporary = tempfile::tempdir().unwrap();
    let mut told = Vec::new();
    let recipe = Recipe { epochs: Some(60), lr: Some(0.03), ..recipe(Freeze::Body) };
    let outcome = go(&recipe, &temporary.path().join("run"), 2, &mut |event, _| match event {
        Event::Features { done, total } => told.push((*done, *total)),
        Event::Saved { .. } => told.push((0, 0)),
        _ => {}
    });
    // Far better than by chance, on a body that never saw anything.
    assert!(outcome.best.as_ref().unwrap().top1 > 0.5, "{outcome:?}");
    assert!(outcome.last.as_ref().unwrap().train_accuracy > 0.7, "{outcome:?}");
    // Saved at the beginning and at the end; every image once, both parts in one count.
    assert_eq!((told[0], told[told.len() - 1], told[told.len() - 2]), ((0, 0), (0, 0), (75, 75)));
    assert!(told[1..told.len() - 1].windows(2).all(|pair| pair[0].0 < pair[1].0));
    // The best model is the one of the best epoch.
    let best = Model::load(temporary.path().join("run")).unwrap();
    let mut network = CpuExecutor::new(&best.architecture, &best.weights, &CpuOptions::default()).unwrap();
    let data = data();
    let loader = plan(&recipe, &data, Some(&init())).evaluation_loader(&data).unwrap();
    let found =
        mobilenet_train::evaluate(&mut network, &loader, &best.labels, &Default::default(), &mut |_, _| ());
    let (found, expected) = (found.unwrap(), outcome.best.unwrap());
    assert_eq!((found.top1, found.loss), (expected.top1, expected.loss));
}

#[test]
fn cached_features_give_the_bits_of_a_body_that_is_run_every_time() {
    let temporary = tempfile::tempdir().unwrap();
    let still = |freeze| Recipe { flip: Some(false), ..recipe(freeze) };
    let (cached, run) = (temporary.path().join("cached"), temporary.path().join("run"));
    whole(&still(Freeze::Body), &cached);
    whole(&still(Freeze::Blocks(13)), &run);
    assert!(models(&cached) == models(&run));
    // Mirror images are another matter.
    let mirrored = temporary.path().join("mirrored");
    whole(&recipe(Freeze::Body), &mirrored);
    assert!(models(&cached) != models(&mirrored));
}

#[test]
fn evaluation_with_mirror_images_uses_their_features() {
    let temporary = tempfile::tempdir().unwrap();
    let both = |freeze| Recipe { flip: Some(false), tta: Some(true), ..recipe(freeze) };
    let cached = whole(&both(Freeze::Body), &temporary.path().join("cached"));
    let run = whole(&both(Freeze::Blocks(13)), &temporary.path().join("run"));
    assert_eq!(cached.last.as_ref().unwrap().loss, run.last.unwrap().loss);
    let plain = whole(&Recipe { tta: Some(false), ..both(Freeze::Body) }, &temporary.path().join("plain"));
    assert_ne!(cached.last.unwrap().loss, plain.last.unwrap().loss);
}

#[test]
fn frozen_runs_resume_to_the_same_bits_on_any_number_of_threads() {
    for freeze in [Freeze::Body, Freeze::Blocks(4)] {
        for save_seconds in [0.0, 1e6] {
            let recipe = Recipe {
                ema: Some(0.9),
                accumulate: Some(2),
                clip_norm: Some(1.0),
                save_seconds: Some(save_seconds),
                ..recipe(freeze)
            };
            let temporary = tempfile::tempdir().unwrap();
            let expected = temporary.path().join("whole");
            let steps = go(&recipe, &expected, 1, &mut |_, _| ()).step;
            for (threads, at) in [(2, 1), (3, 4), (1, 6), (2, steps - 1), (2, steps)] {
                let folder = temporary.path().join(at.to_string());
                let outcome = go(&recipe, &folder, threads, &mut |event, stop| {
                    if matches!(event, Event::Step(step) if step.step == at) {
                        stop.store(true, Ordering::Relaxed);
                    }
                });
                assert!(outcome.interrupted && outcome.step == at);
                assert!(!go(&recipe, &folder, 2, &mut |_, _| ()).interrupted);
                assert!(models(&folder) == models(&expected), "{freeze}, stopped at {at}");
            }
        }
    }
    // While features are computed, and killed at any event.
    let recipe = recipe(Freeze::Body);
    let temporary = tempfile::tempdir().unwrap();
    let expected = temporary.path().join("whole");
    let mut events = 0;
    go(&recipe, &expected, 2, &mut |_, _| events += 1);
    let folder = temporary.path().join("features");
    let outcome = go(&recipe, &folder, 2, &mut |event, stop| {
        if matches!(event, Event::Features { done: 20.., .. }) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    assert!(outcome.interrupted && outcome.step == 0);
    go(&recipe, &folder, 2, &mut |_, _| ());
    assert!(models(&folder) == models(&expected), "stopped while features were computed");
    for at in (2..events).step_by(3) {
        let folder = temporary.path().join(format!("killed {at}"));
        let mut seen = 0;
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            go(&recipe, &folder, 2, &mut |_, _| {
                if seen == at {
                    std::panic::resume_unwind(Box::new("killed"));
                }
                seen += 1;
            })
        }));
        assert!(killed.is_err());
        go(&recipe, &folder, 2, &mut |_, _| ());
        assert!(models(&folder) == models(&expected), "killed at event {at}");
    }
}

#[test]
fn a_finished_run_computes_no_features_again() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("run");
    let recipe = recipe(Freeze::Body);
    let first = whole(&recipe, &folder);
    let before = models(&folder);
    let again = go(&recipe, &folder, 2, &mut |event, _| {
        assert!(!matches!(event, Event::Features { .. } | Event::Step(_)));
    });
    assert_eq!((again.best, again.step), (first.best, first.step));
    assert!(models(&folder) == before);
}

#[test]
fn the_body_moves_at_its_share_of_the_rate() {
    let init = init();
    let images = mobilenet::Tensor::new(
        &[4, 12, 12, 1],
        (0..4 * 144).map(|i| ((i * 37 % 101) as f32 - 50.0) / 30.0).collect(),
    )
    .unwrap();
    let step = |optimizer: &mut dyn Optimizer| {
        let mut network =
            CpuExecutor::new(&init.architecture, &init.weights, &CpuOptions::default()).unwrap();
        let logits = network.forward(&images).unwrap();
        network.zero_grad();
        network.backward(&logits).unwrap();
        optimizer.step(&mut network).unwrap();
        network.weights()
    };
    type Make = fn(f64) -> Box<dyn Optimizer>;
    let makers: [Make; 3] = [
        |factor| Box::new(Sgd::new(0.5, 0.9, 0.0).body_lr_factor(factor)),
        |factor| Box::new(RmsProp::new(0.5, 0.9, 0.9, 1.0, 0.0).body_lr_factor(factor)),
        |factor| Box::new(AdamW::new(0.5, 0.01).body_lr_factor(factor)),
    ];
    for make in makers {
        let (full, quarter) = (step(&mut *make(1.0)), step(&mut *make(0.25)));
        let mut moved = 0;
        for (name, before) in init.weights.iter().filter(|(name, _)| !name.contains("running")) {
            let values = before.data().iter().zip(full.get(name).unwrap().data());
            for ((w, all), part) in values.zip(quarter.get(name).unwrap().data()) {
                let expected = if name.starts_with("classifier.") { 1.0 } else { 0.25 };
                let difference = (part - w) - expected * (all - w);
                assert!(difference.abs() <= 1e-6 * (1.0 + w.abs() + all.abs()), "{name}: {w} {all} {part}");
                moved += usize::from(all != w);
            }
        }
        assert!(moved > 1000);
    }
}
