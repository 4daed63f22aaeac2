"""Exact search beside faiss's flat index: 100,000 x 1,280 random vectors, one query at a time."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import featx
from featx.auditing import nearest_rows, unit_rows


def median_ms(find: Callable[[np.ndarray], object], queries: np.ndarray) -> float:
    find(queries[:1])
    took = []
    for query in queries:
        start = time.perf_counter()
        find(query[None])
        took.append(1000 * (time.perf_counter() - start))
    return statistics.median(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--queries", type=int, default=30)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    X = unit_rows(rng.normal(size=(given.rows, given.width)).astype(np.float32))
    queries = rng.normal(size=(given.queries, given.width)).astype(np.float32)
    ours, _ = nearest_rows(X, queries, 10, unit=True)
    found = {
        "rows": given.rows,
        "width": given.width,
        "featx_ms": median_ms(lambda q: nearest_rows(X, q, 10, unit=True), queries),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = featx.write_cache(Path(folder) / "c.h5", X, encoder="random")
        with featx.open_cache(path) as cache:
            found["from_file_ms"] = median_ms(lambda q: nearest_rows(cache.X, q, 10), queries[:3])
    try:
        import faiss
    except ImportError:
        print("faiss is not installed: pip install faiss-cpu")
    else:
        index = faiss.IndexFlatIP(given.width)
        index.add(X)
        asked = unit_rows(queries)
        found["faiss_ms"] = median_ms(lambda q: index.search(q, 10), asked)
        theirs = index.search(asked, 10)[1]
        both = zip(ours, theirs, strict=True)
        found["recall"] = float(np.mean([len({*a} & {*b}) / 10 for a, b in both]))
        found["ratio"] = found["featx_ms"] / found["faiss_ms"]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
