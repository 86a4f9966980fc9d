"""Files that TensorFlow made, imported by the program and exported as TFLite, run by TensorFlow.

    python roundtrip_tensorflow.py BINARY [PAIR…]

A line for each pair with the largest difference of the logits as a share of the largest logit;
exit status 1 if any is above 1e-4. With MOBILENET_SLIM_WEIGHTS set to a safetensors file of TF-slim's
1.0_224 (its names and layouts), those weights go through a graph and a checkpoint too.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

import make_tensorflow_goldens as goldens
import numpy as np
import tensorflow as tf
from safetensors.numpy import load_file

TOLERANCE = 1e-4
TORCH = goldens.FOLDER / "torch"
tf1 = tf.compat.v1


def run(*arguments):
    result = subprocess.run([*map(str, arguments)], capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(map(str, arguments))}\n{result.stderr}")


def ours(binary, folder, source, x):
    """The logits of `source` after import and export as TFLite; all images at once."""
    native, exported = folder / "model.safetensors", folder / "model.tflite"
    run(binary, "import", source, "-o", native, "--resolution", x.shape[1])
    run(binary, "export", native, "--format", "tflite", "-o", exported)
    interpreter = tf.lite.Interpreter(model_path=str(exported))
    place = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(place, x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(place, x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).copy()


class Session:
    """A slim network in a session of its own, and its logits for `x`."""

    def __init__(self, x, weights=None, **settings):
        self.graph = tf.Graph()
        with self.graph.as_default():
            place = tf1.placeholder(tf.float32, [None, *x.shape[1:]], "input")
            self.slim = goldens.Slim(**settings)
            logits, _ = self.slim.build(place)
            self.session = tf1.Session()
            self.session.run(tf1.global_variables_initializer())
            for variable in self.slim.variables if weights else []:
                variable.load(weights[variable.op.name], self.session)
            self.logits = self.session.run(logits, {place: x})

    def graph_file(self, folder):
        with self.graph.as_default():
            frozen = goldens.freeze(self.session, ["MobilenetV1/Predictions/Reshape_1"])
        path = folder / "frozen.pb"
        path.write_bytes(frozen.SerializeToString())
        return path

    def checkpoint(self, folder, version):
        with self.graph.as_default():
            saver = tf1.train.Saver(write_version=version)
            return pathlib.Path(saver.save(self.session, str(folder / "model.ckpt"), write_meta_graph=False))


def slim_fused(folder):
    x = goldens.images(224, count=2)
    made = Session(x, width=1.0, outputs=1001)
    return made.graph_file(folder), x, made.logits


def slim_decomposed(folder):
    x = goldens.images(160, count=2)
    made = Session(x, width=0.5, outputs=1001, norm="decomposed")
    return made.graph_file(folder), x, made.logits


def slim_odd(folder):
    """A size at which SAME pads otherwise than anything else."""
    x = goldens.images(97, count=2)
    made = Session(x, width=0.25, outputs=1001)
    return made.graph_file(folder), x, made.logits


def checkpoint_v1(folder):
    x = goldens.images(128, count=2)
    made = Session(x, width=0.25, outputs=1001)
    return made.checkpoint(folder, tf1.train.SaverDef.V1), x, made.logits


def checkpoint_v2(folder):
    x = goldens.images(128, count=2)
    made = Session(x, width=0.75, outputs=1001)
    # By its prefix, as TensorFlow's own functions name it.
    return made.checkpoint(folder, tf1.train.SaverDef.V2), x, made.logits


def keras_tflite(folder, half=False):
    x = goldens.images(128, count=2)
    converter = tf.lite.TFLiteConverter.from_keras_model(goldens.keras_model(0.25, 1000, 128, 9))
    if half:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    data = converter.convert()
    path = folder / "keras.tflite"
    path.write_bytes(data)
    return path, x, goldens.interpret(data, x)


def keras_tflite_f16(folder):
    return keras_tflite(folder, half=True)


def keras_checkpoint(folder):
    x = goldens.images(128, count=2)
    model = goldens.keras_model(0.5, 1000, 128, 10)
    tf.train.Checkpoint(model=model).write(str(folder / "keras"))
    return folder / "keras.index", x, model(x).numpy()


def keras_saved_model(folder):
    x = goldens.images(128, count=2)
    model = goldens.keras_model(0.25, 1000, 128, 11)
    tf.saved_model.save(model, str(folder / "saved"))
    return folder / "saved", x, model(x).numpy()


def reference(folder):
    """PyTorch's padding, which TFLite has only as explicit pads."""
    golden = load_file(TORCH / "reference.golden.safetensors")
    return TORCH / "reference.pth", golden["input"], golden["logits"]


def real(folder, checkpoint=False):
    weights = load_file(os.environ["MOBILENET_SLIM_WEIGHTS"])
    x = goldens.images(224, count=2)
    made = Session(x, weights, width=1.0, outputs=1001)
    file = made.checkpoint(folder, tf1.train.SaverDef.V2) if checkpoint else made.graph_file(folder)
    return file, x, made.logits


def real_checkpoint(folder):
    return real(folder, checkpoint=True)


PAIRS = [
    slim_fused, slim_decomposed, slim_odd, checkpoint_v1, checkpoint_v2, keras_tflite, keras_tflite_f16,
    keras_checkpoint, keras_saved_model, reference,
]


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    binary, names = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:]
    pairs = PAIRS + ([real, real_checkpoint] if "MOBILENET_SLIM_WEIGHTS" in os.environ else [])
    failed = False
    for pair in pairs:
        if names and pair.__name__ not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            source, x, expected = pair(folder)
            found = ours(binary, folder, source, x)
        difference = np.abs(found - expected).max() / np.abs(expected).max()
        verdict = "ok" if difference <= TOLERANCE else "FAILED"
        failed |= verdict != "ok"
        print(f"{verdict:6} {pair.__name__:18} import, export as TFLite: {difference:.1e} of {np.abs(expected).max():.1f}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
