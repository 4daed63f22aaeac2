"""Simulations of what featx promises about new data: a table as JSON.

python -m benchmarks.promises                   # all parts
python -m benchmarks.promises thresholds sets   # some of them; the others' figures are kept
"""

from __future__ import annotations

import argparse
import json
import math
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
from benchmarks.coverage import EDGES, coverage
from featx.errors import FitError
from featx.evaluation.conformal import coverage_of
from featx.model.model import Model
from featx.model.thresholds import decide
from featx.reporting import RowSet, learning_curve

RESULTS = Path(__file__).parent / "results"
NEW_ROWS = 20_000
Row = dict[str, Any]


@dataclass(frozen=True)
class World:
    """Classes: the share of each, and how far their means lie apart.

    Parameters
    ----------
    width
        Features; all but as many as there are classes are noise.
    freedom
        Of the noise, which is Student's t; normal when infinite.
    together
        Rows of a group: they are of one class, and half of the variance of their noise is shared.
    """

    shares: tuple[float, ...]
    distance: float
    width: int = 20
    freedom: float = math.inf
    together: int = 1

    def draw(self, n: int, seed: int) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Draw rows and their labels, ``a``, ``b`` and so on; groups lie side by side."""
        rng = np.random.default_rng(seed)
        many = -(-n // self.together)
        codes = rng.choice(len(self.shares), size=many, p=self.shares)
        X = self._noise(rng, n)
        if self.together > 1:
            codes = np.repeat(codes, self.together)[:n]
            shared = np.repeat(self._noise(rng, many), self.together, axis=0)[:n]
            X = (X + shared) / np.sqrt(2)
        corners = np.eye(len(self.shares), self.width) * self.distance / np.sqrt(2)
        return (X + corners[codes]).astype(np.float32), np.array(list("abcdefghij"))[codes]

    def _noise(self, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
        if math.isinf(self.freedom):
            return rng.normal(size=(n, self.width))
        return rng.standard_t(self.freedom, size=(n, self.width))


WORLDS = {
    "balanced": World((0.5, 0.5), 2.6),
    "80/20": World((0.8, 0.2), 2.6),
    "95/5": World((0.95, 0.05), 3.5),
    "heavy tails": World((0.5, 0.5), 8.0, freedom=2.0),
    "five classes": World((0.35, 0.25, 0.2, 0.1, 0.1), 4.0),
    "groups of 5": World((0.6, 0.4), 3.5, together=5),
    "close": World((0.5, 0.5), 2.0),
    "easy": World((0.5, 0.5), 5.0),
    "four classes": World((0.4, 0.3, 0.2, 0.1), 2.5),
    "wide": World((0.5, 0.5), 4.0, width=300),
}


@dataclass(frozen=True)
class Case:
    """How often heads are fitted on how many rows of a world."""

    world: str
    rows: int
    draws: int
    heads: tuple[str, ...] = ("logreg", "svm")


def fitted(case: Case, head: str, draw: int, **options: Any) -> Any:
    """Fit on a draw, from a cache of vectors."""
    world = WORLDS[case.world]
    X, y = world.draw(case.rows, draw)
    groups = None if world.together == 1 else np.arange(case.rows) // world.together
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cache = Path(folder) / "x.h5"
        featx.write_cache(cache, X, labels=y, groups=groups, encoder="simulated")
        return featx.fit(cache, head, seed=draw, **options)


_THRESHOLDS = (
    Case("balanced", 300, 30),
    Case("80/20", 300, 20),
    Case("balanced", 3000, 12, ("logreg",)),
    Case("80/20", 3000, 12, ("logreg",)),
    Case("balanced", 3000, 4, ("svm",)),
    Case("95/5", 300, 15, ("logreg",)),
    Case("heavy tails", 300, 15, ("svm-rbf",)),
    Case("five classes", 600, 15, ("logreg",)),
    Case("groups of 5", 600, 15, ("logreg",)),
)


def thresholds(scale: float) -> Iterator[Row]:
    """How often the precision, or the accuracy of the answers, is at least what was promised."""
    rules = {"precision": {"precision_at": 0.95}, "abstain": {"abstain": 0.05}}
    for case, (by, rule) in product(_THRESHOLDS, rules.items()):
        for head in case.heads:
            many = max(1, round(scale * case.draws))
            kept, worst, answered, without = 0, 1.0, [], 0
            for seed in range(many):
                try:
                    model = fitted(case, head, seed, **rule).model
                except FitError:
                    without += 1
                    continue
                shares, part = _worth(model, WORLDS[case.world], 10_000 + seed)
                worst = min([worst, *shares])
                kept += all(share >= 0.95 for share in shares)
                answered.append(part)
            made = many - without
            yield {
                "world": case.world,
                "rows": case.rows,
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
        # A rule that abstains from all new rows breaks no promise.
        return [float(right[answered].mean())] if answered.any() else [], float(answered.mean())
    each = [answered & (labels == name) for name in model.classes]
    return [float(right[some].mean()) for some in each if some.any()], float(answered.mean())


_SETS = (
    Case("close", 500, 10),
    Case("80/20", 500, 10),
    Case("easy", 500, 10),
    Case("four classes", 500, 10),
    Case("wide", 500, 4),
    Case("close", 2000, 3),
    Case("four classes", 2000, 3, ("logreg",)),
    Case("heavy tails", 500, 10, ("svm-rbf",)),
    Case("five classes", 600, 10, ("logreg",)),
    Case("groups of 5", 600, 10, ("logreg",)),
)


def sets(scale: float) -> Iterator[Row]:
    """Coverage of conformal sets on new rows, overall and in each class; 0.95 is promised."""
    for case in _SETS:
        for head in case.heads:
            found = []
            for seed in range(max(1, round(scale * case.draws))):
                model = fitted(case, head, seed, sets=0.95).model
                X, y = WORLDS[case.world].draw(NEW_ROWS, 10_000 + seed)
                table = model.score(X).probabilities
                found.append(coverage_of(model.sets["classes"], model.classes, y, table))
            yield {
                "world": case.world,
                "rows": case.rows,
                "head": head,
                "draws": len(found),
                "coverage": round(float(np.mean([one["coverage"]["value"] for one in found])), 4),
                "per_class": [
                    round(float(np.mean([one["per_class"][c]["value"] for one in found])), 4)
                    for c in found[0]["per_class"]
                ],
                "size": round(float(np.mean([one["size"] for one in found])), 3),
            }


def learning(scale: float) -> Iterator[Row]:
    """How often the interval of "would twice the labels help?" holds the true gain; 0.95 is meant.

    ``flat`` gains a tenth of a point: there the verdict must not be yes.
    """
    cases: dict[str, tuple[World, int, int, Callable[[], Any]]] = {
        "grows": (World((0.5, 0.5), 2.6, 40), 120, 100, LogisticRegression),
        "flat": (World((0.5, 0.5), 2.6, 5), 600, 200, LogisticRegression),
        "kernel": (World((0.5, 0.5), 3.0, 30), 200, 150, SVC),
        "wide": (World((0.5, 0.5), 3.5, 200), 160, 100, lambda: SVC(kernel="linear", C=0.01)),
    }
    repeats = max(1, round(scale * 60))
    for name, (world, n, n_test, make) in cases.items():
        new = world.draw(NEW_ROWS, 1)
        truth = _accuracy(world, 2 * n, new, make) - _accuracy(world, n, new, make)
        found = [
            learning_curve(
                make(),
                RowSet(*world.draw(n, 100 + seed)),
                RowSet(*world.draw(n_test, 5_000 + seed)),
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
            "verdicts": {
                name: sum(one["verdict"] == name for one in found)
                for name in ("yes", "little", "unclear")
            },
        }


def _accuracy(world: World, n: int, new: tuple[Any, Any], make: Callable[[], Any]) -> float:
    drawn = (world.draw(n, 20_000 + k) for k in range(40))
    return float(np.mean([make().fit(X, y).score(*new) for X, y in drawn]))


def intervals(scale: float) -> Iterator[Row]:
    """How often the intervals of metrics hold the truth where they are near an edge; 0.95 is meant.

    `benchmarks.coverage` has all cases, and more draws.
    """
    repeats = max(1, round(scale * 150))
    for case in EDGES:
        yield {"case": case, "draws": repeats, **coverage(case, repeats)}


PARTS: dict[str, Callable[[float], Iterator[Row]]] = {
    "thresholds": thresholds,
    "sets": sets,
    "learning": learning,
    "intervals": intervals,
}


def keep(name: str, part: dict[str, Any]) -> None:
    """Put a part into benchmarks/results/promises.json; the others stay as they are."""
    RESULTS.mkdir(exist_ok=True)
    place = RESULTS / "promises.json"
    found = json.loads(place.read_text()) if place.exists() else {}
    known = {one: found[one] for one in PARTS if isinstance(found.get(one), dict)}
    place.write_text(json.dumps({**known, name: part}, indent=1) + "\n")


def main() -> None:
    """Print each row of each part, and keep them in benchmarks/results/promises.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--scale", type=float, default=1.0, help="times as many draws of each case")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"there is no part {unknown.pop()!r}; there are {', '.join(PARTS)}")
    for name in asked.parts or PARTS:
        began, cpu, rows = time.perf_counter(), time.process_time(), []
        for row in PARTS[name](asked.scale):
            rows.append(row)
            print(json.dumps({"part": name, **row}), flush=True)
        took = {
            "seconds": round(time.perf_counter() - began, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
        }
        keep(name, {**took, "rows": rows})
        print(json.dumps({"part": name, **took}), flush=True)


if __name__ == "__main__":
    main()
