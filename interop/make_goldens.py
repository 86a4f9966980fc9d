"""Writes crates/mobilenet/tests/golden/*.safetensors: what PyTorch computes for a few networks.

PyTorch runs in double precision, so that the files carry no rounding but that of their own
float32 tensors. It also runs in float32: a case in which that is more than half a tolerance off
would be no fair test, and is refused.

    python make_goldens.py            all cases
    python make_goldens.py quarter    some
"""

import json
import pathlib
import sys

import numpy as np
import torch
from safetensors.numpy import save_file

import values
from cases import CASES, MARGIN, TOLERANCES, batches, errors, report, settings
from rows import specs
from torch_network import MobileNet, avoid_kinks, train

FOLDER = pathlib.Path(__file__).parent.parent / "crates/mobilenet/tests/golden"
# Tensors above this size are sampled.
SMALL, SAMPLES = 1152, 256


def make(name):
    a, batch, smoothing, sgd = settings(name)
    wanted = specs(a)
    weights = values.weights(wanted, a["conventions"]["activation"] == "relu6")
    data = batches(a, batch)
    least = avoid_kinks(a, weights, data[0][0], MARGIN)
    double = train(a, weights, data, smoothing, sgd, torch.float64)
    worst = errors(train(a, weights, data, smoothing, sgd, torch.float32), double)
    report(f"{name}: PyTorch's float32", worst)
    print(f"    loss {double['losses'][0]:.4f} to {double['losses'][-1]:.4f}, no kink nearer than {least:.1e}")
    if any(error > TOLERANCES[kind] / 2 for kind, (error, _) in worst.items()):
        sys.exit(f"{name}: too ill-conditioned to be a golden")

    tensors = {"losses": double.pop("losses")}
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
    large = CASES[name].get("also_infer", 0)
    if large:
        larger = {**a, "resolution": large}
        with torch.no_grad():
            x = torch.tensor(values.images(9, 1, larger), dtype=torch.float64)
            tensors["logits.infer_large"] = MobileNet(larger, weights, torch.float64)(x, False).float().numpy()
    about = {
        "architecture": json.dumps(a),
        "batch": str(batch),
        "label_smoothing": str(smoothing),
        "sgd": json.dumps(sgd),
        "also_infer": str(large),
        "made_by": f"interop/make_goldens.py with PyTorch {torch.__version__.split('+')[0]}, double precision",
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_file(tensors, FOLDER / f"{name}.safetensors", about)


if __name__ == "__main__":
    for name in sys.argv[1:] or CASES:
        make(name)
