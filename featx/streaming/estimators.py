"""Streamed heads as ordinary scikit-learn objects, as if scikit-learn had fitted them itself."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

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


class _Given(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose decisions are its input: calibration sees them and nothing else."""

    def fit(self, X: Array, y: Array) -> _Given:
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, X: Array) -> Array:
        return X[:, 0] if len(self.classes_) == 2 else X

    def predict(self, X: Array) -> Array:
        decisions = self.decision_function(X)
        codes = decisions > 0 if decisions.ndim == 1 else decisions.argmax(axis=1)
        return self.classes_[codes.astype(np.intp)]


def calibrated(pipeline: Pipeline, decisions: Array, y: Array, folds: int) -> tuple[Any, Array]:
    """Give a pipeline probabilities: a sigmoid of each class, fitted on held-out decisions.

    Parameters
    ----------
    decisions
        Shape (n_rows, n_outputs), each by a head that had not seen the row.
    y
        Shape (n_rows,), class names.

    Returns
    -------
    classifier : CalibratedClassifierCV around `pipeline`
    probabilities : shape (n_rows, n_classes), of the rows given
    """
    made = CalibratedClassifierCV(_Given(), method="sigmoid", ensemble=False, cv=2)
    table = np.asarray(decisions, dtype=np.float64)
    with threadpool_limits(1):  # thousands of small products, which threads only slow down
        made.fit(table, y)
    probabilities = made.predict_proba(table)
    made.calibrated_classifiers_[0].estimator = pipeline
    made.n_features_in_ = pipeline.n_features_in_
    return made.set_params(estimator=pipeline, cv=max(2, folds)), probabilities


def probabilities_of(decisions: Array) -> Array:
    """Turn decisions of a head that gives probabilities itself into these."""
    table = np.asarray(decisions, dtype=np.float64)
    if table.shape[1] == 1:
        table = np.hstack([np.zeros_like(table), table])
    return np.asarray(softmax(table, axis=1))
