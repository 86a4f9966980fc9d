//! A small run from beginning to end, and runs that are stopped, killed and taken up again.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{Ran, mobilenet, run, run_in, squares, text};

/// A data set of three colours, and a place for runs.
struct Place {
    folder: TempDir,
}

/// Flags of a run of a few seconds: 45 images to train on, 6 steps an epoch.
const SMALL: &[&str] = &[
    "train",
    "--data",
    "data",
    "--width",
    "0.25",
    "--epochs",
    "4",
    "--batch-size",
    "8",
    "--lr",
    "0.05",
    "--hold-out",
    "0.25",
    "--save-seconds",
    "0",
    "--seed",
    "5",
];

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        squares(&folder.path().join("data"), &["blau", "grün", "赤 い"], 20);
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, flags: &[&str]) -> Ran {
        run_in(self.folder.path(), flags)
    }

    /// The small run, to a folder of its own, with more flags.
    fn train(&self, out: &str, more: &[&str]) -> Ran {
        self.run(&[SMALL, &["--out", out], more].concat())
    }

    fn start(&self, flags: &[&str]) -> Child {
        mobilenet()
            .args(flags)
            .current_dir(self.folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// The bytes of both models of a run.
    fn models(&self, out: &str) -> [Vec<u8>; 2] {
        ["last.safetensors", "best.safetensors"].map(|name| std::fs::read(self.path(out).join(name)).unwrap())
    }
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

fn wait_for(path: &Path) {
    let start = Instant::now();
    while !path.exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "{} does not appear", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn train_then_evaluate_classify_and_summarise() {
    let place = Place::new();
    let trained = place.train("run", &["--epochs", "12"]);
    trained.succeeded();
    for part in ["resolution 32", "12/12", "mobilenet classify --model run", "mobilenet evaluate --model run"]
    {
        assert!(trained.stdout.contains(part), "{part}: {trained:?}");
    }
    for file in ["best.safetensors", "last.safetensors", "metrics.jsonl", "recipe.toml", "report.html"] {
        assert!(place.path("run").join(file).is_file(), "{file}");
    }

    // What the run held out, and the whole data set.
    let evaluated = place.run(&["evaluate", "--model", "run", "--json"]).json();
    assert_eq!(evaluated["count"], 15);
    assert!(evaluated["top1"].as_f64().unwrap() > 0.8, "{evaluated}");
    assert_eq!(evaluated["top5"], 1.0);
    assert!(evaluated["loss"].as_f64().unwrap() < 1.0);
    assert_eq!(evaluated["classes"][1]["class"], "grün");
    let confusion: u64 = evaluated["confusion"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|row| row.as_array().unwrap())
        .map(|n| n.as_u64().unwrap())
        .sum();
    assert_eq!(confusion, 15);
    let whole =
        place.run(&["evaluate", "--model", "run/best.safetensors", "--data", "data", "--json"]).json();
    assert_eq!(whole["count"], 60);
    let shown = place.run(&["evaluate", "--model", "run"]);
    for part in ["top-1", "top-5", "loss", "precision", "recall", "赤 い"] {
        assert!(shown.succeeded().stdout.contains(part), "{part}");
    }

    // A mix of good and bad: messages, the rest, and status 1.
    let mix = place.path("mix");
    std::fs::create_dir(&mix).unwrap();
    std::fs::copy(place.path("data/blau/000.png"), mix.join("a.png")).unwrap();
    std::fs::write(mix.join("b.jpg"), "this is not an image").unwrap();
    std::fs::copy(place.path("data/赤 い/001.png"), mix.join("c.png")).unwrap();
    std::fs::write(mix.join("d.png"), "").unwrap();
    std::fs::write(mix.join("notes.txt"), "not looked at in a folder").unwrap();
    let ran = place.run(&[
        "classify",
        "--model",
        "run",
        "--json",
        "--batch",
        "3",
        "mix",
        "mix/notes.txt",
        "gone.png",
    ]);
    ran.failed(1, &["mix/b.jpg", "mix/d.png", "mix/notes.txt", "gone.png", "4 of 6"]);
    let list: Value = serde_json::from_str(&ran.stdout).unwrap();
    let paths: Vec<_> =
        list.as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["mix/a.png", "mix/b.jpg", "mix/c.png", "mix/d.png", "mix/notes.txt", "gone.png"]);
    assert_eq!(list[0]["predictions"][0]["label"], "blau");
    assert_eq!(list[2]["predictions"][0]["label"], "赤 い");
    assert_eq!(list[2]["predictions"][0]["class"], 2);
    assert_eq!(list[1]["predictions"].as_array().unwrap().len(), 0);
    assert!(list[1]["error"].as_str().unwrap().contains("b.jpg"));
    let sum: f64 =
        list[0]["predictions"].as_array().unwrap().iter().map(|p| p["probability"].as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-6);
    let ran = place.run(&["classify", "--model", "run", "-k", "1", "mix/c.png", "mix/b.jpg", "mix/a.png"]);
    ran.failed(1, &["mix/b.jpg"]);
    assert!(ran.stdout.contains("赤 い") && ran.stdout.contains("blau") && !ran.stdout.contains("grün"));

    // Single images do not depend on the batch they are in.
    let alone = place.run(&["classify", "--model", "run", "--json", "mix/c.png"]).json();
    assert_eq!(alone[0], list[2]);

    let summary = place.run(&["summary", "--model", "run", "--json"]).json();
    assert_eq!(summary["architecture"]["width_multiplier"], 0.25);
    assert_eq!(summary["architecture"]["classes"], 3);

    // The recipe that it wrote repeats the run.
    place.run(&["train", "--recipe", "run/recipe.toml", "--out", "again"]).succeeded();
    assert_eq!(place.models("run"), place.models("again"));

    // The folder of a run is never overwritten.
    let before = place.models("run");
    place.train("run", &[]).failed(1, &["run", "already holds a run", "resume it"]);
    assert_eq!(place.models("run"), before);
}

#[test]
fn json_of_a_run_is_one_value() {
    let place = Place::new();
    let ran = place.train("run", &["--json", "--epochs", "2"]);
    let found = ran.json();
    assert_eq!(found["run"], "run");
    assert_eq!(found["model"], "run/best.safetensors");
    assert_eq!(found["interrupted"], false);
    assert_eq!((&found["images"], &found["held_out"]), (&45.into(), &15.into()));
    assert_eq!(found["classes"][2], "赤 い");
    assert_eq!(found["epochs"].as_array().unwrap().len(), 2);
    for key in [
        "train_loss",
        "train_accuracy",
        "loss",
        "top1",
        "top5",
        "images_per_second",
        "data_wait",
        "seconds",
        "lr",
    ] {
        assert!(found["epochs"][1][key].is_number(), "{key}");
    }
    assert!(found["choices"].as_array().unwrap().iter().any(|c| c.as_str().unwrap().contains("resolution")));
    assert!(!ran.stderr.contains('\r') && !ran.stderr.contains('\x1b'), "{ran:?}");
}

#[test]
fn threads_workers_and_recomputing_do_not_change_a_bit() {
    let place = Place::new();
    let more = ["--dropout", "0.1", "--jitter", "0.2", "--flip"];
    place.train("one", &[&more[..], &["--threads", "1", "--workers", "1"]].concat()).succeeded();
    place
        .train("two", &[&more[..], &["--threads", "2", "--workers", "3", "--recompute"]].concat())
        .succeeded();
    assert_eq!(place.models("one"), place.models("two"));
}

#[test]
fn ctrl_c_stops_saves_and_resumes_to_the_same_bits() {
    let place = Place::new();
    // Long enough not to end before the signal comes.
    let long = ["--epochs", "12"];
    place.train("whole", &long).succeeded();
    for name in ["INT", "TERM"] {
        let child = place.start(&[SMALL, &long, &["--out", name]].concat());
        wait_for(&place.path(name).join("state.safetensors"));
        signal(&child, name);
        let ran: Ran = child.wait_with_output().unwrap().into();
        ran.failed(130, &[]);
        assert!(ran.stdout.contains(&format!("mobilenet train --resume {name}")), "{ran:?}");
        place.run(&["classify", "--model", name, "data/blau/000.png"]).succeeded();
        place.run(&["train", "--resume", name]).succeeded();
        assert_eq!(place.models("whole"), place.models(name), "{name}");
    }
    // A finished run has nothing to go on with, and stays as it is.
    place.run(&["train", "--resume", "INT"]).succeeded();
    assert_eq!(place.models("whole"), place.models("INT"));
}

#[test]
fn bf16_is_kept_to_and_changes_no_rule() {
    let place = Place::new();
    let bf16 = ["--precision", "bf16", "--epochs", "12"];
    let ran = place.train("whole", &[&bf16[..], &["--json", "--threads", "1"]].concat());
    let found = ran.json();
    assert_eq!(found["precision"], "bf16");
    assert!(ran.stderr.contains(", bf16"), "{ran:?}");
    let loss = |epoch: usize| found["epochs"][epoch]["train_loss"].as_f64().unwrap();
    assert!(loss(11) < 0.7 * loss(0), "{found}");
    let recipe = |run: &str| std::fs::read_to_string(place.path(run).join("recipe.toml")).unwrap();
    assert!(recipe("whole").contains("precision = \"bf16\""));

    place.train("threads", &[&bf16[..], &["--threads", "3", "--recompute"]].concat()).succeeded();
    assert_eq!(place.models("whole"), place.models("threads"));
    let child = place.start(&[SMALL, &bf16, &["--out", "stopped"]].concat());
    wait_for(&place.path("stopped").join("state.safetensors"));
    signal(&child, "INT");
    child.wait_with_output().unwrap();
    let resume = ["train", "--resume", "stopped"];
    place
        .run(&[&resume[..], &["--precision", "f32"]].concat())
        .failed(2, &["--precision cannot be given with --resume"]);
    place.run(&resume).succeeded();
    assert_eq!(place.models("whole"), place.models("stopped"));

    place.train("f32", &["--epochs", "12"]).succeeded();
    assert!(recipe("f32").contains("precision = \"f32\""));
    assert_ne!(place.models("whole"), place.models("f32"));
    // What bf16 trained is a model as any other; a run can begin with it, and with a body that stays.
    place.run(&["evaluate", "--model", "whole"]).succeeded();
    for freeze in ["2", "body"] {
        let out = format!("freeze-{freeze}");
        let init = ["--init", "whole", "--freeze", freeze, "--precision", "bf16", "--epochs", "1"];
        place.run(&[&["train", "--data", "data", "--out", &out], &init[..]].concat()).succeeded();
    }
}

#[test]
fn kill_at_any_moment_then_resume_gives_the_same_bits() {
    let place = Place::new();
    let start = Instant::now();
    place.train("whole", &["--ema", "0.9"]).succeeded();
    let whole = start.elapsed();
    // From the start-up to the last save; and again after each resume.
    for (n, share) in [0.15, 0.3, 0.45, 0.6, 0.75, 0.9].into_iter().enumerate() {
        let out = format!("killed-{n}");
        let mut child = place.start(&[SMALL, &["--ema", "0.9", "--out", &out]].concat());
        std::thread::sleep(whole.mul_f64(share));
        child.kill().unwrap();
        child.wait_with_output().unwrap();
        if !place.path(&out).join("state.safetensors").exists() {
            // Killed before its first save: there is nothing to resume, and it may begin anew.
            place.train(&out, &["--ema", "0.9"]).succeeded();
            assert_eq!(place.models("whole"), place.models(&out));
            continue;
        }
        let mut child = place.start(&["train", "--resume", &out]);
        std::thread::sleep(whole.mul_f64(0.25));
        child.kill().unwrap();
        child.wait_with_output().unwrap();
        // Whatever moment it was, there is a model to use.
        place.run(&["classify", "--model", &out, "data/blau/000.png"]).succeeded();
        place.run(&["train", "--resume", &out]).succeeded();
        assert_eq!(place.models("whole"), place.models(&out), "killed after {share} of the run");
    }
}

#[test]
fn a_second_ctrl_c_quits_at_once() {
    let place = Place::new();
    let child = place.start(&[SMALL, &["--epochs", "10000", "--out", "run"]].concat());
    wait_for(&place.path("run").join("state.safetensors"));
    let start = Instant::now();
    signal(&child, "INT");
    // It may already be gone.
    let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).stderr(Stdio::null()).status();
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.status, Some(130));
    assert!(start.elapsed() < Duration::from_secs(20));
    place.run(&["classify", "--model", "run", "data/blau/000.png"]).succeeded();
}

#[test]
fn default_run_folders_never_collide() {
    let place = Place::new();
    let flags = &[SMALL, &["--epochs", "1", "--json"]].concat();
    let (first, second) = (place.run(flags).json(), place.run(flags).json());
    assert_ne!(first["run"], second["run"]);
    assert!(first["run"].as_str().unwrap().starts_with("runs/"), "{first}");
    assert!(place.path(second["run"].as_str().unwrap()).join("best.safetensors").is_file());
}

#[test]
fn the_embedded_sample_needs_no_data() {
    let folder = tempfile::tempdir().unwrap();
    // A batch as large as the sample makes an epoch of a step or two.
    let out = folder.path().join("run");
    let found = run(&[
        "train",
        "--epochs",
        "1",
        "--batch-size",
        "2000",
        "--resolution",
        "8",
        "--width",
        "0.25",
        "--out",
        text(&out),
        "--json",
    ])
    .json();
    assert_eq!(found["classes"].as_array().unwrap().len(), 10);
    assert!(found["images"].as_u64().unwrap() > 1000, "{found}");
}
