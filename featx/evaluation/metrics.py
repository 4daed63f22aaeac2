"""Metrics of weighted rows, for many weightings at once.

Each function takes weights of shape (n_boot, n_samples) and returns shape (n_boot,) or
(n_boot, n_classes); with weights of one it is scikit-learn's metric.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from featx.typing import RowValues

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]
Metric = Callable[[Floats], Floats]

BINS = 15
"""Of the calibration error (Guo et al. 2017)."""


def per_class(weights: Floats, codes: Codes, n_classes: int) -> Floats:
    """Sum weights by class: shape (n_boot, n_classes). Rows with code -1 are left out."""
    rows = np.flatnonzero(codes >= 0)
    member = sparse.csr_array(
        (np.ones(len(rows)), (codes[rows], rows)), shape=(n_classes, len(codes))
    )
    return np.asarray((member @ weights.T).T)


def counted(true: Codes, predicted: Codes, n_classes: int) -> dict[str, Metric]:
    """Make the metrics that count right and wrong."""

    def parts(w: Floats) -> tuple[Floats, Floats, Floats]:
        hits = per_class(w, np.where(true == predicted, true, -1), n_classes)
        return hits, per_class(w, true, n_classes), per_class(w, predicted, n_classes)

    def accuracy(w: Floats) -> Floats:
        return np.asarray((w @ (true == predicted)) / w.sum(axis=1))

    def recall(w: Floats) -> Floats:
        hits, support, _ = parts(w)
        return ratio(hits, support)

    def precision(w: Floats) -> Floats:
        hits, _, called = parts(w)
        return ratio(hits, called)

    def balanced(w: Floats) -> Floats:
        return mean_there(recall(w))

    def macro_f1(w: Floats) -> Floats:
        hits, support, called = parts(w)
        return mean_there(ratio(2 * hits, support + called))

    return {
        "accuracy": accuracy,
        "balanced_accuracy": balanced,
        "macro_f1": macro_f1,
        "precision": precision,
        "recall": recall,
    }


def ratio(top: Floats, bottom: Floats) -> Floats:
    """Divide; NaN where there is nothing to divide by."""
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)


def mean_there(by_class: Floats) -> Floats:
    """Average over the classes that are there; NaN where there is none."""
    there = np.isfinite(by_class)
    total = np.where(there, by_class, 0).sum(axis=1)
    return ratio(total, there.sum(axis=1).astype(np.float64))


def area(positive: NDArray[np.bool_], scores: Floats) -> Metric:
    """Make the area under the ROC curve; ties count half."""
    order, ends, mask = _ranked(positive, scores)

    def metric(w: Floats) -> Floats:
        hits, misses = _by_score(w[:, order], mask, ends)
        below = np.cumsum(hits, axis=1) - hits / 2
        return ratio((misses * below).sum(axis=1), hits.sum(axis=1) * misses.sum(axis=1))

    return metric


def average_precision(positive: NDArray[np.bool_], scores: Floats) -> Metric:
    """Make the average precision: the mean over positives of the precision at their score."""
    order, ends, mask = _ranked(positive, scores)

    def metric(w: Floats) -> Floats:
        hits, misses = _by_score(w[:, order], mask, ends)
        true = np.cumsum(hits, axis=1)
        precision = np.nan_to_num(ratio(true, true + np.cumsum(misses, axis=1)))
        return ratio((hits * precision).sum(axis=1), hits.sum(axis=1))

    return metric


def _ranked(positive: NDArray[np.bool_], scores: Floats) -> tuple[Codes, Codes, Floats]:
    """Order rows from the highest score down; give where each distinct score starts."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    return order, starts, positive[order].astype(np.float64)


def _by_score(w: Floats, mask: Floats, starts: Codes) -> tuple[Floats, Floats]:
    hits = np.add.reduceat(w * mask, starts, axis=1)
    return hits, np.add.reduceat(w * (1 - mask), starts, axis=1)


def over_classes(make: Callable[..., Metric], true: Codes, scores: Floats) -> Metric:
    """Make the mean over classes of one class against the rest."""
    each = [make(true == k, scores[:, k]) for k in range(scores.shape[1]) if (true == k).any()]

    def metric(w: Floats) -> Floats:
        return mean_there(np.stack([one(w) for one in each], axis=1))

    return metric


