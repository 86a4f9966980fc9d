//! What a recipe's gaps are filled with, and what may not be in one.

use std::path::Path;

use mobilenet::conventions::{Activation, Padding, Preset};
use mobilenet::{Architecture, Body, Model};
use mobilenet_train::recipe::{OptimizerKind, Recipe, ScheduleKind};
use mobilenet_train::schedule::Shape;
use mobilenet_train::{Facts, Freeze, Plan};

fn clothes() -> Facts {
    Facts {
        images: 10_000,
        classes: 10,
        short_edge: 28,
        size: Some((28, 28)),
        grey: true,
        brightness: Some((0.286, 0.353)),
    }
}

fn photos() -> Facts {
    Facts { images: 3000, classes: 5, short_edge: 480, size: None, grey: false, brightness: None }
}

fn resolve(recipe: &Recipe, facts: &Facts) -> Plan {
    recipe.resolve(facts, None).unwrap()
}

#[test]
fn small_grey_images_keep_their_size() {
    let plan = resolve(&Recipe::default(), &clothes());
    let a = &plan.architecture;
    assert_eq!((a.resolution, a.stem_stride, a.input_channels, a.classes), (28, 1, 1, 10));
    assert_eq!(a.conventions.preprocessing.mean, [0.286]);
    assert_eq!(a.conventions.preprocessing.crop_fraction, 1.0);
    assert_eq!(plan.augmentation.pad_crop, Some(2));
    assert!(plan.augmentation.flip && plan.augmentation.random_resized_crop.is_none());
    let choices = plan.choices.join("\n");
    for line in ["images are 28×28 → resolution 28", "stem stride 1", "pad by 2 and crop", "10000 images → "]
    {
        assert!(choices.contains(line), "{line} is not in\n{choices}");
    }
    // Somebody's own small grey images may be letters.
    let plan = resolve(&Recipe { data: Some("letters".into()), ..Recipe::default() }, &clothes());
    assert!(!plan.augmentation.flip && plan.choices.iter().any(|line| line.contains("characters")));
    assert!(plan.recipe.data.unwrap().is_absolute());
}

#[test]
fn photos_are_cropped_at_random() {
    let plan = resolve(&Recipe::default(), &photos());
    let a = &plan.architecture;
    assert_eq!((a.resolution, a.stem_stride, a.input_channels), (224, 2, 3));
    assert_eq!(a.conventions.preprocessing.crop_fraction, 0.875);
    assert_eq!(plan.augmentation.random_resized_crop.as_ref().unwrap().scale[1], 1.0);
    assert_eq!(plan.augmentation.pad_crop, None);
    let plan = resolve(&Recipe::default(), &Facts { short_edge: 150, ..photos() });
    assert_eq!((plan.architecture.resolution, plan.architecture.stem_stride), (128, 2));
}

#[test]
fn few_images_make_small_batches() {
    let plan = resolve(&Recipe::default(), &Facts { images: 40, ..photos() });
    assert!(plan.batch_size <= 4);
    assert_eq!(resolve(&Recipe::default(), &Facts { images: 1, ..photos() }).batch_size, 4);
}

#[test]
fn what_is_given_is_kept_and_not_explained() {
    let recipe = Recipe {
        resolution: Some(96),
        stem_stride: Some(2),
        width: Some(0.5),
        channels: Some(3),
        body: Some(Body::Shallow),
        conventions: Some(Preset::TfSlim),
        activation: Some(Activation::Relu),
        dropout: Some(0.3),
        epochs: Some(4),
        batch_size: Some(7),
        optimizer: Some(OptimizerKind::RmsProp),
        lr: Some(0.01),
        schedule: Some(ScheduleKind::Exponential),
        warmup_epochs: Some(1.0),
        flip: Some(false),
        pad_crop: Some(0),
        ..Recipe::default()
    };
    let plan = resolve(&recipe, &clothes());
    let a = &plan.architecture;
    assert_eq!((a.resolution, a.stem_stride, a.width_multiplier, a.body), (96, 2, 0.5, Body::Shallow));
    let c = &a.conventions;
    assert_eq!((c.padding, c.activation, c.dropout), (Padding::Same, Activation::Relu, 0.3));
    assert!(!c.background_class, "labels from folders have none");
    assert_eq!(c.bn_epsilon, 1e-3);
    assert!(plan.augmentation.is_none() && plan.choices.is_empty(), "{:?}", plan.choices);
    let schedule = plan.schedule(10);
    assert_eq!((schedule.lr, schedule.warmup_steps, schedule.total_steps), (0.01, 10, 40));
    assert_eq!(schedule.shape, Shape::Staircase { period: 25.0, factor: 0.94 });
    assert_eq!(plan.optimizer().name(), "rmsprop");
}

