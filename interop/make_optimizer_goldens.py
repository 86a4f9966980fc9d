"""Writes crates/train/tests/golden/optimizers.json: ten steps of PyTorch's SGD and AdamW and of
TensorFlow's RMSprop on a small vector, in double precision.

The file is a list of {"optimizer", "source", "settings", "start", "gradients", "values"}:
`values[k]` is the vector after the step with `gradients[k]`. TensorFlow's RMSprop starts its mean
square at 1 and has epsilon inside the root.

The two libraries cannot be loaded into one process, so each run replaces one part of the file:

    python make_optimizer_goldens.py torch
    python make_optimizer_goldens.py tensorflow
"""

import json
import pathlib
import sys

import numpy as np

import values

FILE = pathlib.Path(__file__).parent.parent / "crates/train/tests/golden/optimizers.json"
STEPS, SIZE = 10, 6
START = values.uniform(4000, SIZE, -1.0, 1.0).astype(np.float64)
GRADIENTS = values.uniform(4001, STEPS * SIZE, -2.0, 2.0).astype(np.float64).reshape(STEPS, SIZE)

SGD = [
    dict(lr=0.1, momentum=0.0, weight_decay=0.0, nesterov=False),
    dict(lr=0.1, momentum=0.9, weight_decay=0.0, nesterov=False),
    dict(lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=False),
    dict(lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True),
]
ADAMW = [
    dict(lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01),
    dict(lr=0.003, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
]
RMSPROP = [
    dict(learning_rate=0.1, decay=0.9, momentum=0.9, epsilon=1.0),
    dict(learning_rate=0.01, decay=0.9, momentum=0.0, epsilon=1e-3),
    dict(learning_rate=0.045, decay=0.95, momentum=0.5, epsilon=0.1),
]


def torch_steps(make):
    import torch

    x = torch.tensor(START, requires_grad=True)
    optimizer, after = make([x]), []
    for gradient in GRADIENTS:
        x.grad = torch.tensor(gradient)
        optimizer.step()
        after.append(x.detach().tolist())
    return after


def tensorflow_steps(settings):
    import tensorflow as tf

    after = []
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.get_variable("x", initializer=tf.constant(START), use_resource=True)
        gradient = tf.compat.v1.placeholder(tf.float64, [SIZE])
        optimizer = tf.compat.v1.train.RMSPropOptimizer(**settings)
        step = optimizer.apply_gradients([(gradient, x)])
        session.run(tf.compat.v1.global_variables_initializer())
        for value in GRADIENTS:
            session.run(step, {gradient: value})
            after.append(session.run(x).tolist())
    return after


def case(optimizer, source, settings, after):
    return {
        "optimizer": optimizer,
        "source": source,
        "settings": settings,
        "start": START.tolist(),
        "gradients": GRADIENTS.tolist(),
        "values": after,
    }


def torch_cases():
    import torch

    source = f"PyTorch {torch.__version__.split('+')[0]}"
    for settings in SGD:
        yield case("sgd", source, settings, torch_steps(lambda x: torch.optim.SGD(x, **settings)))
    for settings in ADAMW:
        yield case("adamw", source, settings, torch_steps(lambda x: torch.optim.AdamW(x, **settings)))


def tensorflow_cases():
    import tensorflow as tf

    for settings in RMSPROP:
        yield case("rmsprop", f"TensorFlow {tf.__version__}", settings, tensorflow_steps(settings))


def main(part):
    made = {"torch": torch_cases, "tensorflow": tensorflow_cases}[part]()
    cases = json.loads(FILE.read_text()) if FILE.exists() else []
    kept = [c for c in cases if (c["optimizer"] == "rmsprop") != (part == "tensorflow")]
    cases = sorted(kept + list(made), key=lambda c: ["sgd", "adamw", "rmsprop"].index(c["optimizer"]))
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
