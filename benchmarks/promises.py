"""Simulations of what featx promises about new data: a table as JSON.

python -m benchmarks.promises                   # all parts
python -m benchmarks.promises thresholds sets   # some of them
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

import featx
from featx.errors import FitError
from featx.evaluation.conformal import coverage_of
from featx.model.model import Model
from featx.model.thresholds import decide
from featx.reporting import Part, learning_curve

RESULTS = Path(__file__).parent / "results"
NEW_ROWS = 20_000
Row = dict[str, Any]


@dataclass(frozen=True)
class World:
    """Normal classes: the share of each, and how far their means lie apart.

    Parameters
    ----------
    width
        Features; all but two of them are noise.
    """

    shares: tuple[float, ...]
    distance: float
    width: int = 20

    def draw(self, n: int, seed: int) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Draw rows and their labels, ``a``, ``b`` and so on."""
        rng = np.random.default_rng(seed)
        codes = rng.choice(len(self.shares), size=n, p=self.shares)
        X = rng.normal(size=(n, self.width))
        corners = np.eye(len(self.shares), self.width) * self.distance / np.sqrt(2)
        return (X + corners[codes]).astype(np.float32), np.array(list("abcdefghij"))[codes]


def fitted(world: World, n: int, draw: int, **options: Any) -> Any:
    """Fit on a draw of `n` rows, from a cache of vectors."""
    X, y = world.draw(n, draw)
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cache = Path(folder) / "x.h5"
        featx.write_cache(cache, X, labels=y, encoder="simulated")
        return featx.fit(cache, **options)


def thresholds(repeats: int) -> Iterator[Row]:
    """How often the precision, or the accuracy of the answers, is at least what was promised."""
    worlds = {"balanced": World((0.5, 0.5), 2.6), "80/20": World((0.8, 0.2), 2.6)}
    rules = {"precision": {"precision_at": 0.95}, "abstain": {"abstain": 0.05}}
    for (name, world), n, (by, rule), head in product(
        worlds.items(), (300, 3000), rules.items(), ("logreg", "svm")
    ):
        many = repeats if n < 1000 else max(repeats // 2, 1)
        kept, worst, answered, without = 0, 1.0, [], 0
        for seed in range(many):
            try:
                model = fitted(world, n, seed, head=head, **rule).model
            except FitError:
                without += 1
                continue
            shares, part = _worth(model, world, 10_000 + seed)
            worst = min([worst, *shares])
            kept += all(share >= 0.95 for share in shares)
            answered.append(part)
        made = many - without
        yield {
            "world": name,
            "rows": n,
            "rule": by,
            "head": head,
            "draws": many,
            "no_cut": without,
            "kept": kept / made if made else None,
            "worst": round(worst, 4) if made else None,
            "answered": round(float(np.mean(answered)), 4) if made else None,
        }


def _worth(model: Model, world: World, seed: int) -> tuple[list[float], float]:
    """Give the precision of each class that is answered on new rows, and the share of answers."""
    X, y = world.draw(NEW_ROWS, seed)
    labels, abstained = decide(model.thresholds, model.classes, model.score(X))
    right, answered = labels == y, ~abstained
    if model.thresholds["by"] == "abstain":
        return [float(right[answered].mean())], float(answered.mean())
    each = [answered & (labels == name) for name in model.classes]
    return [float(right[some].mean()) for some in each if some.any()], float(answered.mean())


def sets(repeats: int) -> Iterator[Row]:
    """Coverage of conformal sets on new rows, overall and in each class; 0.95 is promised."""
    worlds = {
        "balanced": World((0.5, 0.5), 2.0),
        "80/20": World((0.8, 0.2), 2.0),
        "easy": World((0.5, 0.5), 5.0),
        "four classes": World((0.4, 0.3, 0.2, 0.1), 2.5),
        "wide": World((0.5, 0.5), 4.0, width=300),
    }
    for (name, world), n, head in product(worlds.items(), (500, 2000), ("logreg", "svm")):
        found = []
        for seed in range(repeats if n < 1000 else max(repeats // 2, 1)):
            model = fitted(world, n, seed, head=head, sets=0.95).model
            X, y = world.draw(NEW_ROWS, 10_000 + seed)
            table = model.score(X).probabilities
            found.append(coverage_of(model.sets["classes"], model.classes, y, table))
        classes = found[0]["per_class"]
        yield {
            "world": name,
            "rows": n,
            "head": head,
            "draws": len(found),
            "coverage": round(float(np.mean([one["coverage"]["value"] for one in found])), 4),
            "per_class": [
                round(float(np.mean([one["per_class"][c]["value"] for one in found])), 4)
                for c in classes
            ],
            "size": round(float(np.mean([one["size"] for one in found])), 3),
        }


def learning(repeats: int) -> Iterator[Row]:
    """How often the interval of "would twice the labels help?" holds the true gain; 0.95 is meant.

    ``flat`` gains a tenth of a point: there the verdict must not be yes.
    """
    cases: dict[str, tuple[World, int, int, Callable[[], Any]]] = {
        "grows": (World((0.5, 0.5), 2.6, 40), 120, 100, LogisticRegression),
        "flat": (World((0.5, 0.5), 2.6, 5), 600, 200, LogisticRegression),
        "kernel": (World((0.5, 0.5), 3.0, 30), 200, 150, SVC),
        "wide": (World((0.5, 0.5), 3.5, 200), 160, 100, lambda: SVC(kernel="linear", C=0.01)),
    }
    for name, (world, n, n_test, make) in cases.items():
        new = world.draw(NEW_ROWS, 1)
        truth = _accuracy(world, 2 * n, new, make) - _accuracy(world, n, new, make)
        found = [
            learning_curve(
                make(),
                Part(*world.draw(n, 100 + seed)),
                Part(*world.draw(n_test, 5_000 + seed)),
                seed=seed,
            )
            for seed in range(repeats)
        ]
        gains = [one["doubled"]["gain"] for one in found]
        yield {
            "case": name,
            "rows": n,
            "test_rows": n_test,
            "draws": repeats,
            "true_gain": round(truth, 4),
            "held": float(np.mean([g["low"] <= truth <= g["high"] for g in gains])),
            "width": round(float(np.mean([g["high"] - g["low"] for g in gains])), 4),
            "yes": float(np.mean([one["verdict"] == "yes" for one in found])),
        }


def _accuracy(world: World, n: int, new: tuple[Any, Any], make: Callable[[], Any]) -> float:
    drawn = (world.draw(n, 20_000 + k) for k in range(40))
    return float(np.mean([make().fit(X, y).score(*new) for X, y in drawn]))


PARTS: dict[str, tuple[Callable[[int], Iterator[Row]], int]] = {
    "thresholds": (thresholds, 40),
    "sets": (sets, 20),
    "learning": (learning, 60),
}
"""Each part, and how many draws it makes of each case."""


def main() -> None:
    """Print each row of each part, and keep them in benchmarks/results/promises.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--repeats", type=int)
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"there is no part {unknown.pop()!r}; there are {', '.join(PARTS)}")
    found: dict[str, Any] = {}
    for name in asked.parts or PARTS:
        part, repeats = PARTS[name]
        began = time.perf_counter()
        found[name] = []
        for row in part(asked.repeats or repeats):
            found[name].append(row)
            print(json.dumps({"part": name, **row}), flush=True)
        print(json.dumps({"part": name, "seconds": round(time.perf_counter() - began, 1)}))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "promises.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
