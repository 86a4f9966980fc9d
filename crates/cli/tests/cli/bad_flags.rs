//! Flags that cannot be meant end with status 2, nothing on standard output, and a message that
//! says what was found, what was expected and, for a slip, the nearest name.

use crate::common::run;

/// Arguments, and what standard error must say.
const CASES: &[(&[&str], &[&str])] = &[
    // Out of range, for every command that takes a network.
    (&["summary", "--width", "0"], &["width multiplier: found 0, expected a number above 0 and at most 2"]),
    (&["summary", "--width", "-1"], &["width multiplier: found -1, expected"]),
    (&["summary", "--width", "nan"], &["width multiplier: found NaN, expected"]),
    (&["summary", "--width", "2.5"], &["width multiplier: found 2.5, expected"]),
    (&["summary", "--resolution", "0"], &["resolution: found 0, expected 8 to 4096 pixels"]),
    (&["summary", "--stem-stride", "3"], &["stem stride: found 3, expected 1 or 2"]),
    (&["summary", "--output-stride", "7"], &["output stride: found 7, expected 8, 16 or 32"]),
    (&["summary", "--classes", "0"], &["classes: found 0, expected 1 to 1000000"]),
    (&["summary", "--channels", "2"], &["input channels: found 2, expected 1 (grey) or 3 (RGB)"]),
    (&["summary", "--batch", "0"], &["batch", "found 0"]),
    (&["bench", "infer", "--width", "0"], &["width multiplier: found 0, expected"]),
    (&["bench", "infer", "--batch", "0"], &["--batch: found 0, expected 1 to"]),
    (&["bench", "infer", "--threads", "0"], &["--threads: found 0, expected 1 to"]),
    (&["bench", "infer", "--seconds", "0"], &["--seconds: found 0, expected above 0"]),
    (&["bench", "infer", "--seconds", "-1"], &["--seconds: found -1, expected above 0"]),
    (&["bench", "train", "--pixels"], &["--pixels: only with `infer`"]),
    (&["bench", "train", "--precision", "f31"], &["found precision f31, expected f32 or bf16"]),
    (&["train", "--precision", "f16"], &["found precision f16, expected f32 or bf16"]),
    (&["train", "--width", "0"], &["width multiplier: found 0, expected"]),
    (&["train", "--width", "-1"], &["width multiplier: found -1, expected"]),
    (&["train", "--resolution", "0"], &["resolution: found 0, expected"]),
    (&["train", "--batch-size", "0"], &["batch_size: found 0, expected 1 to"]),
    (&["train", "--epochs", "0"], &["epochs: found 0, expected 1 to"]),
    (&["train", "--lr", "0"], &["lr: found 0, expected a number above 0"]),
    (&["train", "--lr", "-0.1"], &["lr: found -0.1, expected a number above 0"]),
    (&["train", "--momentum", "1.5"], &["momentum: found 1.5, expected 0 to below 1"]),
    (&["train", "--label-smoothing", "1"], &["label_smoothing: found 1, expected 0 to below 1"]),
    (&["train", "--hold-out", "1"], &["hold_out: found 1, expected a share above 0 and below 1"]),
    (&["train", "--threads", "0"], &["threads: found 0, expected 1 to 1024"]),
    (&["train", "--workers", "0"], &["workers: found 0, expected 1 to 1024"]),
    (&["train", "--dropout", "-0.5"], &["dropout: found -0.5, expected 0 to below 1"]),
    (&["train", "--optimizer", "adamw", "--nesterov"], &["nesterov: found true, expected false"]),
    (&["classify", "--model", "m", "-k", "0", "x.jpg"], &["--top-k: found 0, expected 1 to"]),
    (&["classify", "--model", "m", "--batch", "0", "x.jpg"], &["--batch: found 0, expected 1 to"]),
    (&["evaluate", "--model", "m", "--batch-size", "0"], &["--batch-size: found 0, expected 1 to"]),
    (&["evaluate", "--model", "m", "--threads", "0"], &["--threads: found 0, expected 1 to"]),
    (&["bench", "infer", "--threads", "100000"], &["--threads: found 100000, expected 1 to 1024"]),
    (&["classify", "--model", "m", "--threads", "5000", "x"], &["--threads: found 5000, expected 1 to 1024"]),
    // Unknown names, with the nearest.
    (&["summary", "--body", "separabel"], &["unknown body `separabel`", "did you mean `separable`?"]),
    (&["summary", "--conventions", "tfslim"], &["unknown convention `tfslim`", "did you mean `tf-slim`?"]),
    (
        &["train", "--optimizer", "rmsprp"],
        &["unknown optimizer `rmsprp`; known: sgd, rmsprop, adamw; did you mean `rmsprop`?"],
    ),
    (&["train", "--schedule", "onecycle"], &["unknown schedule `onecycle`", "did you mean `one-cycle`?"]),
    (&["train", "--learning-rate", "1"], &["--learning-rate"]),
    (&["train", "--epoch", "1"], &["--epoch", "'--epochs'"]),
    (&["trian"], &["trian", "'train'"]),
    (&["bench", "inferr"], &["inferr", "'infer'"]),
    (&["completions", "basch"], &["basch", "'bash'"]),
    // Not numbers.
    (&["summary", "--resolution", "big"], &["big", "--resolution"]),
    (&["train", "--epochs", "2.5"], &["2.5", "--epochs"]),
    (&["train", "--batch-size", "-4"], &["-4"]),
    // Fine-tuning.
    (&["train", "--freeze", "bod"], &["'bod'", "--freeze", "expected body, none, or a number of blocks"]),
    (&["train", "--freeze", "-1"], &["'-1'", "--freeze"]),
    (&["train", "--freeze", "6"], &["freeze: found 6, expected none, or a trained network"]),
    (&["train", "--body-lr-factor", "0"], &["body_lr_factor: found 0, expected above 0 and at most 1"]),
    (&["train", "--resume", "r", "--freeze", "body"], &["--freeze cannot be given with --resume"]),
    // Combinations.
    (&["summary", "--model", "m", "--width", "0.5"], &["--width cannot be given with --model"]),
    (&["train", "--resume", "r", "--lr", "0.1"], &["--lr cannot be given with --resume"]),
    (&["train", "--resume", "r", "--out", "o"], &["--resume", "--out"]),
    (&["classify", "--model", "m"], &["IMAGE"]),
    (&["embed", "x.jpg"], &["--output"]),
    (&["evaluate"], &["--model"]),
    (&[], &["Usage: mobilenet"]),
];

