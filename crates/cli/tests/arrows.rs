//! Which crate may import which (ARCHITECTURE.md, "Arrows"), held against `cargo metadata`.

use std::collections::BTreeSet;
use std::process::Command;

/// Crates and what of ours each may import in what it ships.
const ARROWS: [(&str, &[&str]); 7] = [
    ("mobilenet-kernels", &[]),
    ("mobilenet-reference", &[]),
    ("mobilenet", &["mobilenet-kernels"]),
    ("mobilenet-formats", &["mobilenet"]),
    ("mobilenet-imagenet", &["mobilenet"]),
    ("mobilenet-train", &["mobilenet", "mobilenet-kernels"]),
    (
        "mobilenet-cli",
        &["mobilenet", "mobilenet-formats", "mobilenet-imagenet", "mobilenet-kernels", "mobilenet-train"],
    ),
];

/// What tests of any crate may import on top: the oracle, and nothing that ships depends on it.
const FOR_TESTS: &str = "mobilenet-reference";

fn metadata() -> serde_json::Value {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline", "--manifest-path", manifest])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn imports_follow_the_arrows() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let name = |value: &serde_json::Value| value["name"].as_str().unwrap().to_owned();
    let ours: BTreeSet<String> = packages.iter().map(name).collect();
    let known: BTreeSet<String> = ARROWS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(ours, known, "a crate came or went: give it its arrows here and in ARCHITECTURE.md");

    for package in packages {
        let from = name(package);
        let (_, allowed) = ARROWS.iter().find(|(name, _)| *name == from).unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = name(dependency);
            if !ours.contains(&to) {
                continue;
            }
            let for_tests = dependency["kind"] == "dev" && to == FOR_TESTS;
            assert!(
                for_tests || allowed.contains(&to.as_str()),
                "{from} must not import {to} ({}): see ARCHITECTURE.md, \"Arrows\"",
                dependency["kind"].as_str().unwrap_or("normal")
            );
        }
    }
}

#[test]
fn every_crate_has_the_workspace_lints_and_licence() {
    for package in metadata()["packages"].as_array().unwrap() {
        assert_eq!(package["license"], "MIT OR Apache-2.0", "{}", package["name"]);
        let manifest = std::fs::read_to_string(package["manifest_path"].as_str().unwrap()).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{}", package["name"]);
    }
}

#[test]
fn only_the_kernels_have_unsafe_code() {
    for package in metadata()["packages"].as_array().unwrap() {
        let manifest = std::path::Path::new(package["manifest_path"].as_str().unwrap());
        let sources = manifest.with_file_name("src");
        let roots = ["lib.rs", "main.rs"].map(|name| sources.join(name));
        let root = roots.into_iter().find(|root| root.is_file()).unwrap();
        let forbids = std::fs::read_to_string(root).unwrap().contains("#![forbid(unsafe_code)]");
        assert_eq!(forbids, package["name"] != "mobilenet-kernels", "{}", package["name"]);
    }
}
