"""Probabilities from decisions: which scale suits, judged on rows that did not set it.

``own`` are the probabilities that a head gives itself, ``temperature`` is one scale for all classes
(Guo et al. 2017, arXiv 1706.04599), ``sigmoid`` a slope and an offset for each (Platt 1999).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import cross_val_predict
from sklearn.utils.metaestimators import available_if

from featx.selection.splits import Folds
from featx.selection.sweep import limited_threads
from featx.typing import Estimator

Array = NDArray[Any]
Scale = Literal["own", "temperature", "sigmoid"]

SCALES: tuple[Scale, ...] = ("own", "temperature", "sigmoid")
"""From the simplest on."""


class _Identity(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose answers are its input: calibration sees them and nothing else.

    Parameters
    ----------
    probable
        Whether the answers are probabilities, and not decisions.
    """

    def __init__(self, probable: bool = False) -> None:
        self.probable = probable

    def fit(self, X: Array, y: Array, sample_weight: Array | None = None) -> _Identity:
        self.classes_ = np.unique(y)
        return self

    @available_if(lambda self: not self.probable)  # type: ignore[untyped-decorator]
    def decision_function(self, X: Array) -> Array:
        return X[:, 0] if len(self.classes_) == 2 else X

    @available_if(lambda self: self.probable)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Array) -> Array:
        return np.hstack([1 - X, X]) if X.shape[1] == 1 else X

    def predict(self, X: Array) -> Array:
        codes = X[:, 0] > 0 if X.shape[1] == 1 else X.argmax(axis=1)
        return self.classes_[codes.astype(np.intp)]


def scales_for(own: bool, n_classes: int, compete: bool) -> tuple[Scale, ...]:
    """List the scales among which that of a head's probabilities is chosen.

    Of two classes a temperature is a sigmoid without its offset, so the sigmoid stands for both.

    Parameters
    ----------
    own
        Whether the head gives probabilities itself, by which it may be judged.
    compete
        Whether they are judged against the others.

    Examples
    --------
    >>> scales_for(False, 3, False), scales_for(True, 3, False), scales_for(False, 2, False)
    (('temperature', 'sigmoid'), ('own',), ('sigmoid',))
    """
    if compete:
        return SCALES if own else SCALES[1:]
    if own:
        return SCALES[:1]
    return SCALES[1:] if n_classes > 2 else SCALES[2:]


