//! What the tests of TensorFlow's formats share: golden files, and files made hostile.
#![allow(dead_code, reason = "not every test file uses all of it")]

use std::collections::BTreeMap;
use std::path::Path;

use mobilenet::cpu::{CpuExecutor, CpuOptions};
use mobilenet::rng::Rng;
use mobilenet::{Executor, Tensor};
use mobilenet_formats::{Chain, Content};

/// The bytes of a golden file.
pub fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What the library computed: the tensors of `NAME.golden.safetensors`.
pub fn tensors(name: &str) -> BTreeMap<String, Tensor> {
    let bytes = golden(&format!("{name}.golden.safetensors"));
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let value = |view: &safetensors::tensor::TensorView<'_>| {
        let data = view.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        Tensor::new(view.shape(), data).unwrap()
    };
    file.tensors().iter().map(|(name, view)| (name.clone(), value(view))).collect()
}

/// The chain that a reader found.
pub fn chain(content: Content) -> Chain {
    match content {
        Content::Chain(chain) => chain,
        Content::StateDict(_) => panic!("expected a chain"),
    }
}

/// Asserts that values are within `tolerance` of each other.
#[track_caller]
pub fn close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= tolerance, "{a} is not within {tolerance} of {b}");
    }
}

/// Calls `read` with `bytes` cut at every 64th part and with `changes` seeded changes: single bytes,
/// and numbers of up to eight bytes that lie about lengths.
pub fn hostile(bytes: &[u8], changes: usize, read: impl Fn(&[u8])) {
    for part in 0..64 {
        read(&bytes[..bytes.len() * part / 64]);
    }
    let mut rng = Rng::keyed(7, &[bytes.len() as u64]);
    for change in 0..changes {
        let mut changed = bytes.to_vec();
        for _ in 0..=change % 3 {
            // Half of the changes go to the ends, where headers are.
            let range = if change % 2 == 0 { changed.len() } else { changed.len().min(512) };
            let at = (rng.range(0.0, range as f64) as usize).min(changed.len() - 1);
            let at = if change % 4 == 3 { changed.len() - 1 - at } else { at };
            let width = 1 << (change % 4);
            let value = rng.range(0.0, 256.0) as u8;
            for byte in changed[at..].iter_mut().take(width) {
                *byte = if width > 1 && change % 5 == 0 { 0xFF } else { *byte ^ value };
            }
        }
        read(&changed);
    }
}

/// A model's logits.
pub fn infer(model: &mobilenet::Model, input: &Tensor) -> Tensor {
    let options = CpuOptions::default();
    let mut executor = CpuExecutor::new(&model.architecture, &model.weights, &options).unwrap();
    executor.infer(input).unwrap()
}
