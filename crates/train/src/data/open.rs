//! Finding out what a path holds, and opening it in two parts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{Files, Listing};
use super::idx::{self, IdxPair, Memory};
use super::subset::{self, Subset};
use super::{DataError, DataOptions, Dataset, Result, Skipped, Splits, embedded, list};

/// What the folder of held-out images is called beside `train`, the first of them that is there.
const HELD_OUT: [&str; 4] = ["val", "valid", "validation", "test"];

/// A data set and what was left out of it.
pub struct Opened {
    /// The images.
    pub dataset: Arc<dyn Dataset>,
    /// Files that cannot be read, in order of path.
    pub skipped: Vec<Skipped>,
    /// One sentence for people: what was opened.
    pub description: String,
}

/// One part of a data set, not opened yet.
enum Source {
    Folder(PathBuf),
    List(PathBuf),
    Idx(IdxPair),
}

/// What a path holds.
struct Found {
    train: Option<Source>,
    held_out: Option<Source>,
}

/// One part, opened.
struct Part {
    dataset: Arc<dyn Dataset>,
    skipped: Vec<Skipped>,
    /// Whether its classes have names and not only numbers.
    named: bool,
}

/// Opens a data set for training: both parts, with the same classes.
///
/// The held-out part is `options.val`; or what the data brings along (`val/` beside `train/`, the
/// `t10k` files of the MNIST family); or else the share `options.hold_out` of each class.
///
/// Every file is looked at, in parallel: a file that is empty, cut short or no image is left out
/// and listed in [`Splits::skipped`] (with `strict`, it is an error). Errors name the path and
/// what is wrong: nothing there, an empty folder, fewer than two classes, a class without images,
/// other classes in the held-out part.
pub fn open(options: &DataOptions) -> Result<Splits> {
    let share = options.hold_out;
    if !(share > 0.0 && share < 1.0) {
        return Err(DataError::Option {
            what: "hold-out share",
            found: share.to_string(),
            expected: "a number above 0 and below 1",
        });
    }
    let Some(path) = &options.data else {
        let held_out = match &options.val {
            None => Part { dataset: Arc::new(embedded::test()?), skipped: Vec::new(), named: true },
            Some(val) => find_held_out(val)?.open(options, None)?,
        };
        let train = Part { dataset: Arc::new(embedded::train()?), skipped: Vec::new(), named: true };
        return splits(
            options,
            Path::new("embedded sample of Fashion-MNIST"),
            train,
            held_out,
            "the embedded sample of Fashion-MNIST; its test images are held out",
        );
    };
    let found = find(path)?;
    let Some(train) = found.train else {
        return Err(DataError::Unusable {
            path: path.clone(),
            problem: "holds test files only; the training files are missing".into(),
        });
    };
    let train_path = train.path().to_owned();
    let train = train.open(options, None)?;
    let held_out = match &options.val {
        Some(val) => Some((find_held_out(val)?, val.display().to_string())),
        None => found.held_out.map(|source| {
            let name = source.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
            (source, name)
        }),
    };
    match held_out {
        Some((source, name)) => {
            let held_out = source.open(options, (!source.is_list()).then_some(&train))?;
            let description = format!("{}; held out: {name}", path.display());
            splits(options, &train_path, train, held_out, &description)
        }
        None => {
            check_classes(path, train.dataset.classes())?;
            let (kept, held) = subset::hold_out(&train.dataset, share, options.seed);
            if held.is_empty() {
                return Err(DataError::Unusable {
                    path: path.clone(),
                    problem: "every class has one image only; at least one class needs two, so that one can be held out".into(),
                });
            }
            strict(options, &train.skipped)?;
            Ok(Splits {
                train: Arc::new(kept),
                held_out: Arc::new(held),
                skipped: train.skipped,
                description: format!(
                    "{}; held out: {:.0} % of each class, chosen by seed {}",
                    path.display(),
                    100.0 * share,
                    options.seed
                ),
            })
        }
    }
}

/// Opens the data on which a model with `classes` is evaluated: `options.val`, or the held-out
/// part that `options.data` brings along, or else all of it.
///
/// The classes go by name: some may be missing, but none may be unknown to the model. Where the
/// data has only numbers for classes (IDX files), or the model has, numbers are matched.
pub fn open_for_evaluation(options: &DataOptions, classes: &[String]) -> Result<Opened> {
    let (part, path, description) = match (&options.val, &options.data) {
        (Some(path), _) => {
            let source = find_held_out(path)?;
            (source.open(options, None)?, source.path().to_owned(), source.path().display().to_string())
        }
        (None, Some(path)) => {
            let found = find(path)?;
            let Some(source) = found.held_out.or(found.train) else {
                return Err(DataError::NotFound { path: path.clone() });
            };
            (source.open(options, None)?, source.path().to_owned(), source.path().display().to_string())
        }
        (None, None) => (
            Part { dataset: Arc::new(embedded::test()?), skipped: Vec::new(), named: true },
            PathBuf::from("embedded sample of Fashion-MNIST"),
            "the test images of the embedded sample of Fashion-MNIST".to_owned(),
        ),
    };
    strict(options, &part.skipped)?;
    let dataset = match_classes(part.dataset, part.named, classes, &path)?;
    Ok(Opened { dataset, skipped: part.skipped, description })
}

