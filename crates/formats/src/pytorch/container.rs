//! Which of a file's dictionaries are the weights: a bare state_dict, or the dictionary that a
//! training script keeps (`{epoch, arch, state_dict, best_prec1, optimizer}`).

use std::collections::HashSet;

use super::FORMAT;
use super::machine::shorten;
use super::tensor::{Reader, Storages};
use super::value::{Id, Value, Values, View};
use crate::error::{Error, Result};
use crate::state_dict::StateDict;

/// Where training scripts keep weights, the better first: moving averages score higher.
const AVERAGES: [&str; 5] = ["state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema"];
const WEIGHTS: [&str; 8] =
    ["state_dict", "model_state_dict", "model", "network", "net", "weights", "params", "module"];
/// Bytes of a tensor's name; it is copied.
const LONGEST_NAME: usize = 512;
/// Prefixes of wrappers: `DataParallel`, `torch.compile`.
const PREFIXES: [&str; 2] = ["module.", "_orig_mod."];
/// What training scripts say about how good their network is.
const BEST: [(&str, &str); 6] = [
    ("best_prec1", "best top-1"),
    ("best_acc1", "best top-1"),
    ("best_top1", "best top-1"),
    ("best_acc", "best accuracy"),
    ("best_metric", "best metric"),
    ("metric", "metric"),
];

/// The refusal of a network that was pickled as an object.
pub fn whole_network(class: &str) -> Error {
    Error::refused(
        FORMAT,
        format!(
            "the file holds a whole object of class {class}, which only that class' own code can make; nothing \
             was run. Where that code is, save the weights alone: torch.save(torch.load(FILE, \
             weights_only=False).state_dict(), \"weights.pth\")"
        ),
    )
}

/// Reads the weights out of what a file holds.
///
/// # Errors
/// [`Error::Refused`] if there are no weights, or only a whole pickled network;
/// [`Error::Damaged`] from the tensors.
pub fn read(values: &Values, root: Id, storages: &dyn Storages) -> Result<StateDict> {
    let outer = match values.get(root) {
        Value::Dict(pairs) => pairs,
        Value::Instance(class) => return Err(whole_network(class)),
        Value::View(_) => {
            return Err(Error::refused(FORMAT, "the file holds a single tensor, not a network's weights"));
        }
        _ => return Err(Error::refused(FORMAT, "the file holds no dictionary of tensors (a state_dict)")),
    };
    let mut state_dict = StateDict::default();
    let notes = &mut state_dict.hints.notes;
    let holding = values.dicts_of_views();
    let pairs = match tensors_of(values, &holding, outer) {
        Some(_) => outer,
        None => {
            let (key, pairs) = choose(values, &holding, outer)?;
            if AVERAGES.contains(&key) {
                notes.push(format!("the weights are the moving averages ({key:?} in the file)"));
            }
            notes.extend(about(values, outer));
            pairs
        }
    };
    let mut views: Vec<(&str, &View)> = tensors_of(values, &holding, pairs).unwrap_or_default();
    // Counters, which are no weights: num_batches_tracked, n_averaged.
    views.retain(|(_, view)| !(view.kind.is_integer() && view.shape.is_empty()));
    if let Some((name, _)) = views.iter().find(|(name, _)| name.len() > LONGEST_NAME) {
        return Err(Error::damaged(
            FORMAT,
            format!("a tensor's name of {} bytes: {}…", name.len(), shorten(name)),
        ));
    }
    let mut stripped = Vec::new();
    while let Some(prefix) = PREFIXES
        .into_iter()
        .find(|prefix| !views.is_empty() && views.iter().all(|(name, _)| name.starts_with(prefix)))
    {
        views.iter_mut().for_each(|(name, _)| *name = &name[prefix.len()..]);
        stripped.push(prefix);
    }
    if !stripped.is_empty() {
        notes.push(format!("the names' prefix {:?} was left out", stripped.concat()));
    }
    let mut reader = Reader::new(storages);
    for (name, view) in views {
        state_dict.tensors.insert(name.to_owned(), reader.tensor(name, view)?);
    }
    Ok(state_dict)
}

/// The tensors of a dictionary by name; none if it has none, or has dictionaries of tensors (a
/// training script's may hold a tensor, such as a best score, beside its weights). What else it
/// holds is passed over.
fn tensors_of<'a>(
    values: &'a Values,
    holding: &HashSet<Id>,
    pairs: &[(Id, Id)],
) -> Option<Vec<(&'a str, &'a View)>> {
    if pairs.iter().any(|(_, value)| holding.contains(value)) {
        return None;
    }
    let tensors = pairs.iter().filter_map(|(name, value)| match (values.text(*name), values.get(*value)) {
        (Some(name), Value::View(view)) => Some((name, &**view)),
        _ => None,
    });
    Some(tensors.collect::<Vec<_>>()).filter(|tensors| !tensors.is_empty())
}

/// The dictionary of weights within a training script's, and its key.
fn choose<'a>(
    values: &'a Values,
    holding: &HashSet<Id>,
    outer: &'a [(Id, Id)],
) -> Result<(&'a str, &'a [(Id, Id)])> {
    let weights = |id| match values.get(id) {
        Value::Dict(pairs) => tensors_of(values, holding, pairs).map(|_| pairs.as_slice()),
        _ => None,
    };
    let mut network = None;
    for key in AVERAGES.into_iter().chain(WEIGHTS) {
        let Some(id) = values.lookup(outer, key) else { continue };
        if let Some(pairs) = weights(id) {
            return Ok((key, pairs));
        }
        if let Value::Instance(class) = values.get(id) {
            network = network.or(Some(class));
        }
    }
    // Under a name of the script's own, if only one can be meant.
    let mut seen = HashSet::new();
    let named: Vec<_> = outer
        .iter()
        .filter(|(_, value)| holding.contains(value) && seen.insert(*value))
        .filter_map(|(key, value)| Some((values.text(*key)?, weights(*value)?)))
        .collect();
    match (named.as_slice(), network) {
        ([only], _) => Ok(*only),
        (_, Some(class)) => Err(whole_network(class)),
        (several, None) => {
            let keys: Vec<_> =
                outer.iter().filter_map(|(key, _)| values.text(*key)).take(10).map(shorten).collect();
            Err(Error::refused(
                FORMAT,
                format!(
                    "{} of the file's dictionary are weights; its keys are: {}. Save the weights alone, \
                     torch.save(model.state_dict(), \"weights.pth\")",
                    if several.is_empty() { "no entries" } else { "it is not clear which entries" },
                    keys.join(", ")
                ),
            ))
        }
    }
}

/// What a training script's dictionary tells of the network.
fn about(values: &Values, outer: &[(Id, Id)]) -> Option<String> {
    let number = |key| match values.get(values.lookup(outer, key)?) {
        Value::Int(value) => Some(value.to_string()),
        Value::Float(value) => Some(format!("{value:.3}")),
        _ => None,
    };
    let mut facts = Vec::new();
    if let Some(arch) = values.lookup(outer, "arch").and_then(|arch| values.text(arch)) {
        facts.push(format!("architecture {:?}", shorten(arch)));
    }
    facts.extend(number("epoch").map(|epoch| format!("epoch {epoch}")));
    facts.extend(BEST.into_iter().find_map(|(key, what)| Some(format!("{what} {}", number(key)?))));
    (!facts.is_empty()).then(|| format!("a training checkpoint: {}", facts.join(", ")))
}
