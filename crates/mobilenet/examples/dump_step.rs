//! Writes what the CPU executor computes for a given network and batches, for comparison with
//! another implementation (see interop/README.md).
//!
//! ```text
//! dump_step INPUT.safetensors OUTPUT.safetensors [threads [instruction set]]
//! ```
//!
//! The input holds every tensor of the network under its name, batches `images/0`, `images/1` …
//! (`[N, H, W, C]`, float32) and `labels/0` … (`[N]`, int64: indices of outputs), and the metadata
//! `architecture` (JSON), `label_smoothing`, `sgd` (JSON: lr, momentum, weight_decay, nesterov) and
//! `steps`. The output holds, of batch 0, `logits.infer`, `logits.train`, every gradient as
//! `grad/NAME` and every running statistic afterwards as `after/NAME`, and the `losses` of the
//! steps of SGD, which take the batches in turn.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;

use mobilenet::cpu::{CpuExecutor, CpuOptions};
use mobilenet::{Architecture, Executor, Tensor, Weights};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

/// Settings of PyTorch's `SGD`.
#[derive(serde::Deserialize)]
struct Sgd {
    lr: f32,
    momentum: f32,
    weight_decay: f32,
    nesterov: bool,
}

/// Mean cross-entropy with label smoothing, and its gradient.
fn cross_entropy(logits: &Tensor, labels: &[usize], smoothing: f64) -> (f64, Vec<f32>) {
    let (mut loss, mut gradient) = (0.0, Vec::with_capacity(logits.data().len()));
    let batch = labels.len() as f64;
    for (row, &label) in logits.rows().zip(labels) {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exponentials: Vec<f64> = row.iter().map(|&z| f64::from(z - largest).exp()).collect();
        let sum: f64 = exponentials.iter().sum();
        for (class, (&z, e)) in row.iter().zip(&exponentials).enumerate() {
            let target = smoothing / row.len() as f64 + if class == label { 1.0 - smoothing } else { 0.0 };
            loss += target * (sum.ln() - f64::from(z - largest)) / batch;
            gradient.push(((e / sum - target) / batch) as f32);
        }
    }
    (loss, gradient)
}

fn floats(view: &TensorView) -> Result<Tensor, Box<dyn Error>> {
    if view.dtype() != Dtype::F32 {
        return Err(format!("expected float32, found {:?}", view.dtype()).into());
    }
    let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    Ok(Tensor::new(view.shape(), values.collect())?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, output, options @ ..] = &arguments[..] else {
        return Err("usage: dump_step INPUT OUTPUT [threads [instruction set]]".into());
    };
    let threads = options.first().map(|n| n.parse()).transpose()?;
    let isa = options.get(1).map(|name| name.parse()).transpose()?;

    let bytes = std::fs::read(input)?;
    let about = SafeTensors::read_metadata(&bytes)?.1.metadata().clone().ok_or("no metadata")?;
    let get = |key: &str| about.get(key).ok_or(format!("no `{key}` in the metadata"));
    let architecture: Architecture = serde_json::from_str(get("architecture")?)?;
    let sgd: Sgd = serde_json::from_str(get("sgd")?)?;
    let (smoothing, steps): (f64, usize) = (get("label_smoothing")?.parse()?, get("steps")?.parse()?);
    let tensors = SafeTensors::deserialize(&bytes)?;
    let mut weights = Weights::new();
    for spec in architecture.tensors()? {
        let tensor = floats(&tensors.tensor(&spec.name)?)?;
        weights.insert(spec.name, tensor);
    }
    let mut batches = Vec::new();
    while let Ok(images) = tensors.tensor(&format!("images/{}", batches.len())) {
        let labels = tensors.tensor(&format!("labels/{}", batches.len()))?;
        let labels =
            labels.data().chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().expect("8 bytes")));
        batches.push((floats(&images)?, labels.map(|l| l as usize).collect::<Vec<_>>()));
    }
    let first = batches.first().ok_or("no images/0")?;

    let mut executor =
        CpuExecutor::new(&architecture, &weights, &CpuOptions { threads, isa, ..CpuOptions::default() })?;
    let mut results = BTreeMap::new();
    results.insert("logits.infer".to_owned(), executor.infer(&first.0)?);
    let mut losses: Vec<f64> = Vec::with_capacity(steps);
    let mut velocities: HashMap<String, Vec<f32>> = HashMap::new();
    for step in 0..steps {
        let (images, labels) = &batches[step % batches.len()];
        let logits = executor.forward(images)?;
        let (loss, d_logits) = cross_entropy(&logits, labels, smoothing);
        losses.push(loss);
        executor.zero_grad();
        executor.backward(&Tensor::new(logits.shape(), d_logits)?)?;
        if step == 0 {
            results.insert("logits.train".to_owned(), logits);
            for p in executor.parameters() {
                results.insert(format!("grad/{}", p.name), Tensor::new(&[p.grad.len()], p.grad.to_vec())?);
            }
            for (name, tensor) in executor.weights().iter().filter(|(name, _)| name.contains(".running_")) {
                results.insert(format!("after/{name}"), tensor.clone());
            }
        }
        for p in executor.parameters() {
            let velocity = velocities.entry(p.name.to_owned()).or_insert_with(|| vec![0.0; p.value.len()]);
            for ((value, grad), velocity) in p.value.iter_mut().zip(&*p.grad).zip(velocity) {
                let grad = grad + sgd.weight_decay * *value;
                *velocity = sgd.momentum * *velocity + grad;
                *value -= sgd.lr * if sgd.nesterov { grad + sgd.momentum * *velocity } else { *velocity };
            }
        }
    }

    let mut raw: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = results
        .into_iter()
        .map(|(name, tensor)| {
            let bytes = tensor.data().iter().flat_map(|v| v.to_le_bytes()).collect();
            (name, Dtype::F32, tensor.shape().to_vec(), bytes)
        })
        .collect();
    let bytes = losses.iter().flat_map(|v| v.to_le_bytes()).collect();
    raw.push(("losses".into(), Dtype::F64, vec![losses.len()], bytes));
    let views: Vec<(&str, TensorView)> = raw
        .iter()
        .map(|(name, dtype, shape, bytes)| Ok((&name[..], TensorView::new(*dtype, shape.clone(), bytes)?)))
        .collect::<Result<_, safetensors::SafeTensorError>>()?;
    safetensors::serialize_to_file(views, None, output.as_ref())?;
    Ok(())
}
