//! Frozen parts: what they do not change, and that the rest learns as if they were not frozen.

use std::collections::BTreeMap;

use mobilenet::cpu::{CpuExecutor, CpuOptions};
use mobilenet::rng::Rng;
use mobilenet::{Architecture, Body, Executor, Tensor, Weights};

fn architecture(body: Body) -> Architecture {
    let mut a =
        Architecture { body, width_multiplier: 0.125, resolution: 40, classes: 5, ..Architecture::default() };
    a.conventions.dropout = 0.0;
    a
}

/// Weights whose running statistics are not the initial ones.
fn weights(a: &Architecture) -> Weights {
    let mut weights = Weights::random(a, 3).unwrap();
    let mut rng = Rng::keyed(11, &[]);
    let specs = a.tensors().unwrap();
    for spec in specs.iter().filter(|spec| spec.name.contains(".bn.")) {
        let mut tensor = weights.get(&spec.name).unwrap().clone();
        for value in tensor.data_mut() {
            *value +=
                if spec.name.ends_with("var") { 0.5 * rng.uniform() } else { 0.2 * rng.normal() } as f32;
        }
        weights.insert(spec.name.clone(), tensor);
    }
    weights
}

fn network(a: &Architecture, threads: usize) -> CpuExecutor {
    let options = CpuOptions { threads: Some(threads), recompute: threads == 2, ..CpuOptions::default() };
    CpuExecutor::new(a, &weights(a), &options).unwrap()
}

fn images(a: &Architecture, batch: usize) -> Tensor {
    let mut rng = Rng::keyed(5, &[]);
    let shape = [batch, a.resolution, a.resolution, 3];
    let data = (0..shape.iter().product()).map(|_| rng.normal() as f32).collect();
    Tensor::new(&shape, data).unwrap()
}

/// One pass forward and back.
fn pass(network: &mut CpuExecutor, input: &Tensor) -> (Tensor, BTreeMap<String, Vec<f32>>) {
    network.zero_grad();
    let logits = network.forward(input).unwrap();
    network.backward(&logits).unwrap();
    let parameters = network.parameters().into_iter();
    (logits, parameters.map(|p| (p.name.to_owned(), p.grad.to_vec())).collect())
}

/// Whether a tensor belongs to the first convolution or one of the first blocks.
fn is_within(name: &str, blocks: usize) -> bool {
    let layer = name.split('.').next().unwrap();
    layer.rsplit_once('_').is_some_and(|(_, number)| number.parse::<usize>().unwrap() <= blocks)
}

fn close(a: &[f32], b: &[f32], tolerance: f32, what: &str) {
    let largest = b.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    for (x, y) in a.iter().zip(b) {
        assert!((x - y).abs() <= tolerance * largest, "{what}: {x} and {y}");
    }
    assert_eq!(a.len(), b.len());
}

#[test]
fn features_are_what_the_classifier_reads() {
    for body in Body::ALL {
        let a = architecture(body);
        let (images, mut network) = (images(&a, 3), network(&a, 2));
        let features = network.features(&images).unwrap();
        assert_eq!(features.shape(), [3, 128]);
        assert!(features.data().iter().all(|&x| x >= 0.0) && features.data().iter().any(|&x| x > 0.0));
        assert_eq!(network.infer(&features).unwrap(), network.infer(&images).unwrap());
        // By hand.
        let all = network.weights();
        let (weight, bias) = (all.get("classifier.weight").unwrap(), all.get("classifier.bias").unwrap());
        let logits: Vec<f32> = features
            .rows()
            .flat_map(|x| {
                let dot = |w: &[f32]| w.iter().zip(x).map(|(w, x)| w * x).sum::<f32>();
                weight.rows().zip(bias.data()).map(move |(w, b)| dot(w) + b).collect::<Vec<_>>()
            })
            .collect();
        close(network.infer(&images).unwrap().data(), &logits, 1e-5, "logits");
        // In a batch or alone, on any number of threads.
        for threads in [1, 3] {
            let mut other = self::network(&a, threads);
            assert_eq!(other.features(&images).unwrap(), features);
            let first = Tensor::new(&[1, 40, 40, 3], images.rows().next().unwrap().to_vec()).unwrap();
            assert_eq!(other.features(&first).unwrap().data(), features.rows().next().unwrap());
        }
    }
}

#[test]
fn a_frozen_body_trains_the_classifier_on_inference_features() {
    let a = architecture(Body::Separable);
    let (images, mut frozen) = (images(&a, 6), network(&a, 2));
    let before = frozen.weights();
    frozen.freeze(Some(a.blocks())).unwrap();
    let (logits, gradients) = pass(&mut frozen, &images);
    assert_eq!(logits, frozen.infer(&images).unwrap());
    assert_eq!(gradients.keys().collect::<Vec<_>>(), ["classifier.bias", "classifier.weight"]);
    assert_eq!(frozen.weights(), before);
    // From features the same to the bit.
    let features = frozen.features(&images).unwrap();
    assert_eq!(pass(&mut frozen, &features), (logits.clone(), gradients.clone()));
    // By hand: d_weight = d_logitsᵀ · features.
    let weight = &gradients["classifier.weight"];
    for (class, row) in weight.chunks_exact(128).enumerate() {
        for (feature, &found) in row.iter().enumerate() {
            let terms = logits.rows().zip(features.rows()).map(|(d, x)| f64::from(d[class] * x[feature]));
            assert!((f64::from(found) - terms.sum::<f64>()).abs() < 1e-4);
        }
    }
}

