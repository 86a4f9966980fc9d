"""How often bf16 names the same class as f32: `mobilenet classify`, and OpenVINO beside it.

    cargo build --release
    venv/bin/python bench/bf16_agreement.py [--photos FOLDER]

Takes the photos of a folder (and of those in it), or else makes some hundred variants of the example photos
(crops of 80 to 100 % of either side, mirror images, brightness and contrast changed by up to 10 %, all from a
fixed seed), and classifies them with the ImageNet model inside the program, in both precisions, by either
engine. OpenVINO gets the same network by way of `mobilenet export`; its precisions are compared with each
other, so that it does not matter that photos are scaled down a little differently.

Where hundreds of photos are at hand, in packages of Debian (`apt-get download`, `dpkg -x`) and PyPI:

    gcompris-qt-data            animals, buildings, tools: WebP, JPEG and PNG files inside its *.rcc files,
                                each behind its length in four bytes
    tuxpaint-stamps-default     things and animals cut out, which are put on white here
    lomiri-wallpapers-16.04, lomiri-wallpapers-20.04, mate-backgrounds, plasma-workspace-wallpapers
    scikit-image, scikit-learn  skimage/data, sklearn/datasets/images

They hold drawings, too, which have to be left out by eye.
"""

import argparse
import json
import pathlib
import random
import subprocess
import tempfile

import numpy
import openvino
from PIL import Image, ImageEnhance

ROOT = pathlib.Path(__file__).resolve().parent.parent


def variant(photo, rng):
    width, height = photo.size
    share = rng.uniform(0.8, 1.0)
    across, down = int(width * share), int(height * share)
    x, y = rng.randint(0, width - across), rng.randint(0, height - down)
    made = photo.crop((x, y, x + across, y + down))
    if rng.random() < 0.5:
        made = made.transpose(Image.FLIP_LEFT_RIGHT)
    made = ImageEnhance.Brightness(made).enhance(rng.uniform(0.9, 1.1))
    return ImageEnhance.Contrast(made).enhance(rng.uniform(0.9, 1.1))


def photo_of(path):
    """A photo as it is classified: on white where it is transparent, of at most 1024 pixels a side."""
    photo = Image.open(path)
    if photo.mode in ("P", "LA", "PA", "RGBA"):
        photo = photo.convert("RGBA")
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
    photo = photo.convert("RGB")
    photo.thumbnail((1024, 1024), Image.LANCZOS)
    return photo


def made(photos, variants):
    """The photos of a folder; variants of the example photos, if there is none."""
    if photos:
        for path in sorted(photos.rglob("*")):
            if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"):
                yield photo_of(path)
        return
    photos = [Image.open(path).convert("RGB") for path in sorted((ROOT / "examples/photos").glob("*.png"))]
    rng = random.Random(2)
    for _ in range(variants):
        for photo in photos:
            yield variant(photo, rng)


def ours(binary, precision, paths):
    command = [binary, "classify", "--precision", precision, "--json", "-k", "1", *map(str, paths)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return [photo["predictions"][0]["class"] for photo in found]


def pixels(path):
    """The middle of a photo, [1, 3, 224, 224] in -1 to 1."""
    photo = Image.open(path).convert("RGB")
    side = int(min(photo.size) * 0.875)
    x, y = ((length - side) // 2 for length in photo.size)
    photo = photo.crop((x, y, x + side, y + side)).resize((224, 224), Image.BILINEAR)
    return (numpy.asarray(photo, numpy.float32) / 127.5 - 1).transpose(2, 0, 1)[None]


def theirs(model, precision, inputs):
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})
    return [int(next(iter(compiled([each]).values())).argmax()) for each in inputs]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/release/mobilenet"))
    parser.add_argument("--photos", type=pathlib.Path, help="a folder of them")
    parser.add_argument("--variants", type=int, default=100, help="of each example photo")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, photo in enumerate(made(given.photos, given.variants)):
            paths.append(pathlib.Path(folder) / f"{number:04}.png")
            photo.save(paths[-1])
        found = {"mobilenet": [ours(given.binary, precision, paths) for precision in ("f32", "bf16")]}
        network = pathlib.Path(folder) / "model.onnx"
        inside = str(ROOT / "crates/imagenet/model.safetensors")
        command = [given.binary, "export", inside, "--format", "onnx", "--output", str(network)]
        subprocess.run(command, check=True, capture_output=True)
        inputs = [pixels(path) for path in paths]
        model = openvino.Core().read_model(network)
        found["openvino"] = [theirs(model, precision, inputs) for precision in ("f32", "bf16")]
    for engine, (exact, rounded) in found.items():
        same = sum(a == b for a, b in zip(exact, rounded))
        print(f"{engine}: the same class for {same} of {len(paths)} photos")


if __name__ == "__main__":
    main()
