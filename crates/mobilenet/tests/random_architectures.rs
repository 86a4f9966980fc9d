//! Random architectures: the CPU executor and the cost model against the f64 oracle, which
//! derives the layers of the network on its own.

use mobilenet::conventions::{Activation, Padding, WidthRounding};
use mobilenet::cpu::{CpuExecutor, CpuOptions};
use mobilenet::rng::Rng;
use mobilenet::{Architecture, Body, Executor, Preset, Role, Tensor, Weights};
use mobilenet_kernels::Isa;
use mobilenet_reference::batch_norm::Statistics;
use mobilenet_reference::mobilenet::{self as oracle, Settings};
use mobilenet_reference::network::LayerParameters;
use mobilenet_reference::{Network, Parameters, loss, widen};
use proptest::prelude::*;

/// What is allowed, in multiples of what disturbing the oracle itself does (see [`disturb`]).
/// How far rounding errors carry depends on the network: where the last layers have only a few
/// values a channel, batch normalisation divides by deviations that may be almost nothing.
const ALLOWED: f64 = 8.0;
/// Errors that are always allowed, relative to the largest value or to the norm.
const FLOOR: f64 = 2e-6;

fn oracle_of(a: &Architecture) -> Network {
    let alpha = a.width_multiplier;
    let rounding = a.conventions.width_rounding;
    let thin = |channels: usize| {
        let exact = alpha * channels as f64;
        match rounding {
            WidthRounding::Truncate => exact.floor() as usize,
            WidthRounding::AtLeast8 => exact.floor().max(8.0) as usize,
            WidthRounding::MultipleOf8 => {
                // The multiple of 8 nearest to it (upwards from the middle) that is no smaller
                // than nine tenths.
                let nearest = ((exact / 8.0 + 0.5).floor() * 8.0).max(8.0);
                (if nearest < 0.9 * exact { nearest + 8.0 } else { nearest }) as usize
            }
        }
    };
    oracle::mobilenet(&Settings {
        body: match a.body {
            Body::Separable => oracle::Body::Separable,
            Body::Full => oracle::Body::Full,
            Body::Shallow => oracle::Body::Shallow,
        },
        thin: &thin,
        resolution: a.resolution,
        input_channels: a.input_channels,
        stem_stride: a.stem_stride,
        output_stride: a.output_stride,
        classes: a.classes + usize::from(a.conventions.background_class),
        padding: match a.conventions.padding {
            Padding::Fixed => oracle::Padding::Fixed,
            Padding::Same => oracle::Padding::Same,
            Padding::Keras => oracle::Padding::Keras,
        },
        limit: (a.conventions.activation == Activation::Relu6).then_some(6.0),
        epsilon: f64::from(a.conventions.bn_epsilon),
        momentum: f64::from(a.conventions.bn_momentum),
    })
}

/// Random weights under which activations keep their size, in training and in inference mode.
fn random_weights(a: &Architecture, seed: u64) -> Weights {
    let relu6 = a.conventions.activation == Activation::Relu6;
    let mut weights = Weights::new();
    for (i, spec) in a.tensors().unwrap().into_iter().enumerate() {
        let fan_in = spec.shape[1..].iter().product::<usize>() as f64;
        let (low, high) = match spec.role {
            Role::ConvWeight | Role::DepthwiseWeight | Role::PointwiseWeight => {
                (-(6.0 / fan_in).sqrt(), (6.0 / fan_in).sqrt())
            }
            Role::ClassifierWeight => (-1.0 / fan_in.sqrt(), 1.0 / fan_in.sqrt()),
            Role::ClassifierBias => (-0.5, 0.5),
            Role::BnWeight => {
                if relu6 {
                    (1.0, 3.0)
                } else {
                    (0.5, 1.0)
                }
            }
            Role::BnBias => {
                if relu6 {
                    (0.5, 3.5)
                } else {
                    (0.0, 1.0)
                }
            }
            Role::RunningMean => (-0.25, 0.25),
            Role::RunningVar => {
                if relu6 {
                    (8.0, 16.0)
                } else {
                    (0.5, 1.5)
                }
            }
        };
        let mut rng = Rng::keyed(seed, &[i as u64]);
        let data = (0..spec.len()).map(|_| rng.range(low, high) as f32).collect();
        weights.insert(spec.name, Tensor::new(&spec.shape, data).unwrap());
    }
    weights
}

/// The names of the layers that have batch normalisation, in order.
fn convolutions(a: &Architecture) -> Vec<String> {
    let tensors = a.tensors().unwrap();
    tensors.iter().filter_map(|t| t.name.strip_suffix(".bn.weight")).map(str::to_owned).collect()
}

