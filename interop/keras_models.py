"""Networks of keras.applications with weights that are random but not trivial."""

import numpy as np

CLASSES, SIZE = 10, 32


def mobilenet(keras, alpha, size=SIZE, classes=CLASSES, **settings):
    top = settings.get("include_top", True)
    return keras.applications.MobileNet(
        input_shape=(size, size, 3), alpha=alpha, weights=None, classes=classes if top else 1000, **settings
    )


def transfer(keras, alpha, size=SIZE):
    """What transfer learning makes: the body as one layer of a Sequential model."""
    layers = keras.layers
    body = mobilenet(keras, alpha, size, include_top=False, pooling="avg")
    body.trainable = False
    model = keras.Sequential(
        [layers.Rescaling(1 / 127.5, offset=-1), body, layers.Dropout(0.2), layers.Dense(CLASSES)]
    )
    model.build((None, size, size, 3))
    return model


def each_layer(model):
    for layer in model.layers:
        yield from each_layer(layer) if hasattr(layer, "layers") else [layer]


def randomize(model, seed=3):
    """He-normal filters and batch statistics that are neither 0 nor 1."""
    rng = np.random.default_rng(seed)
    for layer in each_layer(model):
        values = []
        for variable in layer.get_weights():
            if variable.ndim > 1:
                depthwise = variable.ndim == 4 and type(layer).__name__ == "DepthwiseConv2D"
                fan_in = np.prod(variable.shape[:2] if depthwise else variable.shape[:-1])
                values.append(rng.normal(0, np.sqrt(2 / fan_in), variable.shape))
            else:
                values.append(rng.normal(0, 0.1, variable.shape))
        if type(layer).__name__ == "BatchNormalization":
            shape = values[0].shape
            values = [
                rng.uniform(0.7, 1.3, shape),
                rng.normal(0.3, 0.2, shape),
                rng.normal(0.1, 0.2, shape),
                rng.uniform(0.4, 1.2, shape),
            ]
        if values:
            layer.set_weights([value.astype(np.float32) for value in values])
    return model


def logits(model, inputs):
    """What comes out before the softmax."""
    last = model.layers[-1]
    softmax = getattr(last, "activation", None)
    if type(last).__name__ == "Activation":
        last.activation = lambda values: values
    try:
        return np.asarray(model(inputs, training=False), dtype=np.float32)
    finally:
        if softmax is not None:
            last.activation = softmax
