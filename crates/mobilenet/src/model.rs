//! A network with its weights and the names of its classes: what a model file holds.

mod format;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::architecture::Architecture;
use crate::atomic_file;
use crate::error::{Error, Result, nearest};
use crate::model::format::Storage;
use crate::weights::Weights;

/// What `Model::load` opens when it is given a run folder.
const BEST: &str = "best.safetensors";

/// A network, complete: architecture (with conventions and preprocessing), class names, weights.
///
/// ```
/// use mobilenet::{Architecture, Model};
/// # fn main() -> mobilenet::Result<()> {
/// let architecture = Architecture { width_multiplier: 0.25, classes: 2, ..Architecture::default() };
/// let model = Model::random(architecture, vec!["cat".into(), "dog".into()], 7)?;
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("pets.safetensors");
/// model.save(&path)?;
/// assert_eq!(Model::load(&path)?, model);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The network.
    pub architecture: Architecture,
    /// The class names, in the order of the labels; as many as `architecture.classes`. With a
    /// background class, output `i + 1` belongs to `labels[i]`.
    pub labels: Vec<String>,
    /// The tensors.
    pub weights: Weights,
}

impl Model {
    /// A network with random weights (see [`Weights::random`]).
    ///
    /// # Errors
    /// When the architecture is out of range, or there are not as many labels as it has classes.
    pub fn random(architecture: Architecture, labels: Vec<String>, seed: u64) -> Result<Self> {
        check_labels(&architecture, &labels)?;
        let weights = Weights::random(&architecture, seed)?;
        Ok(Self { architecture, labels, weights })
    }

    /// The same body for other classes: every tensor but the classifier's is kept, the classifier
    /// is random. A background class is dropped, since it would have nothing to learn from.
    ///
    /// # Errors
    /// When there is no label.
    pub fn for_new_classes(&self, labels: Vec<String>, seed: u64) -> Result<Self> {
        let mut architecture = self.architecture.clone();
        architecture.classes = labels.len();
        architecture.conventions.background_class = false;
        let mut model = Self::random(architecture, labels, seed)?;
        for (name, tensor) in self.weights.iter().filter(|(name, _)| !name.starts_with("classifier.")) {
            model.weights.insert(name, tensor.clone());
        }
        model.check()?;
        Ok(model)
    }

    /// Checks that architecture, labels and weights fit together and that every value is finite.
    pub fn check(&self) -> Result<()> {
        check_labels(&self.architecture, &self.labels)?;
        self.weights.check(&self.architecture)
    }

    /// The name of the class of an output (a column of the logits); none for the background class
    /// and beyond the last.
    pub fn label(&self, output: usize) -> Option<&str> {
        let class = output.checked_sub(usize::from(self.architecture.conventions.background_class))?;
        self.labels.get(class).map(String::as_str)
    }

    /// Where this model's labels have each of `classes`, so that data with its classes in another
    /// order, or with only some of them, can be evaluated.
    ///
    /// # Errors
    /// When a class is not among the labels; the error names it and the nearest label.
    pub fn class_indices(&self, classes: &[String]) -> Result<Vec<usize>> {
        // Names need not be unique (ImageNet has two cranes), so the same list maps to itself.
        if classes == self.labels {
            return Ok((0..classes.len()).collect());
        }
        let index = |class: &String| {
            self.labels.iter().position(|label| label == class).ok_or_else(|| {
                let known: Vec<&str> = self.labels.iter().map(String::as_str).collect();
                let near = nearest(class, &known).map(|label| format!("; did you mean `{label}`?"));
                Error::Input {
                    what: format!("class `{class}` of the data"),
                    expected: format!(
                        "one of the model's {} classes{}",
                        known.len(),
                        near.unwrap_or_default()
                    ),
                    found: "a class that the model was not trained on".into(),
                }
            })
        };
        classes.iter().map(index).collect()
    }

    /// Checks that this model is of the architecture that somebody wants.
    ///
    /// # Errors
    /// [`Error::ModelFile`] that lists the settings in which `path`, whence the model came, differs.
    pub fn require(&self, wanted: &Architecture, path: &Path) -> Result<()> {
        let differences = self.architecture.differences(wanted);
        if differences.is_empty() {
            return Ok(());
        }
        let list: Vec<String> = differences.iter().map(ToString::to_string).collect();
        Err(Error::ModelFile {
            path: path.to_owned(),
            problem: format!("a model of another architecture: {}", list.join("; ")),
        })
    }

