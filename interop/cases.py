"""The networks that are compared, and the tolerances within which they must agree."""

import numpy as np

import values
from rows import architecture

STEPS = 20
# Relative: logits and "worst" to a tensor's largest absolute value, "norm" to its norm.
TOLERANCES = {"logits": 1e-5, "norm": 1e-4, "worst": 1e-3, "losses": 1e-4}
# The least distance of pre-activations from the kinks of the activation, where it can be had.
MARGIN = 1e-3

TF = {"padding": "same", "activation": "relu6", "bn_epsilon": 1e-3, "bn_momentum": 0.01}
# Small steps: twenty large ones would be chaotic, in any precision.
SGD = {"lr": 0.0002, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": False}
TF_SGD = {"lr": 0.00005}
CASES = {
    "reference": dict(architecture=architecture(resolution=64), batch=4, also_infer=224),
    "quarter": dict(
        architecture=architecture(width_multiplier=0.25, resolution=96, classes=10), batch=4, sgd={"nesterov": True}
    ),
    "full": dict(architecture=architecture(body="full", width_multiplier=0.25, resolution=64, classes=10), batch=4),
    "shallow": dict(
        architecture=architecture(
            body="shallow", width_multiplier=0.5, resolution=32, stem_stride=1, input_channels=1, classes=10
        ),
        batch=8,
        label_smoothing=0.1,
        sgd={"lr": 0.002},
    ),
    "tf_same": dict(
        architecture=architecture({**TF, "background_class": True}, width_multiplier=0.5, resolution=75, classes=10),
        batch=4,
        sgd=TF_SGD,
    ),
    "tf_same_even": dict(
        architecture=architecture(TF, width_multiplier=0.25, resolution=64, classes=10), batch=4, sgd=TF_SGD
    ),
    "keras_odd": dict(
        architecture=architecture(
            {**TF, "padding": "keras", "width_rounding": "truncate"}, width_multiplier=0.3, resolution=77, classes=10
        ),
        batch=4,
        sgd={"lr": 0.00001},
    ),
    "dilated": dict(
        architecture=architecture(
            {"padding": "same", "width_rounding": "multiple-of8"},
            width_multiplier=0.35,
            resolution=33,
            output_stride=8,
            classes=10,
        ),
        batch=2,
        sgd={"lr": 0.001, "weight_decay": 1e-2},
    ),
}


def settings(name):
    """Architecture, batch size, label smoothing and SGD's settings of a case."""
    case = CASES[name]
    return case["architecture"], case["batch"], case.get("label_smoothing", 0.0), {**SGD, **case.get("sgd", {})}


def batches(a, batch):
    """Two batches of images and labels."""
    background = int(a["conventions"]["background_class"])
    return [(values.images(b, batch, a), values.labels(b, batch, a["classes"]) + background) for b in range(2)]


def errors(found, truth):
    """The largest error of each kind, and of which tensor, between two dictionaries of results."""
    worst = {kind: (0.0, "") for kind in TOLERANCES}
    for name, expected in truth.items():
        difference = np.abs(found[name].astype(np.float64).reshape(expected.shape) - expected)
        by_largest = difference.max() / np.abs(expected).max()
        if name == "losses":
            kinds = {"losses": (difference / expected).max()}
        elif name.startswith("grad/"):
            kinds = {"norm": np.linalg.norm(difference) / np.linalg.norm(expected), "worst": by_largest}
        else:
            kinds = {"logits": by_largest}
        for kind, error in kinds.items():
            # The negation is for NaN.
            if not error <= worst[kind][0]:
                worst[kind] = (error, name)
    return worst


def report(what, worst):
    """Prints the errors; whether all are within the tolerances."""
    print(f"{what:32}", "  ".join(f"{kind} {error:.1e} ({name})" for kind, (error, name) in worst.items()))
    return all(error <= TOLERANCES[kind] for kind, (error, _) in worst.items())
