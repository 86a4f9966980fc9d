"""The binary under test: imports, exports, and what it makes of an image."""

import json
import math
import pathlib
import subprocess

import numpy as np
from PIL import Image

TOLERANCE = 1e-4


class Binary:
    """Runs the binary in a folder of its own and counts what fails."""

    def __init__(self, path, folder, size=224):
        self.path, self.folder, self.failures = str(pathlib.Path(path).resolve()), pathlib.Path(folder), 0
        random = np.random.default_rng(3)
        # Low frequencies, as photos have them, and noise.
        coarse = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        self.pixels = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)).astype(int)
        self.pixels = (self.pixels + random.integers(-20, 21, self.pixels.shape)).clip(0, 255).astype(np.uint8)
        self.image = self.folder / "image.png"
        Image.fromarray(self.pixels).save(self.image)

    def run(self, *arguments):
        result = subprocess.run([self.path, *map(str, arguments)], capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"{' '.join(map(str, arguments))}:\n{result.stderr.strip()}")
        return result.stdout

    def imported(self, source, *flags):
        """Imports `source` such that the image is the input as it is; returns the model file."""
        model = self.folder / f"{pathlib.Path(source).name}.imported.safetensors"
        self.run("import", source, "-o", model, "--crop-fraction", "1", *flags)
        return model

    def exported(self, model, kind, name):
        """Exports a model file; returns the path."""
        path = self.folder / name
        self.run("export", model, "--format", kind, "-o", path)
        return path

    def log_probabilities(self, model, outputs):
        """Logarithms of the probabilities that the binary gives the image, by output; NaN for a
        background class, which it does not print."""
        answers = json.loads(self.run("classify", "--json", "--model", model, "-k", outputs, self.image))
        predictions = answers[0]["predictions"]
        result = np.full(outputs, math.nan)
        shift = outputs - len(predictions)
        for prediction in predictions:
            result[prediction["class"] + shift] = math.log(prediction["probability"])
        return result

    def check(self, what, error, scale):
        """One line; a failure is counted."""
        relative = float(error) / float(scale)
        fine = relative <= TOLERANCE
        self.failures += not fine
        print(f"{'ok  ' if fine else 'FAIL'} {what}: {relative:.1e} of the largest logit ({float(scale):.2f})", flush=True)

    def check_import(self, what, source, logits, *flags):
        """Imports `source` and compares with the library's logits of the image, `[outputs]`."""
        try:
            model = self.imported(source, *flags)
            found = self.log_probabilities(model, len(logits))
        except RuntimeError as error:
            return self.fail(what, error)
        logits = np.asarray(logits, dtype=np.float64)
        expected = logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())
        # What is too unlikely is left out: the binary prints probabilities.
        seen = ~np.isnan(found)
        self.check(f"import {what}", np.abs(found - expected)[seen].max(), np.abs(logits).max())
        return model

    def check_export(self, what, model, kind, name, logits, load):
        """Exports `model`, has `load` compute logits of it in the library, and compares."""
        try:
            path = self.exported(model, kind, name)
            found = np.asarray(load(path), dtype=np.float64)
        except Exception as error:  # noqa: BLE001 whatever the library says of our file is a failure
            return self.fail(what, error)
        logits = np.asarray(logits, dtype=np.float64)
        self.check(f"export {what}", np.abs(found - logits).max(), np.abs(logits).max())

    def fail(self, what, error):
        self.failures += 1
        print(f"FAIL {what}: {error}", flush=True)
