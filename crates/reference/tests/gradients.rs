//! Every backward against central differences of its forward.

mod support;

use mobilenet_reference::batch_norm::{self, Statistics};
use mobilenet_reference::network::{LayerParameters, Parameters};
use mobilenet_reference::{Geometry, Layer, Network, Operator, Pads, activation, conv, dense, loss};
use support::{Random, check_gradient, dot};

/// Strides, dilations and pads, the asymmetric ones too.
fn geometries() -> Vec<Geometry> {
    let behind = Pads { bottom: 1, right: 1, ..Pads::default() };
    let uneven = Pads { top: 2, bottom: 0, left: 1, right: 3 };
    let mut all = Vec::new();
    for (stride, dilation, pads) in [
        (1, 1, Pads::all(1)),
        (2, 1, Pads::all(1)),
        (2, 1, behind),
        (1, 2, Pads::all(2)),
        (1, 3, uneven),
        (3, 1, uneven),
        (1, 1, Pads::default()),
    ] {
        all.push(Geometry { batch: 2, height: 5, width: 6, kernel: 3, stride, dilation, pads });
    }
    all.push(Geometry {
        batch: 1,
        height: 3,
        width: 2,
        kernel: 1,
        stride: 2,
        dilation: 1,
        pads: Pads::default(),
    });
    all
}

#[test]
fn conv2d() {
    let (inputs, outputs) = (2, 3);
    for (seed, g) in geometries().into_iter().enumerate() {
        let mut random = Random(seed as u64);
        let x = random.values(g.input_pixels() * inputs);
        let w = random.values(g.taps() * inputs * outputs);
        let d_y = random.values(g.output_pixels() * outputs);
        let d_x = conv::conv2d_d_input(&d_y, &w, inputs, outputs, &g);
        check_gradient("d_x", &x, &d_x, |x| dot(&d_y, &conv::conv2d(x, &w, inputs, outputs, &g)));
        let d_w = conv::conv2d_d_weight(&x, &d_y, inputs, outputs, &g);
        check_gradient("d_w", &w, &d_w, |w| dot(&d_y, &conv::conv2d(&x, w, inputs, outputs, &g)));
    }
}

#[test]
fn depthwise() {
    let channels = 3;
    for (seed, g) in geometries().into_iter().enumerate() {
        let mut random = Random(100 + seed as u64);
        let x = random.values(g.input_pixels() * channels);
        let w = random.values(g.taps() * channels);
        let d_y = random.values(g.output_pixels() * channels);
        let d_x = conv::depthwise_d_input(&d_y, &w, channels, &g);
        check_gradient("d_x", &x, &d_x, |x| dot(&d_y, &conv::depthwise(x, &w, channels, &g)));
        let d_w = conv::depthwise_d_weight(&x, &d_y, channels, &g);
        check_gradient("d_w", &w, &d_w, |w| dot(&d_y, &conv::depthwise(&x, w, channels, &g)));
    }
}

#[test]
fn pointwise_linear_and_pool() {
    let mut random = Random(7);
    let (rows, inputs, outputs) = (4, 3, 5);
    let (x, w, b) = (random.values(rows * inputs), random.values(inputs * outputs), random.values(outputs));
    let d_y = random.values(rows * outputs);
    let d_x = dense::pointwise_d_input(&d_y, &w, inputs, outputs);
    check_gradient("d_x", &x, &d_x, |x| dot(&d_y, &dense::pointwise(x, &w, inputs, outputs)));
    let d_w = dense::pointwise_d_weight(&x, &d_y, inputs, outputs);
    check_gradient("d_w", &w, &d_w, |w| dot(&d_y, &dense::pointwise(&x, w, inputs, outputs)));
    let d_b = dense::linear_d_bias(&d_y, outputs);
    check_gradient("d_b", &b, &d_b, |b| dot(&d_y, &dense::linear(&x, &w, b, inputs)));

    let (batch, pixels, channels) = (2, 6, 3);
    let x = random.values(batch * pixels * channels);
    let d_y = random.values(batch * channels);
    let d_x = dense::global_average_pool_backward(&d_y, pixels, channels);
    check_gradient("pool", &x, &d_x, |x| dot(&d_y, &dense::global_average_pool(x, batch, channels)));
}

#[test]
fn batch_normalisation() {
    let mut random = Random(8);
    let (rows, channels, epsilon) = (7, 3, 1e-3);
    let x: Vec<f64> = random.values(rows * channels).iter().map(|v| 3.0 * v + 1.0).collect();
    let (gamma, beta) = (random.positive(channels), random.values(channels));
    let d_y = random.values(rows * channels);

    let train = |x: &[f64], gamma: &[f64], beta: &[f64]| {
        let statistics = batch_norm::statistics(x, channels);
        dot(&d_y, &batch_norm::normalise(x, &statistics, gamma, beta, epsilon))
    };
    let g = batch_norm::backward(&x, &batch_norm::statistics(&x, channels), &gamma, epsilon, &d_y);
    check_gradient("d_x", &x, &g.d_x, |x| train(x, &gamma, &beta));
    check_gradient("d_gamma", &gamma, &g.d_gamma, |gamma| train(&x, gamma, &beta));
    check_gradient("d_beta", &beta, &g.d_beta, |beta| train(&x, &gamma, beta));

    let running = Statistics { mean: random.values(channels), variance: random.positive(channels) };
    let frozen = |x: &[f64], gamma: &[f64], beta: &[f64]| {
        dot(&d_y, &batch_norm::normalise(x, &running, gamma, beta, epsilon))
    };
    let g = batch_norm::backward_fixed(&x, &running, &gamma, epsilon, &d_y);
    check_gradient("frozen d_x", &x, &g.d_x, |x| frozen(x, &gamma, &beta));
    check_gradient("frozen d_gamma", &gamma, &g.d_gamma, |gamma| frozen(&x, gamma, &beta));
    check_gradient("frozen d_beta", &beta, &g.d_beta, |beta| frozen(&x, &gamma, beta));
}

