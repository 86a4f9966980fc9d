"""One network and one batch of images, as each engine reads them.

    python prepare.py weights FOLDER WIDTH RESOLUTION BATCH
    python prepare.py onnx|ncnn FOLDER WIDTH RESOLUTION BATCH

`weights` comes first: `network.pth`, `image.png` (a square of the network's size) and the batch that
begins with it, `images.npy` and `images.f32` `[N, 3, H, W]`, scaled to -1 .. 1. The others make
`network.onnx` or `network.ncnn.param` of it. `rivals.py` calls this in processes of its own: the memory
that PyTorch takes here is no engine's.
"""

import pathlib
import subprocess
import sys

import numpy
import torch
from network import MobileNet, random_network
from PIL import Image


def weights(folder, width, resolution, batch):
    pixels = numpy.random.default_rng(1).integers(0, 256, (max(batch, 8), resolution, resolution, 3), numpy.uint8)
    Image.fromarray(pixels[0]).save(folder / "image.png")
    images = (pixels.astype(numpy.float32) / 255 - 0.5) / 0.5
    images = numpy.ascontiguousarray(images.transpose(0, 3, 1, 2))
    network = random_network(width, torch.from_numpy(images))
    torch.save(network.state_dict(), folder / "network.pth")
    images = images[:batch]
    numpy.save(folder / "images.npy", images)
    images.astype("<f4").tofile(folder / "images.f32")


def load(folder, width):
    """The network of `weights`, in evaluation mode."""
    network = MobileNet(width)
    network.load_state_dict(torch.load(folder / "network.pth", weights_only=True))
    return network.eval()


def onnx(folder, width, resolution, batch):
    """The batch's size is fixed, which every engine prefers."""
    images = torch.zeros(batch, 3, resolution, resolution)
    path = str(folder / "network.onnx")
    torch.onnx.export(
        load(folder, width), (images,), path, dynamo=False, input_names=["images"], output_names=["logits"]
    )


def ncnn(folder, width, resolution, batch):
    """By pnnx, from a trace, with weights in f32; ncnn knows single images only."""
    images = torch.zeros(1, 3, resolution, resolution)
    torch.jit.trace(load(folder, width), images).save(str(folder / "network.pt"))
    pnnx = pathlib.Path(sys.executable).parent / "pnnx"
    command = [str(pnnx), "network.pt", f"inputshape=[1,3,{resolution},{resolution}]", "fp16=0"]
    subprocess.run(command, cwd=folder, check=True)


if __name__ == "__main__":
    form, folder, width, resolution, batch = sys.argv[1:]
    make = {"weights": weights, "onnx": onnx, "ncnn": ncnn}[form]
    make(pathlib.Path(folder), float(width), int(resolution), int(batch))
