"""How often the 95 % intervals hold the truth, where the truth is known.

python -m benchmarks.coverage --repeats 500
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Case:
    """Normal classes with the probabilities of a model that knows them.

    Parameters
    ----------
    rows
        Of each draw.
    shares
        Of each class.
    distance
        Of the classes, in standard deviations.
    together
        Rows of a group: they are of one class, and half of the variance of their noise is shared.
    """

    rows: int
    shares: tuple[float, ...]
    distance: float
    together: int = 1


CASES = {
    "plain": Case(200, (0.5, 0.5), 1.5),
    "three classes": Case(200, (1 / 3, 1 / 3, 1 / 3), 1.5),
    "nearly separate": Case(200, (0.5, 0.5), 3.5),
    "few rows": Case(50, (0.5, 0.5), 1.5),
    "rare class": Case(200, (0.9, 0.1), 2.0),
    "rare class, nearly separate": Case(200, (0.9, 0.1), 3.0),
    "rare class, few rows": Case(60, (0.9, 0.1), 2.0),
    "rare class, hard": Case(200, (0.9, 0.1), 1.0),
    "easy, 30 rows": Case(30, (0.5, 0.5), 4.0),
    "easy, 60 rows": Case(60, (0.5, 0.5), 4.0),
    "four classes, easy": Case(60, (0.25, 0.25, 0.25, 0.25), 4.0),
    "four classes, uneven": Case(200, (0.55, 0.25, 0.15, 0.05), 2.0),
    "eight classes": Case(240, (1 / 8,) * 8, 2.5),
    "groups of 4": Case(240, (0.5, 0.5), 1.5, together=4),
    "groups of 4, few": Case(80, (0.5, 0.5), 2.0, together=4),
    "groups of 4, three classes": Case(240, (0.5, 0.3, 0.2), 2.0, together=4),
}
EDGES = (
    "rare class",
    "rare class, nearly separate",
    "rare class, few rows",
    "rare class, hard",
    "easy, 30 rows",
    "easy, 60 rows",
    "four classes, easy",
    "four classes, uneven",
    "groups of 4",
    "groups of 4, few",
)
"""Cases near the ends of a scale, or with rows that are not independent."""


def draw(
    case: str, n: int, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Draw rows, groups side by side, and the probabilities of their classes."""
    known = CASES[case]
    k, many = len(known.shares), -(-n // known.together)
    true = np.repeat(rng.choice(k, size=many, p=known.shares), known.together)[:n]
    noise = rng.normal(size=(n, k))
    if known.together > 1:
        shared = np.repeat(rng.normal(size=(many, k)), known.together, axis=0)[:n]
        noise = (noise + shared) / np.sqrt(2)
    # Corners of a simplex, all `distance` apart.
    corners = np.eye(k) * known.distance / np.sqrt(2)
    return true, softmax((corners[true] + noise) @ corners.T + np.log(known.shares), axis=1)


def measured(case: str, n: int, rng: np.random.Generator, n_boot: int, seed: int) -> dict[str, Any]:
    """Evaluate one draw; draws that lack a class are drawn again."""
    while True:
        true, table = draw(case, n, rng)
        if len(np.unique(true)) == table.shape[1]:
            break
    together = CASES[case].together
    return evaluate(
        true,
        table.argmax(axis=1),
        probabilities=table,
        classes=range(table.shape[1]),
        n_boot=n_boot,
        seed=seed,
        groups=None if together == 1 else np.arange(n) // together,
    )


def coverage(case: str, repeats: int, seed: int = 0) -> dict[str, float]:
    """Share of repeats whose interval holds the truth, for each metric."""
    rng = np.random.default_rng(seed)
    truth = measured(case, 400_000, rng, 0, seed)
    held = dict.fromkeys(METRICS, 0)
    for k in range(repeats):
        found = measured(case, CASES[case].rows, rng, 1000, k)
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
