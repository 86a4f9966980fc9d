"""Weights of torch, timm and transformers into the binary, and out of it again.

    python roundtrip_torch.py target/release/mobilenet

Each library writes full-size networks with random weights; the binary imports them and must give
the probabilities of the library's logits; its exports must give these logits in the library.
"""

import sys
import tempfile

import numpy as np
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, MobileNetV1ImageProcessor

from binary import Binary
from torch_models import Reference, logits, randomise, timm_model, transformers_model

SIZE = 224
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5,) * 3, (0.5,) * 3)


def of_image(binary, normalisation, network):
    mean, std = (np.array(values, dtype=np.float32) for values in normalisation)
    images = ((binary.pixels.astype(np.float32) / 255 - mean) / std)[None]
    return logits(network, images)[0].numpy()


def reference(binary):
    network = randomise(Reference(), 11, 64)
    expected = of_image(binary, IMAGENET, network)
    state = network.state_dict()
    files = {name: binary.folder / name for name in ("bare.pth", "legacy.pth", "training.pth.tar", "plain.safetensors")}
    torch.save(state, files["bare.pth"])
    torch.save(state, files["legacy.pth"], _use_new_zipfile_serialization=False)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    sum(p.sum() for p in network.parameters()).backward()
    before = {k: v.clone() for k, v in state.items()}
    optimizer.step()
    network.load_state_dict(before)
    torch.save(
        {
            "epoch": 87,
            "arch": "mobilenet",
            "state_dict": torch.nn.DataParallel(network).state_dict(),
            "best_prec1": torch.tensor(68.848),
            "optimizer": optimizer.state_dict(),
        },
        files["training.pth.tar"],
    )
    save_file(before, files["plain.safetensors"])
    for name, path in files.items():
        model = binary.check_import(f"torch {name}", path, expected, "--conventions", "reference")

    def load_pth(path):
        return load(torch.load(path, weights_only=True))

    def load(state):
        fresh = Reference()
        fresh.load_state_dict(state, strict=True)
        return of_image(binary, IMAGENET, fresh)

    binary.check_export("pth", model, "pth", "exported.pth", expected, load_pth)
    binary.check_export("pth, mapped", model, "pth", "mapped.pth", expected, lambda path: load(torch.load(path, weights_only=True, mmap=True)))
    binary.check_export("safetensors, reference", model, "reference", "reference.safetensors", expected, lambda path: load(load_file(path)))
    binary.check_export("hf, of the reference network", model, "hf", "reference_hf", expected, lambda path: of_image(binary, IMAGENET, from_pretrained(path)))


def timms(binary):
    network = randomise(timm_model(), 12, 64)
    expected = of_image(binary, HALVES, network)
    torch.save(network.state_dict(), binary.folder / "timm.pth")
    save_file(network.state_dict(), binary.folder / "timm.safetensors")
    for name in ("timm.pth", "timm.safetensors"):
        model = binary.check_import(name, binary.folder / name, expected)

    def load_file_into(path):
        fresh = timm.create_model("mobilenetv1_100", checkpoint_path=str(path))
        return of_image(binary, HALVES, fresh)

    def load_folder(path):
        fresh = timm.create_model(f"local-dir:{path}", pretrained=True)
        config = timm.data.resolve_model_data_config(fresh)
        assert tuple(config["mean"]) == HALVES[0] and tuple(config["input_size"]) == (3, SIZE, SIZE), config
        return of_image(binary, HALVES, fresh)

    binary.check_export("safetensors, timm", model, "timm", "exported_timm.safetensors", expected, load_file_into)
    binary.check_export("folder, timm", model, "timm", "exported_timm", expected, load_folder)
    binary.check_export("hf, of timm's network", model, "hf", "timm_hf", expected, lambda path: of_image(binary, HALVES, from_pretrained(path)))


def from_pretrained(path):
    network = AutoModelForImageClassification.from_pretrained(path)
    assert type(network).__name__ == "MobileNetV1ForImageClassification"
    AutoImageProcessor.from_pretrained(path)
    return network


def transformers(binary):
    network = randomise(transformers_model(), 13, 64)
    expected = of_image(binary, HALVES, network)
    folder = binary.folder / "huggingface"
    network.save_pretrained(folder)
    MobileNetV1ImageProcessor().save_pretrained(folder)
    model = binary.check_import("transformers' folder", folder, expected)
    binary.check_import("transformers' safetensors alone", folder / "model.safetensors", expected)

    def load(path):
        fresh = from_pretrained(path)
        assert fresh.config.id2label[0] == "background" and fresh.config.id2label[7] == "class 7", "labels"
        return of_image(binary, HALVES, fresh)

    binary.check_export("hf", model, "hf", "exported_hf", expected, load)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        binary = Binary(sys.argv[1], folder)
        reference(binary)
        timms(binary)
        transformers(binary)
    if binary.failures:
        sys.exit(f"{binary.failures} failed")


if __name__ == "__main__":
    main()