fn oracle_parameters(a: &Architecture, weights: &Weights) -> Parameters {
    let get = |name: String| widen(weights.get(&name).expect(&name).data());
    let layer = |name: String| LayerParameters {
        weight: get(format!("{name}.weight")),
        gamma: get(format!("{name}.bn.weight")),
        beta: get(format!("{name}.bn.bias")),
        running: Statistics {
            mean: get(format!("{name}.bn.running_mean")),
            variance: get(format!("{name}.bn.running_var")),
        },
    };
    Parameters {
        layers: convolutions(a).into_iter().map(layer).collect(),
        classifier_weight: get("classifier.weight".into()),
        classifier_bias: get("classifier.bias".into()),
    }
}

/// Every tensor of the oracle under the executor's name, in the executor's order.
fn named(a: &Architecture, parameters: &Parameters) -> Vec<(String, Vec<f64>)> {
    let mut all = Vec::new();
    for (name, layer) in convolutions(a).into_iter().zip(&parameters.layers) {
        all.push((format!("{name}.weight"), layer.weight.clone()));
        all.push((format!("{name}.bn.weight"), layer.gamma.clone()));
        all.push((format!("{name}.bn.bias"), layer.beta.clone()));
        all.push((format!("{name}.bn.running_mean"), layer.running.mean.clone()));
        all.push((format!("{name}.bn.running_var"), layer.running.variance.clone()));
    }
    all.push(("classifier.weight".into(), parameters.classifier_weight.clone()));
    all.push(("classifier.bias".into(), parameters.classifier_bias.clone()));
    all
}

/// Moves every output of a convolution by up to four roundings of its channel's largest value:
/// about what f32 sums of signed products do.
fn disturb(rng: &mut Rng, raw: &mut [f64], channels: usize) {
    let mut largest = vec![0.0f64; channels];
    for (i, value) in raw.iter().enumerate() {
        largest[i % channels] = largest[i % channels].max(value.abs());
    }
    for (i, value) in raw.iter_mut().enumerate() {
        *value += largest[i % channels] * rng.range(-1.0, 1.0) * 2f64.powi(-22);
    }
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// Compares a tensor with the oracle's by `size` (the largest value, or the norm), and with what
/// became of the oracle's when it was disturbed.
#[track_caller]
fn assert_near(
    what: &str,
    size: impl Fn(&[f64]) -> f64,
    found: &[f32],
    expected: &[f64],
    disturbed: impl Iterator<Item = Vec<f64>>,
) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let distance = |other: &[f64]| size(&other.iter().zip(expected).map(|(a, b)| a - b).collect::<Vec<_>>());
    let error = distance(&widen(found));
    let natural = disturbed.map(|other| distance(&other)).fold(0.0, f64::max);
    let (allowed, size) = (ALLOWED * natural + FLOOR * size(expected), size(expected));
    assert!(
        error <= allowed,
        "{what}: off by {error:.2e} of {size:.2e}; {allowed:.2e} is allowed, disturbing makes {natural:.2e}"
    );
}

