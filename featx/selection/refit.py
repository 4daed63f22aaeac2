"""Fit the chosen head on all training rows, with calibrated probabilities if it has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import has_fit_parameter

from featx.errors import FitError
from featx.selection.calibration import calibrated, held_answers
from featx.selection.fold import KERNEL_CACHE_MB, has_converged
from featx.selection.splits import Folds
from featx.selection.sweep import in_threads
from featx.typing import Estimator, JsonObject

Array = NDArray[Any]


@dataclass(frozen=True)
class FittedHead:
    """A fitted estimator and how its probabilities came about."""

    estimator: Estimator
    calibrated: bool
    converged: bool


def refit(
    pipeline: Pipeline,
    params: Mapping[str, object],
    data: tuple[Array, Array, Array | None],
    folds: Folds | None,
    n_jobs: int | None = None,
) -> FittedHead:
    """Fit ``pipeline`` with ``params`` on all rows.

    Parameters
    ----------
    data
        Features, labels, and sample weights or None.
    folds
        Each row held out once: where a sigmoid is fitted that gives the classifier probabilities.
        None to leave the classifier as it is.

    Returns
    -------
    fitted : its estimator holds neither row numbers nor anything but scikit-learn's own types
    """
    X, y, weights = data
    final = _without_blanks(clone(pipeline).set_params(**clone_values(params)))
    for name in ("cache_size", "estimator__cache_size"):
        if name in final["clf"].get_params():
            final["clf"].set_params(**{name: KERNEL_CACHE_MB})
    with in_threads(n_jobs, len(folds or [0])):
        if folds is None:
            final.fit(X, y, **({} if weights is None else {"clf__sample_weight": weights}))
            return FittedHead(final, False, has_converged(final["clf"]))
        if y.ndim == 2:
            return _each_calibrated(final, X, y, folds)
        said, probable = held_answers(final, X, y, folds, weights)
        final.fit(X, y, **({} if weights is None else {"clf__sample_weight": weights}))
    estimator, _ = calibrated(final, said, y, len(folds), weights=weights, probable=probable)
    return FittedHead(estimator, True, has_converged(final["clf"]))


def _each_calibrated(final: Pipeline, X: Array, y: Array, folds: Folds) -> FittedHead:
    """Fit one classifier a label, each with a sigmoid of its own.

    The steps before see all training rows, as they do without calibration; no label goes there.
    """
    final.fit(X, y)
    several, Z, made = final["clf"], final[:-1].transform(X), []
    for k, one in enumerate(several.estimators_):
        said, probable = held_answers(one, Z, y[:, k], folds)
        made.append(calibrated(one, said, y[:, k], len(folds), probable=probable)[0])
    inner, several.estimators_ = several.estimators_, made
    blank = CalibratedClassifierCV(method="sigmoid", ensemble=False, cv=len(folds))
    several.set_params(estimator=blank.set_params(estimator=several.estimator))
    return FittedHead(final, True, all(has_converged(clf) for clf in inner))


def clone_values(params: Mapping[str, object]) -> JsonObject:
    """Copy parameters, so that no estimator in a grid is ever fitted itself."""
    return {k: clone(v, safe=False) for k, v in params.items()}


def _without_blanks(pipeline: Pipeline) -> Pipeline:
    """Drop the steps that do nothing: fewer things to save and to export."""
    return Pipeline([step for step in pipeline.steps if step[1] != "passthrough"])


def check_weights(weights: object, n: int, clf: Estimator) -> Array | None:
    """Check sample weights: one a row, none negative, and a head that takes them.

    Raises
    ------
    FitError
        If one of these does not hold.
    """
    if weights is None:
        return None
    found = np.asarray(weights, dtype=np.float64).ravel()
    if len(found) != n:
        raise FitError(f"there are {n} rows and {len(found)} sample weights; expected as many")
    bad = ~(np.isfinite(found) & (found >= 0))
    if bad.any():
        row = int(bad.argmax())
        raise FitError(f"sample weight of row {row} is {found[row]}; expected 0 or more")
    takes = has_fit_parameter(clf, "sample_weight") or isinstance(clf, StackingClassifier)
    if not takes:
        raise FitError(f"{type(clf).__name__} takes no sample weights; choose another head")
    return found