    /// Saves to a file (see `docs/model-format.md`): whoever opens `path` finds either the old
    /// file or the whole new one. The same model always gives the same bytes.
    ///
    /// # Errors
    /// When the model does not pass [`Model::check`] (nothing is written then) or the file cannot
    /// be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.check()?;
        atomic_file::write(path.as_ref(), |file| format::write(self, Storage::F32, file))
    }

    /// The bytes that [`Model::save`] writes.
    ///
    /// # Errors
    /// When the model does not pass [`Model::check`].
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.check()?;
        let mut bytes = Vec::new();
        format::write(self, Storage::F32, &mut bytes).map_err(Error::io("memory", "write"))?;
        Ok(bytes)
    }

    /// The bytes of a model file of half the size: pointwise (and full 3×3) filters and the
    /// classifier's weight as 16-bit floats, rounded to the nearest; depthwise and stem filters,
    /// batch normalisation and bias, which are few and sensitive, as f32. [`Model::from_bytes`] and
    /// [`Model::load`] read it like any other.
    ///
    /// # Errors
    /// When the model does not pass [`Model::check`], or a value is too large for a 16-bit float.
    pub fn to_bytes_half(&self) -> Result<Vec<u8>> {
        const LARGEST: f32 = 65504.0;
        self.check()?;
        for (name, tensor) in self.weights.iter().filter(|(_, tensor)| format::is_large(tensor)) {
            if let Some(value) = tensor.data().iter().find(|value| value.abs() > LARGEST) {
                let problem = format!("{value} is too large for a 16-bit float ({LARGEST}); save it as f32");
                return Err(Error::Weights { tensor: name.to_owned(), problem });
            }
        }
        let mut bytes = Vec::new();
        format::write(self, Storage::F16, &mut bytes).map_err(Error::io("memory", "write"))?;
        Ok(bytes)
    }

    /// Loads a model file, or the best model of a run folder.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::ModelFile`] when it is not a model,
    /// is cut short, does not fit its own architecture, or holds a value that is not finite.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let mut path = path.as_ref().to_owned();
        let mut kind = std::fs::metadata(&path).map_err(Error::io(&path, "read"))?;
        if kind.is_dir() {
            let best = path.join(BEST);
            kind = std::fs::metadata(&best).map_err(|_| Error::ModelFile {
                path: path.clone(),
                problem: format!("a folder without {BEST}; expected a model file or the folder of a run"),
            })?;
            path = best;
        }
        if !kind.is_file() {
            return Err(Error::ModelFile {
                path,
                problem: "not a regular file; expected a model file".into(),
            });
        }
        let read = || {
            let mut file = File::open(&path)?;
            let mut bytes = Vec::new();
            // Enough to tell a model from anything else before a huge stranger is read whole.
            file.by_ref().take(64).read_to_end(&mut bytes)?;
            if format::could_be_model(&bytes, kind.len()) {
                bytes.reserve_exact(usize::try_from(kind.len()).unwrap_or(0).saturating_sub(bytes.len()));
                file.take(kind.len()).read_to_end(&mut bytes)?;
            }
            Ok(bytes)
        };
        let bytes = read().map_err(Error::io(&path, "read"))?;
        Self::from_bytes(&bytes, &path)
    }

    /// Reads a model from the bytes of a file; `name` is for the errors.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_bytes(bytes: &[u8], name: impl AsRef<Path>) -> Result<Self> {
        let wrong = |problem| Error::ModelFile { path: name.as_ref().to_owned(), problem };
        let model = format::read(bytes).map_err(wrong)?;
        model.check().map_err(|error| wrong(error.to_string()))?;
        Ok(model)
    }
}

fn check_labels(architecture: &Architecture, labels: &[String]) -> Result<()> {
    architecture.validate()?;
    if labels.len() == architecture.classes {
        return Ok(());
    }
    Err(Error::Input {
        what: "class names".into(),
        expected: format!("{}, one for each class of the architecture", architecture.classes),
        found: labels.len().to_string(),
    })
}