#[test]
fn a_resolved_recipe_resolves_to_itself() {
    for facts in [clothes(), photos()] {
        for optimizer in OptimizerKind::ALL {
            for schedule in ScheduleKind::ALL {
                let given =
                    Recipe { optimizer: Some(optimizer), schedule: Some(schedule), ..Recipe::default() };
                let plan = resolve(&given, &facts);
                let text = plan.recipe.to_toml().unwrap();
                let read = Recipe::from_toml(&text, Path::new("recipe.toml")).unwrap();
                assert_eq!(read, plan.recipe);
                let again = resolve(&read, &facts);
                assert!(again.choices.is_empty(), "{:?}", again.choices);
                assert_eq!(again.architecture, plan.architecture);
                assert_eq!(again.augmentation, plan.augmentation);
                assert_eq!(again.schedule(9), plan.schedule(9));
                assert_eq!(again.recipe, plan.recipe);
            }
        }
    }
}

#[test]
fn a_trained_network_gives_the_defaults_and_its_weights() {
    let labels = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>();
    let mut architecture = Architecture {
        width_multiplier: 0.25,
        resolution: 128,
        classes: 7,
        conventions: Preset::TfSlim.conventions(),
        ..Architecture::default()
    };
    architecture.conventions.bn_momentum = 0.05;
    let init = Model::random(architecture, labels(7), 1).unwrap();
    let recipe = Recipe::default();
    let plan = recipe.resolve(&photos(), Some(&init.architecture)).unwrap();
    let a = &plan.architecture;
    assert_eq!((a.width_multiplier, a.resolution, a.classes), (0.25, 128, 5));
    assert_eq!(a.conventions.bn_momentum, 0.05);
    let model = plan.model(&labels(5), Some(&init)).unwrap();
    assert_eq!(model.weights.get("conv_0.weight"), init.weights.get("conv_0.weight"));
    assert_eq!(model.weights.get("classifier.bias").unwrap().shape(), [5]);
    // What it wrote needs the file no more.
    let alone = plan.recipe.resolve(&photos(), None).unwrap();
    assert_eq!(alone.architecture, plan.architecture);

    let same = Facts { classes: 7, ..photos() };
    let plan = recipe.resolve(&same, Some(&init.architecture)).unwrap();
    assert_eq!(plan.model(&labels(7), Some(&init)).unwrap().weights, init.weights);
    let renamed: Vec<String> = labels(7).iter().map(|name| format!("class {name}")).collect();
    let model = plan.model(&renamed, Some(&init)).unwrap();
    assert_ne!(model.weights.get("classifier.weight"), init.weights.get("classifier.weight"));

    let wide = Recipe { width: Some(0.5), ..Recipe::default() };
    let message = wide.resolve(&photos(), Some(&init.architecture)).unwrap_err().to_string();
    assert_eq!(message, "width: found 0.5, expected 0.25, as the network that init names has; leave it out");
    let shallow = Recipe { body: Some(Body::Shallow), ..Recipe::default() };
    let message = shallow.resolve(&photos(), Some(&init.architecture)).unwrap_err().to_string();
    assert!(message.starts_with("body: found shallow, expected separable, as the network"), "{message}");
    let grey = Recipe { channels: Some(1), ..Recipe::default() };
    let message = grey.resolve(&photos(), Some(&init.architecture)).unwrap_err().to_string();
    assert!(message.starts_with("channels: found 1, expected 3, as the network"), "{message}");
    let same = Recipe { width: Some(0.25), channels: Some(3), ..Recipe::default() };
    assert!(same.resolve(&photos(), Some(&init.architecture)).is_ok());
}

fn few_photos() -> Facts {
    Facts { images: 480, classes: 6, ..photos() }
}

#[test]
fn few_photos_train_only_the_classifier_unless_more_is_asked_for() {
    let init = Architecture::default();
    let resolve = |recipe: &Recipe, facts: &Facts| recipe.resolve(facts, Some(&init)).unwrap();
    let plan = resolve(&Recipe::default(), &few_photos());
    assert!(plan.freeze == Freeze::Body && plan.caches_features());
    assert_eq!(plan.recipe.optimizer, Some(OptimizerKind::AdamW));
    assert_eq!((plan.recipe.random_crop, plan.recipe.pad_crop), (Some(0.0), Some(0)));
    assert_eq!((plan.recipe.label_smoothing, plan.recipe.body_lr_factor), (Some(0.1), None));
    assert_eq!((plan.batch_size, plan.epochs), (32, 41));
    assert!(plan.choices.iter().any(|line| line.contains("only the classifier learns (freeze = body)")));
    // What it wrote gives the same plan, without the network.
    let named = Recipe { init: Some("imagenet".into()), ..plan.recipe.clone() };
    let again = named.resolve(&few_photos(), None).unwrap();
    assert_eq!((again.freeze, &again.architecture), (Freeze::Body, &plan.architecture));
    // Without the network a family is named, though each of its settings is already there.
    assert_eq!(Recipe { conventions: None, ..again.recipe.clone() }, named);
    assert!(again.choices.is_empty(), "{:?}", again.choices);

    // Many photos, small images, or what only makes sense where more learns.
    for plan in [
        resolve(&Recipe::default(), &Facts { images: 1201, ..few_photos() }),
        resolve(&Recipe::default(), &Facts { short_edge: 28, ..few_photos() }),
        resolve(&Recipe { random_crop: Some(0.5), ..Recipe::default() }, &few_photos()),
        resolve(&Recipe { body_lr_factor: Some(0.2), ..Recipe::default() }, &few_photos()),
        resolve(&Recipe { freeze: Some(Freeze::None), ..Recipe::default() }, &few_photos()),
    ] {
        assert_eq!(plan.freeze, Freeze::None);
        assert_eq!(plan.recipe.body_lr_factor, Some(0.2));
    }
    // Without a trained network everything learns, at one rate.
    let plan = Recipe::default().resolve(&few_photos(), None).unwrap();
    assert_eq!((plan.freeze, plan.recipe.body_lr_factor), (Freeze::None, Some(1.0)));
    assert_eq!(plan.recipe.label_smoothing, Some(0.0));
}