fn check(a: &Architecture, batch: usize, options: &CpuOptions, seed: u64) {
    let network = oracle_of(a);

    // The cost model counts what the oracle's rows have.
    let cost = a.cost(1).unwrap();
    assert_eq!(cost.mult_adds(), network.mult_adds());
    assert_eq!(cost.parameters(), network.trainable() as u64);

    let mut weights = random_weights(a, seed);
    let mut rng = Rng::keyed(seed, &[u64::MAX]);
    let shape = [batch, a.resolution, a.resolution, a.input_channels];
    let pixels = (0..shape.iter().product()).map(|_| rng.range(-2.0, 2.0) as f32).collect();
    let images = Tensor::new(&shape, pixels).unwrap();
    let images64 = widen(images.data());
    let outputs = a.outputs();
    let labels: Vec<usize> = (0..batch).map(|_| rng.below(outputs)).collect();

    let mut parameters = oracle_parameters(a, &weights);
    network.avoid_kinks(&mut parameters, &images64, batch, 3e-4);
    for (name, layer) in convolutions(a).iter().zip(&parameters.layers) {
        let beta = layer.beta.iter().map(|&b| b as f32).collect();
        weights.insert(format!("{name}.bn.bias"), Tensor::new(&[layer.beta.len()], beta).unwrap());
    }

    let mut executor = CpuExecutor::new(a, &weights, options).unwrap();
    let trainable: usize = executor.parameters().iter().map(|p| p.value.len()).sum();
    assert_eq!(trainable, network.trainable(), "trainable values");

    let found = executor.infer(&images).unwrap();
    assert_eq!(found.shape(), [batch, outputs]);
    let exact = network.infer(&parameters, &images64, batch);
    let disturbed = [1, 2, 3].map(|i| {
        let mut rng = Rng::keyed(seed, &[i]);
        network.infer_disturbed(&parameters, &images64, batch, |raw, c| disturb(&mut rng, raw, c))
    });
    assert_near("inference", largest, found.data(), &exact, disturbed.into_iter());

    let found = executor.forward(&images).unwrap();
    let before = parameters.clone();
    let trace = network.forward(&mut parameters, &images64, batch);
    let disturbed = [4, 5, 6].map(|i| {
        let (mut rng, mut parameters) = (Rng::keyed(seed, &[i]), before.clone());
        let trace =
            network.forward_disturbed(&mut parameters, &images64, batch, |raw, c| disturb(&mut rng, raw, c));
        (trace, parameters)
    });
    let logits = disturbed.iter().map(|(trace, _)| trace.logits.clone());
    assert_near("training", largest, found.data(), &trace.logits, logits);

    let after = executor.weights();
    let disturbed_after = disturbed.each_ref().map(|(_, parameters)| named(a, parameters));
    for (i, (name, expected)) in named(a, &parameters).iter().enumerate() {
        if name.contains("running") {
            let others = disturbed_after.iter().map(|all| all[i].1.clone());
            assert_near(name, largest, after.get(name).unwrap().data(), expected, others);
        }
    }

    let d_logits = loss::cross_entropy_backward(&trace.logits, &labels, outputs, 0.1);
    let d = Tensor::new(&[batch, outputs], d_logits.iter().map(|&d| d as f32).collect()).unwrap();
    executor.zero_grad();
    executor.backward(&d).unwrap();
    let d64 = widen(d.data());
    let trainable = |trace| {
        let mut all = named(a, &network.backward(&parameters, trace, &d64));
        all.retain(|(name, _)| !name.contains("running"));
        all
    };
    let expected = trainable(&trace);
    let disturbed = disturbed.each_ref().map(|(trace, _)| trainable(trace));
    let found = executor.parameters();
    assert_eq!(found.len(), expected.len());
    // A gradient that cancels to almost nothing is held to what went into it.
    let most = expected.iter().map(|(_, gradient)| norm(gradient)).fold(0.0, f64::max);
    for (i, (parameter, (name, expected))) in found.iter().zip(&expected).enumerate() {
        assert_eq!(parameter.name, name);
        let others = disturbed.iter().map(|all| all[i].1.clone());
        let size = |v: &[f64]| if v == &expected[..] { norm(v).max(1e-3 * most) } else { norm(v) };
        assert_near(&format!("gradient of {name}"), size, parameter.grad, expected, others);
    }
}

prop_compose! {
    fn architectures()(
        body in prop::sample::select(&Body::ALL[..]),
        (alpha, resolution) in (0.04f64..0.5, 8usize..50),
        stem_stride in 1usize..3,
        output_stride in prop::sample::select(&[8usize, 16, 32][..]),
        classes in 1usize..40,
        input_channels in prop::sample::select(&[1usize, 3][..]),
        padding in prop::sample::select(&[Padding::Fixed, Padding::Same, Padding::Keras][..]),
        activation in prop::sample::select(&[Activation::Relu, Activation::Relu6][..]),
        width_rounding in prop::sample::select(
            &[WidthRounding::Truncate, WidthRounding::AtLeast8, WidthRounding::MultipleOf8][..]
        ),
        background_class: bool,
        bn_epsilon in prop::sample::select(&[1e-5f32, 1e-3][..]),
    ) -> Architecture {
        let mut conventions = Preset::Reference.conventions();
        conventions.padding = padding;
        conventions.activation = activation;
        conventions.width_rounding = width_rounding;
        conventions.background_class = background_class;
        conventions.bn_epsilon = bn_epsilon;
        conventions.preprocessing.mean.truncate(input_channels);
        conventions.preprocessing.std.truncate(input_channels);
        let thinner = if body == Body::Full { 3.0 } else { 1.0 };
        Architecture {
            body,
            width_multiplier: alpha / thinner,
            resolution,
            stem_stride,
            output_stride,
            classes,
            input_channels,
            conventions,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 30, ..ProptestConfig::default() })]

    #[test]
    fn agree_with_the_oracle(
        architecture in architectures(),
        batch in 3usize..6,
        threads in 1usize..4,
        isa: prop::sample::Index,
        seed: u64,
    ) {
        // Widths without a channel and maps smaller than a filter are refused, with a message.
        prop_assume!(architecture.layers().is_ok());
        let isa = Some(*isa.get(&Isa::available()));
        let recompute = seed % 2 == 1;
        check(&architecture, batch, &CpuOptions { threads: Some(threads), isa, recompute, ..CpuOptions::default() }, seed);
    }
}
