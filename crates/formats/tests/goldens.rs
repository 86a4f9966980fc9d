//! Files that the real libraries wrote, read here and run: the logits must be those that the
//! library computed (`interop/make_*_goldens.py` wrote both).
//!
//! Beside `NAME.EXTENSION`, or the folder `NAME`, lies `NAME.golden.safetensors` with `input`
//! (normalised, `[N, H, W, C]`) and `logits`.

use std::path::{Path, PathBuf};

use mobilenet::cpu::{CpuExecutor, CpuOptions};
use mobilenet::{Executor, Tensor};
use mobilenet_formats::{Content, Overrides, safetensors_file, source};

/// Largest difference allowed, as a share of the largest logit.
const TOLERANCE: f32 = 1e-4;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The files of `folder` that have a golden file beside them, with it.
fn pairs(folder: &Path) -> Vec<(PathBuf, PathBuf)> {
    let entries: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut pairs = Vec::new();
    for golden in entries.iter().filter(|path| name(path).ends_with(".golden.safetensors")) {
        let stem = name(golden).trim_end_matches(".golden.safetensors").to_owned();
        let is_its = |path: &&PathBuf| {
            *path != golden
                && (name(path) == stem
                    || name(path).strip_prefix(&stem).is_some_and(|rest| rest.starts_with('.')))
        };
        let subjects: Vec<&PathBuf> = entries.iter().filter(is_its).collect();
        assert!(!subjects.is_empty(), "nothing lies beside {}", golden.display());
        pairs.extend(subjects.into_iter().map(|path| (path.clone(), golden.clone())));
    }
    pairs
}

fn tensor(golden: &Path, name: &str) -> Tensor {
    let content = safetensors_file::read(&std::fs::read(golden).unwrap()).unwrap();
    let Content::StateDict(state_dict) = content else { unreachable!("safetensors hold tensors") };
    state_dict.tensors[name].clone()
}

fn logits_agree(format: &str, at_least: usize, tolerance: f32) {
    let pairs = pairs(&folder(format));
    assert!(pairs.len() >= at_least, "only {} files in {format}", pairs.len());
    for (file, golden) in pairs {
        let (input, expected) = (tensor(&golden, "input"), tensor(&golden, "logits"));
        let overrides = Overrides { resolution: Some(input.shape()[1]), ..Overrides::default() };
        let model = source::load(&file, &overrides).unwrap().imported.model;
        let options = CpuOptions { threads: Some(1), ..CpuOptions::default() };
        let mut executor = CpuExecutor::new(&model.architecture, &model.weights, &options).unwrap();
        let found = executor.infer(&input).unwrap();
        assert_eq!(found.shape(), expected.shape(), "{}", file.display());
        let largest = expected.data().iter().fold(0.0f32, |most, value| most.max(value.abs()));
        let difference =
            found.data().iter().zip(expected.data()).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(largest > 0.1, "{}: logits that tell nothing", golden.display());
        assert!(
            difference <= tolerance * largest,
            "{}: logits differ by {difference}, the largest is {largest}",
            file.display()
        );
    }
}

#[test]
fn pytorch_timm_and_hugging_face() {
    logits_agree("torch", 8, TOLERANCE);
}

#[test]
fn onnx() {
    logits_agree("onnx", 8, TOLERANCE);
}

#[test]
fn tensorflow_graphs_and_checkpoints() {
    logits_agree("tensorflow", 8, TOLERANCE);
}

#[test]
fn tflite() {
    logits_agree("tflite", 2, TOLERANCE);
}
