"""One rival engine in a process of its own, so that its memory is its own.

    python engines.py ENGINE infer|train THREADS WIDTH PRECISION FOLDER

FOLDER holds what prepare.py made. Prints a line when it is ready (or why it cannot be: `skipped`), with the
logits of the first image, and then, for every line "SECONDS" on its input, one JSON line with the times
measured. `rivals.py` drives it. Between measurements it only waits.
"""

import importlib.metadata
import json
import pathlib
import resource
import sys
import time

# The package whose version is the engine's.
PACKAGES = {"torch-compile": "torch", "litert": "ai-edge-litert"}


class Skipped(Exception):
    """Why an engine cannot do what is asked."""


class Job:
    def __init__(self, what, threads, width, precision, folder):
        import numpy

        self.what, self.threads, self.width, self.precision = what, int(threads), float(width), precision
        self.folder = pathlib.Path(folder)
        self.images = numpy.load(self.folder / "images.npy")

    def only_f32(self, engine):
        if self.precision != "f32":
            raise Skipped(f"{engine} does not compute this network in {self.precision} on a CPU")


def torch_infer(job, compiled):
    """Channels last, its faster layout; compiled with frozen weights. Weights and images in bf16, where that
    is asked: faster than autocast, which rounds the weights anew each time."""
    import torch
    from prepare import load

    torch.set_num_threads(job.threads)
    network = load(job.folder, job.width).to(memory_format=torch.channels_last)
    images = torch.from_numpy(job.images).to(memory_format=torch.channels_last)
    if job.precision == "bf16":
        network, images = network.bfloat16(), images.bfloat16()
    if compiled:
        import torch._inductor.config as inductor

        inductor.freezing = True
        network = torch.compile(network)

    def run():
        with torch.no_grad():
            return network(images)

    return run, lambda: run()[0].float().numpy()


def torch_train(job, compiled):
    """A whole step: forward, loss, backward, SGD with momentum and weight decay. Channels last; bf16 by autocast,
    with weights in f32, as PyTorch trains in mixed precision."""
    import torch
    from prepare import load

    torch.set_num_threads(job.threads)
    network = load(job.folder, job.width).to(memory_format=torch.channels_last)
    images = torch.from_numpy(job.images).to(memory_format=torch.channels_last)
    with torch.no_grad():
        logits = network(images[:1])[0].numpy()
    network.train()
    labels = torch.randint(0, 1000, (len(images),))
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    criterion = torch.nn.CrossEntropyLoss()
    forward = torch.compile(network) if compiled else network

    def run():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=job.precision == "bf16"):
            loss = criterion(forward(images), labels)
        loss.backward()
        optimizer.step()

    return run, lambda: logits


def onnxruntime_infer(job):
    job.only_f32("ONNX Runtime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    session = onnxruntime.InferenceSession(str(job.folder / "network.onnx"), options, providers=["CPUExecutionProvider"])
    feed = {"images": job.images}
    return lambda: session.run(None, feed), lambda: session.run(None, feed)[0][0]


def openvino_infer(job):
    """As precise as is asked: left alone it takes bf16 wherever the machine has it."""
    import openvino

    core = openvino.Core()
    if job.precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise Skipped("OpenVINO does not compute in bf16 on this machine")
    settings = {
        "INFERENCE_PRECISION_HINT": job.precision,
        "INFERENCE_NUM_THREADS": job.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    request = core.compile_model(str(job.folder / "network.onnx"), "CPU", settings).create_infer_request()
    feed = {0: openvino.Tensor(job.images)}

    def logits():
        request.infer(feed)
        return request.get_output_tensor(0).data[0].copy()

    return lambda: request.infer(feed), logits


def litert_infer(job):
    """XNNPACK, which LiteRT chooses by itself for f32 on a CPU. The file is for one image; its input is resized."""
    job.only_f32("LiteRT")
    import numpy
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(job.folder / "network.tflite"), num_threads=job.threads)
    feed = interpreter.get_input_details()[0]["index"]
    images = numpy.ascontiguousarray(job.images.transpose(0, 2, 3, 1))
    if len(images) > 1:
        interpreter.resize_tensor_input(feed, images.shape, strict=False)
    interpreter.allocate_tensors()
    interpreter.set_tensor(feed, images)

    def logits():
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]

    return interpreter.invoke, logits


def ncnn_infer(job):
    """It knows no batches: a batch is one image after the other. In bf16 it stores, but multiplies in f32 where
    the machine has no bf16 products."""
    import ncnn
    import numpy

    network = ncnn.Net()
    network.opt.num_threads = job.threads
    bf16 = job.precision == "bf16"
    network.opt.use_bf16_storage = network.opt.use_bf16_packed = bf16
    network.opt.use_fp16_packed = network.opt.use_fp16_storage = network.opt.use_fp16_arithmetic = False
    for load, part in ((network.load_param, "param"), (network.load_model, "bin")):
        if load(str(job.folder / f"network.ncnn.{part}")) != 0:
            raise Skipped(f"ncnn cannot read network.ncnn.{part}")
    images = [ncnn.Mat(image).clone() for image in job.images]

    def infer(image):
        extractor = network.create_extractor()
        extractor.input("in0", image)
        return extractor.extract("out0")[1]

    def run():
        for image in images:
            infer(image)

    return run, lambda: numpy.array(infer(images[0])).reshape(-1)


ENGINES = {
    "infer": {
        "torch": lambda job: torch_infer(job, False),
        "torch-compile": lambda job: torch_infer(job, True),
        "onnxruntime": onnxruntime_infer,
        "openvino": openvino_infer,
        "litert": litert_infer,
        "ncnn": ncnn_infer,
    },
    "train": {
        "torch": lambda job: torch_train(job, False),
        "torch-compile": lambda job: torch_train(job, True),
    },
}


def timed(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(run, seconds):
    """As `mobilenet bench` does it: up to ten runs or about a second of warm-up, then the time given."""
    once = timed(run)
    for _ in range(min(max(int(1 / max(once, 1e-4)), 1), 10)):
        run()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        times.append(timed(run))
    return times


def peak_rss_mib():
    """The most memory that this process has had at once. Linux's `ru_maxrss` counts what it was forked from."""
    try:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return round(kib / 1024)


def main(engine, what, *shape):
    try:
        make = ENGINES[what].get(engine)
        if make is None:
            raise Skipped(f"{engine} is not known for {what}")
        run, logits = make(Job(what, *shape))
        logits = [float(value) for value in logits()]
        version = importlib.metadata.version(PACKAGES.get(engine, engine))
    except Exception as problem:  # noqa: BLE001 whatever it is, it is the reason that is reported
        lines = f"{problem}".strip().splitlines() or [type(problem).__name__]
        print(json.dumps({"skipped": lines[0][:200]}), flush=True)
        return
    run()
    print(json.dumps({"version": version, "logits": logits}), flush=True)
    for line in sys.stdin:
        times = measure(run, float(line))
        print(json.dumps({"times": times, "peak_rss_mib": peak_rss_mib()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
