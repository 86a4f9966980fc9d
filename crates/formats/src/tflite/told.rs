//! What TFLite's graph cannot say, in an entry of the file's metadata, so that labels and
//! preprocessing come back with a model.

use mobilenet::Model;
use mobilenet::conventions::Preprocessing;
use serde::{Deserialize, Serialize};

use crate::state_dict::Hints;

/// The entry's name.
pub(super) const NAME: &str = "mobilenet";

/// Written as JSON.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Told {
    labels: Option<Vec<String>>,
    background_class: Option<bool>,
    width_multiplier: Option<f64>,
    preprocessing: Option<Preprocessing>,
}

impl Told {
    /// Of a model.
    pub(super) fn of(model: &Model) -> Self {
        let conventions = &model.architecture.conventions;
        Self {
            labels: Some(model.labels.clone()),
            background_class: Some(conventions.background_class),
            width_multiplier: Some(model.architecture.width_multiplier),
            preprocessing: Some(conventions.preprocessing.clone()),
        }
    }

    /// Where the graph itself tells nothing.
    pub(super) fn into_hints(self, hints: &mut Hints) {
        hints.labels = hints.labels.take().or(self.labels);
        hints.background_class = hints.background_class.or(self.background_class);
        hints.width_multiplier = hints.width_multiplier.or(self.width_multiplier);
        hints.preprocessing = hints.preprocessing.take().or(self.preprocessing);
    }
}
