"""Makes the pictures of this folder: images as other programs write them, and what Pillow makes
of them.

    pip install numpy pillow
    python make.py

*.jpg, palette.png: what is decoded. X.expected.png: what Pillow decodes from X.
photo.png: what is resized. resize-*.png: what Pillow's resize and a centre crop make of it;
the name says filter, resolution and crop fraction (or squash).
"""

import pathlib

import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).parent


def picture(width, height):
    """Smooth colours, an edge and some texture; no symmetry."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    u, v = x / max(width - 1, 1), y / max(height - 1, 1)
    red = 255 * u
    green = 127 + 100 * np.sin(7 * u + 3 * v)
    blue = 255 * (v > 0.6 * u + 0.2)
    texture = 12 * np.sin(2.1 * x) * np.cos(1.3 * y)
    return Image.fromarray(
        np.clip(np.stack([red, green, blue], -1) + texture[..., None], 0, 255).astype(np.uint8)
    )


def expected(name, image=None):
    image = image or Image.open(HERE / name)
    image.convert("RGB").save(HERE / f"{name}.expected.png", optimize=True)


def decoding():
    rgb = picture(40, 24)
    rgb.save(HERE / "progressive.jpg", progressive=True, quality=90)
    rgb.convert("L").save(HERE / "grey.jpg", quality=90)
    cmyk = np.asarray(rgb.convert("CMYK")).copy()
    cmyk[..., 3] = np.arange(40) * 3  # some black, so that the fourth channel counts
    cmyk = Image.fromarray(cmyk, "CMYK")
    cmyk.save(HERE / "cmyk.jpg", quality=92)
    # YCCK: CMY go through the YCbCr transform, K stays; the Adobe segment says so (transform 2).
    # Pillow writes the four channels inverted, as Adobe does, so the transform is made on that.
    inverted = 255 - np.asarray(cmyk)
    rgb_like = Image.fromarray(255 - inverted[..., :3], "RGB")
    ycck = np.concatenate([np.asarray(rgb_like.convert("YCbCr")), inverted[..., 3:]], -1)
    Image.fromarray(255 - ycck, "CMYK").save(HERE / "ycck.jpg", quality=92)
    raw = bytearray((HERE / "ycck.jpg").read_bytes())
    adobe = raw.index(b"Adobe")
    assert raw[adobe + 11] == 0
    raw[adobe + 11] = 2
    (HERE / "ycck.jpg").write_bytes(raw)
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.save(HERE / "orientation6.jpg", quality=90, exif=exif)
    for name in ("progressive.jpg", "grey.jpg", "cmyk.jpg", "ycck.jpg"):
        expected(name)

    palette = rgb.quantize(16)
    palette.save(HERE / "palette.png", transparency=3, optimize=True)
    over = Image.new("RGBA", rgb.size, "white")
    over.alpha_composite(Image.open(HERE / "palette.png").convert("RGBA"))
    expected("palette.png", over)


def resizing():
    photo = picture(61, 47)
    photo.save(HERE / "photo.png", optimize=True)
    filters = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}
    for name, kind in filters.items():
        for resolution, fraction in ((24, 0.875), (24, 1.0), (64, 0.875), (31, 0.9)):
            short = round(resolution / fraction)
            width, height = short * photo.width // photo.height, short
            left, top = round((width - resolution) / 2), round((height - resolution) / 2)
            done = photo.resize((width, height), kind).crop((left, top, left + resolution, top + resolution))
            done.save(HERE / f"resize-{name}-{resolution}-{fraction}.png", optimize=True)
        photo.resize((24, 24), kind).save(HERE / f"resize-{name}-24-squash.png", optimize=True)


if __name__ == "__main__":
    decoding()
    resizing()
