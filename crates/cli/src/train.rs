//! `mobilenet train`: from images to a model, in a run folder.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use mobilenet::cpu::{CpuExecutor, CpuOptions, Precision};
use mobilenet::{Model, Weights};
use mobilenet_train::data::{self, Skipped, Splits};
use mobilenet_train::metrics::EpochRecord;
use mobilenet_train::state::TrainingState;
use mobilenet_train::{Error, Facts, Freeze, Plan, Recipe, RunFolder, trainer};
use serde::Serialize;

use crate::architecture_flags::describe;
use crate::failure::{Failure, Outcome, warn};
use crate::model_source;
use crate::progress::Progress;
use crate::style::{FAINT, GOOD, STRONG, VALUE, duration, grouped, percent};
use crate::train_flags::{RecipeFlags, for_resume};
use crate::{datetime, interrupt};

/// Learn to tell images apart
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mobilenet train                                        # the built-in images of clothes
  mobilenet train --data photos                          # photos/cat/…, photos/dog/…
  mobilenet train --data photos --width 0.25 --epochs 20 --out runs/small
  mobilenet train --data photos --init imagenet          # few photos: begin with the built-in network
  mobilenet train --data photos --init runs/birds --freeze 6 --epochs 10   # or with one of your own
  mobilenet train --recipe runs/small/recipe.toml --seed 2
  mobilenet train --resume runs/small                    # go on where it stopped

What is not given is chosen from the images, and said. Ctrl-C stops after the step and saves (exit
status 130); a second Ctrl-C quits at once. A run that was killed can be resumed all the same.")]
pub struct Flags {
    /// TOML file with any of the settings below (a run writes one); flags go over it
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// New folder for the run [default: runs/ and a name from the data and the time]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Go on with the run in this folder
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["recipe", "out"])]
    resume: Option<PathBuf>,
    #[command(flatten)]
    flags: RecipeFlags,
}

/// What to do, checked as far as it can be without the data.
enum Settings {
    Begin { recipe: Box<Recipe>, out: Option<PathBuf>, init: Option<Box<Model>> },
    Resume { folder: PathBuf, changes: Box<Recipe> },
}

impl Flags {
    fn settings(self) -> Outcome<Settings> {
        let given = self.flags.recipe();
        if let Some(folder) = self.resume {
            return Ok(Settings::Resume { folder, changes: Box::new(for_resume(&given)?) });
        }
        let recipe = match &self.recipe {
            Some(path) => Recipe::load(path).map_err(usage)?.overlaid(&given),
            None => given,
        };
        let init = match &recipe.init {
            Some(init) => Some(Box::new(model_source::open(init)?)),
            None => None,
        };
        // Any data shows which values can never be meant, before time is spent on the real ones.
        recipe.resolve(&any_facts(&recipe), init.as_deref().map(|m| &m.architecture)).map_err(usage)?;
        Ok(Settings::Begin { recipe: Box::new(recipe), out: self.out, init })
    }
}

/// Settings that cannot be meant are the user's slip; all else is a failure.
fn usage(error: Error) -> Failure {
    match error {
        Error::Setting { .. }
        | Error::Recipe { .. }
        | Error::Network(mobilenet::Error::Architecture { .. } | mobilenet::Error::UnknownName { .. }) => {
            Failure::usage(error)
        }
        _ => Failure::failed(error),
    }
}

/// Photos of the size that allows the largest settings.
fn any_facts(recipe: &Recipe) -> Facts {
    Facts {
        images: 1000,
        classes: recipe.classes.unwrap_or(2),
        short_edge: 4096,
        size: None,
        grey: false,
        brightness: None,
    }
}

/// Everything that training needs.
struct Run {
    plan: Plan,
    data: Splits,
    weights: Weights,
    folder: RunFolder,
    state: Option<TrainingState>,
}

impl Run {
    fn begin(recipe: &Recipe, out: Option<PathBuf>, init: Option<&Model>) -> Outcome<Self> {
        let data = open(recipe)?;
        let facts = Facts::measure(&*data.train)?;
        let plan = recipe.resolve(&facts, init.map(|model| &model.architecture)).map_err(usage)?;
        let weights = plan.model(data.train.classes(), init)?.weights;
        let path = out.unwrap_or_else(|| free_name(recipe.data.as_deref()));
        let folder = RunFolder::create(&path, &plan.recipe)?;
        Ok(Self { plan, data, weights, folder, state: None })
    }

    fn resume(path: &Path, changes: &Recipe) -> Outcome<Self> {
        let (folder, recipe, state) = RunFolder::open(path)?;
        let recipe = recipe.overlaid(changes);
        let data = open(&recipe)?;
        let plan = recipe.resolve(&Facts::measure(&*data.train)?, None)?;
        Ok(Self { plan, data, weights: state.weights.clone(), folder, state: Some(state) })
    }
}

