"""Times a cold process that names one photo: `mobilenet classify` and Python with ONNX Runtime, in turns.

    python -m venv venv && venv/bin/pip install -r bench/requirements.txt
    cargo build --release
    venv/bin/python bench/cold_start.py

From the start of the process to its end, with the answer printed: decode, resize, open the model, run it
once. Both use the embedded ImageNet model (ONNX Runtime its export) and the same two cores; the files are
in the page cache. Python's part imports only what it needs, and leaves ONNX Runtime the default
optimisations, since they are part of a first start. `cpu` is user and system time of both cores together:
it says something even on a machine that is not quiet. --save writes bench/results/cold-start.json.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent

# The evaluation transform of the model: the short edge to 256, the central 224 by 224, to -1 .. 1.
ONNX_RUNTIME = """
import sys
import numpy
import onnxruntime
from PIL import Image
photo, model, labels, threads = sys.argv[1:]
image = Image.open(photo).convert("RGB")
side = min(image.size) * 224 / 256
left, top = ((size - side) / 2 for size in image.size)
box = (left, top, left + side, top + side)
image = image.resize((224, 224), Image.Resampling.BILINEAR, box=box)
pixels = (numpy.asarray(image, numpy.float32) / 127.5 - 1)[None]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(threads)
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
feed = session.get_inputs()[0]
if feed.shape[-1] != 3:
    pixels = pixels.transpose(0, 3, 1, 2)
logits = session.run(None, {feed.name: numpy.ascontiguousarray(pixels)})[0][0].astype(float)
names = open(labels, encoding="utf-8").read().splitlines()
shares = numpy.exp(logits - logits.max())
shares /= shares.sum()
shares = shares[len(logits) - len(names):]
for index in numpy.argsort(-shares)[:5]:
    print(f"{100 * shares[index]:6.2f} %  {names[index]}")
"""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=ROOT / "target/release/mobilenet", type=pathlib.Path)
    parser.add_argument("--photo", default=ROOT / "examples/photos/chelsea.png", type=pathlib.Path)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--engines", default="mobilenet,onnxruntime")
    parser.add_argument("--save", action="store_true", help="write bench/results/cold-start.json")
    return parser.parse_args()


def timed(command):
    """Seconds, processor seconds and the first line of the answer."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    ran = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if ran.returncode != 0:
        sys.exit(f"{command[0]}: {ran.stderr}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    answer = next((line.strip() for line in ran.stdout.splitlines() if "%" in line), ran.stdout)
    return seconds, cpu, answer


def main():
    given = arguments()
    cores = sorted(os.sched_getaffinity(0))[: given.cores]
    os.sched_setaffinity(0, cores)
    with tempfile.TemporaryDirectory() as folder:
        commands = {"mobilenet": [given.binary, "classify", given.photo, "--threads", str(len(cores))]}
        if "onnxruntime" in given.engines.split(","):
            model = pathlib.Path(folder) / "imagenet.onnx"
            export = [given.binary, "export", "imagenet", "--format", "onnx", "-o", model]
            subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
            labels = ROOT / "crates/imagenet/labels.txt"
            commands["onnxruntime"] = [
                sys.executable, "-c", ONNX_RUNTIME, given.photo, model, labels, str(len(cores))
            ]
        commands = {name: [str(part) for part in commands[name]] for name in given.engines.split(",")}
        for command in commands.values():
            timed(command)  # The page cache and Python's bytecode are warm from here on.
        times = {name: [] for name in commands}
        for _ in range(given.runs):
            for name, command in commands.items():
                times[name].append(timed(command))
    result = {"machine": platform.processor() or platform.machine(), "cores": len(cores), "photo": given.photo.name}
    result["engines"] = {}
    print(f"{given.photo.name}, {len(cores)} cores, {given.runs} runs in turns")
    for name, runs in times.items():
        wall, cpu = [1e3 * run[0] for run in runs], [1e3 * run[1] for run in runs]
        found = {
            "ms_median": round(statistics.median(wall), 1),
            "ms_min": round(min(wall), 1),
            "cpu_ms_median": round(statistics.median(cpu), 1),
            "answer": runs[0][2],
        }
        result["engines"][name] = found
        print(
            f"{name:12} median {found['ms_median']:7.1f} ms  min {found['ms_min']:7.1f} ms  "
            f"cpu {found['cpu_ms_median']:7.1f} ms  {found['answer']}"
        )
    if given.save:
        path = ROOT / "bench/results/cold-start.json"
        path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