#[test]
fn fine_tuning_that_cannot_be_is_an_error() {
    let init = Architecture::default();
    let body = Recipe { freeze: Some(Freeze::Body), ..Recipe::default() };
    let message = body.resolve(&photos(), None).unwrap_err().to_string();
    assert!(message.starts_with("freeze: found body, expected none, or a trained network"), "{message}");
    let cases: [(Recipe, &str); 6] = [
        (
            Recipe { freeze: Some(Freeze::Blocks(14)), ..Recipe::default() },
            "freeze: found 14, expected 0 to 13, as many blocks as the body has, or body",
        ),
        (Recipe { jitter: Some(0.2), ..body.clone() }, "jitter: found 0.2, expected 0, since features are"),
        (Recipe { random_crop: Some(0.3), ..body.clone() }, "random_crop: found 0.3, expected 0, since"),
        (Recipe { body_lr_factor: Some(0.1), ..body }, "body_lr_factor: found 0.1, expected nothing where"),
        (
            Recipe { body_lr_factor: Some(0.0), ..Recipe::default() },
            "body_lr_factor: found 0, expected above 0 and at most 1",
        ),
        (Recipe { body_lr_factor: Some(-1.0), ..Recipe::default() }, "body_lr_factor: found -1"),
    ];
    for (recipe, expected) in cases {
        let message = recipe.resolve(&few_photos(), Some(&init)).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message} does not start with {expected}");
    }
    let all = Recipe { freeze: Some(Freeze::Blocks(13)), jitter: Some(0.2), ..Recipe::default() };
    assert!(!all.resolve(&few_photos(), Some(&init)).unwrap().caches_features());
}

#[test]
fn settings_out_of_range_are_errors_that_name_them() {
    let cases: [(Recipe, &str); 22] = [
        (Recipe { width: Some(0.0), ..Recipe::default() }, "width multiplier: found 0"),
        (Recipe { width: Some(-1.0), ..Recipe::default() }, "width multiplier: found -1"),
        (Recipe { resolution: Some(0), ..Recipe::default() }, "resolution: found 0"),
        (Recipe { batch_size: Some(0), ..Recipe::default() }, "batch_size: found 0, expected 1 to"),
        (Recipe { epochs: Some(0), ..Recipe::default() }, "epochs: found 0"),
        (Recipe { accumulate: Some(0), ..Recipe::default() }, "accumulate: found 0"),
        (Recipe { lr: Some(0.0), ..Recipe::default() }, "lr: found 0, expected a number above 0"),
        (Recipe { lr: Some(f64::NAN), ..Recipe::default() }, "lr: found NaN"),
        (Recipe { momentum: Some(1.0), ..Recipe::default() }, "momentum: found 1, expected 0 to below 1"),
        (Recipe { weight_decay: Some(-1.0), ..Recipe::default() }, "weight_decay: found -1"),
        (Recipe { label_smoothing: Some(1.0), ..Recipe::default() }, "label_smoothing: found 1"),
        (Recipe { ema: Some(2.0), ..Recipe::default() }, "ema: found 2"),
        (Recipe { hold_out: Some(1.0), ..Recipe::default() }, "hold_out: found 1"),
        (Recipe { classes: Some(9), ..Recipe::default() }, "classes: found 9, expected 10, as many as"),
        (Recipe { warmup_epochs: Some(1e3), ..Recipe::default() }, "warmup_epochs: found 1000"),
        (Recipe { cycle_div: Some(0.0), ..Recipe::default() }, "cycle_div: found 0"),
        (
            Recipe { pad_crop: Some(29), ..Recipe::default() },
            "pad_crop: found 29, expected at most the resolution",
        ),
        (Recipe { threads: Some(0), ..Recipe::default() }, "threads: found 0"),
        (Recipe { seed: Some(u64::MAX), ..Recipe::default() }, "seed: found 18446744073709551615"),
        (Recipe { dropout: Some(1.0), ..Recipe::default() }, "dropout: found 1"),
        (Recipe { stem_stride: Some(3), ..Recipe::default() }, "stem stride: found 3"),
        (
            Recipe { optimizer: Some(OptimizerKind::AdamW), nesterov: Some(true), ..Recipe::default() },
            "nesterov: found true",
        ),
    ];
    for (recipe, expected) in cases {
        let message = recipe.resolve(&clothes(), None).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message} does not start with {expected}");
    }
}
