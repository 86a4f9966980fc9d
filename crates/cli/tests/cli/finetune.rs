//! Fine-tuning from the command line: the result is a model like any other.

use std::path::Path;

use mobilenet::Model;
use tempfile::TempDir;

use crate::common::{run_in, squares};

/// A trained run `base` of three colours in `data`, and three others in `photos`.
fn place() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    squares(&folder.path().join("data"), &["a", "b", "c"], 12);
    squares(&folder.path().join("photos"), &["rot", "grün", "blau"], 12);
    let base = [
        "train",
        "--data",
        "data",
        "--width",
        "0.25",
        "--epochs",
        "6",
        "--batch-size",
        "8",
        "--lr",
        "0.05",
        "--out",
        "base",
    ];
    run_in(folder.path(), &base).succeeded();
    folder
}

/// The names of the tensors that differ between the best models of two runs, but for the classifier.
fn changed(folder: &Path, run: &str) -> Vec<String> {
    let [base, tuned] = ["base", run].map(|name| Model::load(folder.join(name)).unwrap().weights);
    let tensors = tuned.iter().filter(|(name, tensor)| base.get(name) != Some(tensor));
    tensors.map(|(name, _)| name.to_owned()).filter(|name| !name.starts_with("classifier.")).collect()
}

#[test]
fn a_frozen_body_stays_and_the_model_is_one_like_any_other() {
    let folder = place();
    let run = |arguments: &[&str]| run_in(folder.path(), arguments);
    let tune = ["train", "--data", "photos", "--init", "base", "--freeze", "body", "--out"];
    let tuned = run(&[&tune[..], &["tuned", "--json"]].concat());
    let found = tuned.json();
    assert_eq!((&found["freeze"], &found["interrupted"]), (&"body".into(), &false.into()));
    assert!(found["init"].as_str().unwrap().ends_with("base"), "{found}");
    assert!(tuned.stderr.contains("only the classifier learns"), "{tuned:?}");
    assert!(found["best"]["top1"].as_f64().unwrap() > 0.8, "{}", found["best"]);
    assert_eq!(changed(folder.path(), "tuned"), [""; 0]);

    let evaluated = run(&["evaluate", "--model", "tuned", "--json"]).json();
    assert_eq!(evaluated["top1"], found["best"]["top1"]);
    let classified = run(&["classify", "--model", "tuned", "--json", "photos/grün/001.png"]).json();
    assert_eq!(classified[0]["predictions"][0]["label"], "grün");
    let recipe = std::fs::read_to_string(folder.path().join("tuned/recipe.toml")).unwrap();
    assert!(recipe.contains("freeze = \"body\"\n"), "{recipe}");

    // Its recipe repeats it, on another number of threads; and it can be gone on with.
    let models = |run: &str| std::fs::read(folder.path().join(run).join("last.safetensors")).unwrap();
    run(&["train", "--recipe", "tuned/recipe.toml", "--out", "again", "--threads", "1"]).succeeded();
    assert!(models("again") == models("tuned"));
    run(&["train", "--resume", "tuned"]).succeeded();
    assert!(models("again") == models("tuned"));
    run(&[
        "train", "--data", "photos", "--init", "tuned", "--freeze", "none", "--epochs", "1", "--out", "on",
    ])
    .succeeded();
    assert!(changed(folder.path(), "on").len() > 50);
}

#[test]
fn the_built_in_network_is_begun_with_by_name() {
    let folder = place();
    let tune = [
        "train",
        "--data",
        "photos",
        "--init",
        "imagenet",
        "--freeze",
        "body",
        "--resolution",
        "64",
        "--epochs",
        "20",
        "--out",
        "tuned",
        "--json",
    ];
    let found = run_in(folder.path(), &tune).json();
    assert_eq!(found["init"], "imagenet");
    assert!(found["best"]["top1"].as_f64().unwrap() > 0.8, "{}", found["best"]);
    let recipe = std::fs::read_to_string(folder.path().join("tuned/recipe.toml")).unwrap();
    assert!(recipe.contains("init = \"imagenet\"\n"), "{recipe}");
    let tuned = Model::load(folder.path().join("tuned")).unwrap();
    assert_eq!(tuned.architecture.outputs(), 3);
    let imagenet = mobilenet_imagenet::model().unwrap();
    assert_eq!(tuned.weights.get("pointwise_13.weight"), imagenet.weights.get("pointwise_13.weight"));
}

#[test]
fn frozen_blocks_stay_and_those_behind_learn() {
    let folder = place();
    let tune =
        ["train", "--data", "photos", "--init", "base", "--freeze", "6", "--epochs", "2", "--out", "tuned"];
    let ran = run_in(folder.path(), &tune);
    assert!(ran.succeeded().stdout.contains("the first 6 blocks stay as they are"), "{ran:?}");
    let changed = changed(folder.path(), "tuned");
    assert!(changed.iter().any(|name| name == "depthwise_7.bn.running_mean"), "{changed:?}");
    let number = |name: &str| name.split(['_', '.']).nth(1).unwrap().parse::<usize>().unwrap();
    assert!(changed.iter().all(|name| number(name) > 6), "{changed:?}");
}

#[test]
fn what_cannot_be_meant_is_said() {
    let folder = place();
    let cases: [(&[&str], &[&str]); 6] = [
        (&["--freeze", "14", "--init", "base"], &["freeze: found 14, expected 0 to 13"]),
        (
            &["--width", "0.5", "--init", "base"],
            &["width: found 0.5, expected 0.25, as the network that init"],
        ),
        (&["--channels", "1", "--init", "base"], &["channels: found 1, expected 3"]),
        (&["--classes", "9", "--init", "base"], &["classes: found 9, expected 3, as many as the data has"]),
        (
            &["--freeze", "body", "--jitter", "0.1", "--init", "base"],
            &["jitter: found 0.1, expected 0, since features are computed once"],
        ),
        (&["--freeze", "body"], &["freeze: found body, expected none, or a trained network"]),
    ];
    for (more, parts) in cases {
        let arguments = [&["train", "--data", "photos", "--out", "tuned"], more].concat();
        run_in(folder.path(), &arguments).failed(2, parts);
        assert!(!folder.path().join("tuned").exists());
    }
    run_in(folder.path(), &["train", "--data", "photos", "--init", "nowhere"]).failed(1, &["nowhere"]);
}
