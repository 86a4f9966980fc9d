//! What passes over layers must do at least, against counts by hand.

use mobilenet::Architecture;
use mobilenet::cost::{Cost, Effort};

fn cost(batch: usize) -> Cost {
    Architecture::default().cost(batch).unwrap()
}

/// The layer's effort among those of all layers.
fn of(cost: &Cost, efforts: &[Effort], name: &str) -> Effort {
    efforts[cost.layers.iter().position(|cost| cost.layer.name == name).unwrap()]
}

#[test]
fn the_stem_by_hand() {
    // 224×224×3 → 112×112×32 by a 3×3×3×32 filter, two images. Pixels are f32 whatever the rest is.
    let cost = cost(2);
    let (pixels, outputs, products) = (2 * 224 * 224 * 3, 2 * 112 * 112 * 32, 2 * 112 * 112 * 32 * 27);
    let inference = Effort {
        mult_adds: products,
        weight_bytes: (864 + 32) * 4,
        read_bytes: pixels * 4,
        written_bytes: outputs * 4,
        shared_bytes: pixels * 4,
    };
    assert_eq!(of(&cost, &cost.inference(4), "conv_0"), inference);
    let narrow = Effort { weight_bytes: 864 * 2 + 32 * 4, written_bytes: outputs * 2, ..inference };
    assert_eq!(of(&cost, &cost.inference(2), "conv_0"), narrow);
    // Filter, γ and β; backward no gradient of the pixels.
    let forward = Effort { weight_bytes: (864 + 64) * 4, ..inference };
    assert_eq!(of(&cost, &cost.forward(4), "conv_0"), forward);
    let backward = Effort {
        mult_adds: products,
        weight_bytes: 2 * (864 + 64) * 4,
        read_bytes: (2 * outputs + pixels) * 4,
        written_bytes: 0,
        shared_bytes: 2 * outputs * 4,
    };
    assert_eq!(of(&cost, &cost.backward(4), "conv_0"), backward);
}

#[test]
fn a_block_by_hand() {
    // Depthwise 3×3 on 28×28×256, stride 2, then 1×1 to 512 channels on 14×14; three images.
    let cost = cost(3);
    let (input, between, output) = (3 * 28 * 28 * 256, 3 * 14 * 14 * 256, 3 * 14 * 14 * 512);
    let inference = cost.inference(4);
    let depthwise = Effort {
        mult_adds: between * 9,
        weight_bytes: (9 * 256 + 256) * 4,
        read_bytes: input * 4,
        written_bytes: between * 4,
        shared_bytes: input * 4,
    };
    let pointwise = Effort {
        mult_adds: output * 256,
        weight_bytes: (256 * 512 + 512) * 4,
        read_bytes: between * 4,
        written_bytes: output * 4,
        shared_bytes: between * 4,
    };
    assert_eq!(of(&cost, &inference, "depthwise_6"), depthwise);
    assert_eq!(of(&cost, &inference, "pointwise_6"), pointwise);
    let fused = depthwise.fused_with(&pointwise);
    assert_eq!(fused.mult_adds, between * 9 + output * 256);
    assert_eq!(fused.bytes(), (9 * 256 + 256 + 256 * 512 + 512 + input + output) * 4);

    let backward = of(&cost, &cost.backward(2), "pointwise_6");
    assert_eq!(backward.mult_adds, 2 * pointwise.mult_adds);
    assert_eq!(backward.weight_bytes, 2 * (256 * 512 + 2 * 512) * 4);
    assert_eq!(backward.read_bytes, (2 * output + between) * 2);
    assert_eq!(backward.written_bytes, between * 2);
    // Run as one: the map between and its gradient are touched once, and pass no further.
    let fused = backward.fused_with(&of(&cost, &cost.backward(2), "depthwise_6"));
    assert_eq!(fused.read_bytes, (2 * output + between + input) * 2);
    assert_eq!(fused.written_bytes, input * 2);
}

#[test]
fn pool_and_classifier_by_hand() {
    let cost = cost(1);
    let inference = cost.inference(2);
    let pool = Effort {
        read_bytes: 49 * 1024 * 2,
        written_bytes: 1024 * 2,
        shared_bytes: 49 * 1024 * 2,
        ..Effort::default()
    };
    assert_eq!(of(&cost, &inference, "pool"), pool);
    let classifier = of(&cost, &inference, "classifier");
    assert_eq!((classifier.read_bytes, classifier.written_bytes), (1024 * 2, 1000 * 4));
    assert_eq!(classifier.weight_bytes, 1_024_000 * 2 + 1000 * 4);
    let backward = of(&cost, &cost.backward(4), "classifier");
    assert_eq!((backward.read_bytes, backward.written_bytes), ((1000 + 1024) * 4, 1024 * 4));
    let backward = of(&cost, &cost.backward(4), "pool");
    assert_eq!((backward.read_bytes, backward.written_bytes), (1024 * 4, 49 * 1024 * 4));
}

#[test]
fn layers_add_up_to_the_network() {
    let cost = cost(5);
    let sum = |efforts: Vec<Effort>| efforts.iter().map(|effort| effort.mult_adds).sum::<u64>();
    assert_eq!(sum(cost.inference(4)), 5 * 568_740_352);
    assert_eq!(sum(cost.forward(4)) + sum(cost.backward(4)), 5 * cost.training_mult_adds());
    assert_eq!(cost.training_mult_adds(), 3 * 568_740_352 - 10_838_016);
    let weights: u64 = cost.forward(2).iter().map(|effort| effort.weight_bytes).sum();
    assert_eq!(weights, 4 * 4_231_976);
}