fn match_classes(
    dataset: Arc<dyn Dataset>,
    named: bool,
    classes: &[String],
    path: &Path,
) -> Result<Arc<dyn Dataset>> {
    let own = dataset.classes().to_vec();
    if own == classes {
        return Ok(dataset);
    }
    let position = |class: &String| classes.iter().position(|c| c == class);
    let labels: Option<Vec<_>> = own.iter().map(position).collect();
    let numbers = classes.iter().enumerate().all(|(i, class)| *class == i.to_string());
    let labels = match labels {
        Some(labels) => labels,
        None if (!named || numbers) && own.len() <= classes.len() => (0..own.len()).collect(),
        None => {
            return Err(DataError::ClassesDiffer {
                path: path.to_owned(),
                expected_by: "the model's".into(),
                extra: own.into_iter().filter(|class| position(class).is_none()).collect(),
                missing: Vec::new(),
            });
        }
    };
    Ok(Arc::new(Subset::relabelled(dataset, classes.to_vec(), labels)))
}

fn strict(options: &DataOptions, skipped: &[Skipped]) -> Result<()> {
    match skipped.first() {
        Some(first) if options.strict => Err(DataError::Unreadable {
            path: first.path.clone(),
            problem: first.problem.clone(),
            count: skipped.len(),
        }),
        _ => Ok(()),
    }
}

fn check_classes(path: &Path, classes: &[String]) -> Result<()> {
    if classes.len() < 2 {
        return Err(DataError::TooFewClasses { path: path.to_owned(), classes: classes.to_vec() });
    }
    Ok(())
}

fn splits(
    options: &DataOptions,
    train_path: &Path,
    train: Part,
    held_out: Part,
    description: &str,
) -> Result<Splits> {
    let classes = train.dataset.classes().to_vec();
    check_classes(train_path, &classes)?;
    let other = held_out.dataset.classes();
    let without = |a: &[String], b: &[String]| -> Vec<String> {
        a.iter().filter(|class| !b.contains(class)).cloned().collect()
    };
    let (extra, missing) = (without(other, &classes), without(&classes, other));
    if held_out.named && (!extra.is_empty() || !missing.is_empty()) {
        return Err(DataError::ClassesDiffer {
            path: options.val.clone().or_else(|| options.data.clone()).unwrap_or_default(),
            expected_by: format!("those of {}", train_path.display()),
            extra,
            missing,
        });
    }
    let held_out_dataset = match_classes(held_out.dataset, held_out.named, &classes, train_path)?;
    let mut skipped = train.skipped;
    skipped.extend(held_out.skipped);
    skipped.sort_by(|a, b| a.path.cmp(&b.path));
    strict(options, &skipped)?;
    Ok(Splits {
        train: train.dataset,
        held_out: held_out_dataset,
        skipped,
        description: description.to_owned(),
    })
}

/// What is at `path`.
fn find(path: &Path) -> Result<Found> {
    if !path.exists() {
        return Err(DataError::NotFound { path: path.to_owned() });
    }
    let alone = |train| Ok(Found { train: Some(train), held_out: None });
    if !path.is_dir() {
        if list::is_list(path) {
            return alone(Source::List(path.to_owned()));
        }
        return alone(Source::Idx(IdxPair::of(path)?));
    }
    let listing = Listing::read(path)?;
    if let Some(found) = idx::find(path, &listing.files)? {
        return Ok(Found { train: found.train.map(Source::Idx), held_out: found.test.map(Source::Idx) });
    }
    let named = |wanted: &str| listing.folders.iter().find(|name| name.to_lowercase() == wanted);
    // A class may be called `train` too; then other classes stand beside it, or it has no classes
    // in it.
    let all_parts = listing
        .folders
        .iter()
        .all(|name| name.to_lowercase() == "train" || HELD_OUT.contains(&name.to_lowercase().as_str()));
    let held_out = HELD_OUT.iter().find_map(|wanted| named(wanted));
    if let Some(train) = named("train")
        && (all_parts || held_out.is_some())
        && !Listing::read(&path.join(train))?.folders.is_empty()
    {
        return Ok(Found {
            train: Some(Source::Folder(path.join(train))),
            held_out: held_out.map(|name| Source::Folder(path.join(name))),
        });
    }
    alone(Source::Folder(path.to_owned()))
}

/// What to evaluate on at `path`.
fn find_held_out(path: &Path) -> Result<Source> {
    let found = find(path)?;
    found.held_out.or(found.train).ok_or_else(|| DataError::NotFound { path: path.to_owned() })
}

impl Source {
    fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::List(path) => path,
            Self::Idx(pair) => &pair.images,
        }
    }

    fn is_list(&self) -> bool {
        matches!(self, Self::List(_))
    }

    /// Opens it; IDX files without names of their own take those of the part beside them.
    fn open(&self, options: &DataOptions, beside: Option<&Part>) -> Result<Part> {
        let (files, skipped) = match self {
            Self::Folder(path) => Files::folder(path, &options.limits)?,
            Self::List(path) => list::open(path, &options.limits)?,
            Self::Idx(pair) => {
                let mut memory: Memory = pair.read(&options.limits)?;
                if let Some(train) = beside
                    && !memory.named
                {
                    memory.rename(train.dataset.classes(), &pair.labels)?;
                }
                let named = memory.named;
                return Ok(Part { dataset: Arc::new(memory), skipped: Vec::new(), named });
            }
        };
        Ok(Part { dataset: Arc::new(files), skipped, named: true })
    }
}
