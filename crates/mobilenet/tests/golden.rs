//! The CPU executor against PyTorch: logits, running statistics, every gradient, and the losses
//! of twenty steps of SGD.
//!
//! The files in `golden/` were written by interop/make_goldens.py, which ran PyTorch in double
//! precision. Errors are relative: those of logits, and of a gradient "at worst", to the largest
//! absolute value of the tensor; those of a gradient "norm-wise" to its Euclidean norm; those of
//! losses to the loss. interop/compare_torch.py makes the same comparison, of every element of
//! every tensor, with PyTorch at work.

#[path = "golden/values.rs"]
mod values;

use std::collections::BTreeMap;
use std::path::Path;

use mobilenet::conventions::Activation;
use mobilenet::cpu::{CpuExecutor, CpuOptions};
use mobilenet::{Architecture, Executor, Tensor, Weights};
use mobilenet_kernels::Isa;
use mobilenet_reference::{loss, widen};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

const LOGITS: f64 = 1e-5;
const GRADIENT: f64 = 1e-4;
const GRADIENT_AT_WORST: f64 = 1e-3;
const LOSSES: f64 = 1e-4;

/// Settings of PyTorch's `SGD`.
#[derive(Deserialize)]
struct Sgd {
    lr: f32,
    momentum: f32,
    weight_decay: f32,
    nesterov: bool,
}

struct Golden {
    architecture: Architecture,
    batch: usize,
    label_smoothing: f64,
    sgd: Sgd,
    also_infer: usize,
    tensors: BTreeMap<String, Vec<f64>>,
}

impl Golden {
    fn load(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.safetensors"));
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let about = header.metadata().as_ref().expect("metadata");
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let values = |view: safetensors::tensor::TensorView| -> Vec<f64> {
            match view.dtype() {
                Dtype::F32 => view
                    .data()
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes(b.try_into().unwrap()).into())
                    .collect(),
                Dtype::F64 => {
                    view.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
                }
                other => panic!("{other:?}"),
            }
        };
        Self {
            architecture: serde_json::from_str(&about["architecture"]).unwrap(),
            batch: about["batch"].parse().unwrap(),
            label_smoothing: about["label_smoothing"].parse().unwrap(),
            sgd: serde_json::from_str(&about["sgd"]).unwrap(),
            also_infer: about["also_infer"].parse().unwrap(),
            tensors: tensors.iter().map(|(name, view)| (name.to_owned(), values(view))).collect(),
        }
    }

    /// The formula's weights, but for β, which the file holds: it was shifted away from kinks.
    fn weights(&self) -> Weights {
        let relu6 = self.architecture.conventions.activation == Activation::Relu6;
        let mut weights = values::weights(&self.architecture, relu6);
        let mut shifted = 0;
        for (key, value) in &self.tensors {
            if let Some(name) = key.strip_prefix("beta/") {
                let data = value.iter().map(|&v| v as f32).collect();
                weights.insert(name, Tensor::new(&[value.len()], data).unwrap());
                shifted += 1;
            }
        }
        assert!(shifted > 0);
        weights
    }
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |m, v| m.max(v.abs()))
}

