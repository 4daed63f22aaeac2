"""Probabilities from decisions: which scale suits, judged on rows that did not set it.

``own`` are the probabilities that a head gives itself, ``temperature`` is one scale for all classes
(Guo et al. 2017, arXiv 1706.04599), ``sigmoid`` a slope and an offset for each (Platt 1999).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from featx.selection.folds import Folds

Array = NDArray[Any]
Scale = Literal["own", "temperature", "sigmoid"]

SCALES: tuple[Scale, ...] = ("own", "temperature", "sigmoid")
"""From the simplest on."""


class _Identity(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose decisions are its input: calibration sees them and nothing else."""

    def fit(self, X: Array, y: Array, sample_weight: Array | None = None) -> _Identity:
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, X: Array) -> Array:
        return X[:, 0] if len(self.classes_) == 2 else X

    def predict(self, X: Array) -> Array:
        decisions = self.decision_function(X)
        codes = decisions > 0 if decisions.ndim == 1 else decisions.argmax(axis=1)
        return self.classes_[codes.astype(np.intp)]


def calibrated(
    estimator: Any,
    decisions: Array,
    y: Array,
    folds: int,
    scale: Scale = "sigmoid",
    weights: Array | None = None,
) -> tuple[Any, Array]:
    """Give a fitted estimator probabilities, by a scale that is fitted on held-out decisions.

    Parameters
    ----------
    decisions
        Shape (n_rows, n_outputs), each by a head that had not seen the row.
    y
        Shape (n_rows,), class names.
    weights
        Of each row; 1 when None.

    Returns
    -------
    classifier : CalibratedClassifierCV around `estimator`
    probabilities : shape (n_rows, n_classes), of the rows given
    """
    made = _scaled(decisions, y, scale, weights)
    probabilities = made.predict_proba(_table(decisions))
    made.calibrated_classifiers_[0].estimator = estimator
    made.n_features_in_ = estimator.n_features_in_
    return made.set_params(estimator=estimator, cv=max(2, folds)), probabilities


def _scaled(
    decisions: Array, y: Array, scale: Scale, weights: Array | None = None
) -> CalibratedClassifierCV:
    made = CalibratedClassifierCV(_Identity(), method=scale, ensemble=False, cv=2)
    with threadpool_limits(1):  # thousands of small products, which threads only slow down
        return made.fit(_table(decisions), y, sample_weight=weights)


def _table(decisions: Array) -> Array:
    table = np.asarray(decisions, dtype=np.float64)
    return table[:, None] if table.ndim == 1 else table


def probabilities_of(decisions: Array) -> Array:
    """Turn decisions of a head that gives probabilities itself into these."""
    table = _table(decisions)
    if table.shape[1] == 1:
        table = np.hstack([np.zeros_like(table), table])
    return np.asarray(softmax(table, axis=1))


def held_probabilities(
    decisions: Array, y: Array, folds: Folds, scale: Scale, weights: Array | None = None
) -> Array:
    """Turn held-out decisions into probabilities by scales that were fitted on other folds.

    Parameters
    ----------
    decisions
        Shape (n_rows, n_outputs).
    y
        Shape (n_rows,), class names; each fold trains on all of them.
    weights
        Of each row; 1 when None.

    Returns
    -------
    probabilities : shape (n_rows, n_classes)
    """
    if scale == "own":
        return probabilities_of(decisions)
    table = np.zeros((len(y), len(np.unique(y))))
    for train, held in folds:
        some = None if weights is None else weights[train]
        made = _scaled(decisions[train], y[train], scale, some)
        table[held] = made.predict_proba(_table(decisions[held]))
    return table


def best_scale(
    decisions: Array, y: Array, folds: Folds, own: bool
) -> tuple[Scale, dict[str, float]]:
    """Choose how decisions become probabilities, by the log loss on folds that did not set it.

    Parameters
    ----------
    decisions
        Shape (n_rows, n_outputs), each by a head that had not seen the row.
    folds
        Which hold out every row once.
    own
        Whether the head gives probabilities itself.

    Returns
    -------
    scale : the simplest of those with the lowest log loss
    losses : mean log loss of each; empty where a class has too few rows to tell
    """
    classes, codes = np.unique(y, return_inverse=True)
    losses: dict[str, float] = {}
    if any(np.bincount(codes[train], minlength=len(classes)).min() < 2 for train, _ in folds):
        return ("own" if own else "sigmoid"), losses  # too few rows of a class to judge by
    for scale in SCALES if own else SCALES[1:]:
        table = held_probabilities(decisions, y, folds, scale)
        certain = table[np.arange(len(y)), codes]
        losses[scale] = float(-np.log(np.clip(certain, 1e-15, 1)).mean())
    best: Any = min(losses, key=lambda name: round(losses[name], 9))
    return best, losses
