"""Reads what `mobilenet embed` writes with pyarrow, pandas and NumPy: every format must hold the
same paths and, to the bit, the same features.

    python interop/check_parquet.py target/release/mobilenet MODEL IMAGES…

MODEL is what --model takes. Prints a line a format; the exit status is 1 if one differs.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

binary, model, *images = sys.argv[1:]
failed = False


def check(name, paths, features):
    global failed
    good = list(paths) == expected_paths and np.array_equal(features, expected)
    failed |= not good
    print(f"{'ok' if good else 'DIFFERS'}  {name}")


with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    for ending in ["npy", "csv", "parquet", "jsonl"]:
        command = [binary, "embed", "--model", model, "-o", folder / f"x.{ending}", *images]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    expected = np.load(folder / "x.npy")
    expected_paths = (folder / "x.txt").read_text().splitlines()
    print(f"{expected.shape[0]} images, {expected.shape[1]} features, {expected.dtype}")

    table = pq.read_table(folder / "x.parquet")
    assert table.schema.field("path").type == pa.string(), table.schema
    assert table.schema.field("features").type.value_type == pa.float32(), table.schema
    features = table["features"].combine_chunks().flatten().to_numpy().reshape(expected.shape)
    check("parquet, pyarrow", table["path"].to_pylist(), features)

    frame = pd.read_parquet(folder / "x.parquet")
    check("parquet, pandas", frame["path"], np.stack(frame["features"]))

    frame = pd.read_csv(folder / "x.csv")
    check("csv, pandas", frame["path"], frame.drop(columns="path").to_numpy(dtype=np.float32))

    rows = [json.loads(line) for line in (folder / "x.jsonl").read_text().splitlines()]
    features = np.array([row["features"] for row in rows], dtype=np.float32)
    check("jsonl", [row["path"] for row in rows], features)

sys.exit(failed)
