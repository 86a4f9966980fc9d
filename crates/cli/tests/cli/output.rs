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
            "threads",
            "batch",
            "width",
            "resolution",
            "ms_median",
            "ms_min",
            "images_per_s",
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
        assert!((found["images_per_s"].as_f64().unwrap() * median / 4000.0 - 1.0).abs() < 0.01);
        assert!(found["runs"].as_u64().unwrap() >= 5);
        assert_eq!(found["peak_rss_mib"].is_u64(), cfg!(target_os = "linux"));
    }
    let found = run(&[&["bench", "--batch", "4", "--json"], &small[..]].concat()).json();
    assert!(found["peak_mult_adds_per_s"].as_f64().unwrap() > 1e8);
    let bodies: Vec<_> = found["bodies"].as_array().unwrap().iter().map(|b| b["body"].clone()).collect();
    assert_eq!(bodies, ["separable", "full", "shallow"]);
    for body in found["bodies"].as_array().unwrap() {
        for what in ["infer", "train"] {
            assert!((0.0..1.5).contains(&body[what]["peak_share"].as_f64().unwrap()), "{body}");
        }
    }
    let layers = found["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 28);
    for layer in layers {
        let depthwise = layer["name"].as_str().unwrap().starts_with("depthwise");
        assert_eq!(layer["infer_ms"].is_null(), depthwise, "{layer}");
        assert!(layer["forward_ms"].is_number() && layer["backward_ms"].is_number(), "{layer}");
    }
    let text = run(&[&["bench", "--batch", "4"], &small[..]].concat());
    assert!(text.succeeded().stdout.contains("of the peak"), "{text:?}");
}
