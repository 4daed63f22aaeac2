"""Labels that are likely wrong, by what a head says of rows that it was not fitted on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from featx.errors import FitError

IMPROBABLE = 0.1
"""A label of less probability is flagged, also where confident learning estimates no noise."""


@dataclass(frozen=True)
class LabelIssues:
    """Suspected labels.

    Parameters
    ----------
    quality
        float64, shape (n_samples,), from 0 (surely wrong) to 1.
    flagged
        bool, shape (n_samples,): rows whose label is likely wrong.
    suggested
        What the head says instead of each row's label.
    """

    quality: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    suggested: NDArray[Any]

    @property
    def ranked(self) -> NDArray[np.intp]:
        """Flagged rows, the most suspect first."""
        rows = np.flatnonzero(self.flagged)
        return rows[np.argsort(self.quality[rows], kind="stable")]


def label_issues(
    y: NDArray[Any],
    held_out: NDArray[Any],
    classes: Sequence[str],
    *,
    task: str = "classification",
) -> LabelIssues:
    """Rank rows by how likely their label is wrong, and flag those that are likely wrong.

    Confident learning (Northcutt, Jiang and Chuang 2021, Journal of Artificial Intelligence
    Research 70), as cleanlab does it; for one label a row, labels of less than `IMPROBABLE` too.

    Parameters
    ----------
    y
        Class names, shape (n_samples,); 0 and 1, a column a class, for ``multilabel``; float64 for
        ``regression``.
    held_out
        Probabilities of `classes` for rows that their head was not fitted on, shape (n_samples,
        n_classes); predictions of shape (n_samples,) for a regression.
    classes
        Names in the order of the probabilities.
    task
        ``classification``, ``multilabel`` or ``regression``.

    Raises
    ------
    FitError
        If shapes do not fit, or there are fewer than two classes.

    Examples
    --------
    >>> y = np.array(["a"] * 5 + ["b"] * 5)
    >>> p = np.array([[0.9, 0.1]] * 5 + [[0.1, 0.9]] * 5)
    >>> y[0] = "b"
    >>> label_issues(y, p, ["a", "b"]).ranked.tolist()
    [0]
    """
    held_out = np.asarray(held_out, np.float64)
    if len(held_out) != len(y):
        raise FitError(f"there are {len(y)} labels and {len(held_out)} predictions")
    if task == "regression":
        return _of_numbers(np.asarray(y, np.float64), held_out)
    if len(classes) < 2:
        raise FitError(f"label errors need two classes or more; there is {', '.join(classes)!r}")
    if task == "multilabel":
        return _of_several(np.asarray(y), held_out, classes)
    return _of_classes(y, held_out, classes)


def _of_classes(y: NDArray[Any], held_out: NDArray[Any], classes: Sequence[str]) -> LabelIssues:
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    place = {name: k for k, name in enumerate(classes)}
    codes = np.array([place[str(name)] for name in y])
    held_out = _scaled(held_out, codes)
    quality = get_label_quality_scores(codes, held_out, method="self_confidence")
    own = held_out[np.arange(len(codes)), codes]
    flagged = own < IMPROBABLE
    if len(np.unique(codes)) > 1:  # confident learning compares classes
        with warnings.catch_warnings():
            # Of a class of one row or two cleanlab flags none; what is improbable is flagged still.
            warnings.filterwarnings("ignore", "May not flag all label issues")
            flagged |= find_label_issues(codes, held_out, n_jobs=1)
    suggested = np.array(classes, dtype=object)[held_out.argmax(axis=1)]
    return LabelIssues(np.asarray(quality), np.asarray(flagged, bool), suggested)


def _scaled(p: NDArray[Any], codes: NDArray[Any]) -> NDArray[Any]:
    """Rescale probabilities by one temperature, so that a strongly regularised head counts too.

    Guo et al. (2017), On calibration of modern neural networks, arXiv 1706.04599.
    """
    logs = np.log(np.clip(p, 1e-12, 1))
    rows = np.arange(len(codes))

    def loss(log_t: float) -> float:
        return float(-log_softmax(logs / np.exp(log_t), axis=1)[rows, codes].mean())

    best = minimize_scalar(loss, bounds=(-4, 4), method="bounded").x
    return np.asarray(softmax(logs / np.exp(best), axis=1))


def _of_several(y: NDArray[Any], held_out: NDArray[Any], classes: Sequence[str]) -> LabelIssues:
    from cleanlab.multilabel_classification import get_label_quality_scores
    from cleanlab.multilabel_classification.filter import find_label_issues

    lists = [np.flatnonzero(row == 1).tolist() for row in y]
    quality = get_label_quality_scores(lists, held_out)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "May not flag all label issues")
        flagged = find_label_issues(lists, held_out, n_jobs=1)
    suggested = np.empty(len(y), object)
    suggested[:] = [
        "|".join(name for name, p in zip(classes, row, strict=True) if p >= 0.5) or "|"
        for row in held_out
    ]
    return LabelIssues(np.asarray(quality), np.asarray(flagged, bool), suggested)


def _of_numbers(y: NDArray[np.float64], predicted: NDArray[Any]) -> LabelIssues:
    """Flag numbers whose residual is an outlier; cleanlab ranks them."""
    from cleanlab.regression.rank import get_label_quality_scores

    from featx.auditing.faults import LIMIT

    residual = predicted - y
    centred = np.abs(residual - np.median(residual))
    spread = np.median(centred)
    flagged = 0.6745 * centred > LIMIT * spread if spread else centred > 0
    quality = get_label_quality_scores(y, predicted, method="residual")
    return LabelIssues(np.asarray(quality), np.asarray(flagged, bool), predicted)
