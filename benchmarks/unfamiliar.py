"""Scores of unfamiliar rows, by AUROC with one class held out at a time; and false alarms.

python -m benchmarks.unfamiliar [CACHE | CACHE:COLUMN...]; a column divides each label by its own.
The pixels of scikit-learn's digits are always there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import featx
from featx.auditing import unit_rows
from featx.model.likeness import usual_distance

RESULTS = Path(__file__).parent / "results"
Array = NDArray[Any]


def near(k: int) -> Any:
    """Mean cosine distance to the k nearest training rows; k = 1 is what featx uses."""

    def score(X: Array, y: Array, new: Array) -> Array:
        distances = 1 - unit_rows(new) @ unit_rows(X).T
        return np.asarray(np.partition(distances, k - 1, axis=1)[:, :k].mean(axis=1))

    return score


def mahalanobis(X: Array, y: Array, new: Array) -> Array:
    """Distance to the nearest class mean under one shrunken covariance (Lee et al. 2018)."""
    means = np.stack([X[y == name].mean(axis=0) for name in np.unique(y)])
    codes = np.searchsorted(np.unique(y), y)
    # Beyond a few hundred columns the covariance of so few rows is taken in their main directions.
    turn = PCA(min(256, X.shape[1], len(X) // 2), random_state=0).fit(X - means[codes])
    rows, centres, asked = (A @ turn.components_.T for A in (X, means, new))
    precision = LedoitWolf(assume_centered=True).fit(rows - centres[codes]).precision_
    apart = asked[:, None] - centres[None]
    return np.asarray(np.einsum("nki,ij,nkj->nk", apart, precision, apart).min(axis=1))


def energy(X: Array, y: Array, new: Array) -> Array:
    """Minus the log of the summed exponentials of a linear head's outputs (Liu et al. 2020)."""
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500)).fit(X, y)
    outputs = head.decision_function(new)
    return np.asarray(-logsumexp(np.atleast_2d(outputs.T).T, axis=1))


SCORES = {"nearest": near(1), "5 nearest": near(5), "mahalanobis": mahalanobis, "energy": energy}


def compare(X: Array, y: Array, seed: int = 0) -> dict[str, float]:
    """Mean AUROC of each score; a quarter of each known class is new and familiar."""
    rng = np.random.default_rng(seed)
    familiar = rng.random(len(y)) < 0.25
    found: dict[str, list[float]] = {name: [] for name in SCORES}
    for held in np.unique(y):
        known = y != held
        train, new = known & ~familiar, (known & familiar) | ~known
        for name, score in SCORES.items():
            given = score(X[train], y[train], X[new])
            found[name].append(float(roc_auc_score(~known[new], given)))
    return {name: round(float(np.mean(values)), 4) for name, values in found.items()}


def false_alarms(X: Array, draws: int = 20) -> dict[str, float]:
    """Mean share of new rows beyond the limit: half of the rows set it, the other half are new."""
    found: dict[str, list[float]] = {"0.01": [], "0.05": []}
    for seed in range(draws):
        order = np.random.default_rng(seed).permutation(len(X))
        unit = unit_rows(X[order])
        half = len(unit) // 2
        distances = near(1)(unit[:half], None, unit[half:])
        for rate, shares in found.items():
            limit = usual_distance(unit[:half], float(rate))
            shares.append(float((distances > limit).mean()))
    return {f"at {rate}": round(float(np.mean(shares)), 4) for rate, shares in found.items()}


def read(given: str) -> tuple[Array, Array]:
    """Read features and classes of a cache; a column after a colon divides each class."""
    path, _, column = given.partition(":")
    with featx.open_cache(path) as cache:
        X, y = np.asarray(cache.X, np.float32), np.asarray(cache.y)
        if column:
            both = zip(y, cache.columns[column], strict=True)
            y = np.array([f"{label} {value}" for label, value in both])
    return X, y


def main() -> None:
    """Print and keep a line for each set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("caches", nargs="*")
    sets: dict[str, tuple[Array, Array]] = {}
    pixels, digits = load_digits(return_X_y=True)
    sets["digits, pixels"] = pixels.astype(np.float32), digits
    for given in parser.parse_args().caches:
        sets[Path(given).name] = read(given)
    found = {}
    for name, (X, y) in sets.items():
        if len(np.unique(y)) < 3:
            raise SystemExit(f"{name}: with two classes none can be held out")
        found[name] = {**compare(X, y), "false alarms": false_alarms(X)}
        print(name, json.dumps(found[name]), flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "unfamiliar.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