fn open(recipe: &Recipe) -> Outcome<Splits> {
    let data = data::open(&recipe.data_options())?;
    tell_skipped(&data.skipped);
    Ok(data)
}

/// Lists what was left out of the data.
pub fn tell_skipped(skipped: &[Skipped]) {
    const SHOWN: usize = 20;
    if skipped.is_empty() {
        return;
    }
    let files = if skipped.len() == 1 { "1 file".to_owned() } else { format!("{} files", skipped.len()) };
    let mut text = format!("left out {files} that cannot be used (--strict makes that an error):");
    for Skipped { path, problem } in skipped.iter().take(SHOWN) {
        text.push_str(&format!("\n  {}: {problem}", path.display()));
    }
    if skipped.len() > SHOWN {
        text.push_str(&format!("\n  … and {} more", skipped.len() - SHOWN));
    }
    warn(text);
}

/// `runs/photos-20261124-033612`, which is not there yet.
fn free_name(data: Option<&Path>) -> PathBuf {
    let name = match data {
        Some(path) => path.file_stem().map_or("run".into(), |stem| stem.to_string_lossy().into_owned()),
        None => "fashion-mnist-sample".to_owned(),
    };
    let base = Path::new("runs").join(format!("{name}-{}", datetime::stamp(SystemTime::now())));
    let numbered = |n: u32| PathBuf::from(format!("{}-{n}", base.display()));
    std::iter::once(base.clone()).chain((2..).map(numbered)).find(|path| !path.exists()).unwrap_or(base)
}

/// Trains, and shows how it goes.
pub fn run(flags: Flags, json: bool, out: &mut dyn Write) -> Outcome {
    let settings = flags.settings()?;
    let mut run = match &settings {
        Settings::Begin { recipe, out, init } => Run::begin(recipe, out.clone(), init.as_deref())?,
        Settings::Resume { folder, changes } => Run::resume(folder, changes)?,
    };
    let recipe = &run.plan.recipe;
    let recompute = recipe.recompute.unwrap_or(false);
    let precision = recipe.precision.unwrap_or_default();
    let options = CpuOptions { threads: recipe.threads, recompute, precision, ..CpuOptions::default() };
    let mut executor = CpuExecutor::new(&run.plan.architecture, &run.weights, &options)?;
    let path = run.folder.path().to_owned();
    // Until here there is nothing to save, and Ctrl-C simply ends the process.
    let stop = interrupt::flag()?;

    let mut stderr = anstream::stderr();
    let text: &mut dyn Write = if json { &mut stderr } else { out };
    introduce(text, &run, &executor)?;
    let mut progress = Progress::new(text);
    let outcome = trainer::train(
        &mut executor,
        &run.plan,
        &run.data,
        &mut run.folder,
        run.state.take(),
        &stop,
        &mut |event| progress.show(event),
    );
    let (epochs, written) = progress.finish();
    let outcome = outcome?;
    written?;
    conclude(text, &path, &outcome)?;
    if json {
        crate::json::write(out, &Json::new(&path, &run, epochs, &outcome))?;
    }
    if outcome.interrupted { Err(Failure::Interrupted) } else { Ok(()) }
}

/// Says what is about to happen, and why so.
fn introduce(out: &mut dyn Write, run: &Run, executor: &CpuExecutor) -> Outcome {
    let (plan, data, a) = (&run.plan, &run.data, &run.plan.architecture);
    let (cost, recipe) = (a.cost(1)?, &plan.recipe);
    let count = |n: usize| grouped(n as u64);
    let threads = executor.threads();
    let mut rows = vec![
        ("data", data.description.clone()),
        (
            "images",
            format!(
                "{} of {} classes, {} held out",
                count(data.train.len()),
                count(data.train.classes().len()),
                count(data.held_out.len())
            ),
        ),
        (
            "network",
            format!(
                "{}; {} multiply-adds, {} parameters",
                describe(a),
                grouped(cost.mult_adds()),
                grouped(cost.parameters())
            ),
        ),
        (
            "training",
            format!(
                "{} epochs in batches of {}, {} with lr {} ({})",
                plan.epochs,
                plan.batch_size,
                recipe.optimizer.map_or("", |kind| kind.name()),
                recipe.lr.unwrap_or_default(),
                recipe.schedule.map_or("", |kind| kind.name()),
            ),
        ),
        (
            "machine",
            format!(
                "{threads} thread{}, {}, {}",
                if threads == 1 { "" } else { "s" },
                executor.isa().name(),
                executor.precision().name()
            ),
        ),
        ("run", run.folder.path().display().to_string()),
    ];
    if let Some(init) = &recipe.init {
        let stays = match plan.freeze {
            Freeze::None => "everything learns".to_owned(),
            Freeze::Blocks(blocks) => format!("the first {blocks} blocks stay as they are"),
            Freeze::Body => "only the classifier learns, from features computed once".to_owned(),
        };
        rows.insert(3, ("start", format!("{}; {stays}", init.display())));
    }
    if let Some(state) = &run.state {
        rows.push((
            "resumed",
            format!("after step {} ({})", state.progress.step, duration(state.progress.seconds)),
        ));
    }
    for (title, text) in rows {
        writeln!(out, "{FAINT}{title:<8}{FAINT:#} {text}")?;
    }
    if !plan.choices.is_empty() {
        writeln!(out, "\n{FAINT}chosen, because not given:{FAINT:#}")?;
        for choice in &plan.choices {
            writeln!(out, "  {choice}")?;
        }
    }
    out.flush()?;
    Ok(())
}