#[test]
fn activations_away_from_kinks() {
    let x = [-3.0, -0.1, 0.1, 2.0, 5.9, 6.1, 100.0];
    let d_y = Random(9).values(x.len());
    for limit in [None, Some(6.0)] {
        let d_x = activation::relu_backward(&x, &d_y, limit);
        check_gradient("relu", &x, &d_x, |x| dot(&d_y, &activation::relu(x, limit)));
    }
}

#[test]
fn cross_entropy() {
    let mut random = Random(10);
    let (labels, classes) = ([2, 0, 3], 4);
    let logits: Vec<f64> = random.values(12).iter().map(|v| 4.0 * v).collect();
    for smoothing in [0.0, 0.1] {
        let d = loss::cross_entropy_backward(&logits, &labels, classes, smoothing);
        check_gradient("logits", &logits, &d, |z| loss::cross_entropy(z, &labels, classes, smoothing));
    }
}

/// Every operator, a stride, a dilation and an asymmetric pad.
fn small_network(limit: Option<f64>) -> Network {
    let layer = |operator, inputs, outputs, size, stride, dilation, pads| Layer {
        operator,
        inputs,
        outputs,
        height: size,
        width: size,
        kernel: if operator == Operator::Pointwise { 1 } else { 3 },
        stride,
        dilation,
        pads,
    };
    let behind = Pads { bottom: 1, right: 1, ..Pads::default() };
    Network {
        layers: vec![
            layer(Operator::Conv, 2, 4, 8, 2, 1, behind),
            layer(Operator::Depthwise, 4, 4, 4, 1, 2, Pads::all(2)),
            layer(Operator::Pointwise, 4, 5, 4, 1, 1, Pads::default()),
            layer(Operator::Depthwise, 5, 5, 4, 2, 1, Pads::all(1)),
            layer(Operator::Conv, 5, 3, 2, 1, 1, Pads::all(1)),
        ],
        classes: 4,
        limit,
        epsilon: 1e-3,
        momentum: 0.1,
    }
}

fn random_parameters(network: &Network, random: &mut Random, scale: f64) -> Parameters {
    let layers = network.layers.iter().map(|layer| LayerParameters {
        weight: random.values(layer.weights()),
        gamma: random.positive(layer.outputs).iter().map(|g| scale * g).collect(),
        beta: random.values(layer.outputs),
        running: Statistics { mean: random.values(layer.outputs), variance: random.positive(layer.outputs) },
    });
    Parameters {
        layers: layers.collect(),
        classifier_weight: random.values(network.classes * network.features()),
        classifier_bias: random.values(network.classes),
    }
}

#[test]
fn whole_network() {
    for (limit, scale) in [(None, 1.0), (Some(6.0), 6.0)] {
        let network = small_network(limit);
        let mut random = Random(11);
        let (batch, labels) = (3, [1, 3, 0]);
        let images = random.values(batch * 8 * 8 * 2);
        let mut parameters = random_parameters(&network, &mut random, scale);
        network.avoid_kinks(&mut parameters, &images, batch, 1e-3);

        let trace = network.forward(&mut parameters.clone(), &images, batch);
        if limit.is_some() {
            let saturated = trace.layers.iter().flat_map(|l| &l.normalised).filter(|&&v| v > 6.0).count();
            assert!(saturated > 10, "the upper kink must be reached, {saturated}");
        }
        let d_logits = loss::cross_entropy_backward(&trace.logits, &labels, network.classes, 0.1);
        let gradients = network.backward(&parameters, &trace, &d_logits);

        let value = |parameters: &Parameters| {
            let logits = network.forward(&mut parameters.clone(), &images, batch).logits;
            loss::cross_entropy(&logits, &labels, network.classes, 0.1)
        };
        // One place to put a changed tensor, for each tensor.
        type Place = fn(&mut Parameters, usize) -> &mut Vec<f64>;
        let places: [(&str, Place); 3] = [
            ("weight", |p, i| &mut p.layers[i].weight),
            ("gamma", |p, i| &mut p.layers[i].gamma),
            ("beta", |p, i| &mut p.layers[i].beta),
        ];
        let check = |name: &str, place: Place, i: usize| {
            let at = place(&mut parameters.clone(), i).clone();
            let gradient = place(&mut gradients.clone(), i).clone();
            check_gradient(&format!("layer {i} {name}"), &at, &gradient, |values| {
                let mut changed = parameters.clone();
                *place(&mut changed, i) = values.to_vec();
                value(&changed)
            });
        };
        for i in 0..network.layers.len() {
            for (name, place) in places {
                check(name, place, i);
            }
        }
        check("classifier weight", |p, _| &mut p.classifier_weight, 0);
        check("classifier bias", |p, _| &mut p.classifier_bias, 0);
    }
}
