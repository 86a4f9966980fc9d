"""Weights of Keras 3 and tf.keras (Keras 2) into the binary, and out of it again.

    python roundtrip_keras.py target/release/mobilenet

Keras writes networks with random weights in each of its formats; the binary imports them and must
give the probabilities of Keras' logits; its exports must give these logits in
`keras.applications.MobileNet`. Files of Keras' other networks must be refused by name.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import sys
import tempfile

import keras
import numpy as np
import tf_keras

from binary import Binary
from keras_models import logits, mobilenet, randomize, transfer
from make_keras_goldens import save_latest, save_legacy

LIBRARIES = {"keras 3": keras, "tf.keras": tf_keras}


def prepared(binary):
    return (binary.pixels.astype(np.float32) / 127.5 - 1)[None]


def fresh(library, alpha, path, classes=1000, **settings):
    """What a user calls."""
    return library.applications.MobileNet(alpha=alpha, weights=str(path), classes=classes, **settings)


def save(library, model, name, path):
    if name == "legacy.h5" and library is keras:
        save_legacy(model, path)
    elif name.endswith("weights.h5") or name == "legacy.h5":
        model.save_weights(str(path))
    else:
        model.save(str(path))


def imports(binary, label, library, alpha):
    """Every format that the library writes; the model of the last."""
    network = randomize(mobilenet(library, alpha, 224, 1000), 21)
    inputs = prepared(binary)
    expected = logits(network, inputs)[0]
    for name in ("legacy.h5", "whole.h5", "whole.keras", "numbered.weights.h5"):
        path = binary.folder / f"{alpha}-{label.replace(' ', '')}-{name}"
        save(library, network, name, path)
        model = binary.check_import(f"{label} {alpha} {name}", path, expected)
    return model, expected


def transfers(binary, label, library):
    network = randomize(transfer(library, 0.25, 224), 22)
    expected = logits(network, binary.pixels.astype(np.float32)[None])[0]
    for name in ("transfer.h5", "transfer.keras", "transfer.weights.h5"):
        path = binary.folder / f"{label.replace(' ', '')}-{name}"
        save(library, network, name, path)
        binary.check_import(f"{label} {name}", path, expected)


def latest(binary):
    network = randomize(mobilenet(keras, 0.25, 224), 23)
    path = binary.folder / "latest.h5"
    save_latest(network, path, chunk=48)
    binary.check_import("h5py, libver latest", path, logits(network, prepared(binary))[0])


def exports(binary, model, alpha, expected):
    inputs = prepared(binary)
    for label, library in LIBRARIES.items():
        for form, name in (("h5", "exported.h5"), ("weights.h5", "exported.weights.h5")):
            binary.check_export(
                f"{name}, {label} {alpha}",
                model,
                form,
                f"{alpha}-{label.replace(' ', '')}-{name}",
                expected,
                lambda path: logits(fresh(library, alpha, path), inputs)[0],
            )


def bodies(binary, model, alpha):
    """`--no-top`, into networks without a classifier."""
    inputs = prepared(binary)
    top = mobilenet(keras, alpha, 224, 1000)
    for form, name in (("h5", "body.h5"), ("weights.h5", "body.weights.h5")):
        path = binary.exported(model, form, f"top-{name}")
        top.load_weights(path)
        expected = np.asarray(keras.Model(top.inputs, top.get_layer("conv_pw_13_relu").output)(inputs))
        path = binary.folder / name
        binary.run("export", model, "--format", form, "--no-top", "-o", path)
        for label, library in LIBRARIES.items():
            found = np.asarray(fresh(library, alpha, path, include_top=False, input_shape=(224, 224, 3))(inputs))
            binary.check(f"export {name}, {label}", np.abs(found - expected).max(), np.abs(expected).max())


def others(binary):
    """Files of Keras' other networks are named as what they are."""
    networks = {
        "MobileNet v2": keras.applications.MobileNetV2(alpha=0.35, weights=None),
        "v3": keras.applications.MobileNetV3Small(alpha=0.75, weights=None),
        "ResNet": keras.applications.ResNet50(weights=None),
        "EfficientNet": keras.applications.EfficientNetB0(weights=None),
    }
    for name, network in networks.items():
        for form in ("other.h5", "other.keras", "other.weights.h5"):
            path = binary.folder / form
            network.save_weights(path) if form == "other.weights.h5" else network.save(path)
            try:
                binary.imported(path)
                binary.fail(f"{name} {form}", "was imported")
            except RuntimeError as error:
                if "not a MobileNet v1" in str(error) and name in str(error):
                    print(f"ok   refuses {name} {form}", flush=True)
                else:
                    binary.fail(f"refuses {name} {form}", error)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        binary = Binary(sys.argv[1], folder)
        for alpha in (0.25, 1.0):
            for label, library in LIBRARIES.items():
                model, expected = imports(binary, label, library, alpha)
            exports(binary, model, alpha, expected)
        bodies(binary, model, alpha)
        for label, library in LIBRARIES.items():
            transfers(binary, label, library)
        latest(binary)
        others(binary)
    if binary.failures:
        sys.exit(f"{binary.failures} failed")


if __name__ == "__main__":
    main()
