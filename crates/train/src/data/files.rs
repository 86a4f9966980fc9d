//! Images in files: folders of classes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mobilenet::image::{self, DecodeLimits, Image, ImageInfo};
use rayon::prelude::*;

use super::{DataError, Dataset, Result, Skipped};

/// Folders deeper than this are a cycle of links.
const DEEPEST: usize = 32;

/// Files that lie about in folders of images and are none.
const NOT_IMAGES: [&str; 24] = [
    "txt",
    "csv",
    "tsv",
    "json",
    "jsonl",
    "xml",
    "md",
    "html",
    "htm",
    "db",
    "ini",
    "yml",
    "yaml",
    "toml",
    "log",
    "pdf",
    "zip",
    "tar",
    "gz",
    "py",
    "npy",
    "npz",
    "parquet",
    "safetensors",
];

/// Up to so many bytes of files are read whole when a data set is opened, so that files cut short
/// are found; beyond, headers alone are.
const READ_WHOLE: u64 = 8 << 30;

/// Where a header is, but for the rarest file.
const HEADER: u64 = 256 << 10;

/// Labelled image files.
pub(super) struct Files {
    classes: Vec<String>,
    items: Vec<Item>,
    grey: bool,
    limits: DecodeLimits,
}

struct Item {
    path: PathBuf,
    label: usize,
    size: (usize, usize),
}

impl Files {
    /// Looks at every file, in parallel, and leaves out what cannot be read; an error if that
    /// leaves a class without images.
    pub(super) fn scan(
        root: &Path,
        classes: Vec<String>,
        files: Vec<(PathBuf, usize)>,
        limits: &DecodeLimits,
    ) -> Result<(Self, Vec<Skipped>)> {
        let bytes: u64 = files.par_iter().map(|(path, _)| fs::metadata(path).map_or(0, |m| m.len())).sum();
        let whole = bytes <= READ_WHOLE;
        let probed: Vec<_> = files.par_iter().map(|(path, _)| probe(path, whole, limits)).collect();
        let (mut items, mut skipped, mut grey) = (Vec::new(), Vec::new(), true);
        for ((path, label), info) in files.into_iter().zip(probed) {
            match info {
                Ok(info) => {
                    grey &= info.grey;
                    items.push(Item { path, label, size: (info.width, info.height) });
                }
                Err(mobilenet::Error::Image { problem, .. }) => skipped.push(Skipped { path, problem }),
                Err(mobilenet::Error::Io { action, source, .. }) => {
                    skipped.push(Skipped { path, problem: format!("cannot {action}: {source}") });
                }
                Err(other) => skipped.push(Skipped { path, problem: other.to_string() }),
            }
        }
        skipped.sort_by(|a, b| a.path.cmp(&b.path));
        let mut counts = vec![0; classes.len()];
        for item in &items {
            counts[item.label] += 1;
        }
        let empty: Vec<_> =
            classes.iter().zip(&counts).filter(|&(_, &n)| n == 0).map(|(name, _)| name.clone()).collect();
        if !empty.is_empty() {
            return Err(DataError::EmptyClasses { path: root.to_owned(), classes: empty });
        }
        Ok((Self { classes, grey: grey && !items.is_empty(), items, limits: limits.clone() }, skipped))
    }

    /// Opens a folder with one sub-folder a class.
    pub(super) fn folder(root: &Path, limits: &DecodeLimits) -> Result<(Self, Vec<Skipped>)> {
        let listing = Listing::read(root)?;
        if listing.folders.is_empty() {
            let images = listing.files.iter().filter(|name| may_be_image(Path::new(name))).count();
            let problem = if images > 0 {
                format!(
                    "holds {images} files but no folders; put the images of each class in a sub-folder with the class's name"
                )
            } else {
                "is empty; expected one sub-folder of images for each class".into()
            };
            return Err(DataError::Unusable { path: root.to_owned(), problem });
        }
        let mut files = Vec::new();
        for (label, class) in listing.folders.iter().enumerate() {
            let mut found = Vec::new();
            walk(&root.join(class), 0, &mut found)?;
            files.extend(found.into_iter().map(|path| (path, label)));
        }
        Self::scan(root, listing.folders, files, limits)
    }
}

fn probe(path: &Path, whole: bool, limits: &DecodeLimits) -> mobilenet::Result<ImageInfo> {
    if whole {
        return image::probe_file(path, limits);
    }
    image::probe_header(path, HEADER, limits).or_else(|_| image::probe_file(path, limits))
}

impl Dataset for Files {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn len(&self) -> usize {
        self.items.len()
    }

    fn label(&self, index: usize) -> usize {
        self.items[index].label
    }

    fn name(&self, index: usize) -> String {
        self.items.get(index).map(|item| item.path.display().to_string()).unwrap_or_default()
    }

    fn image(&self, index: usize, channels: usize) -> Result<Arc<Image>> {
        let item = self.items.get(index).ok_or(DataError::Index { index, len: self.len() })?;
        Ok(Arc::new(image::decode_file(&item.path, channels, &self.limits)?))
    }

    fn size(&self, index: usize) -> (usize, usize) {
        self.items[index].size
    }

    fn is_grey(&self) -> bool {
        self.grey
    }
}

/// What a folder holds, hidden entries left out, by name.
pub(super) struct Listing {
    pub(super) folders: Vec<String>,
    pub(super) files: Vec<String>,
}

impl Listing {
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let (mut folders, mut files) = (Vec::new(), Vec::new());
        for entry in entries(folder)? {
            let Some(name) = entry.file_name().map(|name| name.to_string_lossy().into_owned()) else {
                continue;
            };
            if entry.is_dir() { folders.push(name) } else { files.push(name) }
        }
        Ok(Self { folders, files })
    }
}

/// The entries of a folder that are not hidden, in order of name.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(DataError::io(folder, "list"))? {
        let entry = entry.map_err(DataError::io(folder, "list"))?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Every file below `folder` that may be an image, in order of path.
fn walk(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    if depth > DEEPEST {
        return Err(DataError::Unusable {
            path: folder.to_owned(),
            problem: format!("more than {DEEPEST} folders deep; does a link lead back?"),
        });
    }
    for path in entries(folder)? {
        if path.is_dir() {
            walk(&path, depth + 1, found)?;
        } else if may_be_image(&path) {
            found.push(path);
        }
    }
    Ok(())
}

fn may_be_image(path: &Path) -> bool {
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    !extension.is_some_and(|e| NOT_IMAGES.contains(&e.as_str()))
}

/// All image files of a folder and the folders below it, in order of path, hidden ones left out;
/// the path itself if it is a file.
pub fn list_images(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.exists() {
        return Err(DataError::NotFound { path: path.to_owned() });
    }
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    walk(path, 0, &mut found)?;
    Ok(found)
}
