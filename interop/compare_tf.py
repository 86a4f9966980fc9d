"""Compares what the CPU executor computed with TensorFlow, whose own SAME padding is used.

    python compare_torch.py --keep /tmp/compared tf_same tf_same_even keras_odd
    python compare_tf.py /tmp/compared

For every case in the folder whose padding TensorFlow has (`same` and `keras`): inference and
training logits, gradients and running statistics, each element. Then the sizes of the feature
maps of tf.keras.applications.MobileNet at an odd resolution against the rows of padding `keras`.
"""

import json
import math
import pathlib
import sys

import numpy as np
import tensorflow as tf
from safetensors import safe_open
from safetensors.numpy import load_file

from cases import errors, report
from rows import architecture, layers


def forward(a, t, images, training):
    """Logits, and the batch statistics of each layer."""
    conventions, statistics, x = a["conventions"], {}, images
    for name, kind, _, _, stride, dilation, (before, after) in layers(a):
        w = t[f"{name}.weight"]
        if conventions["padding"] == "keras" and stride == 2 and name != "conv_0":
            # As Keras writes it: a layer of zeros, then no padding.
            x, padding = tf.pad(x, [[0, 0], [0, 1], [0, 1], [0, 0]]), "VALID"
        else:
            padding = "SAME"
        # PyTorch's layouts to TensorFlow's.
        if kind == "depthwise":
            w = tf.transpose(w, [2, 3, 0, 1])
            x = tf.nn.depthwise_conv2d(x, w, [1, stride, stride, 1], padding, dilations=[dilation, dilation])
        else:
            x = tf.nn.conv2d(x, tf.transpose(w, [2, 3, 1, 0]), stride, padding, dilations=dilation)
        if training:
            mean, variance = tf.nn.moments(x, [0, 1, 2])
            n = math.prod(x.shape[:3])
            statistics[name] = mean, variance * (n / (n - 1))
        else:
            mean, variance = t[f"{name}.bn.running_mean"], t[f"{name}.bn.running_var"]
        gamma, beta = t[f"{name}.bn.weight"], t[f"{name}.bn.bias"]
        x = tf.nn.batch_normalization(x, mean, variance, beta, gamma, conventions["bn_epsilon"])
        x = tf.nn.relu6(x) if conventions["activation"] == "relu6" else tf.nn.relu(x)
    x = tf.reduce_mean(x, [1, 2])
    return x @ tf.transpose(t["classifier.weight"]) + t["classifier.bias"], statistics


def compare(before):
    with safe_open(before, "np") as file:
        a = json.loads(file.metadata()["architecture"])
        smoothing = float(file.metadata()["label_smoothing"])
    name = before.name.removesuffix(".input.safetensors")
    if a["conventions"]["padding"] == "fixed":
        return True
    tensors = load_file(before)
    t = {key: tf.Variable(value) for key, value in tensors.items() if "/" not in key}
    trainable = {key: value for key, value in t.items() if "running" not in key}
    result = {"logits.infer": forward(a, t, tensors["images/0"], False)[0]}
    with tf.GradientTape() as tape:
        logits, statistics = forward(a, t, tensors["images/0"], True)
        classes = logits.shape[1]
        targets = tf.one_hot(tensors["labels/0"], classes) * (1 - smoothing) + smoothing / classes
        loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))
    result["logits.train"] = logits
    for key, gradient in tape.gradient(loss, trainable).items():
        result[f"grad/{key}"] = gradient
    momentum = a["conventions"]["bn_momentum"]
    for layer, found in statistics.items():
        for which, new in zip(("running_mean", "running_var"), found):
            old = t[f"{layer}.bn.{which}"]
            result[f"after/{layer}.bn.{which}"] = old + momentum * (new - old)
    truth = {key: value.numpy().astype(np.float64) for key, value in result.items()}
    found = load_file(before.with_name(f"{name}.output.safetensors"))
    worst = errors(found, truth)
    del worst["losses"]
    return report(f"{name}: TensorFlow", worst)


def compare_keras():
    """Output sizes of each convolution, with its own padding."""
    size = 77
    model = tf.keras.applications.MobileNet((size, size, 3), weights=None, include_top=False)
    kinds = (tf.keras.layers.Conv2D, tf.keras.layers.DepthwiseConv2D)
    keras = [layer.output.shape[1] for layer in model.layers if isinstance(layer, kinds)]
    ours = []
    for *_, stride, dilation, pad in layers(architecture({"padding": "keras"}, resolution=size)):
        if pad != (0, 0) or stride == 2:
            size = (size + sum(pad) - 2 * dilation - 1) // stride + 1
        ours.append(size)
    print("keras: sizes of feature maps", "agree" if keras == ours else f"differ: {keras}, ours {ours}")
    return keras == ours


if __name__ == "__main__":
    inputs = sorted(pathlib.Path(sys.argv[1]).glob("*.input.safetensors"))
    if not inputs:
        sys.exit(f"{sys.argv[1]}: no results of compare_torch.py --keep")
    within = [compare(path) for path in inputs]
    sys.exit(0 if all(within) & compare_keras() else 1)