/// Says how it ended, where the model is and how to use it.
fn conclude(out: &mut dyn Write, path: &Path, outcome: &trainer::Outcome) -> Outcome {
    let run = quoted(path);
    let time = duration(outcome.seconds);
    writeln!(out)?;
    match &outcome.best {
        _ if outcome.interrupted => {
            writeln!(out, "{STRONG}stopped and saved{STRONG:#} after step {} ({time})", outcome.step)?;
        }
        Some(best) => writeln!(
            out,
            "{GOOD}done{GOOD:#} in {time}: top-1 {STRONG}{}{STRONG:#} on what was held out (epoch {})",
            percent(best.top1),
            best.epoch
        )?,
        None => writeln!(out, "{GOOD}done{GOOD:#} in {time}")?,
    }
    writeln!(out, "{FAINT}model {FAINT:#}  {}", outcome.model.display())?;
    if let Some(report) = &outcome.report {
        writeln!(out, "{FAINT}report{FAINT:#}  {}", report.display())?;
    }
    if let Some(last) = outcome.last.as_ref().filter(|last| last.data_wait > 0.1) {
        writeln!(
            out,
            "{FAINT}data  {FAINT:#}  {} of the time went by waiting for images; smaller files or a larger --cache-mib help",
            percent(last.data_wait)
        )?;
    }
    writeln!(out)?;
    if outcome.interrupted {
        writeln!(out, "  {VALUE}mobilenet train --resume {run}{VALUE:#}")?;
    }
    writeln!(out, "  {VALUE}mobilenet classify --model {run} IMAGE…{VALUE:#}")?;
    writeln!(out, "  {VALUE}mobilenet evaluate --model {run}{VALUE:#}")?;
    Ok(())
}

/// The path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+,@%=:".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[derive(Serialize)]
struct Json<'a> {
    run: String,
    model: String,
    report: Option<String>,
    interrupted: bool,
    step: u64,
    seconds: f64,
    images: usize,
    held_out: usize,
    classes: &'a [String],
    precision: Precision,
    init: Option<String>,
    freeze: Freeze,
    choices: &'a [String],
    skipped: Vec<JsonSkipped<'a>>,
    epochs: Vec<EpochRecord>,
    best: &'a Option<EpochRecord>,
    last: &'a Option<EpochRecord>,
}

/// A file that was left out.
#[derive(Serialize)]
pub struct JsonSkipped<'a> {
    path: String,
    problem: &'a str,
}

/// What was left out, for JSON.
pub fn json_skipped(skipped: &[Skipped]) -> Vec<JsonSkipped<'_>> {
    skipped.iter().map(|s| JsonSkipped { path: s.path.display().to_string(), problem: &s.problem }).collect()
}

impl<'a> Json<'a> {
    fn new(path: &Path, run: &'a Run, epochs: Vec<EpochRecord>, outcome: &'a trainer::Outcome) -> Self {
        Self {
            run: path.display().to_string(),
            model: outcome.model.display().to_string(),
            report: outcome.report.as_ref().map(|report| report.display().to_string()),
            interrupted: outcome.interrupted,
            step: outcome.step,
            seconds: outcome.seconds,
            images: run.data.train.len(),
            held_out: run.data.held_out.len(),
            classes: run.data.train.classes(),
            precision: run.plan.recipe.precision.unwrap_or_default(),
            init: run.plan.recipe.init.as_ref().map(|init| init.display().to_string()),
            freeze: run.plan.freeze,
            choices: &run.plan.choices,
            skipped: json_skipped(&run.data.skipped),
            epochs,
            best: &outcome.best,
            last: &outcome.last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_can_be_pasted() {
        assert_eq!(quoted(Path::new("runs/a-1")), "runs/a-1");
        assert_eq!(quoted(Path::new("my runs/a")), "'my runs/a'");
        assert_eq!(quoted(Path::new("it's")), r"'it'\''s'");
    }
}
