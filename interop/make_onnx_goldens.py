"""Writes crates/formats/tests/golden/onnx/: ONNX files as other projects' exporters write them, each
with an input and the logits that the exporting library itself computed for it.

    venv/bin/python make_onnx_goldens.py torch         # torch, timm, transformers, onnxscript
    tfvenv/bin/python make_onnx_goldens.py tensorflow  # tensorflow, keras, tf2onnx

NAME.onnx is the file; NAME.golden.safetensors holds `input` ([1, H, W, C], normalised) and `logits`.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

FOLDER = Path(__file__).resolve().parent.parent / "crates/formats/tests/golden/onnx"
ALPHA, CLASSES, BATCH = 0.125, 10, 2


def input_image(size, channels=3):
    """A batch of smooth and noisy values of order 1, NHWC."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:size, 0:size] / size
    waves = np.stack([np.sin(7 * x + 3 * c) * np.cos(5 * y + c) for c in range(channels)], -1)
    return (waves + 0.3 * rng.standard_normal((BATCH, size, size, channels))).astype(np.float32)


def save(name, model_bytes, image, logits):
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.onnx").write_bytes(model_bytes)
    values = {"input": image[:1], "logits": np.ascontiguousarray(logits[:1], np.float32)}
    save_file(values, FOLDER / f"{name}.golden.safetensors")
    print(f"{name}: {len(model_bytes)} bytes, logits {np.round(logits[0, :4], 3)}")


def torch_goldens():
    import onnx
    import torch

    import onnx_models

    def export(model, image, dynamo, **options):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            example = torch.tensor(image).permute(0, 3, 1, 2)
            if next(model.parameters()).dtype == torch.float16:
                example = example.half()
            if dynamo:
                options["external_data"] = False
            torch.onnx.export(model, (example,), str(path), dynamo=dynamo, **options)
            proto = onnx.load(path)
            strip(proto)
            return proto.SerializeToString()

    def strip(proto):
        """Takes out the doc strings and stack traces, which are most of a small file."""
        for node in proto.graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
        for value in [*proto.graph.value_info, *proto.graph.initializer]:
            value.doc_string = ""
            del value.metadata_props[:]

    def logits(model, image):
        with torch.no_grad():
            out = model(torch.tensor(image).permute(0, 3, 1, 2))
        return getattr(out, "logits", out).numpy()

    dynamic = {"input_names": ["input"], "dynamic_axes": {"input": {0: "batch"}}}
    image = input_image(64)
    reference = onnx_models.reference(ALPHA, CLASSES, pool=2)
    unfolded = {"do_constant_folding": False, "training": torch.onnx.TrainingMode.PRESERVE}
    save(
        "torchscript_unfolded",
        export(reference, image, False, opset_version=13, **unfolded, **dynamic),
        image,
        logits(reference, image),
    )
    timm = onnx_models.timm(ALPHA, CLASSES)
    save("torchscript_timm", export(timm, image, False, opset_version=17, **dynamic), image, logits(timm, image))
    odd = input_image(37)
    hf = onnx_models.hugging_face(ALPHA, CLASSES, 37)
    save("torchscript_hf", export(hf, odd, False, opset_version=17), odd, logits(hf, odd))
    save("dynamo_hf", export(hf, odd, True), odd, logits(hf, odd))
    save(
        "dynamo_unfolded",
        export(reference, image, True, optimize=False, dynamic_shapes=({0: torch.export.Dim("batch")},)),
        image,
        logits(reference, image),
    )
    half = onnx_models.reference(ALPHA, CLASSES, pool=2).half()
    # Unoptimised, for the optimizer would fold batch normalisations in f16.
    model_bytes = export(half, image, True, optimize=False)
    save("dynamo_half", model_bytes, image, logits(half.float(), image))


def tensorflow_goldens():
    import keras
    import tensorflow as tf
    import tf2onnx

    import onnx_models

    image = input_image(64)
    model = onnx_models.keras_mobilenet(ALPHA, CLASSES, 64)
    expected = keras.Model(model.input, model.layers[-2].output)(image).numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        model(image)  # Keras exports no model that was never called
        model.export(path, format="onnx", verbose=False)
        save("keras_export", path.read_bytes(), image, expected)

    odd = input_image(75)
    slim, weights = onnx_models.slim(ALPHA, CLASSES)
    signature = [tf.TensorSpec((None, 75, 75, 3), tf.uint8, name="image")]

    @tf.function(input_signature=signature)
    def whole(pixels):
        return tf.nn.softmax(slim(tf.cast(pixels, tf.float32) / 127.5 - 1.0, weights))

    proto, _ = tf2onnx.convert.from_function(whole, input_signature=signature, opset=15)
    save("tf2onnx_slim_uint8", proto.SerializeToString(), odd, slim(tf.constant(odd), weights).numpy())


if __name__ == "__main__":
    {"torch": torch_goldens, "tensorflow": tensorflow_goldens}[sys.argv[1]]()
