"""Search beside faiss's flat index: 100,000 x 1,280 vectors, one query at a time.

Queries of featx and faiss alternate, so that other work on the machine slows both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import featx
from featx.auditing import nearest_rows, unit_rows

K = 10
Find = Callable[[np.ndarray], Any]


def vectors(rows: int, width: int, kind: str) -> np.ndarray:
    """Make vectors without structure, or of clusters that spread in 48 directions and a bit in all.

    The second are like features of a network, whose neighbours differ from the rest; vectors
    without structure are the worst case of an index.
    """
    rng = np.random.default_rng(0)
    if kind == "random":
        return rng.normal(size=(rows, width)).astype(np.float32)
    centres = rng.normal(size=(200, width)).astype(np.float32)
    spread = rng.normal(size=(48, width)).astype(np.float32)
    found = centres[rng.integers(0, 200, rows)]
    found += rng.normal(size=(rows, 48)).astype(np.float32) @ spread / 7
    for start in range(0, rows, 10_000):
        part = found[start : start + 10_000]
        part += 0.1 * rng.standard_normal(part.shape, np.float32)
    return found


def milliseconds(finders: dict[str, Find], queries: np.ndarray) -> dict[str, float]:
    """Take the median time of each finder, which take turns at the queries."""
    took: dict[str, list[float]] = {name: [] for name in finders}
    for find in finders.values():
        find(queries[:1])
    for query in queries:
        for name, find in finders.items():
            start = time.perf_counter()
            find(query[None])
            took[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(times) for name, times in took.items()}


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    """Share of the true neighbours that were found."""
    return float(np.mean([len({*a} & {*b}) / K for a, b in zip(found, truth, strict=True)]))


def indexed(X: np.ndarray, queries: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Build the index of a cache, and ask it."""
    from featx.fitting.rowindex import open_index

    with tempfile.TemporaryDirectory() as folder:
        os.environ["FEATX_CACHE_HOME"] = folder
        path = featx.write_cache(Path(folder) / "c.h5", X, encoder="made")
        with featx.open_cache(path) as cache:
            start = time.perf_counter()
            index = open_index(cache, cache.taps[0])
            took = time.perf_counter() - start
            none = np.array([-1])

            def find(query: np.ndarray) -> Any:
                return index.nearest(cache, cache.taps[0], query, K, none)

            found = np.concatenate([find(query[None])[0] for query in queries])
            ms = milliseconds({"indexed": find}, queries)["indexed"]
            both = {"indexed_recall": recall(found, truth), "indexed_ms": ms}
            return {"index_seconds": took, **both}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--vectors", choices=["clusters", "random"], default="clusters")
    parser.add_argument("--index", action="store_true", help="Build the index too, in minutes.")
    given = parser.parse_args()
    every = vectors(given.rows + given.queries, given.width, given.vectors)
    X, queries = unit_rows(every[: given.rows]), unit_rows(every[given.rows :])
    del every
    finders: dict[str, Find] = {"featx": lambda q: nearest_rows(X, q, K, unit=True)}
    finders["featx_any_length"] = lambda q: nearest_rows(X, q, K)
    ours = nearest_rows(X, queries, K, unit=True)[0]
    truth = ours
    try:
        import faiss
    except ImportError:
        print("faiss is not installed: pip install faiss-cpu")
    else:
        flat = faiss.IndexFlatIP(given.width)
        flat.add(X)
        finders["faiss"] = lambda q: flat.search(q, K)
        truth = np.argsort(-(queries.astype(np.float64) @ X.T.astype(np.float64)), axis=1)[:, :K]
    found: dict[str, Any] = {**vars(given), "recall": recall(ours, truth)}
    found["ms"] = milliseconds(finders, queries)
    if "faiss" in finders:
        found["ratio"] = found["ms"]["featx"] / found["ms"]["faiss"]
    if given.index:
        found |= indexed(X, queries, truth)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
