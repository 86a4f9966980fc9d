//! The CPU engine, trained through the loop: resuming and the number of threads change no bit.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mobilenet::cpu::{CpuExecutor, CpuOptions};
use mobilenet_train::data::{self, DataOptions, Dataset, Splits};
use mobilenet_train::recipe::Recipe;
use mobilenet_train::state::TrainingState;
use mobilenet_train::{Event, Facts, RunFolder, train};

mod common;

use common::Stripes;

fn recipe() -> Recipe {
    Recipe {
        width: Some(0.1),
        epochs: Some(2),
        batch_size: Some(8),
        lr: Some(0.05),
        dropout: Some(0.2),
        ema: Some(0.9),
        accumulate: Some(2),
        clip_norm: Some(1.0),
        save_seconds: Some(1e6),
        ..Recipe::default()
    }
}

/// Trains with so many threads until so many steps were taken, from the beginning or from where
/// it was left.
fn go(folder: &Path, threads: usize, until: u64) {
    let data = Stripes::splits(45, 30);
    let (mut run, recipe, state) = match RunFolder::open(folder) {
        Ok((run, recipe, state)) => (run, recipe, Some(state)),
        Err(_) => {
            let plan = recipe().resolve(&Facts::measure(&*data.train).unwrap(), None).unwrap();
            (RunFolder::create(folder, &plan.recipe).unwrap(), plan.recipe, None)
        }
    };
    let plan = recipe.resolve(&Facts::measure(&*data.train).unwrap(), None).unwrap();
    let model = plan.model(data.train.classes(), None).unwrap();
    let options = CpuOptions { threads: Some(threads), ..CpuOptions::default() };
    let mut network = CpuExecutor::new(&plan.architecture, &model.weights, &options).unwrap();
    let stop = AtomicBool::new(false);
    train(&mut network, &plan, &data, &mut run, state, &stop, &mut |event| {
        if matches!(event, Event::Step(step) if step.step >= until) {
            stop.store(true, Ordering::Relaxed);
        }
    })
    .unwrap();
}

#[test]
fn resumed_and_with_other_threads_the_bits_are_the_same() {
    let temporary = tempfile::tempdir().unwrap();
    let whole = temporary.path().join("whole");
    go(&whole, 1, u64::MAX);
    let expected = std::fs::read(whole.join("last.safetensors")).unwrap();
    let state = TrainingState::load(&whole.join("state.safetensors")).unwrap();
    for (threads, until) in [(2, u64::MAX), (1, 1), (2, 2), (2, 3), (1, 4), (3, 5)] {
        let folder = temporary.path().join(format!("{threads} {until}"));
        go(&folder, threads, until);
        go(&folder, 2, u64::MAX);
        let found = std::fs::read(folder.join("last.safetensors")).unwrap();
        assert!(found == expected, "{threads} threads, stopped at {until}");
        let found = TrainingState::load(&folder.join("state.safetensors")).unwrap();
        assert!(found.weights == state.weights && found.optimizer == state.optimizer);
        assert!(found.average == state.average);
    }
}

/// The first images of a data set.
struct First(Arc<dyn Dataset>, usize);

impl Dataset for First {
    fn classes(&self) -> &[String] {
        self.0.classes()
    }

    fn len(&self) -> usize {
        self.1
    }

    fn label(&self, index: usize) -> usize {
        self.0.label(index)
    }

    fn name(&self, index: usize) -> String {
        self.0.name(index)
    }

    fn image(&self, index: usize, channels: usize) -> data::Result<Arc<mobilenet::image::Image>> {
        self.0.image(index, channels)
    }

    fn size(&self, index: usize) -> (usize, usize) {
        self.0.size(index)
    }

    fn is_grey(&self) -> bool {
        self.0.is_grey()
    }
}

#[test]
fn learns_the_embedded_sample() {
    let temporary = tempfile::tempdir().unwrap();
    let whole = data::open(&DataOptions::default()).unwrap();
    let data = Splits {
        train: Arc::new(First(whole.train, 1500)),
        held_out: Arc::new(First(whole.held_out, 300)),
        ..whole
    };
    let recipe = Recipe { epochs: Some(4), batch_size: Some(32), lr: Some(0.05), ..Recipe::default() };
    let plan = recipe.resolve(&Facts::measure(&*data.train).unwrap(), None).unwrap();
    let model = plan.model(data.train.classes(), None).unwrap();
    let mut network = CpuExecutor::new(&plan.architecture, &model.weights, &CpuOptions::default()).unwrap();
    let mut run = RunFolder::create(&temporary.path().join("run"), &plan.recipe).unwrap();
    let never = AtomicBool::new(false);
    let outcome = train(&mut network, &plan, &data, &mut run, None, &never, &mut |_| ()).unwrap();
    assert!(outcome.best.as_ref().unwrap().top1 > 0.5, "{outcome:?}");
}
