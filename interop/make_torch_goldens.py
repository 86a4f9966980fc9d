"""Writes crates/formats/tests/golden/torch/: files as torch.save, timm and transformers write
them, each with the logits that its library computes (`NAME.golden.safetensors`: `input`
`[N, H, W, 3]`, normalised, and `logits`); and pickles that mean harm.

    python make_torch_goldens.py
"""

import os
import pathlib
import pickle

import numpy as np
import torch
from safetensors.torch import save_file

from torch_models import Reference, logits, randomise, timm_model, transformers_model

FOLDER = pathlib.Path(__file__).parent.parent / "crates/formats/tests/golden/torch"
WIDTH, CLASSES, SIZE = 0.125, 10, 64


def golden(name, network, size=SIZE):
    """Writes input and logits of the network as it is now."""
    images = torch.randn(1, size, size, 3, generator=torch.Generator().manual_seed(7))
    result = logits(network, images).float().contiguous()
    print(f"{name}: logits {result.min():.2f} to {result.max():.2f}")
    save_file({"input": images, "logits": result}, FOLDER / f"{name}.golden.safetensors")


def rounded(network, dtype):
    """Rounds the network's floats to `dtype` and returns its state_dict in it."""
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in network.state_dict().items()}
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return state


class Harm:
    """What a malicious file asks for. Harmless should it ever run: it makes a file."""

    def __reduce__(self):
        return os.system, ("touch /tmp/mobilenet-ran-a-pickle",)


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)

    network = randomise(Reference(WIDTH, CLASSES), 1, SIZE)
    golden("reference", network)
    torch.save(network.state_dict(), FOLDER / "reference.pth")
    small = Reference(1 / 32, 2)
    torch.save(small, FOLDER / "whole_network.pth")
    torch.save(small, FOLDER / "whole_network_legacy.pth", _use_new_zipfile_serialization=False)
    torch.jit.script(small).save(FOLDER / "torchscript.pt")

    network = randomise(Reference(WIDTH, CLASSES), 2, SIZE)
    state = rounded(network, torch.float16)
    golden("legacy_f16", network)
    torch.save(state, FOLDER / "legacy_f16.pth", _use_new_zipfile_serialization=False)

    # As the training repository wrote it: DataParallel, no num_batches_tracked; and bfloat16.
    network = randomise(Reference(WIDTH, CLASSES), 3, SIZE)
    state = rounded(network, torch.bfloat16)
    golden("training_bf16", network)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    torch.save(
        {
            "epoch": 87,
            "arch": "mobilenet",
            "state_dict": {f"module.{k}": v for k, v in state.items() if "num_batches" not in k},
            "best_prec1": np.float64(68.848),
            "optimizer": optimizer.state_dict(),
        },
        FOLDER / "training_bf16.pth.tar",
    )

    # Views: channels-last weights, one storage for all BN vectors, double precision.
    network = randomise(Reference(WIDTH / 2, CLASSES), 4, SIZE).to(memory_format=torch.channels_last)
    golden("views_f64", network)
    state = network.double().state_dict()
    shared = torch.cat([v.flatten() for k, v in state.items() if v.ndim == 1])
    at = 0
    for key, value in state.items():
        if value.ndim == 1:
            state[key] = shared[at : at + len(value)]
            at += len(value)
    state["fc.weight"] = state["fc.weight"].t().contiguous().t()
    torch.save({"model": {k: v * 0 for k, v in state.items()}, "state_dict_ema": state}, FOLDER / "views_f64.pt")

    network = randomise(timm_model(WIDTH, CLASSES), 5, SIZE)
    state = rounded(network, torch.float16)
    golden("timm", network)
    torch.save(state, FOLDER / "timm.pth")
    save_file(state, FOLDER / "timm.safetensors")

    network = randomise(Reference(WIDTH, CLASSES), 6, SIZE)
    state = rounded(network, torch.bfloat16)
    golden("reference_bf16", network)
    save_file(state, FOLDER / "reference_bf16.safetensors")

    network = randomise(transformers_model(WIDTH, CLASSES + 1, SIZE), 8, SIZE)
    golden("huggingface", network)
    network.save_pretrained(FOLDER / "huggingface")
    from transformers import MobileNetV1ImageProcessor

    MobileNetV1ImageProcessor(
        size={"shortest_edge": 72}, crop_size={"height": SIZE, "width": SIZE}
    ).save_pretrained(FOLDER / "huggingface")

    torch.save({"state_dict": {"fc.bias": torch.zeros(2)}, "extra": Harm()}, FOLDER / "harm.pth")
    torch.save({"extra": Harm()}, FOLDER / "harm_legacy.pth", _use_new_zipfile_serialization=False)
    for protocol in (0, 2, 4):
        (FOLDER / f"harm_protocol_{protocol}.pkl").write_bytes(pickle.dumps(Harm(), protocol))


if __name__ == "__main__":
    main()
