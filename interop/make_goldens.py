"""Writes crates/mobilenet/tests/golden/*.safetensors: what PyTorch computes for a few networks.

PyTorch runs in double precision, so that the files carry no rounding but that of their own
float32 tensors; the script also runs PyTorch in float32, prints how far that is off, and fails
if a case is so ill-conditioned that PyTorch's own float32 would not meet the tolerances.

    python make_goldens.py            all cases
    python make_goldens.py quarter    some
"""

import json
import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

import values
from rows import architecture, specs
from torch_network import MobileNet, avoid_kinks

FOLDER = pathlib.Path(__file__).parent.parent / "crates/mobilenet/tests/golden"
STEPS = 20
# Tensors above this size are sampled.
SMALL, SAMPLES = 1152, 256
MARGIN = 1e-3

TF = {"padding": "same", "activation": "relu6", "bn_epsilon": 1e-3, "bn_momentum": 0.01}
SGD = {"lr": 0.0002, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": False}
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
        architecture=architecture(
            {**TF, "background_class": True}, width_multiplier=0.5, resolution=75, classes=10
        ),
        batch=4,
    ),
    "tf_same_even": dict(architecture=architecture(TF, width_multiplier=0.25, resolution=64, classes=10), batch=4),
    "keras_odd": dict(
        architecture=architecture(
            {**TF, "padding": "keras", "width_rounding": "truncate"}, width_multiplier=0.3, resolution=77, classes=10
        ),
        batch=4,
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
        sgd={"lr": 0.005, "weight_decay": 1e-2},
    ),
}


def run(a, weights, batches, smoothing, sgd, dtype):
    """Everything that a golden file holds, in one precision."""
    net = MobileNet(a, weights, dtype)
    images = [torch.tensor(i, dtype=dtype) for i, _ in batches]
    labels = [torch.tensor(l) for _, l in batches]
    result = {}
    with torch.no_grad():
        result["logits.infer"] = net(images[0], False)
    optimizer = torch.optim.SGD(net.parameters().values(), **sgd)
    losses = []
    for step in range(STEPS):
        x, y = images[step % len(batches)], labels[step % len(batches)]
        logits = net(x, True)
        loss = F.cross_entropy(logits, y, label_smoothing=smoothing)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            result["logits.train"] = logits.detach()
            for name, tensor in net.tensors.items():
                if tensor.requires_grad:
                    result[f"grad/{name}"] = tensor.grad.clone()
                else:
                    result[f"after/{name}"] = tensor.clone()
        optimizer.step()
        losses.append(loss.item())
    return {name: value.double().numpy() for name, value in result.items()}, np.array(losses)


def relative(found, truth):
    return np.linalg.norm(found - truth) / np.linalg.norm(truth)


def compare(single, double):
    """How far float32 is off: logits, gradients norm-wise, gradients at the worst element."""
    logits, norm, worst = 0.0, (0.0, ""), (0.0, "")
    for name, truth in double.items():
        if name.startswith("logits"):
            logits = max(logits, np.abs(single[name] - truth).max() / np.abs(truth).max())
        elif name.startswith("grad/"):
            norm = max(norm, (relative(single[name], truth), name))
            worst = max(worst, (np.abs(single[name] - truth).max() / np.abs(truth).max(), name))
    return logits, norm, worst


def make(name, case):
    a, batch, smoothing = case["architecture"], case["batch"], case.get("label_smoothing", 0.0)
    sgd = {**SGD, **case.get("sgd", {})}
    wanted = specs(a)
    weights = values.weights(wanted, a["conventions"]["activation"] == "relu6")
    background = int(a["conventions"]["background_class"])
    batches = [(values.images(b, batch, a), values.labels(b, batch, a["classes"]) + background) for b in range(2)]
    least = avoid_kinks(a, weights, batches[0][0], MARGIN)
    double, losses = run(a, weights, batches, smoothing, sgd, torch.float64)
    single, single_losses = run(a, weights, batches, smoothing, sgd, torch.float32)

    logits, norm, worst = compare(single, double)
    drift = np.abs(single_losses / losses - 1).max()
    print(f"{name}: loss {losses[0]:.4f} to {losses[-1]:.4f}, no kink nearer than {least:.1e}; PyTorch's float32 is off")
    print(f"  by {logits:.1e} in logits, {norm[0]:.1e} in gradients ({norm[1]}), {worst[0]:.1e} at worst ({worst[1]}), {drift:.1e} in losses")
    if logits > 5e-6 or norm[0] > 5e-5 or worst[0] > 5e-4 or drift > 5e-5:
        print(f"{name}: too ill-conditioned to be a golden")

    tensors = {"losses": losses}
    for key, value in double.items():
        kind, _, tensor = key.partition("/")
        if kind == "grad" and value.size > SMALL:
            number = [spec[0] for spec in wanted].index(tensor)
            chosen = values.below(values.SAMPLES + number, SAMPLES, value.size)
            tensors[f"sample/{tensor}"] = value.ravel()[chosen].astype(np.float32)
            tensors[f"norm_max/{tensor}"] = np.array([np.linalg.norm(value), np.abs(value).max()])
        else:
            tensors[key] = value.astype(np.float32)
    for key, value in weights.items():
        if key.endswith(".bn.bias"):
            tensors[f"beta/{key}"] = value
    if "also_infer" in case:
        large = {**a, "resolution": case["also_infer"]}
        net = MobileNet(large, weights, torch.float64)
        with torch.no_grad():
            x = torch.tensor(values.images(9, 1, large), dtype=torch.float64)
            tensors["logits.infer_large"] = net(x, False).float().numpy()
    about = {
        "architecture": json.dumps(a),
        "batch": str(batch),
        "label_smoothing": str(smoothing),
        "sgd": json.dumps(sgd),
        "also_infer": str(case.get("also_infer", 0)),
        "made_by": f"interop/make_goldens.py with PyTorch {torch.__version__.split('+')[0]}, double precision",
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_file(tensors, FOLDER / f"{name}.safetensors", about)


if __name__ == "__main__":
    torch.set_num_threads(2)
    for name in sys.argv[1:] or CASES:
        make(name, CASES[name])
