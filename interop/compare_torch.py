"""Compares every element of what the CPU executor computes with PyTorch at work.

For each case both get the same weights and batches. PyTorch runs in float32, as users run it, and
in double precision, which tells whose rounding a difference is. Exit status 1 if the executor is
out of tolerance against either.

    python compare_torch.py [CASE ...] [--keep FOLDER] [--threads N] [--isa NAME]

With --keep the inputs and results stay in FOLDER, for compare_tf.py.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.numpy import load_file, save_file

import values
from cases import CASES, MARGIN, STEPS, batches, errors, report, settings
from rows import specs
from torch_network import avoid_kinks, train

ROOT = pathlib.Path(__file__).parent.parent


def compare(name, folder, profile, options):
    a, batch, smoothing, sgd = settings(name)
    weights = values.weights(specs(a), a["conventions"]["activation"] == "relu6")
    data = batches(a, batch)
    avoid_kinks(a, weights, data[0][0], MARGIN)
    tensors = dict(weights)
    for number, (images, labels) in enumerate(data):
        tensors[f"images/{number}"], tensors[f"labels/{number}"] = images, labels
    about = {
        "architecture": json.dumps(a),
        "label_smoothing": str(smoothing),
        "sgd": json.dumps(sgd),
        "steps": str(STEPS),
    }
    before, after = folder / f"{name}.input.safetensors", folder / f"{name}.output.safetensors"
    save_file(tensors, before, about)
    command = ["cargo", "run", "--profile", profile, "--quiet", "-p", "mobilenet", "--example", "dump_step", "--"]
    subprocess.run([*command, before.resolve(), after.resolve(), *options], cwd=ROOT, check=True)
    found = load_file(after)
    single = train(a, weights, data, smoothing, sgd, torch.float32)
    double = train(a, weights, data, smoothing, sgd, torch.float64)
    within = report(f"{name}: PyTorch float32", errors(found, single))
    within &= report(f"{name}: PyTorch double", errors(found, double))
    report("    (PyTorch float32 to double)", errors(single, double))
    return within


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--keep", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--isa", help="portable, avx2, avx512 or neon; the fastest if not given")
    parser.add_argument("--profile", default="release", help="cargo's profile; release if not given")
    arguments = parser.parse_args()
    options = [str(arguments.threads), *([arguments.isa] if arguments.isa else [])]
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        results = [compare(name, folder, arguments.profile, options) for name in arguments.cases or CASES]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
