//! The optimizers against PyTorch's and TensorFlow's own, and their state.

mod common;

use common::{Regression, Stripes};
use mobilenet::{Architecture, Executor, Model, Parameter, Role, Tensor, Weights};
use mobilenet_train::optimizer::{AdamW, Optimizer, RmsProp, Sgd, WeightDecay, clip_global_norm};

/// One tensor whose gradients come from a file.
struct OneTensor {
    architecture: Architecture,
    value: Vec<f32>,
    grad: Vec<f32>,
}

impl Executor for OneTensor {
    fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    fn infer(&mut self, images: &Tensor) -> mobilenet::Result<Tensor> {
        Ok(images.clone())
    }

    fn features(&mut self, images: &Tensor) -> mobilenet::Result<Tensor> {
        Ok(images.clone())
    }

    fn freeze(&mut self, _: Option<usize>) -> mobilenet::Result<()> {
        Ok(())
    }

    fn forward(&mut self, images: &Tensor) -> mobilenet::Result<Tensor> {
        Ok(images.clone())
    }

    fn backward(&mut self, _: &Tensor) -> mobilenet::Result<()> {
        Ok(())
    }

    fn zero_grad(&mut self) {}

    fn parameters(&mut self) -> Vec<Parameter<'_>> {
        let (value, grad) = (&mut self.value[..], &mut self.grad[..]);
        vec![Parameter { name: "w", role: Role::PointwiseWeight, value, grad }]
    }

    fn seed_dropout(&mut self, _: u64) {}

    fn weights(&self) -> Weights {
        Weights::new()
    }

    fn set_weights(&mut self, _: &Weights) -> mobilenet::Result<()> {
        Ok(())
    }
}

#[derive(serde::Deserialize)]
struct Golden {
    optimizer: String,
    source: String,
    settings: std::collections::BTreeMap<String, serde_json::Value>,
    start: Vec<f32>,
    gradients: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

impl Golden {
    fn number(&self, name: &str) -> f64 {
        let value = self.settings.get(name).and_then(serde_json::Value::as_f64);
        value.unwrap_or_else(|| panic!("{}: {name} is missing", self.optimizer))
    }

