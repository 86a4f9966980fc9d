//! The training loop with a small network: learning, resuming to the same bits, failing safely.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Regression, Stripes};
use mobilenet::Model;
use mobilenet::image::Image;
use mobilenet_train::data::{DataError, Dataset, Splits};
use mobilenet_train::recipe::{OptimizerKind, Recipe, ScheduleKind};
use mobilenet_train::state::TrainingState;
use mobilenet_train::{Event, Facts, Outcome, Plan, RunFolder, train};

fn recipe() -> Recipe {
    Recipe {
        width: Some(0.01),
        epochs: Some(3),
        batch_size: Some(8),
        optimizer: Some(OptimizerKind::Sgd),
        lr: Some(0.05),
        dropout: Some(0.2),
        flip: Some(false),
        save_seconds: Some(1e6),
        seed: Some(5),
        ..Recipe::default()
    }
}

fn data() -> Splits {
    Stripes::splits(45, 30)
}

fn plan(recipe: &Recipe, data: &Splits) -> Plan {
    recipe.resolve(&Facts::measure(&*data.train).unwrap(), None).unwrap()
}

fn network(plan: &Plan, data: &Splits) -> Regression {
    Regression::new(&plan.model(data.train.classes(), None).unwrap())
}

/// Begins a run and trains until the observer raises the flag.
fn begin(
    recipe: &Recipe,
    folder: &Path,
    observe: &mut dyn FnMut(&Event<'_>, &AtomicBool),
) -> mobilenet_train::Result<Outcome> {
    let data = data();
    let plan = plan(recipe, &data);
    let mut run = RunFolder::create(folder, &plan.recipe)?;
    let stop = AtomicBool::new(false);
    let mut network = network(&plan, &data);
    train(&mut network, &plan, &data, &mut run, None, &stop, &mut |event| observe(event, &stop))
}

fn resume(folder: &Path) -> mobilenet_train::Result<Outcome> {
    let data = data();
    let (mut run, recipe, state) = RunFolder::open(folder)?;
    let plan = plan(&recipe, &data);
    let mut network = network(&plan, &data);
    train(&mut network, &plan, &data, &mut run, Some(state), &AtomicBool::new(false), &mut |_| ())
}

/// `metrics.jsonl` without what depends on the clock.
fn metrics(folder: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
        let object = value.as_object_mut().unwrap();
        object.remove("seconds");
        object.remove("images_per_second");
        object.remove("data_wait");
        lines.push(value);
    }
    lines
}

/// The two runs ended with the same bits.
fn assert_same(a: &Path, b: &Path, what: &str) {
    for name in ["best.safetensors", "last.safetensors"] {
        assert!(
            std::fs::read(a.join(name)).unwrap() == std::fs::read(b.join(name)).unwrap(),
            "{name} differs, {what}"
        );
    }
    let states = [a, b].map(|folder| {
        let mut state = TrainingState::load(&folder.join("state.safetensors")).unwrap();
        state.progress.seconds = 0.0;
        state.progress.best = None;
        state.records.clear();
        state
    });
    assert!(states[0] == states[1], "the state differs, {what}");
    assert_eq!(metrics(a), metrics(b), "{what}");
}

/// Everything at once that a resumed run must bring back.
fn recipes() -> Vec<Recipe> {
    let full = Recipe {
        accumulate: Some(2),
        clip_norm: Some(0.5),
        ema: Some(0.9),
        label_smoothing: Some(0.1),
        warmup_epochs: Some(0.5),
        ..recipe()
    };
    vec![
        Recipe { schedule: Some(ScheduleKind::OneCycle), ..full.clone() },
        Recipe {
            optimizer: Some(OptimizerKind::RmsProp),
            schedule: Some(ScheduleKind::Exponential),
            ..full.clone()
        },
        Recipe { optimizer: Some(OptimizerKind::AdamW), schedule: Some(ScheduleKind::Cosine), ..full },
    ]
}

#[test]
fn learns_and_leaves_a_complete_folder() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("my run");
    let (mut steps, mut epochs) = (0, 0);
    let outcome = begin(&Recipe { epochs: Some(20), ..recipe() }, &folder, &mut |event, _| match event {
        Event::Step(step) => {
            steps += 1;
            assert_eq!((step.step, step.total_steps), (steps, 100));
            assert!(step.lr > 0.0 && step.loss.is_finite() && step.images_per_second > 0.0);
        }
        Event::Epoch(epoch) => {
            epochs += 1;
            assert_eq!(epoch.epoch, epochs);
        }
        _ => {}
    })
    .unwrap();
    assert_eq!((steps, epochs, outcome.step, outcome.interrupted), (100, 20, 100, false));
    let best = outcome.best.unwrap();
    assert!(best.top1 > 0.8, "{best:?}");
    assert_eq!(Model::load(&folder).unwrap().labels, data().train.classes());
    assert_eq!(outcome.model, folder.join("best.safetensors"));
    // A record for every step of so short a run, and one for every epoch.
    assert_eq!(metrics(&folder).len(), 120);
    let report = std::fs::read_to_string(outcome.report.unwrap()).unwrap();
    assert!(report.contains("my run") && report.contains("stripes &amp; noise"));
    assert!(report.contains("zwei &lt;b&gt;") && !report.contains("<b>\""));
    assert!(!report.contains("http"), "a report needs nothing from anywhere");

    // The recipe that it wrote repeats the run.
    let again = temporary.path().join("again");
    let written = Recipe::load(&folder.join("recipe.toml")).unwrap();
    begin(&written, &again, &mut |_, _| ()).unwrap();
    assert_same(&folder, &again, "repeated from its recipe");
    // A run that is over has nothing left to do.
    assert!(!resume(&folder).unwrap().interrupted);
    assert_same(&folder, &again, "resumed after its end");
}

