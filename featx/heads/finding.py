"""A head by name, by import path, or around an estimator of the user's own."""

from __future__ import annotations

import importlib
from typing import Any

from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor
from sklearn.pipeline import Pipeline

from featx.errors import FitError, nearest
from featx.heads.auto import AUTO
from featx.heads.head import Head, Task
from featx.heads.named import HEADS


def get_head(what: str | Head | Any) -> Head:
    """Find a head by name, by import path, or around an estimator of your own.

    Parameters
    ----------
    what
        ``auto``, a name out of ``HEADS``, ``package.module:attribute`` (an estimator, or a
        callable without arguments that makes one), a scikit-learn estimator, or a ``Head``.

    Raises
    ------
    FitError
        For an unknown name, a path that cannot be imported, or something that is no estimator.

    Examples
    --------
    >>> get_head("svm").task
    'classification'
    """
    if isinstance(what, Head):
        return what
    if isinstance(what, str) and ":" not in what:
        known = {AUTO.name: AUTO, **HEADS}
        if what not in known:
            hint = nearest(what, known)
            raise FitError(f"no head is called {what!r}{hint} (there are {', '.join(known)})")
        return known[what]
    name = what if isinstance(what, str) else type(what).__name__
    return _own_head(_import(what) if isinstance(what, str) else what, name)


def _import(path: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise FitError(f"head {path!r} cannot be imported: {error}") from error
    if isinstance(found, Head | BaseEstimator) or not callable(found):
        return found
    try:
        return found()
    except Exception as error:  # the user's own code, or no maker of estimators at all
        raise FitError(
            f"head {path!r} cannot be made without arguments: {type(error).__name__}: {error}"
        ) from error


def _own_head(estimator: Any, name: str) -> Head:
    if isinstance(estimator, Head):
        return estimator
    if not (isinstance(estimator, BaseEstimator) and hasattr(estimator, "fit")):
        raise FitError(
            f"head {name!r} is a {type(estimator).__name__}, not a scikit-learn estimator"
        )
    if not (is_classifier(estimator) or is_regressor(estimator)):
        raise FitError(f"head {name!r} is neither a classifier nor a regressor")
    task: Task = "regression" if is_regressor(estimator) else "classification"

    def make(seed: int, n_samples: int) -> Pipeline:
        return Pipeline([("clf", clone(estimator))])

    return Head(name, task, "your own estimator, as it is", make)