#[test]
fn the_classifiers_gradient_is_the_whole_networks() {
    // With batch statistics as running ones, training and inference mode agree; and one whole step
    // of momentum 1 makes them so.
    let mut a = architecture(Body::Separable);
    a.conventions.bn_momentum = 1.0;
    let (images, mut whole) = (images(&a, 8), network(&a, 2));
    whole.forward(&images).unwrap();
    // Running variances are unbiased: with few pixels they differ from the batch's own.
    let mut statistics = whole.weights();
    for layer in a.layers().unwrap() {
        let name = format!("{}.bn.running_var", layer.name);
        if let Some(tensor) = statistics.get(&name) {
            let count = (8 * layer.output.pixels()) as f32;
            let biased = tensor.data().iter().map(|v| v * (count - 1.0) / count).collect();
            statistics.insert(name, Tensor::new(&[layer.output.channels], biased).unwrap());
        }
    }
    whole.set_weights(&statistics).unwrap();
    let (logits, gradients) = pass(&mut whole, &images);
    for blocks in [0, 3, 6, 12, 13] {
        let mut frozen = CpuExecutor::new(&a, &statistics, &CpuOptions::default()).unwrap();
        frozen.freeze(Some(blocks)).unwrap();
        let (frozen_logits, frozen_gradients) = pass(&mut frozen, &images);
        close(frozen_logits.data(), logits.data(), 2e-3, "logits");
        for (name, gradient) in &frozen_gradients {
            assert!(!is_within(name, blocks), "{name} is frozen");
            // What is behind the last frozen layer is the same function of the same features.
            close(gradient, &gradients[name], 2e-2, &format!("{name}, {blocks} blocks frozen"));
        }
        let learning = gradients.keys().filter(|name| !is_within(name, blocks)).count();
        assert_eq!(frozen_gradients.len(), learning);
    }
}

#[test]
fn frozen_blocks_keep_their_bits_and_their_statistics() {
    for (body, blocks) in [(Body::Separable, 0), (Body::Separable, 5), (Body::Full, 2), (Body::Shallow, 8)] {
        let a = architecture(body);
        let images = images(&a, 4);
        let results: Vec<_> = [1, 2, 3]
            .into_iter()
            .map(|threads| {
                let mut network = network(&a, threads);
                let before = network.weights();
                network.freeze(Some(blocks)).unwrap();
                for _ in 0..2 {
                    pass(&mut network, &images);
                    for parameter in network.parameters() {
                        assert!(!is_within(parameter.name, blocks), "{}", parameter.name);
                        parameter.value.iter_mut().zip(&*parameter.grad).for_each(|(w, g)| *w -= 0.01 * g);
                    }
                }
                let after = network.weights();
                for (name, tensor) in after.iter() {
                    let same = tensor == before.get(name).unwrap();
                    // Zero gradients (of a filter that only sees padding) leave a tensor as it is.
                    let must_change = name.ends_with("running_mean") || name == "classifier.weight";
                    assert!(same || !is_within(name, blocks), "{name} changed");
                    assert!(!(same && must_change && !is_within(name, blocks)), "{name} did not change");
                }
                // What was folded of the frozen part is still right.
                let mut fresh = CpuExecutor::new(&a, &after, &CpuOptions::default()).unwrap();
                let inferred = network.infer(&images).unwrap();
                assert_eq!(fresh.infer(&images).unwrap(), inferred);
                (after, inferred)
            })
            .collect();
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{body:?} {blocks}");
    }
}

#[test]
fn freezing_can_be_undone_and_is_checked() {
    let a = architecture(Body::Separable);
    let (images, mut network) = (images(&a, 4), network(&a, 2));
    let expected = pass(&mut self::network(&a, 2), &images);
    network.freeze(Some(13)).unwrap();
    pass(&mut network, &images);
    network.freeze(None).unwrap();
    assert_eq!(pass(&mut network, &images), expected);
    // New weights are not mistaken for what was folded before.
    network.freeze(Some(13)).unwrap();
    network.infer(&images).unwrap();
    let other = Weights::random(&a, 99).unwrap();
    network.set_weights(&other).unwrap();
    let mut fresh = CpuExecutor::new(&a, &other, &CpuOptions::default()).unwrap();
    assert_eq!(network.forward(&images).unwrap(), fresh.infer(&images).unwrap());

    let error = network.freeze(Some(14)).unwrap_err().to_string();
    assert_eq!(error, "frozen blocks: found 14, expected 0 to 13, as many as the body has");
    let features = fresh.features(&images).unwrap();
    let error = fresh.forward(&features).unwrap_err().to_string();
    assert!(error.contains("only where the whole body is frozen"), "{error}");
    assert!(fresh.features(&features).is_err() && fresh.infer(&Tensor::zeros(&[2, 127])).is_err());
}
