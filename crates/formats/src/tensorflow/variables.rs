//! Which of a checkpoint's variables are the network's: moving averages in place of what they
//! average, and no optimizer's state.

use std::collections::{BTreeMap, BTreeSet};

/// Ends the name of a variable's moving average.
const AVERAGE: &str = "/ExponentialMovingAverage";
/// Ends the name of a variable in an object checkpoint.
const VALUE: &str = "/.ATTRIBUTES/VARIABLE_VALUE";

/// What to read of a checkpoint.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Selection {
    /// From a variable's name in the file to the name that it is given.
    pub(super) names: BTreeMap<String, String>,
    /// Said to the user.
    pub(super) notes: Vec<String>,
}

/// Chooses among the names of a checkpoint. `full_names` are the variables' own names, where a
/// TensorFlow 2 checkpoint has them.
pub(super) fn select(all: &BTreeSet<String>, full_names: &BTreeMap<String, String>) -> Selection {
    let mut selection = Selection::default();
    let (mut averages, mut left_out) = (0, 0);
    let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
    full_names.values().for_each(|name| *uses.entry(name).or_default() += 1);
    for name in all {
        if let Some(of) = name.strip_suffix(AVERAGE) {
            averages += 1;
            selection.names.insert(name.clone(), of.to_owned());
        } else if name.contains("/.OPTIMIZER_SLOT/") || is_of_another(name, all) || is_of_training(name) {
            left_out += 1;
        } else if !all.contains(&format!("{name}{AVERAGE}")) {
            let given = match full_names.get(name) {
                Some(full) if uses.get(full.as_str()) == Some(&1) => full,
                _ => name.strip_suffix(VALUE).unwrap_or(name),
            };
            selection.names.insert(name.clone(), given.to_owned());
        }
    }
    if averages > 0 {
        selection.notes.push(format!(
            "weights are the moving averages (…{AVERAGE}) where there are any: {averages} variables"
        ));
    }
    if left_out > 0 {
        selection.notes.push(format!("{left_out} variables of the optimizer and of training are left out"));
    }
    selection
}

/// Whether a longer name than another variable's starts with it: `X/RMSProp`, `X/Adam_1`,
/// `X/Momentum`, `X/local_step`, all of `X` (or of the `X` that only its average has left).
fn is_of_another(name: &str, all: &BTreeSet<String>) -> bool {
    name.rmatch_indices('/').any(|(at, _)| {
        let start = &name[..at];
        all.contains(start) || all.contains(&format!("{start}{AVERAGE}"))
    })
}

/// Counters and the like, which no layer has.
fn is_of_training(name: &str) -> bool {
    let name = name.strip_suffix(VALUE).unwrap_or(name);
    let last = name.rsplit('/').next().unwrap_or(name);
    name.starts_with("optimizer/")
        || name.starts_with("_CHECKPOINTABLE")
        || matches!(
            last,
            "global_step" | "save_counter" | "beta1_power" | "beta2_power" | "iter" | "learning_rate"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_stand_for_what_they_average_and_slots_go() {
        let names = [
            "a/weights",
            "a/weights/ExponentialMovingAverage",
            "a/weights/RMSProp",
            "a/weights/RMSProp_1",
            "a/weights/ExponentialMovingAverage/Adam",
            "a/biases",
            "a/biases/Momentum",
            "b/only/ExponentialMovingAverage",
            "b/only/Momentum",
            "global_step",
            "beta1_power",
        ];
        let selection = select(&names.map(String::from).into(), &BTreeMap::new());
        let found: Vec<(&str, &str)> =
            selection.names.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect();
        assert_eq!(
            found,
            [
                ("a/biases", "a/biases"),
                ("a/weights/ExponentialMovingAverage", "a/weights"),
                ("b/only/ExponentialMovingAverage", "b/only"),
            ]
        );
        assert!(selection.notes[0].contains("2 variables"), "{:?}", selection.notes);
        assert!(selection.notes[1].starts_with("7 variables"), "{:?}", selection.notes);
    }

    #[test]
    fn variables_of_objects_get_their_own_names_where_those_are_unique() {
        let key = |name: &str| format!("model/{name}{VALUE}");
        let all = [key("0/kernel"), key("1/kernel"), key("2/kernel"), key("optimizer/0")];
        let own = [(key("0/kernel"), "conv1/kernel"), (key("1/kernel"), "x"), (key("2/kernel"), "x")];
        let own = own.map(|(key, name)| (key, name.to_owned())).into();
        let mut all: BTreeSet<String> = all.into();
        all.insert(format!("optimizer/iterations{VALUE}"));
        all.insert("save_counter/.ATTRIBUTES/VARIABLE_VALUE".into());
        let selection = select(&all, &own);
        assert_eq!(selection.names[&key("0/kernel")], "conv1/kernel");
        assert_eq!(selection.names[&key("1/kernel")], "model/1/kernel");
        assert_eq!(selection.names.len(), 4);
    }
}
