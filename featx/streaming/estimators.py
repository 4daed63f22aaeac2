"""Streamed heads as ordinary scikit-learn objects, as if scikit-learn had fitted them itself."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from featx.heads import LARGE_ROWS, Head
from featx.streaming.blocks import Array
from featx.streaming.closed import Linear
from featx.streaming.moments import Scale, Statistics


def as_pipeline(
    head: Head, params: dict[str, Any], found: Linear, classes: Array | None, statistics: Statistics
) -> Pipeline:
    """Make a fitted pipeline ``scale -> clf`` of a streamed head.

    Parameters
    ----------
    classes
        Names in the order of the outputs; None for a regression.
    """
    blank = head.build(n_samples=max(statistics.whole.n, LARGE_ROWS + 1)).set_params(**params)
    clf, d = blank["clf"], len(found.scale.mean)
    labels = np.zeros(2) if classes is None else np.repeat(classes, 2)
    _fit_blank(clf, np.zeros((len(labels), d)), labels)
    single = classes is None
    vars(clf).update(
        coef_=found.coef[0] if single else found.coef,
        intercept_=float(found.intercept[0]) if single else found.intercept,
        n_features_in_=d,
    )
    if hasattr(clf, "covariance_"):
        _describe_lda(clf, found.scale, statistics)
    elif found.evaluations:
        clf.n_iter_ = np.array([found.evaluations])
    return Pipeline([("scale", _scaler(found.scale)), ("clf", clf)])


def _fit_blank(clf: Any, X: Array, labels: Array) -> None:
    """Fit on blank rows, so that scikit-learn itself says what a fitted estimator holds."""
    solver = getattr(clf, "solver", None)
    if isinstance(clf, LinearDiscriminantAnalysis):
        # Blank rows have no eigenvectors, which LDA keeps for `transform` alone.
        clf.set_params(solver="lsqr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        clf.fit(X, labels)
    if solver is not None:
        clf.set_params(solver=solver)


def _scaler(scale: Scale) -> StandardScaler:
    made = StandardScaler()
    made.mean_, made.var_, made.scale_ = scale.mean, scale.var, scale.scale
    made.n_samples_seen_, made.n_features_in_ = scale.n, len(scale.mean)
    return made


def _describe_lda(clf: Any, scale: Scale, statistics: Statistics) -> None:
    """Set what LDA keeps beside its coefficients."""
    sums, shift = statistics.whole, statistics.shift
    means = (sums.cross / sums.target).T
    within = sums.second - (means.T * sums.target) @ means
    within /= sums.weight * np.outer(scale.scale, scale.scale)
    share = float(clf.shrinkage or 0)
    covariance = (1 - share) * within
    covariance.flat[:: len(within) + 1] += share * float(np.trace(within)) / len(within)
    clf.means_ = (means + shift - scale.mean) / scale.scale
    clf.priors_, clf.covariance_ = sums.target / sums.weight, covariance
