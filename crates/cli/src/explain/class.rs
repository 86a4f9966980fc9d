//! A class by the name that a user gives it.

use mobilenet::error::nearest;

use crate::failure::{Failure, Outcome};

/// The index of the class that `name` means: a label, one of the names that a label lists between
/// commas (`tabby, tabby cat`), in any case; or else the index itself.
///
/// # Errors
/// A usage error when nothing has that name, with the nearest; or several labels have it, with their
/// indices.
pub fn find(labels: &[String], name: &str) -> Outcome<usize> {
    let wanted = name.trim().to_lowercase();
    let lower: Vec<String> = labels.iter().map(|label| label.to_lowercase()).collect();
    let matching = |test: &dyn Fn(&str) -> bool| -> Vec<usize> {
        lower.iter().enumerate().filter(|(_, label)| test(label)).map(|(index, _)| index).collect()
    };
    let mut found = matching(&|label| label == wanted);
    if found.is_empty() {
        found = matching(&|label| label.split(',').any(|part| part.trim() == wanted));
    }
    match (found.as_slice(), wanted.parse::<usize>()) {
        (&[index], _) => Ok(index),
        ([], Ok(index)) if index < labels.len() => Ok(index),
        ([], Ok(index)) => Err(Failure::usage(format!(
            "--class: found {index}, expected 0 to {}, or a name",
            labels.len().saturating_sub(1)
        ))),
        ([], Err(_)) => {
            let names: Vec<&str> = lower.iter().flat_map(|label| label.split(',')).map(str::trim).collect();
            let near = nearest(&wanted, &names).map(|name| format!("; did you mean `{name}`?"));
            Err(Failure::usage(format!(
                "--class: `{name}` is none of the model's {} classes{}",
                labels.len(),
                near.unwrap_or_default()
            )))
        }
        (several, _) => {
            let list: Vec<String> =
                several.iter().map(|&index| format!("{index} ({})", labels[index])).collect();
            Err(Failure::usage(format!(
                "--class: `{name}` is the name of several classes; give the index of one: {}",
                list.join(", ")
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Vec<String> {
        ["crane", "tabby, tabby cat", "Egyptian cat", "crane", "7", "lynx, catamount", "cougar, catamount"]
            .map(String::from)
            .to_vec()
    }

    fn message(name: &str) -> String {
        match find(&labels(), name) {
            Err(Failure::Usage(error)) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_parts_of_names_and_indices() {
        for (name, expected) in [
            ("Egyptian cat", 2),
            ("egyptian CAT ", 2),
            ("tabby", 1),
            ("tabby cat", 1),
            ("tabby, tabby cat", 1),
            ("lynx", 5),
            ("0", 0),
            ("6", 6),
            ("7", 4), // A label comes before an index.
        ] {
            assert_eq!(find(&labels(), name).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn what_is_not_one_class_is_refused() {
        assert!(message("crane").contains("several classes; give the index of one: 0 (crane), 3 (crane)"));
        assert!(message("catamount").contains("5 (lynx, catamount), 6 (cougar, catamount)"));
        assert!(message("8").contains("found 8, expected 0 to 6, or a name"));
        assert!(message("taby").contains("none of the model's 7 classes; did you mean `tabby`?"));
        assert!(message("-1").contains("none of the model's 7 classes"));
        assert!(message("cat").contains("none of the model's"));
    }
}
