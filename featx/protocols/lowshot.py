"""VISSL's low-shot figures: k positives a class, five draws for each k."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from featx.protocols.figures import l2, mean_precision
from featx.protocols.machines import VISSL, vissl_svc
from featx.protocols.rules import Array, Protocol, Rows, check
from featx.selection.splits import Split

LOW_SHOT_K = (1, 2, 4, 8, 16, 32, 64, 96)
LOW_SHOT_SAMPLES = 5


def low_shot(
    X: ArrayLike,
    y: ArrayLike,
    split: Split | ArrayLike,
    *,
    ks: tuple[int, ...] = LOW_SHOT_K,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Measure ``vissl-svm`` with k positives a class, five draws for each k.

    VISSL reports the cost that does best on the test rows; here the cost is the one that does best
    on the training rows that were not drawn, so the figure is not the best of many.

    Returns
    -------
    rows : for each k ``{"k", "mean", "min", "max", "std"}`` of the mean average precision
    """
    protocol = VISSL
    rows = check(protocol, np.asarray(X, np.float32), np.asarray(y), split, None, seed)
    Z, truth, train = l2(rows.X), rows.indicator, rows.split.train
    found = []
    for k in [k for k in ks if k < truth[train].sum(axis=0).min()]:
        draws = []
        for sample in range(LOW_SHOT_SAMPLES):
            rng = np.random.default_rng([seed, k, sample])
            draws.append(_low_shot_draw(protocol, Z, truth, rows, draw_k(truth, train, k, rng)))
        found.append(
            {"k": k, "mean": float(np.mean(draws)), "min": min(draws), "max": max(draws),
             "std": float(np.std(draws))}
        )  # fmt: skip
    return found


def draw_k(truth: Array, train: Array, k: int, rng: np.random.Generator) -> Array:
    """Draw k positive training rows of each class, without a row twice."""
    drawn = [
        rng.choice(train[truth[train, c]], k, replace=False) for c in range(truth.shape[1])
    ]  # fmt: skip
    return np.unique(np.concatenate(drawn))


def _low_shot_draw(protocol: Protocol, Z: Array, truth: Array, rows: Rows, drawn: Array) -> float:
    rest, test = np.setdiff1d(rows.split.train, drawn), rows.split.test
    best, figure = -1.0, 0.0
    for cost in protocol.values:
        fits = [
            vissl_svc(cost, protocol).fit(Z[drawn], truth[drawn, c]) for c in range(truth.shape[1])
        ]
        on_rest, on_test = (
            mean_precision(
                None, truth[at], np.stack([f.decision_function(Z[at]) for f in fits], axis=1)
            )
            for at in (rest, test)
        )
        if on_rest > best:
            best, figure = on_rest, on_test
    return figure
