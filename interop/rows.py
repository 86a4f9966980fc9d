"""MobileNet v1 from an architecture as the model files hold it: its rows and its tensors."""

import math

REFERENCE = {
    "body": "separable",
    "width_multiplier": 1.0,
    "resolution": 224,
    "stem_stride": 2,
    "output_stride": 32,
    "classes": 1000,
    "input_channels": 3,
    "conventions": {
        "padding": "fixed",
        "activation": "relu",
        "bn_epsilon": 1e-5,
        "bn_momentum": 0.1,
        "width_rounding": "at-least8",
        "background_class": False,
        "dropout": 0.0,
        "preprocessing": {
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "resize": "short-edge",
            "crop_fraction": 0.875,
            "interpolation": "bilinear",
        },
    },
}

BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)] + 5 * [(512, 1)] + [(1024, 2), (1024, 1)]


def architecture(conventions=None, **settings):
    """The reference network with some settings changed."""
    changed = {**REFERENCE, **settings}
    changed["conventions"] = {**REFERENCE["conventions"], **(conventions or {})}
    if changed["input_channels"] == 1:
        grey = {**changed["conventions"]["preprocessing"], "mean": [0.5], "std": [0.5]}
        changed["conventions"]["preprocessing"] = grey
    return changed


def thin(a, channels):
    exact = a["width_multiplier"] * channels
    rule = a["conventions"]["width_rounding"]
    if rule == "truncate":
        return int(exact)
    if rule == "at-least8":
        return max(int(exact), 8)
    rounded = max(int(exact + 4) // 8 * 8, 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


def outputs(a):
    return a["classes"] + a["conventions"]["background_class"]


def pads(padding, size, stride, dilation):
    """Zeros before and after along one axis of a 3×3 convolution."""
    if padding == "fixed":
        return dilation, dilation
    if padding == "keras" and stride == 2:
        return 0, 1
    total = max((math.ceil(size / stride) - 1) * stride + 2 * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def layers(a):
    """Each convolution as (name, kind, inputs, outputs, stride, dilation, (before, after))."""
    rows, size, channels = [], a["resolution"], a["input_channels"]

    def add(name, kind, width, stride=1, dilation=1):
        nonlocal size, channels
        padding = a["conventions"]["padding"]
        if padding == "keras" and not rows:
            padding = "same"  # Keras pads the stem like TensorFlow, and only strided blocks in its own way
        pad = (0, 0) if kind == "pointwise" else pads(padding, size, stride, dilation)
        rows.append((name, kind, channels, width, stride, dilation, pad))
        if kind != "pointwise":
            size = (size + sum(pad) - 2 * dilation - 1) // stride + 1
        channels = width

    add("conv_0", "conv", thin(a, 32), a["stem_stride"])
    blocks = BLOCKS[:6] + BLOCKS[11:] if a["body"] == "shallow" else BLOCKS
    reached, rate = a["stem_stride"], 1
    for number, (width, stride) in enumerate(blocks, 1):
        if reached >= a["output_stride"]:
            stride, dilation, rate = 1, rate, rate * stride
        else:
            dilation = 1
            reached *= stride
        if a["body"] == "full":
            add(f"conv_{number}", "conv", thin(a, width), stride, dilation)
        else:
            add(f"depthwise_{number}", "depthwise", channels, stride, dilation)
            add(f"pointwise_{number}", "pointwise", thin(a, width))
    return rows


def specs(a):
    """Each tensor as (name, shape, role), in the order of the layers."""
    result = []
    for name, kind, inputs, width, *_ in layers(a):
        kernel = 1 if kind == "pointwise" else 3
        result.append((f"{name}.weight", (width, 1 if kind == "depthwise" else inputs, kernel, kernel), "conv"))
        result.append((f"{name}.bn.weight", (width,), "gamma"))
        result.append((f"{name}.bn.bias", (width,), "beta"))
        result.append((f"{name}.bn.running_mean", (width,), "running_mean"))
        result.append((f"{name}.bn.running_var", (width,), "running_var"))
    result.append(("classifier.weight", (outputs(a), width), "classifier"))
    result.append(("classifier.bias", (outputs(a),), "classifier_bias"))
    return result