#[test]
fn stopped_at_any_step_it_resumes_to_the_same_bits() {
    for recipe in recipes() {
        let temporary = tempfile::tempdir().unwrap();
        let whole = temporary.path().join("whole");
        let outcome = begin(&recipe, &whole, &mut |_, _| ()).unwrap();
        for at in 1..=outcome.step {
            let folder = temporary.path().join(at.to_string());
            let outcome = begin(&recipe, &folder, &mut |event, stop| {
                if matches!(event, Event::Step(step) if step.step == at) {
                    stop.store(true, Ordering::Relaxed);
                }
            })
            .unwrap();
            assert!(outcome.interrupted && outcome.step == at);
            assert!(!resume(&folder).unwrap().interrupted);
            assert_same(&whole, &folder, &format!("stopped at step {at}"));
        }
        // During an evaluation.
        let folder = temporary.path().join("evaluation");
        let outcome = begin(&recipe, &folder, &mut |event, stop| {
            if matches!(event, Event::Evaluating { epoch: 2, done: 8.., .. }) {
                stop.store(true, Ordering::Relaxed);
            }
        })
        .unwrap();
        assert!(outcome.interrupted && outcome.last.unwrap().epoch == 1);
        resume(&folder).unwrap();
        assert_same(&whole, &folder, "stopped during an evaluation");
    }
}

#[test]
fn killed_at_any_event_it_resumes_to_the_same_bits() {
    let temporary = tempfile::tempdir().unwrap();
    for save_seconds in [0.0, 1e6] {
        let recipe = Recipe { save_seconds: Some(save_seconds), ema: Some(0.5), epochs: Some(2), ..recipe() };
        let whole = temporary.path().join(format!("whole {save_seconds}"));
        let mut events = 0;
        begin(&recipe, &whole, &mut |_, _| events += 1).unwrap();
        for at in (0..events).step_by(if save_seconds == 0.0 { 5 } else { 2 }) {
            let folder = temporary.path().join(format!("{save_seconds} {at}"));
            let mut seen = 0;
            // A panic in the observer ends it on the spot, like a kill: nothing is tidied up.
            let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                begin(&recipe, &folder, &mut |_, _| {
                    if seen == at {
                        std::panic::resume_unwind(Box::new("killed"));
                    }
                    seen += 1;
                })
            }));
            assert!(killed.is_err());
            if at == 0 {
                // Killed before the first save: there is nothing to resume, but it may begin anew.
                begin(&recipe, &folder, &mut |_, _| ()).unwrap();
            } else {
                assert!(Model::load(&folder).is_ok(), "usable after event {at}");
                resume(&folder).unwrap();
            }
            assert_same(&whole, &folder, &format!("killed at event {at}"));
        }
    }
}

#[test]
fn a_loss_that_is_not_a_number_stops_it_and_spares_what_was_saved() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("run");
    let data = data();
    let plan = plan(&recipe(), &data);
    let mut run = RunFolder::create(&folder, &plan.recipe).unwrap();
    let mut network = network(&plan, &data);
    network.breaks_after = Some(7);
    let never = AtomicBool::new(false);
    let error = train(&mut network, &plan, &data, &mut run, None, &never, &mut |_| ()).unwrap_err();
    let message = error.to_string();
    assert!(message.starts_with("the loss is NaN at step 7 (epoch 2); "), "{message}");
    assert!(message.contains("smaller learning rate"), "{message}");
    drop(run);
    assert_eq!(RunFolder::open(&folder).unwrap().2.progress.step, 5);
    assert!(Model::load(&folder).is_ok());
}