def calibrated(
    estimator: Estimator,
    decisions: Array,
    y: Array,
    folds: int,
    scale: Scale = "sigmoid",
    weights: Array | None = None,
    probable: bool = False,
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
    probable
        Whether `decisions` are probabilities, as of a head that gives nothing else.

    Returns
    -------
    classifier : CalibratedClassifierCV around `estimator`
    probabilities : shape (n_rows, n_classes), of the rows given
    """
    made = _scaled(decisions, y, scale, weights, probable)
    probabilities = made.predict_proba(_table(decisions))
    made.calibrated_classifiers_[0].estimator = estimator
    if hasattr(estimator, "n_features_in_"):  # a step of the user's own may not say
        made.n_features_in_ = estimator.n_features_in_
    return made.set_params(estimator=estimator, cv=max(2, folds)), probabilities


def _scaled(
    decisions: Array,
    y: Array,
    scale: Scale,
    weights: Array | None = None,
    probable: bool = False,
) -> CalibratedClassifierCV:
    """Fit a scale, a sigmoid on answers that are centred and of spread one, written for plain ones.

    The fit of a sigmoid starts at a slope of 0 and stops there where decisions hardly vary, as
    those of a strongly regularised head do: every probability would be the share of the class.
    """
    # A temperature takes labels that are not text for numbers of columns.
    classes, codes = np.unique(y, return_inverse=True)
    table, sigmoid = bounded(_table(decisions), codes), scale == "sigmoid"
    middle = table.mean(axis=0) if sigmoid else np.zeros(table.shape[1])
    spread = table.std(axis=0) if sigmoid else np.ones(table.shape[1])
    spread = np.where(spread > 0, spread, 1.0)
    rows = np.arange(len(table))  # all at once: a class may have one row, and nothing is learnt
    cv = [(rows, rows)]
    made = CalibratedClassifierCV(_Identity(probable), method=scale, ensemble=False, cv=cv)
    with limited_threads(1):  # thousands of small products, which threads only slow down
        made.fit((table - middle) / spread, codes, sample_weight=weights)
    inner = made.calibrated_classifiers_[0]
    made.classes_ = inner.classes = inner.estimator.classes_ = classes
    for k, one in enumerate(inner.calibrators if sigmoid else ()):
        one.a_ /= spread[k]
        one.b_ -= one.a_ * middle[k]
    return made


def bounded(table: Array, codes: Array) -> Array:
    """Bring far outliers among decisions to bounds that the bulk of both sides sets.

    A feature that hardly varies in training can give a few held-out rows decisions of thousands,
    and these alone would flatten every scale that is fitted on them. Each column is cut at twice
    the width between its 5th and 95th percentiles, of its class and of the rest, beyond these.

    Parameters
    ----------
    table
        Shape (n_rows, n_outputs).
    codes
        Number of the class of each row.

    Examples
    --------
    >>> table = np.r_[np.linspace(-1, 1, 40), -3000.0][:, None]
    >>> float(bounded(table, (table[:, 0] > 0).astype(int)).min()) > -6
    True
    """
    found = table.copy()
    for k, column in enumerate(found.T):
        own = codes == (k if found.shape[1] > 1 else 1)
        ends = [np.quantile(column[side], (0.05, 0.95)) for side in (own, ~own) if side.any()]
        low, high = min(end[0] for end in ends), max(end[1] for end in ends)
        if high > low:
            found[:, k] = column.clip(low - 2 * (high - low), high + 2 * (high - low))
    return found


def _table(decisions: Array) -> Array:
    table = np.asarray(decisions, dtype=np.float64)
    return table[:, None] if table.ndim == 1 else table


def held_answers(
    estimator: Estimator, X: Array, y: Array, folds: Folds, weights: Array | None = None
) -> tuple[Array, bool]:
    """Ask a pipeline for each row while it is fitted on the others.

    Parameters
    ----------
    folds
        Which hold out every row once.
    weights
        Of each row in fitting, where the last step is called ``clf``; 1 when None.

    Returns
    -------
    answers : decisions, or the probabilities of a head that gives nothing else; of two classes (n,)
    probable : whether they are probabilities
    """
    probable = not hasattr(estimator, "decision_function")
    method = "predict_proba" if probable else "decision_function"
    given = {} if weights is None else {"clf__sample_weight": weights}
    said = cross_val_predict(clone(estimator), X, y, cv=folds, method=method, params=given)
    return (said[:, 1] if probable and said.shape[1] == 2 else said), probable


def probabilities_of(decisions: Array) -> Array:
    """Turn decisions of a head that gives probabilities itself into these."""
    table = _table(decisions)
    if table.shape[1] == 1:
        table = np.hstack([np.zeros_like(table), table])
    return np.asarray(softmax(table, axis=1))


def held_probabilities(
    decisions: Array,
    y: Array,
    folds: Folds,
    scale: Scale,
    weights: Array | None = None,
    probable: bool = False,
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
    probable
        As in `calibrated`.

    Returns
    -------
    probabilities : shape (n_rows, n_classes)
    """
    if scale == "own":
        return probabilities_of(decisions)
    table = np.zeros((len(y), len(np.unique(y))))
    for train, held in folds:
        some = None if weights is None else weights[train]
        made = _scaled(decisions[train], y[train], scale, some, probable)
        table[held] = made.predict_proba(_table(decisions[held]))
    return table


def best_scale(
    decisions: Array, y: Array, folds: Folds, scales: tuple[Scale, ...], probable: bool = False
) -> tuple[Scale, dict[str, float]]:
    """Choose how decisions become probabilities, by the log loss on folds that did not set it.

    Parameters
    ----------
    decisions
        Shape (n_rows, n_outputs), each by a head that had not seen the row.
    folds
        Which hold out every row once.
    scales
        Those that are judged, as `scales_for` lists them.
    probable
        As in `calibrated`.

    Returns
    -------
    scale : the simplest of those with the lowest log loss
    losses : mean log loss of each; empty where there is one, or too few rows of a class to tell
    """
    classes, codes = np.unique(y, return_inverse=True)
    losses: dict[str, float] = {}
    few = any(np.bincount(codes[train], minlength=len(classes)).min() < 2 for train, _ in folds)
    if few or len(scales) == 1:
        return ("own" if "own" in scales else "sigmoid"), losses
    for scale in scales:
        table = held_probabilities(decisions, y, folds, scale, probable=probable)
        certain = table[np.arange(len(y)), codes]
        losses[scale] = float(-np.log(np.clip(certain, 1e-15, 1)).mean())
    best: Any = min(losses, key=lambda name: round(losses[name], 9))
    return best, losses
