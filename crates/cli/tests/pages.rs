//! The repository's pages: links lead somewhere, and tables of what the code knows are what it knows.

use std::fs;
use std::path::{Path, PathBuf};

use mobilenet::Preset;
use mobilenet::conventions::Conventions;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The Markdown files of the root and of docs/.
fn pages() -> Vec<PathBuf> {
    let folders = [root(), root().join("docs")];
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// The anchor that a heading gets: lower case, punctuation gone, hyphens for spaces.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn links_lead_somewhere() {
    let mut checked = 0;
    for page in pages() {
        let text = read(&page);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(path.exists(), "{}: link to {target}, which is not there", page.display());
            if !fragment.is_empty() {
                let target_text = read(&path);
                let headings = target_text.lines().filter_map(|line| line.strip_prefix('#'));
                let found = headings.map(|line| anchor(line.trim_start_matches('#'))).any(|a| a == fragment);
                assert!(found, "{}: link to {target}, which has no such heading", page.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 10, "{checked} links found: is the search for them broken?");
}

/// Paths in the second column of "Where do I change X?".
#[test]
fn the_map_names_files_that_are_there() {
    let text = read(&root().join("ARCHITECTURE.md"));
    let paths = text.split('`').filter(|word| {
        word.starts_with("crates/") && !word.contains(char::is_whitespace) && !word.contains('*')
    });
    let missing: Vec<&str> = paths.filter(|path| !root().join(path).exists()).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names what is not there: {missing:?}");
}

#[test]
fn the_table_of_conventions_is_what_the_presets_are() {
    let text = read(&root().join("docs/conventions.md"));
    let row = |title: &str| -> Vec<String> {
        let line = text.lines().find(|line| line.starts_with(&format!("| {title} |")));
        let cells = line.unwrap_or_else(|| panic!("no row `{title}`")).trim_matches('|').split('|');
        cells.skip(1).map(|cell| cell.trim().to_owned()).collect()
    };
    let names: Vec<String> = Preset::ALL.iter().map(|preset| format!("`{}`", preset.name())).collect();
    let head = text.lines().find(|line| line.starts_with("| |")).unwrap();
    assert!(names.iter().all(|name| head.contains(name)), "{head}");

    let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let json = |c: &Conventions| serde_json::to_value(c).unwrap();
    let number = |text: &str| text.parse::<f32>().unwrap();
    for (column, preset) in Preset::ALL.into_iter().enumerate() {
        let c = preset.conventions();
        let (json, cell) = (json(&c), |title: &str| row(title).swap_remove(column));
        assert_eq!(cell("padding"), word(json["padding"].clone()));
        assert_eq!(cell("activation").to_lowercase(), word(json["activation"].clone()));
        assert_eq!(number(&cell("BN epsilon")), c.bn_epsilon);
        assert_eq!(number(&cell("BN momentum")), c.bn_momentum);
        assert_eq!(cell("width rounding"), word(json["width_rounding"].clone()));
        assert_eq!(cell("background class") == "yes", c.background_class);
        assert_eq!(number(&cell("dropout")), c.dropout);
        let (p, found) = (&c.preprocessing, &json["preprocessing"]);
        assert_eq!(cell("mean, std") == "0.5, 0.5", p.mean == [0.5; 3] && p.std == [0.5; 3]);
        assert_eq!(cell("resize"), word(found["resize"].clone()));
        assert_eq!(f64::from(number(&cell("crop fraction"))), p.crop_fraction);
        assert_eq!(cell("interpolation"), word(found["interpolation"].clone()));
    }
}

/// The example of docs/model-format.md is the reference architecture, key by key.
#[test]
fn the_example_of_a_model_file_is_the_reference() {
    let text = read(&root().join("docs/model-format.md"));
    let example = text.split("```json").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let found: mobilenet::Architecture = serde_json::from_str(example).unwrap();
    assert_eq!(found, mobilenet::Architecture::default());
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let shown: serde_json::Value = serde_json::from_str(example).unwrap();
    let whole = serde_json::to_value(found).unwrap();
    assert_eq!(keys(&shown), keys(&whole));
}
