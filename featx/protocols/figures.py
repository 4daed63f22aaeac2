"""Normalisation of rows, and average precision with its interval."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from featx.errors import FitError
from featx.evaluation import metrics as m
from featx.evaluation.resampling import draw_weights, interval
from featx.protocols.rules import N_BOOT, Array, Floats


def l2(X: Array) -> Array:
    """Scale the last axis to length one; zeros stay zeros."""
    length = np.linalg.norm(X, axis=-1, keepdims=True)
    return np.asarray(X / np.where(length > 0, length, 1))


def signed_power(X: Array, power: float = 0.5) -> Array:
    """Raise magnitudes to a power and keep the signs."""
    return np.asarray(np.sign(X) * np.abs(X) ** power)


def ap11(positive: NDArray[np.bool_], scores: Floats) -> m.Metric:
    """Make VOC 2007's average precision: the mean over 11 recalls of the best precision there."""
    order = np.argsort(-scores, kind="stable")
    mask = positive[order].astype(np.float64)

    def metric(w: Floats) -> Floats:
        hits = np.cumsum(w[:, order] * mask, axis=1)
        precision = np.nan_to_num(m.ratio(hits, np.cumsum(w[:, order], axis=1)))
        recall = m.ratio(hits, np.broadcast_to(hits[:, -1:], hits.shape))
        # A recall of 0.7 must count as reached when rounding makes it 0.69999.
        best = [
            np.where(recall >= t - 1e-9, precision, 0).max(axis=1) for t in np.linspace(0, 1, 11)
        ]
        return np.asarray(np.where(hits[:, -1] > 0, np.mean(best, axis=0), np.nan))

    return metric


def mean_precision(make: Any, truth: Array, scores: Floats) -> float:
    """Average over the classes that occur; scikit-learn's average precision when make is None."""
    there = np.flatnonzero(truth.any(axis=0))
    if make is None:
        return float(
            np.mean([average_precision_score(truth[:, k], scores[:, k]) for k in there])
        )  # fmt: skip
    one = np.ones((1, len(truth)))
    return float(np.mean([make(truth[:, k], scores[:, k])(one)[0] for k in there]))


def precision_figure(make: Any, truth: Array, scores: Floats, seed: int) -> dict[str, float]:
    """Give the mean over the classes that occur, with its interval."""
    each = [make(truth[:, k], scores[:, k]) for k in np.flatnonzero(truth.any(axis=0))]
    if not each:
        raise FitError("no test row is positive; average precision is not defined")
    n = len(truth)

    def mean(w: Floats) -> Floats:
        return m.mean_there(np.stack([metric(w) for metric in each], axis=1))

    samples = np.concatenate([mean(w) for w in draw_weights(n, N_BOOT, seed)])
    return interval(float(mean(np.ones((1, n)))[0]), samples, "share", n)