#[test]
fn each_is_a_usage_error_with_its_message() {
    for (arguments, parts) in CASES {
        let ran = run(arguments);
        assert_eq!(ran.status, Some(2), "{arguments:?}: {ran:?}");
        ran.failed(2, parts);
        assert_eq!(ran.stdout, "", "{arguments:?}");
    }
}

#[test]
fn a_recipe_with_a_slip_names_the_line_and_the_nearest_key() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("my.toml");
    for (text, part) in [
        (
            "epochs = 2\nlabel_smothing = 0.1\n",
            "my.toml: line 2: unknown key `label_smothing`; did you mean `label_smoothing`?",
        ),
        ("schedule = \"cosin\"\n", "did you mean `cosine`?"),
        ("batch_size = 0\n", "batch_size: found 0, expected 1 to"),
        ("epochs = \n", "my.toml: line 1"),
    ] {
        std::fs::write(&recipe, text).unwrap();
        run(&["train", "--recipe", crate::common::text(&recipe)]).failed(2, &[part]);
    }
    run(&["train", "--recipe", "no/such.toml"]).failed(1, &["no/such.toml: cannot read"]);
}

#[test]
fn help_has_examples_and_status_0() {
    for command in ["train", "evaluate", "classify", "explain", "embed", "summary", "bench", "completions"] {
        let ran = run(&[command, "--help"]);
        ran.succeeded();
        assert!(ran.stdout.contains(&format!("Examples:\n  mobilenet {command}")), "{command}");
        assert!(ran.stdout.contains("--json"), "{command}");
        assert!(!ran.stdout.contains('\x1b'), "{command}");
    }
    run(&["--help"]).succeeded();
    assert!(run(&["--version"]).succeeded().stdout.starts_with("mobilenet "));
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]);
        assert!(script.succeeded().stdout.contains("classify"), "{shell}");
        let json = run(&["completions", shell, "--json"]).json();
        assert_eq!(json["script"], script.stdout);
        assert_eq!(json["shell"], shell);
    }
}
