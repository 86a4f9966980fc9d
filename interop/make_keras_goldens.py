"""Writes crates/formats/tests/golden/keras/: files as Keras 3 and tf.keras (Keras 2) save them.

Each file has a `.safetensors` of the same stem with `input` (`[N, 32, 32, 3]`, as the network or
its Rescaling layer takes it) and `logits` (before the softmax) that Keras computed.

    python make_keras_goldens.py
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pathlib

import h5py
import keras
import numpy as np
from keras.src.legacy.saving import legacy_h5_format
from safetensors.numpy import save_file

from keras_models import CLASSES, SIZE, logits, mobilenet, randomize, transfer

FOLDER = pathlib.Path(__file__).parent.parent / "crates/formats/tests/golden/keras"
ALPHA = 0.0625


def golden(name, model, save, raw=False):
    randomize(model)
    path = FOLDER / name
    path.unlink(missing_ok=True)
    save(model, path)
    low, high = (0, 255) if raw else (-1, 1)
    rng = np.random.default_rng(11)
    inputs = rng.uniform(low, high, (2, SIZE, SIZE, 3)).astype(np.float32)
    save_file(
        {"input": inputs, "logits": logits(model, inputs)},
        path.with_name(name.removesuffix(".weights.h5").removesuffix(path.suffix) + ".safetensors"),
    )
    print(f"{path.stat().st_size:8} {name}")


def save_legacy(model, path):
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


def save_latest(model, path, chunk=5):
    """The newest form of HDF5, half precision, compressed, big-endian, and a Dense head."""

    def store(group, name, value):
        value = value.astype(np.float16)
        if value.ndim == 4:
            chunks = tuple(min(extent, chunk) for extent in value.shape)
            group.create_dataset(
                name, data=value.astype(">f2"), chunks=chunks, compression="gzip", shuffle=True, fletcher32=True
            )
        elif name.startswith("gamma"):
            group.create_dataset(name, data=value, chunks=value.shape)
        elif name.startswith("beta"):
            group.create_dataset(name, data=value.astype("<f8"))
        else:
            group.create_dataset(name, data=value.astype(">f4"))

    with h5py.File(path, "w", libver="latest", track_order=True) as file:
        weighted = [layer for layer in model.layers if layer.weights]
        for number in range(12):  # more attributes than a header keeps: they are stored densely
            file.attrs[f"note_{number}"] = "x" * 40
        file.attrs["layer_names"] = [layer.name for layer in weighted]
        for layer in weighted:
            for variable in layer.weights:
                # What is stored is half precision, and Keras must compute with the same.
                variable.assign(np.asarray(variable).astype(np.float16).astype(np.float32))
                group = file.require_group(f"{layer.name}/{layer.name}")
                store(group, f"{variable.name}:0", np.asarray(variable))


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    golden("whole_keras3.h5", mobilenet(keras, ALPHA), lambda m, p: m.save(p))
    golden("weights_keras3.weights.h5", mobilenet(keras, ALPHA), lambda m, p: m.save_weights(p))
    golden("no_top_keras3.weights.h5", mobilenet(keras, ALPHA, include_top=False, pooling="avg"), lambda m, p: m.save_weights(p))
    golden("transfer_keras3.keras", transfer(keras, ALPHA), lambda m, p: m.save(p), raw=True)
    golden("latest.h5", mobilenet(keras, ALPHA), save_latest)

    import tf_keras

    golden("weights_keras2.h5", mobilenet(tf_keras, ALPHA), lambda m, p: m.save_weights(str(p)))
    golden("transfer_keras2.keras", transfer(tf_keras, ALPHA), lambda m, p: m.save(str(p)), raw=True)


if __name__ == "__main__":
    assert CLASSES == 10
    main()