    fn optimizer(&self) -> Box<dyn Optimizer> {
        match self.optimizer.as_str() {
            "sgd" => {
                let sgd = Sgd::new(self.number("lr"), self.number("momentum"), self.number("weight_decay"));
                Box::new(sgd.nesterov(self.settings["nesterov"].as_bool().unwrap()))
            }
            "rmsprop" => Box::new(RmsProp::new(
                self.number("learning_rate"),
                self.number("decay"),
                self.number("momentum"),
                self.number("epsilon"),
                0.0,
            )),
            "adamw" => {
                let beta = |i: usize| self.settings["betas"][i].as_f64().unwrap();
                let adamw = AdamW::new(self.number("lr"), self.number("weight_decay"));
                Box::new(adamw.moments(beta(0), beta(1), self.number("eps")))
            }
            other => panic!("unknown optimizer {other}"),
        }
    }
}

#[test]
fn values_are_those_of_pytorch_and_tensorflow() {
    let goldens: Vec<Golden> = serde_json::from_str(include_str!("golden/optimizers.json")).unwrap();
    assert!(goldens.len() >= 9);
    for golden in goldens {
        let grad = vec![0.0; golden.start.len()];
        let mut one = OneTensor { architecture: Architecture::default(), value: golden.start.clone(), grad };
        let mut optimizer = golden.optimizer();
        let scale =
            golden.start.iter().chain(golden.values.iter().flatten()).fold(0f32, |m, v| m.max(v.abs()));
        for (step, (gradient, expected)) in golden.gradients.iter().zip(&golden.values).enumerate() {
            one.grad.clone_from(gradient);
            // Through a saved state, so that nothing is remembered outside it.
            let state = optimizer.state();
            optimizer = golden.optimizer();
            optimizer.restore(state).unwrap();
            optimizer.step(&mut one).unwrap();
            for (found, expected) in one.value.iter().zip(expected) {
                let off = (found - expected).abs();
                // Two roundings of f32 a step, of the largest value on the way.
                let allowed = 2.0 * (step + 1) as f32 * f32::EPSILON / 2.0 * scale;
                assert!(
                    off <= allowed,
                    "{} ({}) {:?}, step {step}: {found} is not {expected}",
                    golden.optimizer,
                    golden.source,
                    golden.settings
                );
            }
        }
    }
}

fn regression() -> Regression {
    let architecture = Architecture {
        width_multiplier: 0.01,
        resolution: Stripes::EDGE,
        input_channels: 1,
        classes: 3,
        conventions: mobilenet::Conventions {
            preprocessing: mobilenet::conventions::Preprocessing {
                mean: vec![0.5],
                std: vec![0.5],
                ..mobilenet::Preset::Reference.conventions().preprocessing
            },
            ..mobilenet::Preset::Reference.conventions()
        },
        ..Architecture::default()
    };
    let labels = Stripes::splits(3, 3).train.classes().to_vec();
    Regression::new(&Model::random(architecture, labels, 3).unwrap())
}

#[test]
fn decay_holds_where_it_is_switched_on() {
    for (depthwise, bn, bias) in [(false, false, false), (true, false, false), (false, true, true)] {
        let mut network = regression();
        for parameter in network.parameters() {
            parameter.value.fill(2.0);
            parameter.grad.fill(0.0);
        }
        let decay = WeightDecay { rate: 0.1, depthwise, bn, bias };
        Sgd::new(0.5, 0.0, 0.0).decay(decay).step(&mut network).unwrap();
        for parameter in network.parameters() {
            let decays = match parameter.role {
                Role::DepthwiseWeight => depthwise,
                Role::BnWeight | Role::BnBias => bn,
                Role::ClassifierBias => bias,
                _ => true,
            };
            let expected = if decays { 2.0 - 0.5 * 0.1 * 2.0 } else { 2.0 };
            assert!(parameter.value.iter().all(|&v| v == expected), "{}", parameter.name);
        }
    }
}

#[test]
fn clipping_scales_all_gradients_by_one_factor() {
    let mut network = regression();
    let mut squares = 0.0;
    for (i, parameter) in network.parameters().into_iter().enumerate() {
        parameter.grad.fill(0.01 * (i as f32 + 1.0));
        squares += parameter.grad.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>();
    }
    let norm = clip_global_norm(&mut network, 1e9);
    assert!((norm / squares.sqrt() - 1.0).abs() < 1e-12);
    assert_eq!(network.parameters()[0].grad[0], 0.01);
    clip_global_norm(&mut network, 0.5);
    let ratio = network.parameters()[3].grad[0] / network.parameters()[0].grad[0];
    assert!((ratio - 4.0).abs() < 1e-5);
    assert!((clip_global_norm(&mut network, 1e9) - 0.5).abs() < 1e-5);
    network.parameters()[1].grad[0] = f32::NAN;
    assert!(clip_global_norm(&mut network, 0.5).is_nan());
}

#[test]
fn strange_state_is_an_error() {
    let mut network = regression();
    let mut sgd = Sgd::new(0.1, 0.9, 0.0);
    sgd.step(&mut network).unwrap();
    let state = sgd.state();
    let message = RmsProp::new(0.1, 0.9, 0.9, 1.0, 0.0).restore(state.clone()).unwrap_err().to_string();
    assert_eq!(message, "optimizer state: it is sgd's; the run now uses rmsprop");

    let mut shorter = state.clone();
    shorter.slots.get_mut("momentum/classifier.bias").unwrap().pop();
    let mut other = Sgd::new(0.1, 0.9, 0.0);
    other.restore(shorter).unwrap();
    let message = other.step(&mut network).unwrap_err().to_string();
    assert!(message.contains("classifier.bias: expected 3 values"), "{message}");

    let mut missing = state.clone();
    missing.slots.remove("momentum/classifier.bias");
    let mut other = Sgd::new(0.1, 0.9, 0.0);
    other.restore(missing).unwrap();
    let message = other.step(&mut network).unwrap_err().to_string();
    assert!(message.contains("nothing is known of classifier.bias"), "{message}");

    let mut strange = state;
    strange.slots.insert("speed/classifier.bias".into(), vec![]);
    assert!(Sgd::new(0.1, 0.9, 0.0).restore(strange).is_err());
}
