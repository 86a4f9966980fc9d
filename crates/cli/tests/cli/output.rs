//! Where output goes, and what happens when it cannot.

use std::io::Read;
use std::process::Stdio;

use crate::common::{Ran, mobilenet, run};

#[test]
fn no_colour_in_pipes_unless_forced_and_never_with_no_color() {
    assert!(!run(&["summary"]).stdout.contains('\x1b'));
    let forced: Ran = mobilenet().arg("summary").env("CLICOLOR_FORCE", "1").output().unwrap().into();
    assert!(forced.stdout.contains('\x1b'));
    let plain: Ran =
        mobilenet().arg("summary").env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1").output().unwrap().into();
    assert!(!plain.stdout.contains('\x1b'));
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_behind_the_output_is_a_failure() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ran: Ran = mobilenet().arg("summary").stdout(Stdio::from(full)).output().unwrap().into();
    ran.failed(1, &["error: cannot write the output: No space left on device"]);
}

#[test]
fn a_reader_who_leaves_is_no_failure() {
    let mut child = mobilenet()
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 1];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""));
}

#[test]
fn bench_has_the_keys_by_which_engines_are_compared() {
    let small = ["--width", "0.25", "--resolution", "32", "--seconds", "0.01"];
    for what in ["infer", "train"] {
        let found =
            run(&[&["bench", what, "--threads", "1", "--batch", "4", "--json"], &small[..]].concat()).json();
        let keys: Vec<_> = found.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = [
            "what",
            "engine",
            "precision",
            "pixels",
            "threads",
            "batch",
            "width",
            "resolution",
            "ms_median",
            "ms_min",
            "ms_p95",
            "ms_p99",
            "images_per_s",
            "runs_per_s",
            "runs",
            "peak_rss_mib",
        ];
        expected.sort_unstable();
        assert_eq!(keys, expected);
        assert_eq!((&found["what"], &found["engine"]), (&what.into(), &"mobilenet".into()));
        assert_eq!((&found["threads"], &found["batch"]), (&1.into(), &4.into()));
        assert_eq!((&found["width"], &found["resolution"]), (&0.25.into(), &32.into()));
        let (median, least) = (found["ms_median"].as_f64().unwrap(), found["ms_min"].as_f64().unwrap());
        assert!(0.0 < least && least <= median);
        let (p95, p99) = (found["ms_p95"].as_f64().unwrap(), found["ms_p99"].as_f64().unwrap());
        assert!(median <= p95 && p95 <= p99);
        assert!((found["images_per_s"].as_f64().unwrap() * median / 4000.0 - 1.0).abs() < 0.01);
        assert!(found["runs"].as_u64().unwrap() >= 5);
        assert_eq!(found["peak_rss_mib"].is_u64(), cfg!(target_os = "linux"));
    }
    let from_pixels = run(&[&["bench", "infer", "--pixels", "--json"], &small[..]].concat()).json();
    assert_eq!(from_pixels["pixels"], true);
    for what in [&["infer"][..], &["train"], &[]] {
        let flags = [&["bench"], what, &["--precision", "bf16", "--batch", "4", "--json"], &small[..]];
        assert_eq!(run(&flags.concat()).json()["precision"], "bf16", "{what:?}");
    }
    let found = run(&[&["bench", "--batch", "4", "--json"], &small[..]].concat()).json();
    assert!(found["peak_mult_adds_per_s"].as_f64().unwrap() > 1e8);
    let bodies: Vec<_> = found["bodies"].as_array().unwrap().iter().map(|b| b["body"].clone()).collect();
    assert_eq!(bodies, ["separable", "full", "shallow"]);
    for body in found["bodies"].as_array().unwrap() {
        for what in ["infer", "train"] {
            let measured = &body[what];
            assert!((0.0..1.5).contains(&measured["peak_share"].as_f64().unwrap()), "{body}");
            assert!(measured["ms_median"].as_f64() <= measured["ms_p95"].as_f64(), "{body}");
            assert!(measured["ms_p95"].as_f64() <= measured["ms_p99"].as_f64(), "{body}");
            assert_eq!(measured["peak_rss_mib"].is_u64(), cfg!(target_os = "linux"), "{body}");
        }
    }
    let text = run(&[&["bench", "--batch", "4"], &small[..]].concat());
    assert!(text.succeeded().stdout.contains("of the peak"), "{text:?}");
    assert!(text.stdout.contains("of the roof"), "{text:?}");
}