fn norm(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// The largest difference, relative to the largest expected value.
fn at_worst(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let difference = found.iter().zip(expected).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
    if difference.is_nan() { f64::INFINITY } else { difference / largest(expected) }
}

/// The norm of the differences, relative to the expected norm.
fn norm_wise(found: &[f64], expected: &[f64]) -> f64 {
    norm(found.iter().zip(expected).map(|(a, b)| a - b)) / norm(expected.iter().copied())
}

/// The largest error so far, and of what.
#[derive(Default)]
struct Worst(f64, String);

impl Worst {
    fn see(&mut self, error: f64, what: &str) {
        if error > self.0 || error.is_nan() {
            *self = Self(error, what.to_owned());
        }
    }

    #[track_caller]
    fn assert_at_most(&self, limit: f64, case: &str, kind: &str) {
        println!("{case}: {kind} off by {:.1e} at most ({})", self.0, self.1);
        assert!(
            self.0 <= limit,
            "{case}: {kind} of {} is off by {:.2e}, allowed {limit:.0e}",
            self.1,
            self.0
        );
    }
}

/// Gradients after one backward pass, and running statistics.
fn check_gradients(golden: &Golden, executor: &mut CpuExecutor, case: &str) {
    let order: BTreeMap<String, u64> =
        (0..).zip(golden.architecture.tensors().unwrap()).map(|(i, spec)| (spec.name, i)).collect();
    let (mut by_norm, mut by_element, mut seen) = (Worst::default(), Worst::default(), 0);
    for parameter in executor.parameters() {
        let (name, found) = (parameter.name, widen(parameter.grad));
        if let Some(expected) = golden.tensors.get(&format!("grad/{name}")) {
            by_norm.see(norm_wise(&found, expected), name);
            by_element.see(at_worst(&found, expected), name);
        } else {
            let expected = &golden.tensors[&format!("sample/{name}")];
            let &[whole, max] = &golden.tensors[&format!("norm_max/{name}")][..] else { panic!("{name}") };
            let chosen = values::below(values::SAMPLES + order[name], expected.len(), found.len());
            let errors: Vec<f64> = chosen.iter().zip(expected).map(|(&i, e)| found[i] - e).collect();
            // The sample stands for the whole tensor.
            let share = (errors.len() as f64 / found.len() as f64).sqrt();
            by_norm.see(norm(errors.iter().copied()) / share / whole, name);
            by_norm.see((norm(found.iter().copied()) / whole - 1.0).abs(), name);
            by_element.see(largest(&errors) / max, name);
            by_element.see((largest(&found) / max - 1.0).abs(), name);
        }
        seen += 1;
    }
    let expected =
        golden.tensors.keys().filter(|k| k.starts_with("grad/") || k.starts_with("sample/")).count();
    assert_eq!(seen, expected, "{case}: number of trainable tensors");
    by_norm.assert_at_most(GRADIENT, case, "gradients norm-wise");
    by_element.assert_at_most(GRADIENT_AT_WORST, case, "gradients at worst");

    let (mut statistics, after) = (Worst::default(), executor.weights());
    for (key, expected) in &golden.tensors {
        if let Some(name) = key.strip_prefix("after/") {
            statistics.see(at_worst(&widen(after.get(name).expect(name).data()), expected), name);
        }
    }
    statistics.assert_at_most(LOGITS, case, "running statistics");
}

fn check(case: &str, options: &CpuOptions) {
    let golden = Golden::load(case);
    let a = &golden.architecture;
    let weights = golden.weights();
    let mut executor = CpuExecutor::new(a, &weights, options).unwrap();
    let batches = [0, 1].map(|i| (values::images(i, golden.batch, a), values::labels(i, golden.batch, a)));

    let mut logits = Worst::default();
    let found = widen(executor.infer(&batches[0].0).unwrap().data());
    logits.see(at_worst(&found, &golden.tensors["logits.infer"]), "inference");
    if golden.also_infer > 0 {
        let larger = Architecture { resolution: golden.also_infer, ..a.clone() };
        let mut executor = CpuExecutor::new(&larger, &weights, options).unwrap();
        let found = widen(executor.infer(&values::images(9, 1, &larger)).unwrap().data());
        logits.see(at_worst(&found, &golden.tensors["logits.infer_large"]), "inference at full size");
    }

    let (mut losses, mut velocity) = (Worst::default(), BTreeMap::<String, Vec<f32>>::new());
    for (step, &expected) in golden.tensors["losses"].iter().enumerate() {
        let (images, labels) = &batches[step % 2];
        let output = executor.forward(images).unwrap();
        let found = widen(output.data());
        losses.see(
            (loss::cross_entropy(&found, labels, a.outputs(), golden.label_smoothing) / expected - 1.0).abs(),
            &format!("step {step}"),
        );
        let d = loss::cross_entropy_backward(&found, labels, a.outputs(), golden.label_smoothing);
        let d_logits = Tensor::new(output.shape(), d.iter().map(|&d| d as f32).collect()).unwrap();
        executor.zero_grad();
        executor.backward(&d_logits).unwrap();
        if step == 0 {
            logits.see(at_worst(&found, &golden.tensors["logits.train"]), "training");
            logits.assert_at_most(LOGITS, case, "logits");
            check_gradients(&golden, &mut executor, case);
        }
        let Sgd { lr, momentum, weight_decay, nesterov } = golden.sgd;
        for p in executor.parameters() {
            let velocity = velocity.entry(p.name.to_owned()).or_insert_with(|| vec![0.0; p.value.len()]);
            for ((value, grad), velocity) in p.value.iter_mut().zip(&*p.grad).zip(velocity) {
                let grad = grad + weight_decay * *value;
                *velocity = momentum * *velocity + grad;
                *value -= lr * if nesterov { grad + momentum * *velocity } else { *velocity };
            }
        }
    }
    losses.assert_at_most(LOSSES, case, "losses");
}

fn two_threads() -> CpuOptions {
    CpuOptions { threads: Some(2), ..CpuOptions::default() }
}

#[test]
fn reference() {
    check("reference", &two_threads());
}

#[test]
fn quarter_on_every_instruction_set() {
    for isa in Isa::available() {
        check("quarter", &CpuOptions { isa: Some(isa), ..two_threads() });
    }
}

#[test]
fn full() {
    check("full", &two_threads());
}

#[test]
fn shallow_grey_with_label_smoothing() {
    check("shallow", &two_threads());
}

#[test]
fn tensorflow_padding_at_an_odd_size() {
    check("tf_same", &two_threads());
}

#[test]
fn tensorflow_padding_at_an_even_size() {
    check("tf_same_even", &two_threads());
}

#[test]
fn keras_padding_at_an_odd_size() {
    check("keras_odd", &two_threads());
}

#[test]
fn dilated() {
    check("dilated", &two_threads());
}
