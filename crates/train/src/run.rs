//! A run folder: everything that a training run leaves behind, and what it goes on from.
//!
//! | file | holds |
//! |---|---|
//! | `best.safetensors` | the model of the best epoch (until one was evaluated, the latest) |
//! | `last.safetensors` | the model as of the last save |
//! | `state.safetensors` | everything that resuming needs, in one file |
//! | `metrics.jsonl` | a line now and then, and one an epoch |
//! | `recipe.toml` | the recipe with every choice filled in |
//! | `report.html` | curves, confusion matrix, worst mistakes |
//!
//! Each file is replaced as a whole or not at all. `state.safetensors` is written last, so that
//! what it describes is there; `metrics.jsonl`, which grows line by line, is cut back to what the
//! state knows when the run is resumed.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use mobilenet::{Model, atomic_file};

use crate::error::{Error, Result};
use crate::metrics::Record;
use crate::recipe::Recipe;
use crate::state::TrainingState;

const BEST: &str = "best.safetensors";
const LAST: &str = "last.safetensors";
const STATE: &str = "state.safetensors";
const METRICS: &str = "metrics.jsonl";
const RECIPE: &str = "recipe.toml";
const REPORT: &str = "report.html";

/// A folder that holds one training run. While it is open no other process can open it.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    metrics: Option<File>,
    /// Held to keep other processes out; the system lets go of it when the process ends, however
    /// it ends.
    _lock: File,
}

impl RunFolder {
    /// Makes a new run folder with its recipe. An empty folder may already be there.
    ///
    /// # Errors
    /// When a folder with anything in it, or a file, is already there, or nothing can be written.
    pub fn create(path: &Path, recipe: &Recipe) -> Result<Self> {
        let text = recipe.to_toml()?;
        match fs::read_dir(path) {
            Ok(entries) => {
                if path.join(STATE).exists() {
                    return run_error(path, "already holds a run; resume it, or name another folder");
                }
                // What a run that was killed before its first save leaves may be begun anew.
                let names =
                    entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
                let left_over = |name: &String| {
                    [RECIPE, METRICS, LOCK].contains(&name.as_str()) || name.starts_with(".writing-")
                };
                if let Some(name) = names.into_iter().find(|name| !left_over(name)) {
                    return run_error(path, &format!("already there, and holds {name}; name a new folder"));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                fs::create_dir_all(path).map_err(Error::io(path, "create"))?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
                return run_error(path, "already there, and is a file; name a new folder");
            }
            Err(error) => return Err(Error::io(path, "read")(error)),
        }
        let mut run = Self { path: path.to_owned(), metrics: None, _lock: lock(path)? };
        run.write(RECIPE, text.as_bytes())?;
        run.restart_metrics(&[])?;
        Ok(run)
    }

    /// Opens the folder of a run to go on with it.
    ///
    /// # Errors
    /// When there is no run in it, its recipe or its state is damaged, or another process has it
    /// open.
    pub fn open(path: &Path) -> Result<(Self, Recipe, TrainingState)> {
        if !path.is_dir() {
            return run_error(path, "no such folder; give the folder of a run");
        }
        if !path.join(STATE).exists() {
            return run_error(path, "holds no run that could be resumed (there is no state.safetensors)");
        }
        let mut run = Self { path: path.to_owned(), metrics: None, _lock: lock(path)? };
        let recipe = run.recipe()?;
        let state = TrainingState::load(&path.join(STATE))?;
        run.restart_metrics(&state.records)?;
        Ok((run, recipe, state))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `best.safetensors`
    pub fn best(&self) -> PathBuf {
        self.path.join(BEST)
    }

    /// `last.safetensors`
    pub fn last(&self) -> PathBuf {
        self.path.join(LAST)
    }

    /// `report.html`
    pub fn report(&self) -> PathBuf {
        self.path.join(REPORT)
    }

    /// The recipe of the run.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub fn recipe(&self) -> Result<Recipe> {
        Recipe::load(&self.path.join(RECIPE))
    }

    /// Replaces `best.safetensors`.
    ///
    /// # Errors
    /// When it cannot be written; the old one stays.
    pub fn save_best(&self, model: &Model) -> Result<()> {
        Ok(model.save(self.best())?)
    }

    /// Replaces `last.safetensors`.
    ///
    /// # Errors
    /// When it cannot be written; the old one stays.
    pub fn save_last(&self, model: &Model) -> Result<()> {
        Ok(model.save(self.last())?)
    }

    /// Replaces `state.safetensors`, after what it builds on is safely on the disk.
    ///
    /// # Errors
    /// When it cannot be written; the old one stays.
    pub fn save_state(&mut self, state: &TrainingState) -> Result<()> {
        let path = self.path.join(METRICS);
        if let Some(metrics) = &self.metrics {
            metrics.sync_data().map_err(Error::io(path, "write"))?;
        }
        state.save(&self.path.join(STATE))
    }

    /// Adds a line to `metrics.jsonl`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn log(&mut self, record: &Record) -> Result<()> {
        let path = self.path.join(METRICS);
        if let Some(metrics) = &mut self.metrics {
            metrics.write_all(line(record).as_bytes()).map_err(Error::io(path, "write"))?;
        }
        Ok(())
    }

    /// Replaces `report.html`.
    ///
    /// # Errors
    /// When it cannot be written; the old one stays.
    pub fn save_report(&self, html: &str) -> Result<()> {
        self.write(REPORT, html.as_bytes())
    }

    /// Makes `metrics.jsonl` hold exactly these records, and opens it to add more.
    fn restart_metrics(&mut self, records: &[Record]) -> Result<()> {
        let text: String = records.iter().map(line).collect();
        self.write(METRICS, text.as_bytes())?;
        let path = self.path.join(METRICS);
        self.metrics = Some(OpenOptions::new().append(true).open(&path).map_err(Error::io(path, "open"))?);
        Ok(())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        Ok(atomic_file::write(&self.path.join(name), |file| file.write_all(bytes))?)
    }
}

const LOCK: &str = ".lock";

/// Keeps other processes out of the folder for as long as the file is open.
fn lock(path: &Path) -> Result<File> {
    let name = path.join(LOCK);
    let file = File::create(&name).map_err(Error::io(&name, "create"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => run_error(path, "another process is training in this folder"),
        // Some file systems cannot lock; then nothing guards the folder.
        Err(fs::TryLockError::Error(_)) => Ok(file),
    }
}

fn line(record: &Record) -> String {
    let mut text = serde_json::to_string(record).unwrap_or_default();
    text.push('\n');
    text
}

fn run_error<T>(path: &Path, problem: &str) -> Result<T> {
    Err(Error::Run { path: path.to_owned(), problem: problem.to_owned() })
}
