"""Linear heads on features that stay in a file: seconds, passes, peak memory, agreement.

python -m benchmarks.streamed_heads --rows 1000000 --columns 1280 --heads ridge
python -m benchmarks.streamed_heads --rows 129450 --heads ridge lda logreg svm-large

The file is made of synthetic features (classes of overlapping normal clouds with correlated
columns) in the layout of a cache, and removed at the end. Each head runs in a process of its own,
so that its peak is its own; the share of it that the libraries take before any feature is read
is printed beside it. "agreement" compares, on the first rows, with scikit-learn fitted in memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from featx.heads import get_head
from featx.selection import search
from featx.selection.splits import make_split
from featx.streaming import Blocks, search_blocks
from featx.streaming.moments import gather, lda, one_hot, ridge

HEADS = ("ridge", "lda", "logreg", "svm-large")
_BLOCK = 8192


def write_features(path: Path, rows: int, columns: int, classes: int) -> None:
    """Write features and labels block by block."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((classes, columns), dtype=np.float32) * 0.12
    # Columns share 64 directions, as those of a network do, and are nowhere near zero mean.
    mixing = rng.standard_normal((64, columns), dtype=np.float32) * 0.4
    offset = rng.uniform(0, 3, columns).astype(np.float32)
    labels = rng.integers(0, classes, rows)
    with h5py.File(path, "w") as file:
        chunks = (min(rows, max(1, 384 * 1024 // (4 * columns))), columns)
        X = file.create_dataset("features", (rows, columns), "f4", chunks=chunks, fletcher32=True)
        for at in range(0, rows, _BLOCK):
            y = labels[at : at + _BLOCK]
            noise = rng.standard_normal((len(y), columns), dtype=np.float32)
            hidden = rng.standard_normal((len(y), 64), dtype=np.float32)
            X[at : at + len(y)] = centres[y] + hidden @ mixing + noise + offset
        file["labels"] = labels


def some(features: h5py.Dataset, rows: Any) -> Any:
    """Read rows that ascend: all between the first and the last, and then these."""
    return features[rows[0] : rows[-1] + 1][rows - rows[0]]


def fit_one(path: Path, name: str, agree: int) -> dict[str, Any]:
    """Fit a head on three quarters of the rows, and measure it on the others."""
    with h5py.File(path) as file:
        features, y = file["features"], file["labels"][...]
        split = make_split(y, test_size=0.25, seed=0)
        before, start, spent = peak(), time.perf_counter(), time.process_time()
        blocks = Blocks(
            lambda at: some(features, split.train[at]), len(split.train), features.shape[1]
        )
        found = search_blocks(get_head(name), blocks, y[split.train])
        seconds, spent = time.perf_counter() - start, time.process_time() - spent
        right = [
            found.estimator.predict(some(features, at)) == y[at]
            for at in np.array_split(split.test, max(1, len(split.test) // _BLOCK))
        ]
        reached = peak()
        return {
            "head": name,
            "rows": len(split.train),
            "columns": features.shape[1],
            "classes": len(np.unique(y)),
            "seconds": round(seconds, 1),
            "core_seconds": round(spent, 1),
            "passes": found.passes,
            "peak_mib": round(reached),
            "peak_before_mib": round(before),
            "accuracy": round(float(np.concatenate(right).mean()), 5),
            "chosen": found.chosen["params"],
            "warnings": [w["code"] for w in found.warnings],
            "agreement": agreement(name, features, y, agree) if agree else None,
        }


def sums_alone(path: Path) -> dict[str, Any]:
    """One pass, ridge at every alpha: no folds, no choice."""
    with h5py.File(path) as file:
        features, y = file["features"], file["labels"][...]
        before, start = peak(), time.perf_counter()
        blocks = Blocks.of(features)
        nowhere = np.full(len(y), -1)
        sums = gather(blocks, one_hot(y, int(y.max()) + 1), nowhere, 0)
        heads = ridge(sums.whole, sums.shift, get_head("ridge").grid["clf__alpha"], True)
        return {
            "head": "ridge, given alphas",
            "alphas": len(heads),
            "rows": len(y),
            "seconds": round(time.perf_counter() - start, 1),
            "passes": blocks.passes,
            "peak_mib": round(peak()),
            "peak_before_mib": round(before),
        }


def agreement(name: str, features: h5py.Dataset, y: Any, rows: int) -> dict[str, float]:
    """Compare with scikit-learn in memory on the first rows, and on as many others held out."""
    X, labels = features[:rows], y[:rows]
    if name in ("ridge", "lda"):
        return {"coef_relative": _coefficients(name, X, labels)}
    held, truth = features[rows : 2 * rows], y[rows : 2 * rows]
    streamed = search_blocks(get_head(name), Blocks.of(X), labels)
    head = get_head(name).with_grid({"clf__C": [streamed.best_params["clf__C"]]})
    memory = search(head, X, labels, probabilities=False)
    said, meant = streamed.estimator.predict(held), memory.estimator.predict(held)
    return {
        "same_predictions": float(np.mean(said == meant)),
        "accuracy_difference": float(np.mean(said == truth) - np.mean(meant == truth)),
    }


def _coefficients(name: str, X: Any, y: Any) -> float:
    """Largest difference of a coefficient, relative to the largest coefficient; in float64."""
    nowhere = np.full(len(y), -1)
    sums = gather(Blocks.of(X), one_hot(y, int(y.max()) + 1), nowhere, 0)
    Z = StandardScaler().fit_transform(X.astype(np.float64))
    head = get_head(name)
    (parameter, values), worst = next(iter(head.grid.items())), 0.0
    solve = lda if name == "lda" else lambda *given: ridge(*given, True)
    for value, found in zip(values, solve(sums.whole, sums.shift, values), strict=True):
        theirs = head.build()["clf"].set_params(**{parameter.removeprefix("clf__"): value})
        coef = theirs.fit(Z, y).coef_
        worst = max(worst, float(np.abs(found.coef - coef).max() / np.abs(coef).max()))
    return worst


def peak() -> float:
    """Peak memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print one JSON line for each head."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=129_450)
    parser.add_argument("--columns", type=int, default=1280)
    parser.add_argument("--classes", type=int, default=9)
    parser.add_argument("--heads", nargs="+", default=["sums", *HEADS])
    parser.add_argument("--agree", type=int, default=5000, help="rows to compare on; 0 for none")
    parser.add_argument("--threads", type=int, default=None, help="of linear algebra")
    parser.add_argument("--folder", type=Path, help="for the file; default: a temporary one")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.file is not None:
        with threadpool_limits(asked.threads):
            one = asked.heads[0]
            found = sums_alone(asked.file) if one == "sums" else None
            print(json.dumps(found or fit_one(asked.file, one, asked.agree)), flush=True)
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        file = Path(folder) / "features.h5"
        write_features(file, asked.rows, asked.columns, asked.classes)
        for name in asked.heads:
            again = [*sys.argv[1:], "--file", str(file), "--heads", name]
            subprocess.run([sys.executable, "-m", "benchmarks.streamed_heads", *again], check=True)


if __name__ == "__main__":
    main()
