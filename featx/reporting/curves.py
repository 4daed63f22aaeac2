"""The numbers behind the curves: ranking, calibration. Nothing is drawn here."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from featx.evaluation.metrics import BINS
from featx.evaluation.resampling import wilson

WORST_CURVES = 6
"""Of more classes, the curves of so many are told apart: those that are ranked worst."""
_MOST_POINTS, _FEW_POINTS = 300, 120  # of each curve; of each of more than ten


def ranking_curves(
    y_true: ArrayLike, probabilities: ArrayLike, classes: list[str]
) -> list[dict[str, Any]]:
    """Make ROC and precision-recall curves: of the second class of two, else of each class.

    Returns
    -------
    curves : list of ``{"class", "prevalence", "auc", "average_precision", "roc", "pr"}``
        ``roc`` is false and true positive rate, ``pr`` recall and precision, as two lists each.
        A class without rows, or with all of them, has none.

    Examples
    --------
    >>> curves = ranking_curves(["a", "b"], [[0.9, 0.1], [0.2, 0.8]], ["a", "b"])
    >>> curves[0]["class"], curves[0]["auc"]
    ('b', 1.0)
    """
    true, table = np.asarray(y_true), np.asarray(probabilities, dtype=np.float64)
    several = true.ndim == 2
    columns = [1] if len(classes) == 2 and not several else range(len(classes))
    most = _MOST_POINTS if len(classes) <= 10 else _FEW_POINTS
    found = []
    for k in columns:
        positive = true[:, k] == 1 if several else true == classes[k]
        if positive.all() or not positive.any():
            continue
        scores = table[:, k]
        fpr, tpr, _ = roc_curve(positive, scores)
        precision, recall, _ = precision_recall_curve(positive, scores)
        found.append(
            {
                "class": classes[k],
                "prevalence": float(positive.mean()),
                "auc": float(roc_auc_score(positive, scores)),
                "average_precision": float(average_precision_score(positive, scores)),
                "roc": _thin(fpr, tpr, most),
                "pr": _thin(recall[::-1], precision[::-1], most),
            }
        )
    return found


def told_apart(curves: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give the curves that are drawn in colour: all of a few, else those that are ranked worst.

    Examples
    --------
    >>> curves = [{"class": str(k), "average_precision": k / 10} for k in range(9)]
    >>> [one["class"] for one in told_apart(curves)]
    ['0', '1', '2', '3', '4', '5']
    """
    if len(curves) <= WORST_CURVES:
        return curves
    return sorted(curves, key=lambda one: float(one["average_precision"]))[:WORST_CURVES]


def _thin(xs: NDArray[Any], ys: NDArray[Any], most: int) -> list[list[float]]:
    at = np.unique(np.linspace(0, len(xs) - 1, most).astype(int))
    return [np.round(xs[at], 4).tolist(), np.round(ys[at], 4).tolist()]


def calibration_bins(
    y_true: ArrayLike, y_pred: ArrayLike, probabilities: ArrayLike
) -> list[dict[str, float]]:
    """Compare confidence (the highest probability of a row) with the share that is right.

    Where a row has several labels each is a yes or no of its own, and its confidence that of the
    answer given.

    Returns
    -------
    bins : list of ``{"low", "high", "confidence", "accuracy", "accuracy_low", "accuracy_high",
        "n"}``
        Of the equal bins of the calibration error those that hold a row; with the 95 % Wilson
        interval of the accuracy.
    """
    right = (np.asarray(y_true) == np.asarray(y_pred)).ravel()
    table = np.asarray(probabilities, dtype=np.float64)
    confidence = np.maximum(table, 1 - table).ravel() if np.ndim(y_true) == 2 else table.max(axis=1)
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    found = []
    for k in np.unique(places):
        inside = places == k
        n, share = int(inside.sum()), float(right[inside].mean())
        ends = wilson(share, n)
        found.append(
            {
                "low": k / BINS,
                "high": (k + 1) / BINS,
                "confidence": float(confidence[inside].mean()),
                "accuracy": share,
                "accuracy_low": ends["low"],
                "accuracy_high": ends["high"],
                "n": n,
            }
        )
    return found
