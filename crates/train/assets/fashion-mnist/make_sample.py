"""Makes the embedded sample of Fashion-MNIST: the four IDX files beside this script.

    pip install numpy zopfli
    python make_sample.py FOLDER

FOLDER holds the four IDX files of Fashion-MNIST (.gz); Debian's package dataset-fashion-mnist
provides them. The sample is the first so many images of each class in the order of the original
files: from the training set for training, from the test set for testing. It is sorted by class,
which compresses a little better; whoever trains on it shuffles.
"""

import gzip
import pathlib
import struct
import sys

import numpy as np
import zopfli.gzip

PER_CLASS = {"train": 1200, "t10k": 200}
HERE = pathlib.Path(__file__).parent


def read(path, header):
    return np.frombuffer(gzip.open(path).read(), np.uint8, offset=header)


def write(path, content):
    path.write_bytes(zopfli.gzip.compress(content, numiterations=15))
    assert gzip.open(path).read() == content
    print(path.name, path.stat().st_size, "bytes")


def main(folder):
    for part, count in PER_CLASS.items():
        images = read(folder / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
        labels = read(folder / f"{part}-labels-idx1-ubyte.gz", 8)
        chosen = np.concatenate([np.flatnonzero(labels == c)[:count] for c in range(10)])
        assert len(chosen) == 10 * count
        n = len(chosen)
        write(HERE / f"{part}-labels-idx1-ubyte.gz", struct.pack(">II", 0x801, n) + labels[chosen].tobytes())
        write(
            HERE / f"{part}-images-idx3-ubyte.gz",
            struct.pack(">IIII", 0x803, n, 28, 28) + images[chosen].tobytes(),
        )


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
