//! The errors of this crate: each says what, found, expected and what to do.

use std::path::PathBuf;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong when a network is described, built, loaded, saved or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An architecture setting is outside what the network allows.
    #[error("{what}: found {found}, expected {expected}")]
    Architecture {
        /// The setting, by the name users know.
        what: &'static str,
        /// What was given.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// A name that is not one of the known ones.
    #[error("unknown {what} `{found}`; known: {known}{}", suggestion.as_ref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default())]
    UnknownName {
        /// What kind of name it is.
        what: &'static str,
        /// What was given.
        found: String,
        /// All the known names, separated by commas.
        known: String,
        /// The nearest known name, if one is near.
        suggestion: Option<String>,
    },
    /// A tensor is missing, unexpected, of the wrong shape, or holds what it must not.
    #[error("{tensor}: {problem}")]
    Weights {
        /// The tensor's name.
        tensor: String,
        /// What is wrong with it, with what was found and expected.
        problem: String,
    },
    /// A batch, image or label does not fit the network.
    #[error("{what}: expected {expected}, found {found}")]
    Input {
        /// Which input.
        what: String,
        /// What fits.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A model file cannot be used.
    #[error("{}: {problem}", path.display())]
    ModelFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do about it.
        problem: String,
    },
    /// An image cannot be decoded.
    #[error("{}: {problem}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The operating system refused a file operation.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried: "read", "write", "create" …
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Error {
    /// For `map_err`: wraps an I/O error with the path and the action that failed.
    pub fn io(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, action, source }
    }

    /// An [`Error::UnknownName`] with the nearest of `known` as suggestion.
    pub fn unknown_name(what: &'static str, found: &str, known: &[&str]) -> Self {
        Self::UnknownName {
            what,
            found: found.to_owned(),
            known: known.join(", "),
            suggestion: nearest(found, known).map(str::to_owned),
        }
    }
}

/// The known name nearest to `found` by edit distance, if it is near enough to be a typing slip.
pub fn nearest<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    let limit = found.chars().count().max(3) / 2;
    known
        .iter()
        .map(|name| (edit_distance(&found.to_lowercase(), name), *name))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Insertions, deletions, substitutions and swaps of neighbours (optimal string alignment).
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut next = vec![i + 1];
        for j in 0..b.len() {
            let mut least = (row[j] + usize::from(a[i] != b[j])).min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                least = least.min(before[j - 1] + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_the_nearest_name_only_when_near() {
        assert_eq!(nearest("nestrov", &["sgd", "nesterov"]), Some("nesterov"));
        assert_eq!(nearest("Cosin", &["step", "cosine"]), Some("cosine"));
        assert_eq!(nearest("sdg", &["adamw", "sgd"]), Some("sgd"));
        assert_eq!(nearest("zzzzzz", &["step", "cosine"]), None);
    }
}
