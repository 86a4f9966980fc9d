"""Numbers that Python and Rust make alike, so that golden files need not hold them.

Value `i` of stream `s` is the SplitMix64 output for the counter `s * 2**32 + i + 1`; its upper
24 bits, as a fraction of 2**24, choose a point between two bounds. Only integer arithmetic and
three correctly rounded operations on doubles are used, so both sides get the same bits.
The Rust side is crates/mobilenet/tests/golden/values.rs.
"""

import numpy as np

# Streams of what is not a tensor of the network (those are numbered from 0 in layer order).
IMAGES = 1000  # + the number of the batch
LABELS = 2000  # + the number of the batch
SAMPLES = 3000  # + the number of the tensor


def bits(stream, count):
    """The upper 24 bits of the first `count` values of a stream."""
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(stream << 32)
        z = z * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return z >> np.uint64(40)


def uniform(stream, count, low, high):
    """float32 values in [low, high)."""
    fraction = bits(stream, count).astype(np.float64) / 2.0**24
    return (low + (high - low) * fraction).astype(np.float32)


def below(stream, count, limit):
    """Integers in [0, limit), for limits up to 2**24."""
    return ((bits(stream, count) * np.uint64(limit)) >> np.uint64(24)).astype(np.int64)


def images(batch_number, batch, architecture):
    """`[N, H, W, C]` in [-2, 2)."""
    shape = (batch, architecture["resolution"], architecture["resolution"], architecture["input_channels"])
    return uniform(IMAGES + batch_number, int(np.prod(shape)), -2.0, 2.0).reshape(shape)


def labels(batch_number, batch, classes):
    """Labels in [0, classes)."""
    return below(LABELS + batch_number, batch, classes)


def weights(specs, relu6):
    """Every tensor of a list of (name, shape, role).

    Convolutions have variance 2 / fan-in. beta is mostly positive: that keeps the network close
    enough to linear that float32 rounding does not grow from layer to layer (it would by a fifth
    in each with beta = 0). With ReLU6, gamma is large enough that some values reach 6, and the
    running variance is about what the layers really have.
    """
    result = {}
    for number, (name, shape, role) in enumerate(specs):
        count = int(np.prod(shape))
        if role == "conv":
            bound = np.sqrt(6.0 / np.prod(shape[1:]))
        elif role == "classifier":
            bound = 1.0 / np.sqrt(float(shape[-1]))
        low, high = {
            "conv": lambda: (-bound, bound),
            "classifier": lambda: (-bound, bound),
            "classifier_bias": lambda: (-0.5, 0.5),
            "gamma": lambda: (1.0, 3.0) if relu6 else (0.5, 1.0),
            "beta": lambda: (0.5, 3.5) if relu6 else (0.0, 1.0),
            "running_mean": lambda: (-0.25, 0.25),
            "running_var": lambda: (8.0, 16.0) if relu6 else (0.5, 1.5),
        }[role]()
        result[name] = uniform(number, count, low, high).reshape(shape)
    return result