@dataclass(frozen=True)
class Mean:
    """The mean of a loss that each row has, and is `most` at most; it knows its standard error.

    Parameters
    ----------
    unseen
        What a wrong row loses where these show none; see `another`.
    """

    losses: Floats
    most: float = np.inf
    unseen: float = 0.0

    @property
    def another(self) -> float:
        """Give what one more row may lose: as much as the worst of these, or `unseen`."""
        return max(self.unseen, float(self.losses.max()))

    def __call__(self, w: Floats) -> Floats:
        """Give the mean for each weighting."""
        return np.asarray((w @ self.losses) / w.sum(axis=1))

    def error(self, w: Floats) -> Floats:
        """Give the standard error of the mean, as if rows were independent."""
        n = w.sum(axis=1)
        spread = (w @ self.losses**2) / n - self(w) ** 2
        return np.asarray(np.sqrt(np.maximum(spread, 0) / n))


class RootMean(Mean):
    """The square root of a mean; its losses and its standard error are those of the mean."""

    def __call__(self, w: Floats) -> Floats:
        """Give the root for each weighting."""
        return np.asarray(np.sqrt(super().__call__(w)))

    @property
    def another(self) -> float:
        """Give what one more row may lose: an error as much again, as no bound is known."""
        return 4 * super().another

    def error(self, w: Floats) -> Floats:
        """Give the standard error of the mean, before its root."""
        return Mean(self.losses).error(w)


def losses(true: Codes, probabilities: Floats) -> dict[str, Mean]:
    """Make the mean log loss and Brier score.

    The Brier score is that of the second class for two classes, and the sum over classes for more.
    """
    rows, least = np.arange(len(true)), np.finfo(np.float64).eps
    logs = -np.log(np.clip(probabilities, least, 1.0))
    # For each label that a row could have: (1 - p)^2 and the squares of the other columns.
    squares = (probabilities**2).sum(axis=1, keepdims=True) + 1 - 2 * probabilities
    if probabilities.shape[1] == 2:
        squares = squares / 2
    return {
        "log_loss": Mean(logs[rows, true], float(-np.log(least)), _if_wrong(logs, probabilities)),
        "brier": Mean(
            squares[rows, true],
            1.0 if probabilities.shape[1] == 2 else 2.0,
            _if_wrong(squares, probabilities),
        ),
    }


def _if_wrong(each: Floats, probabilities: Floats) -> float:
    """Give what a wrong row loses, as the probabilities have it.

    The mean over the labels that rows are not given, by the cube roots of their probabilities:
    right for a head whose decisions are three times as sure as they should be, and too much for
    others. A label whose probability is 0 counts as one row in all of them would: no head knows
    that it cannot come.

    Parameters
    ----------
    each
        Loss of each row for each label, shape (n_samples, n_classes).
    """
    others = np.cbrt(np.where(probabilities > 0, probabilities, 1 / len(each)))
    others[np.arange(len(each)), probabilities.argmax(axis=1)] = 0
    return float((others * each).sum() / others.sum()) if others.any() else 0.0


def calibration_error(true: Codes, probabilities: Floats) -> Metric:
    """Make the expected calibration error of the predicted class (Guo et al. 2017)."""
    confidence = probabilities.max(axis=1)
    gap = (probabilities.argmax(axis=1) == true) - confidence
    bins = np.minimum((confidence * BINS).astype(np.intp), BINS - 1)
    member = sparse.csr_array((gap, (bins, np.arange(len(bins)))), shape=(BINS, len(bins)))

    def metric(w: Floats) -> Floats:
        return np.asarray(np.abs((member @ w.T).T).sum(axis=1) / w.sum(axis=1))

    return metric


