"""The heads that featx brings, and a head by name, by import path, or of the user's own."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier, SGDClassifier
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC

from featx.errors import FitError, nearest
from featx.heads.head import LARGE_ROWS, Head, Task, make_norm, stack_of
from featx.typing import Estimator

LINEAR_C = tuple(10.0**e for e in range(-5, 2))
RBF_C = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
ALPHA = tuple(10.0**e for e in range(6, -1, -1))
_SGD_ROWS = 300_000  # that a fit sees, each at least five times
NEIGHBOURS = (50, 20, 10, 5, 3, 1)
_ALONE = tuple(make_norm(name, then="nothing") for name in ("standard", "l2", "signed-power"))
_RBF_NORMS = (*_ALONE, make_norm("signed-power-standard", then="nothing"))


def _steps(clf: Estimator, *before: tuple[str, Any]) -> Pipeline:
    return Pipeline([("scale", StandardScaler()), ("pca", "passthrough"), *before, ("clf", clf)])


def _simple(make: Callable[[int], Any]) -> Callable[[int, int], Pipeline]:
    return lambda seed, n_samples: _steps(make(seed))


def _primal(seed: int) -> LinearSVC:
    # The tolerance is liblinear's own for the primal; scikit-learn's 1e-4 is meant for the dual,
    # and takes ten times as long here for the same predictions.
    return LinearSVC(dual=False, tol=1e-2, random_state=seed)


def _linear_svc(seed: int, n_samples: int) -> Pipeline:
    return _steps(_primal(seed))


def _nystroem(seed: int, n_samples: int) -> Pipeline:
    # A fold trains on at least half of the rows, and the map needs as many as it has components.
    n_components = max(1, min(1000, n_samples // 2))
    # Rows of length one are at most 2 apart, so one width serves all of them. The normalisation is
    # not searched, as there are many rows; on pooled features this one did best, or close to it.
    mapped = Nystroem(n_components=n_components, gamma=1.0, random_state=seed)
    scaled = make_norm("signed-power", then="rows")
    return _steps(_primal(seed), ("map", mapped)).set_params(scale=scaled)


def _sgd(seed: int, n_samples: int) -> Pipeline:
    # The steps suit rows of about length one. Standardised features are 36 long where there are
    # 1,280, and 40,000 rows took a hundred epochs at some alphas. The average over all steps is
    # near the optimum long before the last step is (Xu 2011, arXiv 1107.2490).
    clf = SGDClassifier(loss="log_loss", average=True, random_state=seed)
    return _steps(clf).set_params(scale=make_norm("standard", then="rows"))


def _sgd_of_many(seed: int, n_samples: int) -> Pipeline:
    epochs = max(5, -(-_SGD_ROWS // n_samples))
    return _sgd(seed, n_samples).set_params(clf__max_iter=epochs, clf__tol=None)


_SINGLE = (
    Head(
        "svm",
        "classification",
        "the first to try: linear, fast, strong when there are more features than images",
        _simple(lambda seed: SVC(kernel="linear")),
        {"clf__C": LINEAR_C},
        against_rest=True,
        many="svm-large",
    ),
    Head(
        "svm-large",
        "classification",
        "svm beyond ten thousand images, or read in blocks: squared hinge, each class against the "
        "rest",
        _linear_svc,
        {"clf__C": LINEAR_C},
    ),
    Head(
        "svm-rbf",
        "classification",
        "the best accuracy up to about ten thousand images",
        _simple(lambda seed: SVC(kernel="rbf")),
        {"scale": _RBF_NORMS, "clf__C": RBF_C},
        then="nothing",
    ),
    Head(
        "logreg",
        "classification",
        "probabilities without calibration, many classes, many images",
        _simple(lambda seed: LogisticRegression(max_iter=2000)),
        {"clf__C": LINEAR_C},
    ),
    Head(
        "ridge",
        "classification",
        "the fastest linear head, for hundreds of classes or a first look",
        _simple(lambda seed: RidgeClassifier()),
        {"clf__alpha": ALPHA},
    ),
    Head(
        "knn",
        "classification",
        "no training: a handful of images a class, or to see what the features hold",
        _simple(lambda seed: KNeighborsClassifier(metric="cosine", weights="distance")),
        {"clf__n_neighbors": NEIGHBOURS},
        calibrate=True,
    ),
    Head(
        "lda",
        "classification",
        "few images of many classes, with probabilities at no extra cost",
        # Not lsqr: its SVD did not converge on ELPV's float32 features.
        _simple(lambda seed: LinearDiscriminantAnalysis(solver="eigen")),
        {"clf__shrinkage": (0.9, 0.5, 0.2, 0.1, 0.03, 0.01)},
    ),
    Head(
        "sgd",
        "classification",
        "hundreds of thousands of images with several labels each; with one, logreg is sooner",
        _sgd,
        {"clf__alpha": (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)},
        large=_sgd_of_many,
        then="rows",
        calibrate=True,
    ),
    Head(
        "nystroem-svm",
        "classification",
        "nearly svm-rbf, beyond ten thousand images",
        _nystroem,
        {"clf__C": (1e-2, 0.1, 1.0, 10.0, 100.0)},
        then="rows",
    ),
    Head(
        "ridge-reg",
        "regression",
        "the first to try for a number: linear and fast",
        _simple(lambda seed: Ridge()),
        {"clf__alpha": ALPHA},
    ),
    Head(
        "svr",
        "regression",
        "the best regression up to about ten thousand images",
        _simple(lambda seed: SVR(kernel="rbf")),
        {"scale": _ALONE, "clf__C": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)},
        then="nothing",
    ),
    Head(
        "knn-reg",
        "regression",
        "a number from the nearest images, without training",
        _simple(lambda seed: KNeighborsRegressor(metric="cosine", weights="distance")),
        {"clf__n_neighbors": NEIGHBOURS},
    ),
)

_BY_NAME = {head.name: head for head in _SINGLE}

# Strengths that do well where a stack is fitted without a search.
_STACK = stack_of(
    (
        (_BY_NAME["svm"], {"clf__C": 1e-3}),
        (_BY_NAME["svm-rbf"], {"clf__C": 3.0}),
        (_BY_NAME["logreg"], {"clf__C": 1e-3}),
    )
)

HEADS: Mapping[str, Head] = MappingProxyType({**_BY_NAME, _STACK.name: _STACK})


AUTO = Head(
    "auto",
    "classification",
    "the default: svm, logreg, ridge, and svm-rbf up to ten thousand images, whichever does best",
    HEADS["svm"].make,
    options=tuple(HEADS[name] for name in ("svm", "logreg", "ridge", "svm-rbf")),
)
"""The first of equals wins, so the simplest heads come first."""


def for_many(head: Head) -> Head:
    """Give what is fitted in place of a head on many rows, or on rows that are read in blocks.

    Its name is another where its definition is; most heads are themselves.

    Examples
    --------
    >>> for_many(HEADS["svm"]).name, for_many(HEADS["ridge"]).name
    ('svm-large', 'ridge')
    """
    if head.options:
        return dataclasses.replace(head, options=tuple(for_many(one) for one in head.options))
    if not head.many:
        return head
    grid = {k.replace("__estimator__", "__", 1): v for k, v in head.grid.items() if k != "clf"}
    return dataclasses.replace(HEADS[head.many], grid=grid, params=head.params)


def for_rows(head: Head, n_samples: int) -> Head:
    """Give what is fitted on so many rows: some heads give way to others, or take too long.

    The number of rows decides and nothing else: the same cache gives the same options on every
    machine.

    Examples
    --------
    >>> [option.name for option in for_rows(AUTO, 20_000).options]
    ['svm-large', 'logreg', 'ridge']
    """
    if n_samples <= LARGE_ROWS:
        return head
    kept = tuple(option for option in head.options if option.name != "svm-rbf")
    return for_many(dataclasses.replace(head, options=kept))


def option_of(head: Head, name: str) -> Head:
    """Give the option that won, itself or what stands for it; a head without options is itself."""
    return next((one for one in head.options if name in (one.name, one.many)), head)


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
        For an unknown name, a path that cannot be imported, or something that is not an estimator.

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


def _own_head(estimator: Estimator, name: str) -> Head:
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
