"""ONNX into the binary, and out of it again.

    python roundtrip_onnx.py target/release/mobilenet

With torch installed: full-size files of both exporters of torch.onnx are imported and must give the
libraries' logits; exports with every combination of options must pass onnx.checker and give these
logits in ONNX Runtime and OpenVINO, in batches of one and of three. With tensorflow and tf2onnx
installed: files of Keras' exporter and of tf2onnx are imported.
"""

import importlib.util
import itertools
import json
import sys
import tempfile

import numpy as np

from binary import Binary

SIZE = 224
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5,) * 3, (0.5,) * 3)
OPTIONS = ("--keep-batch-norm", "--with-preprocessing", "--probabilities")


def normalised(binary, normalisation):
    mean, std = (np.array(values, dtype=np.float32) for values in normalisation)
    return ((binary.pixels.astype(np.float32) / 255 - mean) / std)[None]


def softmax(logits):
    values = np.exp(logits - logits.max())
    return values / values.sum()


def tame(classifier, logits):
    """Scales a classifier's parameters in place, for probabilities that float32 can hold."""
    factor = 6 / np.abs(np.asarray(logits)).max()
    for parameter in classifier:
        parameter *= factor


def onnx_runtime(path, batch):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": batch})[0]


def openvino_runtime(path, batch):
    import openvino

    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return core.compile_model(str(path), "CPU")(batch)[0]


def exports(binary, what, model, expected, normalisation):
    """Exports with all combinations of options, into each runtime."""
    import onnx

    image = normalised(binary, normalisation)
    for chosen in itertools.product((False, True), repeat=3):
        flags = [flag for flag, wanted in zip(OPTIONS, chosen) if wanted]
        label = f"{what} {' '.join(flags) or '(plain)'}"
        path = binary.folder / f"exported{sum(c << i for i, c in enumerate(chosen))}.onnx"
        try:
            binary.run("export", model, "--format", "onnx", *flags, "-o", path)
            onnx.checker.check_model(str(path), full_check=True)
            proto = onnx.load(path)
            metadata = {entry.key: json.loads(entry.value) for entry in proto.metadata_props}
            assert len(metadata["labels"]) == len(expected), "labels"
            assert np.allclose(metadata["preprocessing"]["mean"], normalisation[0]), "preprocessing"
            # The image stands among others, so that a batch that is mixed up shows.
            one = binary.pixels[None] if chosen[1] else np.ascontiguousarray(image.transpose(0, 3, 1, 2))
            three = np.ascontiguousarray(np.concatenate([one[:, ::-1], one, one[:, :, ::-1]]))
            wanted = softmax(expected) if chosen[2] else expected
            for name, run in (("ONNX Runtime", onnx_runtime), ("OpenVINO", openvino_runtime)):
                found = np.stack([run(path, one)[0], run(path, three)[1]])
                binary.check(f"export {label} in {name}", np.abs(found - wanted).max(), np.abs(wanted).max())
            again = binary.imported(path)
            logits = binary.log_probabilities(again, len(expected))
            seen = ~np.isnan(logits)
            error = np.abs(logits - np.log(softmax(expected.astype(np.float64))))[seen].max()
            binary.check(f"import {label}, our own", error, np.abs(expected).max())
        except Exception as error:  # noqa: BLE001 whatever a library says of our file is a failure
            binary.fail(label, error)


def torch_files(binary):
    import torch

    import onnx_models

    torch.set_num_threads(2)
    networks = {
        "reference": (onnx_models.reference(1.0, 1000), IMAGENET),
        "timm": (onnx_models.timm(1.0, 1000), HALVES),
        "transformers": (onnx_models.hugging_face(1.0, 1001, SIZE), HALVES),
    }
    for name, (network, normalisation) in networks.items():
        example = torch.tensor(normalised(binary, normalisation)).permute(0, 3, 1, 2).contiguous()
        with torch.no_grad():
            tame([p for m in network.modules() if isinstance(m, torch.nn.Linear) for p in m.parameters()], network(example))
            expected = network(example)[0].numpy()
        # The last keeps batch normalisations, so that there is something for our exports to fold.
        kept = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
        exporters = {
            "TorchScript": {"dynamo": False},
            "dynamo": {"dynamo": True, "external_data": False, "verbose": False},
            "TorchScript with batch normalisations": {"dynamo": False, **kept},
        }
        for exporter, options in exporters.items():
            path = binary.folder / f"{name} {exporter}.onnx"
            torch.onnx.export(network, (example,), str(path), **options)
            model = binary.check_import(f"{name}, {exporter}", path, expected)
        if model:
            exports(binary, name, model, expected, normalisation)


def tensorflow_files(binary):
    import keras
    import tensorflow as tf
    import tf2onnx

    import onnx_models

    image = normalised(binary, HALVES)
    model = onnx_models.keras_mobilenet(1.0, 1000, SIZE)
    headless = keras.Model(model.input, model.layers[-2].output)
    head = model.get_layer("conv_preds")
    values = head.get_weights()
    tame(values, headless(image).numpy())
    head.set_weights(values)
    expected = headless(image).numpy()[0]
    model(image)
    path = binary.folder / "keras.onnx"
    model.export(str(path), format="onnx", verbose=False)
    binary.check_import("Keras' export", path, expected)

    slim, weights = onnx_models.slim(1.0, 1001)
    tame([weights["Logits/weights"], weights["Logits/biases"]], slim(image, weights).numpy())
    signature = [tf.TensorSpec((None, SIZE, SIZE, 3), tf.uint8, name="image")]

    @tf.function(input_signature=signature)
    def whole(pixels):
        return tf.nn.softmax(slim(tf.cast(pixels, tf.float32) / 127.5 - 1.0, weights))

    for opset in (11, 18):
        path = binary.folder / f"slim_{opset}.onnx"
        tf2onnx.convert.from_function(whole, input_signature=signature, opset=opset, output_path=str(path))
        binary.check_import(f"TF-slim's network of bytes, tf2onnx, opset {opset}", path, slim(image, weights).numpy()[0])


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    parts = {"torch": torch_files, "tf2onnx": tensorflow_files}
    found = [run for module, run in parts.items() if importlib.util.find_spec(module)]
    if not found:
        sys.exit("neither torch nor tf2onnx is installed")
    with tempfile.TemporaryDirectory() as folder:
        binary = Binary(sys.argv[1], folder)
        for run in found:
            run(binary)
    if binary.failures:
        sys.exit(f"{binary.failures} failed")


if __name__ == "__main__":
    main()
