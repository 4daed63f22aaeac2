"""Held-out predictions of the head that is kept: each row by a twin that did not see it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV

from featx.errors import FitError
from featx.fitting.samples import Samples
from featx.heads import Head
from featx.model.scoring import score_rows
from featx.selection import SearchResult, make_folds
from featx.selection.checks import check_groups
from featx.selection.folds import Folds
from featx.selection.refit import refit
from featx.streaming import StreamedResult

Rows = NDArray[np.intp]
_FOLDS = 10
"""At least, where there are the rows: a twin that sees nine tenths is close to the head itself."""


@dataclass(frozen=True)
class Held:
    """What a head said of rows that it had not seen.

    Parameters
    ----------
    y
        Shape (n_samples,): the true classes.
    predicted
        Shape (n_samples,).
    probabilities
        Shape (n_samples, n_classes).
    groups
        Number of the group of each row, or None.
    """

    y: NDArray[Any]
    predicted: NDArray[Any]
    probabilities: NDArray[np.float64]
    groups: NDArray[np.int64] | None = None


def held_out(
    head: Head, found: SearchResult, samples: Samples, rows: Rows, folds: int, seed: int
) -> Held:
    """Predict each row that a head was fitted on by its twin, fitted on the other folds.

    A twin has the settings of the head, and its scale of probabilities: only the decisions are
    learnt again. So a cut of the probabilities means the same for the twin as for the head. The
    folds are others than those that chose the settings.

    Parameters
    ----------
    head
        The head that was fitted; of several that competed, the winner.
    found
        Its search on `rows`.
    rows
        Positions of the rows that it was fitted on.
    folds
        How many folds the search had.

    Raises
    ------
    FitError
        If the head gives no probabilities.
    """
    y, classes = samples.y[rows], samples.classes
    codes = check_groups(samples.groups, len(samples))
    groups = None if codes is None else codes[rows]
    if not hasattr(found.estimator, "predict_proba"):
        raise FitError(f"head {head.name} gives no probabilities, and a threshold needs them")
    if isinstance(found, StreamedResult):
        return _streamed(found, y, classes, groups)
    X, predicted, table = samples.take(rows), y.copy(), np.zeros((len(y), len(classes)))
    weights = None if samples.weights is None else samples.weights[rows]
    for rest, held in _folds(y, folds, groups, seed + 1):
        data = X[rest], y[rest], None if weights is None else weights[rest]
        inner = _folds(y[rest], folds, None if groups is None else groups[rest], seed, folds)
        scores = score_rows(_twin(head, found, data, inner, seed), X[held], classes)
        assert scores.probabilities is not None
        predicted[held], table[held] = scores.predicted, scores.probabilities
    return Held(y, predicted, table, groups)


def _folds(y: Any, folds: int, groups: Any, seed: int, least: int = _FOLDS) -> Folds:
    smallest = int(np.unique(y, return_counts=True)[1].min())
    many = max(2, min(max(folds, least), smallest))
    return make_folds(y, folds=many, groups=groups, seed=seed)[0]


def _twin(head: Head, found: SearchResult, data: Any, inner: Folds, seed: int) -> Any:
    """Fit the head again on some of its rows, with the scale that it has."""
    X, y, weights = data
    given = {} if weights is None else {"clf__sample_weight": weights}
    kept = found.estimator
    if head.parts:
        # The last step of a stack needs folds of its own inside the rows.
        pipeline = head.build(seed, len(y)).set_params(clf__cv=inner)
        return refit(pipeline, found.best_params, data, inner).estimator
    if not found.calibrated or not isinstance(kept, CalibratedClassifierCV):
        return clone(kept).fit(X, y, **given)
    twin, scaled = copy.copy(kept), copy.copy(kept.calibrated_classifiers_[0])
    scaled.estimator = clone(scaled.estimator).fit(X, y, **given)
    twin.calibrated_classifiers_ = [scaled]
    return twin


def _streamed(found: StreamedResult, y: Any, classes: list[str], groups: Any) -> Held:
    """Give what a streamed search said of rows while they were held out."""
    assert found.held_probabilities is not None
    at = found.held_rows
    known = [classes.index(str(name)) for name in np.unique(y)]
    table = np.zeros((len(at), len(classes)))
    table[:, known] = found.held_probabilities
    predicted = np.asarray(classes)[table.argmax(axis=1)]
    return Held(y[at], predicted, table, None if groups is None else groups[at])
