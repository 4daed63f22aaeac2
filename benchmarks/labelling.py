"""How many labels the studio's order saves, beside rows drawn at random.

python -m benchmarks.labelling [CACHE...]; scikit-learn's digits as pixels are always there.

A third of the rows is the test. Of the others no label is known at first; twenty are asked for at a
time, those that the studio shows first (`featx.studio.refit.rank_next`) or others at random, a head
is fitted on what is known, and measured on the test.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

import featx
from featx.model.thresholds import score_rows
from featx.selection import search
from featx.studio.refit import Refit, rank_next

RESULTS = Path(__file__).parent / "results"
STEP, MOST = 20, 200
Array = NDArray[Any]


def curve(X: Array, y: Array, seed: int, ordered: bool) -> list[float]:
    """Accuracy on the test after 20, 40, ... 200 labels."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    test, pool = order[: len(y) // 3], order[len(y) // 3 :]
    known: list[int] = []
    fit: Refit | None = None
    found = []
    while len(known) < MOST:
        blank = np.setdiff1d(pool, known)
        ranked = rank_next(X, blank.tolist(), fit, seed) if ordered else rng.permutation(blank)
        known += [int(row) for row in ranked[:STEP]]
        names, counts = np.unique(y[known], return_counts=True)
        rows = np.array([row for row in known if counts[names == y[row]][0] > 1])
        if len(np.unique(y[rows])) < 2:
            found.append(float(np.mean(y[test] == names[counts.argmax()])))
            continue
        folds = int(min(3, np.unique(y[rows], return_counts=True)[1].min()))
        head = search("logreg", X[rows], y[rows], folds=folds, seed=seed).estimator
        classes = [str(name) for name in np.unique(y[rows])]
        found.append(float(np.mean(head.predict(X[test]) == y[test])))
        scores = score_rows(head, X, classes).probabilities
        assert scores is not None
        two = np.sort(scores, axis=1)[:, -2:]
        none: Any = np.zeros(len(y))
        blank_labels: list[str | None] = [None] * len(y)
        fit = Refit(
            blank_labels,
            blank_labels,
            none,
            two[:, 1] - two[:, 0],
            none,
            none.astype(int),
            {},
            {},
            {},
        )
    return found


def measure(name: str, X: Array, y: Array, seeds: int) -> dict[str, Any]:
    """Both ways on the same splits: mean accuracy at each number of labels, and the difference."""
    ways = {
        way: np.array([curve(X, y, seed, way == "studio") for seed in range(seeds)])
        for way in ("studio", "random")
    }
    apart = ways["studio"] - ways["random"]
    spread = apart.std(axis=0, ddof=1) / np.sqrt(seeds)
    rows = [
        {
            "labels": STEP * (k + 1),
            "studio": float(ways["studio"][:, k].mean()),
            "random": float(ways["random"][:, k].mean()),
            "difference": float(apart[:, k].mean()),
            "standard_error": float(spread[k]),
        }
        for k in range(apart.shape[1])
    ]
    for row in rows:
        print(name, *(f"{key} {value:.3f}" for key, value in row.items()), flush=True)
    return {"set": name, "rows": len(y), "seeds": seeds, "by_labels": rows}


def main() -> None:
    """Measure every set, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("caches", nargs="*", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    asked = parser.parse_args()
    digits = load_digits()
    names = digits.target.astype(str)
    found = [measure("digits, pixels", digits.data.astype(np.float32), names, asked.seeds)]
    for path in asked.caches:
        with featx.open_cache(path) as cache:
            labels = np.array([str(label) for label in cache.labels or ()])
            found.append(measure(path.stem, np.asarray(cache.X), labels, asked.seeds))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "labelling.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