#[test]
fn folders_that_cannot_be_used_are_errors() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("run");
    begin(&recipe(), &folder, &mut |_, _| ()).unwrap();
    let before = std::fs::read(folder.join("last.safetensors")).unwrap();
    let message = begin(&recipe(), &folder, &mut |_, _| ()).unwrap_err().to_string();
    assert!(message.ends_with("run: already holds a run; resume it, or name another folder"), "{message}");
    assert_eq!(std::fs::read(folder.join("last.safetensors")).unwrap(), before);

    let message = begin(&recipe(), temporary.path(), &mut |_, _| ()).unwrap_err().to_string();
    assert!(message.contains("already there, and holds run"), "{message}");
    let file = temporary.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let message = begin(&recipe(), &file, &mut |_, _| ()).unwrap_err().to_string();
    assert!(message.contains("is a file"), "{message}");
    let message = begin(&recipe(), &file.join("run"), &mut |_, _| ()).unwrap_err().to_string();
    assert!(message.contains("cannot create") || message.contains("is a file"), "{message}");
    let message = resume(&temporary.path().join("none")).unwrap_err().to_string();
    assert!(message.contains("no such folder"), "{message}");
    let message = resume(temporary.path()).unwrap_err().to_string();
    assert!(message.contains("holds no run"), "{message}");

    let _open = RunFolder::open(&folder).unwrap();
    let message = resume(&folder).unwrap_err().to_string();
    assert!(message.contains("another process"), "{message}");
}

#[test]
fn a_damaged_state_is_an_error_wherever_it_is_damaged() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("run");
    begin(&Recipe { epochs: Some(1), ..recipe() }, &folder, &mut |_, _| ()).unwrap();
    let path = folder.join("state.safetensors");
    let good = std::fs::read(&path).unwrap();
    for i in 0..200 {
        let at = i * good.len() / 200;
        let mut bad = good.clone();
        bad[at] ^= 1 << (i % 8);
        std::fs::write(&path, &bad).unwrap();
        let message = resume(&folder).unwrap_err().to_string();
        assert!(message.contains("state.safetensors: "), "byte {at}: {message}");
    }
    for length in [0, 1, 8, 100, good.len() / 2, good.len() - 1] {
        std::fs::write(&path, &good[..length]).unwrap();
        let message = resume(&folder).unwrap_err().to_string();
        assert!(message.contains("cannot be resumed: "), "{length}: {message}");
    }
    std::fs::copy(folder.join("last.safetensors"), &path).unwrap();
    let message = resume(&folder).unwrap_err().to_string();
    assert!(message.contains("not the state of a training run"), "{message}");
    std::fs::write(&path, &good).unwrap();
    resume(&folder).unwrap();
}

#[test]
fn other_data_cannot_be_resumed_with() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("run");
    begin(&recipe(), &folder, &mut |_, _| ()).unwrap();
    let data = Stripes::splits(44, 30);
    let (mut run, recipe, state) = RunFolder::open(&folder).unwrap();
    let plan = plan(&recipe, &data);
    let never = AtomicBool::new(false);
    let mut network = network(&plan, &data);
    let error = train(&mut network, &plan, &data, &mut run, Some(state), &never, &mut |_| ()).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("began with 45 training images") && message.contains("now there are 44"),
        "{message}"
    );
}

#[test]
fn metrics_are_cut_back_to_what_the_state_knows() {
    let temporary = tempfile::tempdir().unwrap();
    let whole = temporary.path().join("whole");
    begin(&recipe(), &whole, &mut |_, _| ()).unwrap();
    let folder = temporary.path().join("run");
    begin(&recipe(), &folder, &mut |event, stop| {
        if matches!(event, Event::Step(step) if step.step == 7) {
            stop.store(true, Ordering::Relaxed);
        }
    })
    .unwrap();
    // Lines after the last save, the last of them half written; then none at all.
    let path = folder.join("metrics.jsonl");
    let mut text = std::fs::read_to_string(&path).unwrap();
    text += "{\"kind\":\"step\",\"step\":8,\"epo";
    std::fs::write(&path, text).unwrap();
    drop(RunFolder::open(&folder).unwrap());
    assert_eq!(metrics(&folder).len(), 8);
    std::fs::remove_file(&path).unwrap();
    resume(&folder).unwrap();
    assert_same(&whole, &folder, "metrics lost");
}

/// A data set of which one image turns out to be damaged.
struct Damaged(Arc<dyn Dataset>);

impl Dataset for Damaged {
    fn classes(&self) -> &[String] {
        self.0.classes()
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn label(&self, index: usize) -> usize {
        self.0.label(index)
    }

    fn name(&self, index: usize) -> String {
        self.0.name(index)
    }

    fn image(&self, index: usize, channels: usize) -> mobilenet_train::data::Result<Arc<Image>> {
        if index == 7 {
            let (path, problem) = (self.name(index).into(), "damaged".to_owned());
            return Err(DataError::Image(mobilenet::Error::Image { path, problem }));
        }
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
fn an_image_that_turns_out_damaged_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let good = data();
    let plan = plan(&recipe(), &good);
    let mut network = network(&plan, &good);
    let data = Splits { train: Arc::new(Damaged(good.train.clone())), ..good };
    let mut run = RunFolder::create(&folder.path().join("run"), &plan.recipe).unwrap();
    let mut told = Vec::new();
    train(&mut network, &plan, &data, &mut run, None, &AtomicBool::new(false), &mut |event| {
        if let Event::Skipped(files) = event {
            told.extend(files.iter().map(|file| (file.path.display().to_string(), file.problem.clone())));
        }
    })
    .unwrap();
    assert_eq!(told, [("stripes#7".to_owned(), "damaged".to_owned())]);
}
