"""One rival engine in a process of its own, so that its memory is its own.

    python engines.py ENGINE infer|train THREADS BATCH WIDTH RESOLUTION PRECISION

Prints a line when it is ready, and then, for every line "SECONDS" on its input, one JSON line with
the times measured. `rivals.py` drives it. Between measurements it only waits.
"""

import json
import os
import resource
import sys
import tempfile
import time


def torch_network(width):
    import torch
    from network import MobileNet

    torch.manual_seed(0)
    return MobileNet(width).to(memory_format=torch.channels_last)


def torch_images(batch, resolution):
    import torch

    torch.manual_seed(1)
    return torch.randn(batch, 3, resolution, resolution).to(memory_format=torch.channels_last)


def torch_infer(compiled, batch, width, resolution, precision):
    import torch

    network, images = torch_network(width).eval(), torch_images(batch, resolution)
    if precision == "bf16":
        network, images = network.bfloat16(), images.bfloat16()
    if compiled:
        import torch._inductor.config as inductor

        inductor.freezing = True
        network = torch.compile(network)

    def run():
        with torch.no_grad():
            network(images)

    return run


def torch_train(compiled, batch, width, resolution, precision):
    """A whole step: forward, loss, backward, SGD with momentum and weight decay."""
    import torch

    network, images = torch_network(width).train(), torch_images(batch, resolution)
    labels = torch.randint(0, 1000, (batch,))
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    criterion = torch.nn.CrossEntropyLoss()
    forward = torch.compile(network) if compiled else network

    def run():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = criterion(forward(images), labels)
        loss.backward()
        optimizer.step()

    return run


def onnx_file(batch, width, resolution):
    """The network as ONNX, exported in a process of its own: PyTorch's memory is not the engine's."""
    import subprocess

    name = f"mobilenet-{width}-{resolution}-{batch}-{os.getpid()}.onnx"
    path = os.path.join(tempfile.gettempdir(), name)
    arguments = [sys.executable, __file__, "export", path, str(batch), str(width), str(resolution)]
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return path


def export(path, batch, width, resolution):
    import torch

    network = torch_network(float(width)).eval()
    images = torch_images(int(batch), int(resolution)).contiguous()
    torch.onnx.export(network, (images,), path, dynamo=False, input_names=["images"], output_names=["logits"])


def numpy_images(batch, resolution):
    import numpy

    return numpy.random.default_rng(1).standard_normal((batch, 3, resolution, resolution), numpy.float32)


def onnxruntime_infer(threads, batch, width, resolution, precision):
    import onnxruntime

    assert precision == "f32", "onnxruntime is compared in f32"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    path = onnx_file(batch, width, resolution)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    os.remove(path)
    images = {"images": numpy_images(batch, resolution)}
    return lambda: session.run(None, images)


def openvino_infer(threads, batch, width, resolution, precision):
    import openvino

    path = onnx_file(batch, width, resolution)
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    os.remove(path)
    images = openvino.Tensor(numpy_images(batch, resolution))
    return lambda: request.infer({0: images})


def build(engine, what, threads, batch, width, resolution, precision):
    if engine in ("torch", "torch-compile"):
        import torch

        torch.set_num_threads(threads)
        make = torch_train if what == "train" else torch_infer
        return make(engine == "torch-compile", batch, width, resolution, precision)
    if what == "infer" and engine == "onnxruntime":
        return onnxruntime_infer(threads, batch, width, resolution, precision)
    if what == "infer" and engine == "openvino":
        return openvino_infer(threads, batch, width, resolution, precision)
    raise ValueError(f"{engine} does not {what}")


def version(engine):
    import importlib.metadata

    return importlib.metadata.version("torch" if engine.startswith("torch") else engine)


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


def main(engine, what, threads, batch, width, resolution, precision):
    run = build(engine, what, int(threads), int(batch), float(width), int(resolution), precision)
    run()
    print(json.dumps({"version": version(engine)}), flush=True)
    for line in sys.stdin:
        times = measure(run, float(line))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"times": times, "peak_rss_mib": round(peak)}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "export":
        export(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
