//! What goes wrong while a run is under way: the error is clear, and what was saved stays.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Ran, mobilenet, run_in, squares};

const TRAIN: &[&str] = &[
    "train",
    "--data",
    "data",
    "--width",
    "0.25",
    "--resolution",
    "32",
    "--batch-size",
    "8",
    "--lr",
    "0.05",
    "--save-seconds",
    "0",
    "--out",
    "run",
];

fn data(folder: &Path) {
    squares(&folder.join("data"), &["a", "b"], 16);
}

fn models(run: &Path) -> [Vec<u8>; 2] {
    ["last.safetensors", "best.safetensors"].map(|name| std::fs::read(run.join(name)).unwrap())
}

/// Stops a run after its first save.
fn stopped(folder: &Path, more: &[&str]) {
    let child = mobilenet()
        .args([TRAIN, more].concat())
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (state, start) = (folder.join("run/state.safetensors"), Instant::now());
    while !state.exists() {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
}

#[test]
#[cfg(unix)]
fn a_full_disk_keeps_what_was_saved() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    data(folder);
    stopped(folder, &["--epochs", "40"]);
    let saved = models(&folder.join("run"));
    // A limit on the size of files stands for the disk: no model fits under it.
    let ran: Ran = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 40; exec \"$0\" train --resume run"])
        .arg(env!("CARGO_BIN_EXE_mobilenet"))
        .current_dir(folder)
        .output()
        .unwrap()
        .into();
    ran.failed(1, &["run", "File too large"]);
    assert_eq!(ran.stderr.matches("error:").count(), 1, "{ran:?}");
    assert_eq!(models(&folder.join("run")), saved);
    let left: Vec<_> =
        std::fs::read_dir(folder.join("run")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".writing-")), "{left:?}");
    run_in(folder, &["classify", "--model", "run", "data/a/000.png"]).succeeded();
}

#[test]
fn a_vanished_file_is_named_and_the_run_goes_on_once_it_is_back() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    data(folder);
    let flags = ["--epochs", "24", "--cache-mib", "0"];
    stopped(folder, &flags);
    let saved = models(&folder.join("run"));
    // All of one class, so that whichever image comes next, one soon is missing; and in the
    // middle of an epoch, so that opening the data set does not notice.
    let child = mobilenet()
        .args(["train", "--resume", "run"])
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while models(&folder.join("run"))[0] == saved[0] {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    std::fs::rename(folder.join("data/b"), folder.join("away")).unwrap();
    let ran: Ran = child.wait_with_output().unwrap().into();
    ran.failed(1, &["data/b/", ".png"]);
    run_in(folder, &["classify", "--model", "run", "data/a/000.png"]).succeeded();
    run_in(folder, &["train", "--resume", "run"]).failed(1, &["data"]);
    std::fs::rename(folder.join("away"), folder.join("data/b")).unwrap();
    run_in(folder, &["train", "--resume", "run"]).succeeded();
    run_in(folder, &[TRAIN, &flags, &["--out", "whole"]].concat()).succeeded();
    assert_eq!(models(&folder.join("run")), models(&folder.join("whole")));
}

#[test]
fn a_corrupt_checkpoint_is_refused_and_named() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    data(folder);
    stopped(folder, &["--epochs", "40"]);
    let damages = |good: &[u8]| {
        let mut changed = good.to_vec();
        changed[good.len() / 2] ^= 1;
        [good[..good.len() / 2].to_vec(), Vec::new(), b"no checkpoint".to_vec(), changed]
    };
    let state = folder.join("run/state.safetensors");
    let good = std::fs::read(&state).unwrap();
    for bad in damages(&good) {
        std::fs::write(&state, bad).unwrap();
        run_in(folder, &["train", "--resume", "run"])
            .failed(1, &["run/state.safetensors", "cannot be resumed"]);
        run_in(folder, &["classify", "--model", "run", "data/a/000.png"]).succeeded();
    }
    std::fs::write(&state, good).unwrap();
    let recipe = folder.join("run/recipe.toml");
    let good = std::fs::read(&recipe).unwrap();
    std::fs::write(&recipe, "epochs = 'many'").unwrap();
    run_in(folder, &["train", "--resume", "run"]).failed(1, &["run/recipe.toml", "line 1"]);
    std::fs::write(&recipe, good).unwrap();
    run_in(folder, &["train", "--resume", "run"]).succeeded();
}

#[test]
fn a_loss_that_is_no_number_ends_the_run() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    data(folder);
    let ran = run_in(folder, &[TRAIN, &["--epochs", "3", "--lr", "1e30", "--schedule", "constant"]].concat());
    ran.failed(1, &["step", "learning rate"]);
}
