"""Writes crates/formats/tests/golden/tensorflow/ and …/tflite/: what TensorFlow itself writes.

A narrow network built as TF-slim builds it (its names, 11 outputs with a background class), as
frozen graphs with fused and decomposed batch normalisation, NCHW, and as `retrain` scripts leave
them; the same as checkpoints of version 1 and 2 with RMSprop slots and moving averages; Keras'
MobileNet as an object checkpoint and converted to TFLite in float32 and float16. Beside each lies
a .safetensors with the input (`[N, H, W, C]`, normalised) and TensorFlow's logits.

    python make_tensorflow_goldens.py [FOLDER]
"""

import os
import pathlib
import sys

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from safetensors.numpy import save_file

FOLDER = pathlib.Path(__file__).parent.parent / "crates/formats/tests/golden"
tf1 = tf.compat.v1

BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)] + [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
WIDTH, RESOLUTION, OUTPUTS = 0.0625, 64, 11


def images(resolution, seed=5, count=1):
    return np.random.default_rng(seed).uniform(-1, 1, (count, resolution, resolution, 3)).astype(np.float32)


class Slim:
    """TF-slim's `mobilenet_v1` in plain TensorFlow 1, with variables and names as slim makes them.

    `norm` is "fused" (FusedBatchNormV3) or "decomposed" (Mul, Rsqrt, Sub, Add).
    """

    def __init__(self, width=WIDTH, outputs=OUTPUTS, norm="fused", seed=1, data_format="NHWC"):
        self.width, self.outputs, self.norm = width, outputs, norm
        self.random = np.random.default_rng(seed)
        self.data_format, self.variables = data_format, []

    def thin(self, channels):
        return max(int(channels * self.width), 8)

    def variable(self, name, value, trainable=True):
        made = tf1.get_variable(name, initializer=np.asarray(value, np.float32), trainable=trainable, use_resource=False)
        self.variables.append(made)
        return made

    def strides(self, stride):
        return [1, stride, stride, 1] if self.data_format == "NHWC" else [1, 1, stride, stride]

    def batch_norm(self, x):
        random, channels = self.random, x.shape[3 if self.data_format == "NHWC" else 1]
        with tf1.variable_scope("BatchNorm"):
            gamma = self.variable("gamma", random.uniform(0.7, 1.4, channels))
            beta = self.variable("beta", random.normal(0.2, 0.3, channels))
            mean = self.variable("moving_mean", random.normal(0, 0.3, channels), trainable=False)
            variance = self.variable("moving_variance", random.uniform(0.5, 1.5, channels), trainable=False)
            if self.norm == "fused":
                return tf1.nn.fused_batch_norm(
                    x, gamma, beta, mean, variance, 0.001, self.data_format, is_training=False
                )[0]
            return tf1.nn.batch_normalization(x, mean, variance, beta, gamma, 0.001)

    def conv(self, x, name, channels, kernel, stride, depthwise=False):
        inputs = x.shape[3 if self.data_format == "NHWC" else 1]
        with tf1.variable_scope(name):
            if depthwise:
                weight = self.variable(
                    "depthwise_weights", self.random.normal(0, (2 / 9) ** 0.5, (kernel, kernel, inputs, 1))
                )
                x = tf1.nn.depthwise_conv2d_native(
                    x, weight, self.strides(stride), "SAME", self.data_format, name="depthwise"
                )
            else:
                deviation = (2 / (kernel * kernel * int(inputs))) ** 0.5
                weight = self.variable("weights", self.random.normal(0, deviation, (kernel, kernel, inputs, channels)))
                x = tf1.nn.conv2d(x, weight, self.strides(stride), "SAME", data_format=self.data_format)
            return tf1.nn.relu6(self.batch_norm(x))

    def body(self, x):
        if self.data_format == "NCHW":
            x = tf1.transpose(x, [0, 3, 1, 2])
        x = self.conv(x, "Conv2d_0", self.thin(32), 3, 2)
        for number, (channels, stride) in enumerate(BLOCKS, 1):
            x = self.conv(x, f"Conv2d_{number}_depthwise", None, 3, stride, depthwise=True)
            x = self.conv(x, f"Conv2d_{number}_pointwise", self.thin(channels), 1, 1)
        return x

    def build(self, x):
        """Logits `[N, outputs]` and softmax, as slim's `mobilenet_v1` ends."""
        with tf1.variable_scope("MobilenetV1"):
            with tf1.variable_scope("MobilenetV1"):
                pass
            x = self.body(x)
            with tf1.variable_scope("Logits"):
                if self.data_format == "NHWC":
                    size = x.shape[1]
                    x = tf1.nn.avg_pool2d(x, [1, size, size, 1], [1, 2, 2, 1], "VALID", name="AvgPool_1a")
                else:
                    x = tf1.reduce_mean(x, [2, 3], keepdims=True)
                x = tf1.identity(x, "Dropout_1b/Identity")
                with tf1.variable_scope("Conv2d_1c_1x1"):
                    features = int(x.shape[3 if self.data_format == "NHWC" else 1])
                    weight = self.variable(
                        "weights", self.random.normal(0, features**-0.5, (1, 1, features, self.outputs))
                    )
                    bias = self.variable("biases", self.random.normal(0, 0.3, self.outputs))
                    x = tf1.nn.conv2d(x, weight, [1, 1, 1, 1], "SAME", data_format=self.data_format)
                    x = tf1.nn.bias_add(x, bias, data_format=self.data_format)
                x = tf1.squeeze(x, [1, 2] if self.data_format == "NHWC" else [2, 3], name="SpatialSqueeze")
            with tf1.variable_scope("Predictions"):
                logits = tf1.reshape(x, [-1, self.outputs], name="Reshape")
                softmax = tf1.nn.softmax(logits, name="Softmax")
                return logits, tf1.reshape(softmax, tf1.shape(logits), name="Reshape_1")


def save(folder, name, data, **logits):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.pb").write_bytes(data)
    save_file({k: np.ascontiguousarray(v) for k, v in logits.items()}, folder / f"{name}.golden.safetensors")
    print(f"{name}: {len(data)} bytes, largest logit {np.abs(logits['logits']).max():.2f}")


def freeze(session, outputs):
    graph = session.graph.as_graph_def()
    return tf1.graph_util.convert_variables_to_constants(session, graph, outputs)


def frozen_graphs(folder):
    x = images(RESOLUTION)
    for name, norm, data_format in [
        ("slim_fused", "fused", "NHWC"),
        ("slim_decomposed", "decomposed", "NHWC"),
        ("slim_nchw", "fused", "NCHW"),
    ]:
        with tf.Graph().as_default(), tf1.Session() as session:
            place = tf1.placeholder(tf.float32, [None, RESOLUTION, RESOLUTION, 3], "input")
            logits, _ = Slim(norm=norm, data_format=data_format).build(place)
            session.run(tf1.global_variables_initializer())
            frozen = freeze(session, ["MobilenetV1/Predictions/Reshape_1"])
            if data_format == "NHWC":
                values = session.run(logits, {place: x})
            else:  # The CPU has no NCHW kernels; the same network in NHWC has the same values.
                values = expected
            expected = values
        save(folder, name, frozen.SerializeToString(), input=x, logits=values)


def retrained(folder):
    """As `retrain.py` leaves a graph: decoding and scaling in front, the old logits as the
    bottleneck of a new last layer, summaries' and evaluation's nodes beside it."""
    pixels = np.random.default_rng(8).integers(0, 256, (1, RESOLUTION, RESOLUTION, 3)).astype(np.float32)
    for name, bottleneck in [("retrained", "logits"), ("retrained_pool", "pool")]:
        with tf.Graph().as_default(), tf1.Session() as session:
            jpeg = tf1.placeholder(tf.string, [], "DecodeJpeg/contents")
            decoded = tf1.cast(tf1.image.decode_jpeg(jpeg, channels=3, name="DecodeJpeg"), tf.float32, name="Cast")
            resized = tf1.image.resize_bilinear(tf1.expand_dims(decoded, 0), [RESOLUTION, RESOLUTION])
            scaled = tf1.multiply(tf1.subtract(resized, 127.5), 1 / 127.5, name="Mul")
            slim = Slim(norm="fused", seed=2)
            logits, _ = slim.build(scaled)
            random = np.random.default_rng(3)
            graph = session.graph
            if bottleneck == "logits":
                features, scope = logits, "final_training_ops/Wx_plus_b"
            else:
                pool = graph.get_tensor_by_name("MobilenetV1/Logits/AvgPool_1a:0")
                features, scope = tf1.squeeze(pool, [1, 2], name="bottleneck"), "head/dense"
            width = int(features.shape[1])
            features = tf1.placeholder_with_default(features, [None, width], "BottleneckInputPlaceholder")
            with tf1.variable_scope(scope):
                weight = tf1.get_variable(
                    "weights", initializer=random.normal(0, width**-0.5, (width, 5)).astype(np.float32)
                )
                bias = tf1.get_variable("biases", initializer=random.normal(0, 0.2, 5).astype(np.float32))
                new = tf1.add(tf1.matmul(features, weight), bias, name="add")
            tf1.nn.softmax(new, name="final_result")
            unused = tf1.get_variable("unused/weights", initializer=np.ones((3, 3, 3, 8), np.float32))
            tf1.nn.conv2d(scaled, unused, [1, 1, 1, 1], "SAME", name="unused/Conv2D")
            session.run(tf1.global_variables_initializer())
            keep = ["final_result", "unused/Conv2D"]
            keep += ["MobilenetV1/Predictions/Reshape_1"] if bottleneck == "pool" else []
            frozen = freeze(session, keep)
            values = session.run(new, {resized.name: pixels})
        save(folder, name, frozen.SerializeToString(), input=pixels / 127.5 - 1, logits=values)


def checkpoints(folder):
    x = images(RESOLUTION)
    with tf.Graph().as_default(), tf1.Session() as session:
        place = tf1.placeholder(tf.float32, [None, RESOLUTION, RESOLUTION, 3], "input")
        slim = Slim(seed=4)
        logits, _ = slim.build(place)
        step = tf1.train.get_or_create_global_step()
        average = tf1.train.ExponentialMovingAverage(0.9)
        labels = tf1.one_hot([1], OUTPUTS)
        loss = tf1.losses.softmax_cross_entropy(labels, logits)
        train = tf1.train.RMSPropOptimizer(0.01, 0.9, 0.9, 1.0).minimize(loss, global_step=step)
        with tf1.control_dependencies([train]):
            train = average.apply(slim.variables)
        session.run(tf1.variables_initializer(slim.variables))
        session.run(tf1.global_variables_initializer())
        for _ in range(3):
            session.run(train, {place: x})
        folder.mkdir(parents=True, exist_ok=True)
        for version, name in [(tf1.train.SaverDef.V1, "checkpoint.v1"), (tf1.train.SaverDef.V2, "checkpoint")]:
            saver = tf1.train.Saver(write_version=version, sharded=False)
            saver.save(session, str(folder / name), write_meta_graph=False, write_state=False)
        tensors = {v.op.name: session.run(average.average(v)) for v in slim.variables}
        raw = session.run(slim.variables[0])
        # The logits belong to the averages, so they go into the variables before the last run.
        for variable in slim.variables:
            variable.load(tensors[variable.op.name], session)
        values = session.run(logits, {place: x})
        tensors = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
        save_file(
            {"input": x, "logits": values, "raw": raw, **tensors}, folder / "checkpoint.golden.safetensors"
        )
    print(f"checkpoints: largest logit {np.abs(values).max():.2f}")


def keras_model(alpha, classes, resolution, seed):
    """keras.applications.MobileNet whose batch normalisation is not the initial one."""
    model = tf.keras.applications.MobileNet(
        (resolution, resolution, 3), alpha=alpha, weights=None, classes=classes, classifier_activation=None
    )
    random = np.random.default_rng(seed)
    for layer in model.layers:
        shapes = [w.shape for w in layer.get_weights()]
        if len(shapes) == 4:
            layer.set_weights([
                random.uniform(0.7, 1.4, shapes[0]), random.normal(0.2, 0.3, shapes[1]),
                random.normal(0, 0.3, shapes[2]), random.uniform(0.5, 1.5, shapes[3]),
            ])
        elif shapes:
            kernel = shapes[0]
            fan_in = kernel[0] * kernel[1] * (1 if "conv_dw" in layer.name else kernel[2])
            values = [random.normal(0, (2 / fan_in) ** 0.5, kernel)]
            layer.set_weights(values + [random.normal(0, 0.3, s) for s in shapes[1:]])
    return model


def keras_files(checkpoint_folder, tflite_folder):
    x = images(RESOLUTION)
    model = keras_model(0.125, 10, RESOLUTION, 6)
    logits = model(x).numpy()
    tflite_folder.mkdir(parents=True, exist_ok=True)
    for name, half in [("keras_f32", False), ("keras_f16", True)]:
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        if half:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        data = converter.convert()
        (tflite_folder / f"{name}.tflite").write_bytes(data)
        values = interpret(data, x)
        save_file({"input": x, "logits": values}, tflite_folder / f"{name}.golden.safetensors")
        print(f"{name}: {len(data)} bytes, {np.abs(values - logits).max():.1e} from Keras' logits")
    converter = tf.lite.TFLiteConverter.from_keras_model(keras_model(0.0625, 10, 32, 7))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([images(32, seed, 1)] for seed in range(4))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    (tflite_folder / "quantized.tflite").write_bytes(converter.convert())
    model = keras_model(0.0625, 10, 32, 7)
    tf.train.Checkpoint(model=model).write(str(checkpoint_folder / "object"))
    x = images(32)
    save_file({"input": x, "logits": model(x).numpy()}, checkpoint_folder / "object.golden.safetensors")


def interpret(data, x):
    """What tf.lite.Interpreter computes, an image at a time."""
    interpreter = tf.lite.Interpreter(model_content=data)
    interpreter.allocate_tensors()
    rows = []
    for image in x:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).copy())
    return np.concatenate(rows)


if __name__ == "__main__":
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    frozen_graphs(root / "tensorflow")
    retrained(root / "tensorflow")
    checkpoints(root / "tensorflow")
    keras_files(root / "tensorflow", root / "tflite")
