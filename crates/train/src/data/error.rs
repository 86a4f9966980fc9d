//! What can be wrong with a data set.

use std::path::PathBuf;

/// Result with [`DataError`].
pub type Result<T, E = DataError> = std::result::Result<T, E>;

/// What can be wrong with a data set, an augmentation or the loading of a batch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The path does not exist.
    #[error("{}: no such file or folder; give a folder with one sub-folder of images a class, a folder with IDX files, or a CSV list", path.display())]
    NotFound {
        /// The path that was given.
        path: PathBuf,
    },
    /// The folder, file or list cannot be used as a data set.
    #[error("{}: {problem}", path.display())]
    Unusable {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong, and what to do about it.
        problem: String,
    },
    /// There is only one class, or none.
    #[error("{}: found {} ({}); a classifier needs at least two", path.display(), if classes.len() == 1 { "one class only" } else { "no class" }, classes.join(", "))]
    TooFewClasses {
        /// The folder or file.
        path: PathBuf,
        /// The classes that are there.
        classes: Vec<String>,
    },
    /// Classes without a single readable image.
    #[error("{}: no readable image in class {}; add images or remove the class", path.display(), quoted(classes))]
    EmptyClasses {
        /// The folder or file.
        path: PathBuf,
        /// The classes' names.
        classes: Vec<String>,
    },
    /// The classes of the held-out part are not those of the training part.
    #[error("{}: its classes differ from those expected ({expected_by}){}{}; both need the same class names", path.display(), listed("; not expected here: ", extra), listed("; missing here: ", missing))]
    ClassesDiffer {
        /// The held-out folder or file.
        path: PathBuf,
        /// Where the expected classes come from.
        expected_by: String,
        /// Classes that the other part does not have.
        extra: Vec<String>,
        /// Classes that are missing.
        missing: Vec<String>,
    },
    /// An image cannot be read, and `strict` was asked for.
    #[error("{}: {problem} ({count} such {} in the data set; without strict they are skipped)", path.display(), if *count == 1 { "file" } else { "files" })]
    Unreadable {
        /// The first such file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// How many such files there are.
        count: usize,
    },
    /// An option has a value outside its range.
    #[error("{what}: found {found}, expected {expected}")]
    Option {
        /// The option, by the name users know.
        what: &'static str,
        /// What was given.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// An index beyond the end of a data set.
    #[error("image {index}: the data set has {len}")]
    Index {
        /// What was asked for.
        index: usize,
        /// How many there are.
        len: usize,
    },
    /// A loader thread failed in a way that it should not have.
    #[error("a data loading thread failed on batch {batch}: {message}; please report this")]
    Worker {
        /// The batch it worked on.
        batch: usize,
        /// The message of its panic.
        message: String,
    },
    /// The operating system refused a file operation.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// An image or its preprocessing failed.
    #[error(transparent)]
    Image(#[from] mobilenet::Error),
}

impl DataError {
    /// For `map_err`: wraps an I/O error with the path and the action that failed.
    pub fn io(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, action, source }
    }
}

fn quoted(names: &[String]) -> String {
    let shown: Vec<_> = names.iter().take(10).map(|name| format!("`{name}`")).collect();
    let rest = names.len().saturating_sub(10);
    if rest > 0 { format!("{} and {rest} more", shown.join(", ")) } else { shown.join(", ") }
}

fn listed(heading: &str, names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("{heading}{}", quoted(names)) }
}
