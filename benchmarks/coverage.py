"""How often the 95 % intervals hold the truth, where the truth is known.

python -m benchmarks.coverage --repeats 500
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from featx.evaluation import evaluate

RESULTS = Path(__file__).parent / "results"
METRICS = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "roc_auc",
    "average_precision",
    "log_loss",
    "brier",
)

CASES: dict[str, tuple[int, tuple[float, ...], float]] = {
    "plain": (200, (0.5, 0.5), 1.5),
    "three classes": (200, (1 / 3, 1 / 3, 1 / 3), 1.5),
    "nearly separate": (200, (0.5, 0.5), 3.5),
    "few rows": (50, (0.5, 0.5), 1.5),
    "rare class": (200, (0.9, 0.1), 2.0),
    "rare class, nearly separate": (200, (0.9, 0.1), 3.0),
    "rare class, few rows": (60, (0.9, 0.1), 2.0),
    "easy, 30 rows": (30, (0.5, 0.5), 4.0),
    "easy, 60 rows": (60, (0.5, 0.5), 4.0),
    "four classes, easy": (60, (0.25, 0.25, 0.25, 0.25), 4.0),
    "four classes, uneven": (200, (0.55, 0.25, 0.15, 0.05), 2.0),
}
"""Rows, share of each class, distance of the classes in standard deviations."""


def draw(
    case: str, n: int, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Draw rows of normal classes with the probabilities of a model that knows them."""
    _, shares, distance = CASES[case]
    k = len(shares)
    true = rng.choice(k, size=n, p=shares)
    # Corners of a simplex, all `distance` apart.
    corners = np.eye(k) * distance / np.sqrt(2)
    X = corners[true] + rng.normal(size=(n, k))
    return true, softmax(X @ corners.T + np.log(shares), axis=1)


def measured(case: str, n: int, rng: np.random.Generator, n_boot: int, seed: int) -> dict[str, Any]:
    """Evaluate one draw; draws that lack a class are drawn again."""
    while True:
        true, table = draw(case, n, rng)
        if len(np.unique(true)) == table.shape[1]:
            break
    called = table.argmax(axis=1)
    classes = range(table.shape[1])
    return evaluate(true, called, probabilities=table, classes=classes, n_boot=n_boot, seed=seed)


def coverage(case: str, repeats: int, seed: int = 0) -> dict[str, float]:
    """Share of repeats whose interval holds the truth, for each metric."""
    rng = np.random.default_rng(seed)
    truth = measured(case, 400_000, rng, 0, seed)
    held = dict.fromkeys(METRICS, 0)
    for k in range(repeats):
        found = measured(case, CASES[case][0], rng, 1000, k)
        for name in METRICS:
            held[name] += found[name]["low"] <= truth[name]["value"] <= found[name]["high"]
    return {name: n / repeats for name, n in held.items()}


def main() -> None:
    """Print the coverage of each case and keep it in benchmarks/results/coverage.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=500)
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    asked = parser.parse_args()
    found = {}
    for case in asked.cases:
        found[case] = coverage(case, asked.repeats)
        print(json.dumps({case: found[case]}), flush=True)
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"repeats": asked.repeats, "coverage": found}, indent=1)
    (RESULTS / "coverage.json").write_text(f"{text}\n")


if __name__ == "__main__":
    main()
