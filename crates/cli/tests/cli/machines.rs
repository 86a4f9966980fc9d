//! Instruction sets and cores that a machine has or lacks.

use std::path::Path;
use std::process::Command;

use mobilenet_kernels::Isa;
use serde_json::Value;

use crate::common::{Ran, mobilenet, text};

fn photo() -> String {
    text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/photos/coffee.png")).to_owned()
}

/// `classify` of a photo by the model inside, with an instruction set asked for.
fn classify(isa: &str) -> Ran {
    let arguments = ["classify", "--json", "-k", "3", &photo()];
    mobilenet().args(arguments).env("MOBILENET_ISA", isa).output().unwrap().into()
}

#[test]
fn every_instruction_set_that_is_asked_for_gives_the_same_answer() {
    let top = |isa: Isa| -> Vec<(Value, f64)> {
        let found = classify(isa.name()).json();
        let top = found[0]["predictions"].as_array().unwrap_or_else(|| panic!("{found}"));
        top.iter().map(|class| (class["label"].clone(), class["probability"].as_f64().unwrap())).collect()
    };
    let expected = top(Isa::PORTABLE);
    assert_eq!(expected[0].0, "espresso", "{expected:?}");
    for isa in Isa::available() {
        for ((label, probability), (expected_label, expected)) in top(isa).iter().zip(&expected) {
            assert_eq!(label, expected_label, "{}", isa.name());
            assert!((probability - expected).abs() < 1e-4, "{}: {probability} and {expected}", isa.name());
        }
    }
}

#[test]
fn bf16_gives_the_answer_of_f32_on_every_instruction_set() {
    let run = |isa: &str, precision: &str| -> Vec<(Value, f64)> {
        let arguments = ["classify", "--json", "-k", "3", "--precision", precision, &photo()];
        let ran: Ran = mobilenet().args(arguments).env("MOBILENET_ISA", isa).output().unwrap().into();
        let found = ran.json();
        let top = found[0]["predictions"].as_array().unwrap_or_else(|| panic!("{found}"));
        top.iter().map(|class| (class["label"].clone(), class["probability"].as_f64().unwrap())).collect()
    };
    let expected = run("", "f32");
    for isa in Isa::available() {
        let found = run(isa.name(), "bf16");
        assert_eq!(found[0].0, expected[0].0, "{}", isa.name());
        // Seen: off by up to 0.01.
        assert!((found[0].1 - expected[0].1).abs() < 0.05, "{}: {found:?}, {expected:?}", isa.name());
    }
}

#[test]
fn an_absent_instruction_set_is_an_error() {
    let absent = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
    for name in [absent, "mmx"] {
        let message = format!("instruction set `{name}`: this machine has portable");
        classify(name).failed(1, &["MOBILENET_ISA", &message]);
    }
    classify("").succeeded();
}

/// A process that may use one core only takes one thread, and more if it is told so.
#[cfg(target_os = "linux")]
#[test]
fn one_core_is_enough() {
    let bench = ["bench", "infer", "--width", "0.25", "--resolution", "32", "--seconds", "0.05", "--json"];
    for (more, threads) in [(&[][..], 1), (&["--threads", "8"][..], 8)] {
        let ran = Command::new("taskset")
            .args(["--cpu-list", "0", env!("CARGO_BIN_EXE_mobilenet")])
            .args(bench)
            .args(more)
            .output();
        match ran {
            Ok(output) => assert_eq!(Ran::from(output).json()["threads"], threads),
            Err(error) => eprintln!("no taskset here: {error}"),
        }
    }
}