#[test]
fn bench_gives_each_layer_what_it_must_do_and_what_bounds_it() {
    let small = ["--width", "0.25", "--resolution", "32", "--seconds", "0.01"];
    let found = run(&[&["bench", "--batch", "4", "--threads", "2", "--json"], &small[..]].concat()).json();
    let number = |value: &serde_json::Value| value.as_f64().unwrap_or_else(|| panic!("{value} in {found}"));
    let roofs = found["roofs"].as_array().unwrap();
    let threads: Vec<_> = roofs.iter().map(|roof| number(&roof["threads"])).collect();
    assert_eq!(threads, [1.0, 2.0]);
    for roof in roofs {
        let levels: Vec<_> = roof["read_bandwidth"].as_array().unwrap().iter().map(|b| &b["level"]).collect();
        assert_eq!(levels, ["l2", "beyond-l2", "memory"]);
        assert!(roof["read_bandwidth"].as_array().unwrap().iter().all(|b| number(&b["bytes_per_s"]) > 1e7));
    }
    assert_eq!(roofs[1]["peak_mult_adds_per_s"], found["peak_mult_adds_per_s"]);

    let layers = found["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 28);
    // Everything that is computed and moved is counted in one layer or the next.
    let sum = |pass: &str, key: &str| -> f64 {
        layers
            .iter()
            .map(|layer| &layer[pass])
            .filter(|pass| !pass.is_null())
            .map(|pass| number(&pass[key]))
            .sum()
    };
    let mult_adds: f64 = layers.iter().map(|layer| number(&layer["mult_adds"])).sum();
    assert_eq!(sum("infer", "mult_adds"), 4.0 * mult_adds);
    assert_eq!(sum("forward", "mult_adds"), 4.0 * mult_adds);
    let train = &found["bodies"][0]["train"]["mult_adds"];
    assert_eq!(sum("forward", "mult_adds") + sum("backward", "mult_adds"), 4.0 * number(train));
    for layer in layers {
        for pass in ["forward", "backward"] {
            assert_eq!(layer[pass]["ms"], layer[format!("{pass}_ms")], "{layer}");
        }
        for pass in
            ["infer", "forward", "backward"].map(|pass| &layer[pass]).into_iter().filter(|p| !p.is_null())
        {
            let close = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-6, "{a} against {b}: {pass}");
            let seconds = 1e-3 * number(&pass["ms"]);
            close(number(&pass["gflops"]), 2e-9 * number(&pass["mult_adds"]) / seconds);
            let moved = ["weight_bytes", "read_bytes", "written_bytes"].map(|key| number(&pass[key]));
            close(number(&pass["bytes_per_s"]), moved.iter().sum::<f64>() / seconds);
            close(number(&pass["roof_share"]), number(&pass["roof_ms"]) / number(&pass["ms"]));
            let bound = pass["bound"].as_str().unwrap();
            assert!(["compute", "l2", "beyond-l2", "memory"].contains(&bound), "{pass}");
        }
    }
    // The classifier by hand: 256 features of four images, pooled before in training, to 1000 classes.
    let classifier = layers.last().unwrap();
    assert_eq!(classifier["name"], "classifier");
    assert_eq!(number(&classifier["infer"]["weight_bytes"]), 4.0 * (256_000.0 + 1000.0));
    assert_eq!(number(&classifier["infer"]["written_bytes"]), 4.0 * 4.0 * 1000.0);
    assert_eq!(number(&classifier["forward"]["read_bytes"]), 4.0 * 4.0 * 256.0);
    assert_eq!(number(&classifier["backward"]["weight_bytes"]), 2.0 * 4.0 * (256_000.0 + 1000.0));
}
