"""What a first day costs: the first accuracy from a cold start, memory, and reading a cache.

    python -m benchmarks.everyday            # prints one JSON line

Each system runs in a process of its own, from its start to the accuracy that it prints, on ELPV
with EfficientNet-Lite0: featx's two commands with no compiled package left from before, the same
again with the package there, and embetter with scikit-learn's LinearSVC as its page shows it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import featx

EMBETTER = """
import csv, importlib.util, pathlib
from embetter.vision import ImageLoader, TimmEncoder
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from benchmarks.peers import random_weights
from elpv_dataset.utils import load_dataset
import numpy as np
root = pathlib.Path(importlib.util.find_spec("elpv_dataset").origin).parent / "data" / "images"
paths = sorted(map(str, root.glob("*.png")))
_, probability, _ = load_dataset()
with random_weights():
    encoder = TimmEncoder(name="tf_efficientnet_lite0")
X = make_pipeline(ImageLoader(), encoder).fit_transform(paths)
train, test, y, truth = train_test_split(X, probability > 0.5, random_state=0)
print(LinearSVC().fit(train, y).score(test, truth))
"""
FEATX = """
import sys
import featx
featx.extract("elpv", sys.argv[1], progress=False)
print(featx.fit(sys.argv[1]).test["accuracy"]["value"])
"""
ROWS, WIDTH = 100_000, 1280


def in_a_process(code: str, *arguments: str, **environment: str) -> dict[str, float]:
    """Seconds from start to end, and the peak memory of the process in MiB."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"a system failed with status {status}")
    seconds, accuracy = time.perf_counter() - start, float(printed.split()[-1])
    return {"seconds": seconds, "accuracy": accuracy, "peak_mib": used.ru_maxrss / 1024}


def cold_start(folder: Path) -> dict[str, Any]:
    """From nothing to an accuracy on ELPV."""
    home = {"XDG_CACHE_HOME": str(folder / "home")}
    return {
        "featx, nothing compiled": in_a_process(FEATX, str(folder / "a.h5"), **home),
        "featx, package there": in_a_process(FEATX, str(folder / "b.h5"), **home),
        "featx, features there": in_a_process(FEATX, str(folder / "b.h5"), **home),
        "embetter, LinearSVC": in_a_process(EMBETTER),
    }


def reading(folder: Path) -> dict[str, float]:
    """Seconds to read all rows, and a thousand rows at random, beside numpy's own file."""
    source = folder / "digits.h5"
    featx.extract("digits", source, progress=False)
    X = np.random.default_rng(0).standard_normal((ROWS, WIDTH), dtype=np.float32)
    np.save(folder / "x.npy", X)
    with h5py.File(source) as old, h5py.File(folder / "x.h5", "w") as new:
        rows = old["features"].chunks[0]
        new.create_dataset("features", data=X, chunks=(rows, WIDTH), fletcher32=True)
    some = np.sort(np.random.default_rng(1).choice(ROWS, 1000, replace=False))

    def timed(work: Any) -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return sorted(times)[1]

    with h5py.File(folder / "x.h5") as file:
        features = file["features"]
        return {
            "all rows, featx's layout": timed(lambda: features[:]),
            "all rows, numpy.load": timed(lambda: np.load(folder / "x.npy")),
            "1,000 rows, featx's layout": timed(lambda: features[some]),
            "1,000 rows, numpy memory map": timed(
                lambda: np.array(np.load(folder / "x.npy", mmap_mode="r")[some])
            ),
        }


def main() -> None:
    """Print every figure as one JSON line."""
    with tempfile.TemporaryDirectory() as folder:
        found = {"cold start": cold_start(Path(folder)), "reading": reading(Path(folder))}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
