//! What this project writes into `metadata_props` beside the graph, and reads from there.
//!
//! `labels`: a JSON list, one name an output (the first is "background" where output 0 is a background
//! class). `preprocessing`: how an image becomes the input. `conventions`: everything else that the
//! graph does not show; `width_multiplier`.

use mobilenet::Model;
use mobilenet::conventions::{Conventions, Preprocessing};
use serde::de::DeserializeOwned;

use super::proto::StringStringEntryProto;
use crate::error::{Error, Result};
use crate::state_dict::Hints;

/// What the producer is called in files that are written here.
pub const PRODUCER: &str = "mobilenet";

const BACKGROUND: &str = "background";

/// The entries for a model.
pub fn write(model: &Model) -> Result<Vec<StringStringEntryProto>> {
    let conventions = &model.architecture.conventions;
    let background = conventions.background_class.then_some(BACKGROUND);
    let labels: Vec<&str> = background.into_iter().chain(model.labels.iter().map(String::as_str)).collect();
    let entry = |key: &str, value: serde_json::Result<String>| match value {
        Ok(value) => Ok(StringStringEntryProto { key: key.into(), value }),
        Err(error) => Err(Error::Unsupported(format!("{key} cannot be written as JSON: {error}"))),
    };
    Ok(vec![
        entry("labels", serde_json::to_string(&labels))?,
        entry("preprocessing", serde_json::to_string(&conventions.preprocessing))?,
        entry("conventions", serde_json::to_string(conventions))?,
        entry("width_multiplier", serde_json::to_string(&model.architecture.width_multiplier))?,
    ])
}

/// Adds what the entries tell. Those of other projects' that have the same keys and another content
/// are left alone.
pub fn read(entries: &[StringStringEntryProto], hints: &mut Hints) {
    fn parse<T: DeserializeOwned>(entries: &[StringStringEntryProto], key: &str) -> Option<T> {
        let entry = entries.iter().find(|entry| entry.key == key)?;
        serde_json::from_str(&entry.value).ok()
    }
    if let Some(conventions) = parse::<Conventions>(entries, "conventions") {
        hints.padding = Some(conventions.padding);
        hints.bn_epsilon = Some(conventions.bn_epsilon);
        hints.bn_momentum = Some(conventions.bn_momentum);
        hints.background_class = Some(conventions.background_class);
        hints.dropout = Some(conventions.dropout);
        hints.preprocessing = Some(conventions.preprocessing);
    }
    if let Some(preprocessing) = parse::<Preprocessing>(entries, "preprocessing") {
        hints.preprocessing = Some(preprocessing);
    }
    hints.width_multiplier = parse::<f64>(entries, "width_multiplier");
    if let Some(mut labels) = parse::<Vec<String>>(entries, "labels").filter(|labels| !labels.is_empty()) {
        if labels.len() > 1 && labels[0] == BACKGROUND && hints.background_class != Some(false) {
            labels.remove(0);
            hints.background_class = Some(true);
        }
        hints.labels = Some(labels);
    }
}
