//! CSV and TSV lists: a path and a label a line.

use std::path::{Path, PathBuf};

use mobilenet::image::DecodeLimits;

use super::files::Files;
use super::{DataError, Result, Skipped};

/// Names that a header gives the column of paths, and that of labels.
const PATHS: [&str; 10] =
    ["path", "file", "filename", "file_name", "filepath", "image", "image_path", "img", "image_id", "name"];
const LABELS: [&str; 7] = ["label", "labels", "class", "class_name", "category", "target", "species"];

/// Whether a file of that name is a list.
pub(super) fn is_list(path: &Path) -> bool {
    delimiter(path).is_some()
}

fn delimiter(path: &Path) -> Option<u8> {
    match path.extension()?.to_str()?.to_lowercase().as_str() {
        "csv" => Some(b','),
        "tsv" | "tab" => Some(b'\t'),
        _ => None,
    }
}

/// Opens a list. Paths are relative to it; a header is optional, and decides which columns count;
/// without one they are the first two.
pub(super) fn open(path: &Path, limits: &DecodeLimits) -> Result<(Files, Vec<Skipped>)> {
    let unusable = |problem: String| DataError::Unusable { path: path.to_owned(), problem };
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter(path).unwrap_or(b','))
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_path(path)
        .map_err(|e| unusable(e.to_string()))?;
    let (mut path_column, mut label_column) = (0, 1);
    let mut rows: Vec<(PathBuf, String)> = Vec::new();
    for (number, record) in (1..).zip(reader.records()) {
        let record = record.map_err(|e| unusable(format!("line {number}: {e}")))?;
        if number == 1 {
            let find = |known: &[&str]| {
                record.iter().position(|field| {
                    // Spreadsheets begin a file with a byte order mark.
                    known.contains(&field.trim_start_matches('\u{feff}').to_lowercase().as_str())
                })
            };
            if let (Some(paths), Some(labels)) = (find(&PATHS), find(&LABELS)) {
                (path_column, label_column) = (paths, labels);
                continue;
            }
        }
        match (record.get(path_column), record.get(label_column)) {
            (Some(file), Some(label)) if !file.is_empty() && !label.is_empty() => {
                rows.push((folder.join(file.trim_start_matches('\u{feff}')), label.to_owned()));
            }
            _ if record.iter().all(str::is_empty) => {}
            _ => return Err(unusable(format!("line {number}: expected a path and a label"))),
        }
    }
    if rows.is_empty() {
        return Err(unusable("lists no image; expected lines of path and label".into()));
    }
    let mut classes: Vec<String> = rows.iter().map(|(_, label)| label.clone()).collect();
    classes.sort();
    classes.dedup();
    // Numbers in their own order: 2 before 10.
    if classes.iter().all(|class| class.parse::<u64>().is_ok()) {
        classes.sort_by_key(|class| class.parse::<u64>().unwrap_or(u64::MAX));
    }
    let index: std::collections::HashMap<_, _> = classes.iter().zip(0..).collect();
    let files = rows.into_iter().map(|(file, label)| (file, index[&label])).collect();
    Files::scan(path, classes.clone(), files, limits)
}