def calibration_noise(probabilities: Floats) -> float:
    """Give the calibration error that perfect probabilities would show on as many rows."""
    confidence = probabilities.max(axis=1)
    bins = np.minimum((confidence * BINS).astype(np.intp), BINS - 1)
    variance = np.bincount(bins, confidence * (1 - confidence), minlength=BINS)
    # The mean absolute value of a centred normal is its deviation times sqrt(2 / pi).
    return float(np.sqrt(2 / np.pi * np.maximum(variance, 0)).sum() / len(confidence))


def numeric(true: Floats, predicted: Floats) -> dict[str, Metric]:
    """Make the metrics of a regression."""
    wrong = predicted - true

    def r2(w: Floats) -> Floats:
        total = w.sum(axis=1)
        spread = w @ true**2 - (w @ true) ** 2 / total
        return 1 - ratio(w @ wrong**2, spread)

    return {"r2": r2, "mae": Mean(np.abs(wrong)), "rmse": RootMean(wrong**2)}


def codes_of(values: RowValues, classes: RowValues) -> Codes:
    """Number values by their place in ``classes``; -1 for what is not in it."""
    order = np.argsort(classes)
    at = np.minimum(np.searchsorted(classes, values, sorter=order), len(classes) - 1)
    found = order[at]
    return np.where(classes[found] == values, found, -1)


def among_first(true: Codes, probabilities: Floats, k: int) -> Metric:
    """Make the share of rows whose class is among the k most probable ones; ties count by chance.

    Examples
    --------
    >>> table = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
    >>> among_first(np.array([1, 2]), table, 2)(np.ones((1, 2))).tolist()
    [0.5]
    """
    own = probabilities[np.arange(len(true)), true]
    before = (probabilities > own[:, None]).sum(axis=1)
    equal = (probabilities == own[:, None]).sum(axis=1)
    return Mean(np.clip((k - before) / equal, 0.0, 1.0))


def ranks_of(names: RowValues) -> NDArray[np.intp] | None:
    """Rank classes whose names are all numbers; None for others, and for fewer than three.

    Examples
    --------
    >>> ranks_of(np.array(["1", "10", "2"])).tolist()
    [0, 2, 1]
    """
    try:
        values = np.array([float(name) for name in names.tolist()])
    except ValueError:
        return None
    if len(values) < 3 or not all(map(math.isfinite, values)) or len(set(values)) < len(values):
        return None
    return np.argsort(np.argsort(values)).astype(np.intp)


def ordered(true: Codes, called: Codes, ranks: NDArray[np.intp]) -> dict[str, Metric]:
    """Make the metrics of classes that have an order.

    ``quadratic_kappa`` is Cohen's kappa with squared distances of ranks as weights (Cohen 1968,
    https://doi.org/10.1037/h0026256), ``rank_mae`` the mean distance of ranks. Rows that are called
    something unknown are left out.

    Parameters
    ----------
    ranks
        Shape (n_classes,): the place of each class in the order.
    """
    known = called >= 0
    left, right = ranks[true], ranks[np.where(known, called, 0)]
    away = np.where(known, np.abs(left - right), 0).astype(np.float64)
    n = len(ranks)
    squares = (np.arange(n)[:, None] - np.arange(n)).astype(np.float64) ** 2

    def kappa(w: Floats) -> Floats:
        some = w * known
        sides = per_class(some, left, n), per_class(some, right, n)
        chance = np.einsum("bi,ij,bj->b", sides[0], squares, sides[1])
        return 1 - ratio((some @ away**2) * some.sum(axis=1), chance)

    return {"quadratic_kappa": kappa, "rank_mae": Mean(away, n - 1.0, _apart(left))}


def unlike(codes: Codes) -> float:
    """Give the share of pairs of rows that are of different classes.

    Examples
    --------
    >>> unlike(np.array([0, 0, 1, 1]))
    0.5
    """
    share = np.bincount(codes) / len(codes)
    return float(1 - (share**2).sum())


def _apart(ranks: NDArray[np.intp]) -> float:
    """Give the mean distance of two rows of different ranks; one where all are of one."""
    share = np.bincount(ranks) / len(ranks)
    places = np.arange(len(share))
    away = np.abs(places[:, None] - places) * np.outer(share, share)
    return float(away.sum() / unlike(ranks)) if len(np.unique(ranks)) > 1 else 1.0
