"""Real libraries' MobileNet v1 with random, non-trivial weights and statistics."""

import numpy as np


def randomise(model, seed=3):
    """Weights and BN statistics of a torch module such that activations and logits are of order 1."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def normal(tensor, scale, shift=0.0):
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale + shift)

    def uniform(tensor, low, high):
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                normal(module.weight, (2 / module.weight[0].numel()) ** 0.5)
            elif isinstance(module, torch.nn.BatchNorm2d):
                uniform(module.weight, 0.7, 1.3)
                normal(module.bias, 0.3, 0.2)
                normal(module.running_mean, 0.2)
                uniform(module.running_var, 0.4, 1.2)
            elif isinstance(module, torch.nn.Linear):
                normal(module.weight, 2 * module.in_features**-0.5)
                normal(module.bias, 0.3)
    return model.eval()


def reference(alpha, classes, pool=7):
    """The reference network in PyTorch."""
    from torch import nn

    def thin(channels):
        return int(alpha * channels)

    def conv_bn(inputs, outputs, stride):
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        )

    def conv_dw(inputs, outputs, stride):
        return nn.Sequential(
            nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(inputs, outputs, 1, 1, 0, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            rows = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
            rows += [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
            blocks, inputs = [conv_bn(3, thin(32), 2)], thin(32)
            for outputs, stride in rows:
                blocks.append(conv_dw(inputs, thin(outputs), stride))
                inputs = thin(outputs)
            self.model = nn.Sequential(*blocks, nn.AvgPool2d(pool))
            self.fc = nn.Linear(inputs, classes)

        def forward(self, x):
            x = self.model(x)
            x = x.view(-1, self.fc.in_features)
            return self.fc(x)

    return randomise(Net())


def timm(alpha, classes):
    """timm's network at another width than it registers."""
    from timm.models.efficientnet import _gen_mobilenet_v1

    return randomise(_gen_mobilenet_v1("mobilenetv1_100", channel_multiplier=alpha, num_classes=classes))


def hugging_face(alpha, classes, size):
    """transformers' network, with TensorFlow's padding."""
    from transformers import MobileNetV1Config, MobileNetV1ForImageClassification

    config = MobileNetV1Config(
        depth_multiplier=alpha, num_labels=classes, image_size=size, layer_norm_eps=1e-3, return_dict=False
    )
    model = randomise(MobileNetV1ForImageClassification(config))

    import torch

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, pixel_values):
            return self.inner(pixel_values, return_dict=True).logits

    return Logits().eval()


def random_like(name, shape, rng):
    """A variable of Keras' or TF-slim's by what its name says."""
    if "gamma" in name:
        return rng.uniform(0.7, 1.3, shape)
    if "beta" in name:
        return rng.normal(0.2, 0.3, shape)
    if "moving_mean" in name:
        return rng.normal(0, 0.2, shape)
    if "moving_variance" in name:
        return rng.uniform(0.4, 1.2, shape)
    if "bias" in name:
        return rng.normal(0, 0.3, shape)
    fan_in = shape[0] * shape[1] * (1 if "depthwise" in name or "conv_dw" in name else shape[2])
    return rng.normal(0, (2 / fan_in) ** 0.5, shape)


def keras_mobilenet(alpha, classes, size):
    """keras.applications.MobileNet."""
    import keras

    rng = np.random.default_rng(5)
    model = keras.applications.MobileNet(input_shape=(size, size, 3), alpha=alpha, weights=None, classes=classes)
    for variable in model.weights:
        variable.assign(random_like(variable.path, tuple(variable.shape), rng))
    return model


def slim(alpha, classes):
    """A network as TF-slim builds it, of TensorFlow's operators: a function of (images, weights)."""
    import tensorflow as tf

    rng = np.random.default_rng(9)
    rows = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)] + [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
    weights = {}

    def add(scope, name, shape):
        weights[f"{scope}/{name}"] = random_like(name, shape, rng).astype(np.float32)

    def add_bn(scope, channels):
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            add(scope, name, (channels,))

    inputs = max(int(32 * alpha), 8)
    add("Conv2d_0", "weights", (3, 3, 3, inputs))
    add_bn("Conv2d_0", inputs)
    for number, (outputs, _) in enumerate(rows, 1):
        outputs = max(int(outputs * alpha), 8)
        add(f"Conv2d_{number}_depthwise", "depthwise_weights", (3, 3, inputs, 1))
        add_bn(f"Conv2d_{number}_depthwise", inputs)
        add(f"Conv2d_{number}_pointwise", "weights", (1, 1, inputs, outputs))
        add_bn(f"Conv2d_{number}_pointwise", outputs)
        inputs = outputs
    add("Logits", "weights", (1, 1, inputs, classes))
    add("Logits", "biases", (classes,))

    def bn_relu6(x, scope, w):
        values = [w[f"{scope}/{n}"] for n in ("gamma", "beta", "moving_mean", "moving_variance")]
        x, *_ = tf.compat.v1.nn.fused_batch_norm(x, *values, epsilon=1e-3, is_training=False)
        return tf.nn.relu6(x)

    def run(x, w):
        x = tf.nn.conv2d(x, w["Conv2d_0/weights"], 2, "SAME")
        x = bn_relu6(x, "Conv2d_0", w)
        for number, (_, stride) in enumerate(rows, 1):
            scope = f"Conv2d_{number}_depthwise"
            x = tf.nn.depthwise_conv2d(x, w[f"{scope}/depthwise_weights"], [1, stride, stride, 1], "SAME")
            x = bn_relu6(x, scope, w)
            scope = f"Conv2d_{number}_pointwise"
            x = bn_relu6(tf.nn.conv2d(x, w[f"{scope}/weights"], 1, "SAME"), scope, w)
        x = tf.reduce_mean(x, [1, 2], keepdims=True)
        x = tf.nn.bias_add(tf.nn.conv2d(x, w["Logits/weights"], 1, "SAME"), w["Logits/biases"])
        return tf.squeeze(x, [1, 2])

    return run, weights
