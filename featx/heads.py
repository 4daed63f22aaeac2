"""Named heads: scikit-learn pipelines, the grid to search, and a line on when to use each.

Every head is ``scale -> pca -> clf``, so scaling and projection are fitted on training rows only,
and the values of every grid run from the simplest to the most flexible model.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import StackingClassifier
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier, SGDClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC

from featx.errors import FitError, nearest

Task = Literal["classification", "regression", "multilabel"]
Grid = Mapping[str, Sequence[Any]]

LARGE_ROWS = 10_000
"""Training rows beyond which an n x n kernel matrix no longer pays."""

LINEAR_C = tuple(10.0**e for e in range(-5, 2))
RBF_C = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
ALPHA = tuple(10.0**e for e in range(6, -1, -1))
NEIGHBOURS = (50, 20, 10, 5, 3, 1)


@dataclass(frozen=True)
class Head:
    """A classifier or regressor on features, with what there is to search.

    Parameters
    ----------
    name
        What the user types.
    task
        ``classification`` or ``regression``; classifiers also serve multi-label tables.
    when
        One line on when to use it.
    make
        ``make(seed, n_samples) -> Pipeline``, unfitted, last step called ``clf``.
    grid
        Parameter of the pipeline -> values, from the simplest to the most flexible model.
    large
        Takes the place of ``make`` beyond ``LARGE_ROWS`` training rows.
    params
        Fixed parameters, set after ``make``.

    Examples
    --------
    >>> HEADS["svm"].build(seed=0)["clf"].kernel
    'linear'
    """

    name: str
    task: Task
    when: str
    make: Callable[[int, int], Pipeline] = field(repr=False)
    grid: Grid = field(default_factory=dict)
    large: Callable[[int, int], Pipeline] | None = field(default=None, repr=False)
    params: Mapping[str, Any] = field(default_factory=dict)

    def build(self, seed: int = 0, n_samples: int = 1000) -> Pipeline:
        """Make the unfitted pipeline for ``n_samples`` training rows."""
        use_large = self.large is not None and n_samples > LARGE_ROWS
        make = self.large if use_large and self.large is not None else self.make
        return make(seed, n_samples).set_params(**{k: _fresh(v) for k, v in self.params.items()})

    def with_grid(self, grid: Grid) -> Head:
        """Return this head with other values to search."""
        return dataclasses.replace(self, grid=dict(grid))

    def with_params(self, **params: Any) -> Head:
        """Return this head with parameters fixed, as ``clf__class_weight="balanced"``.

        A fixed parameter is no longer searched.
        """
        grid = {k: v for k, v in self.grid.items() if k not in params}
        return dataclasses.replace(self, grid=grid, params={**self.params, **params})

    def with_preparation(
        self, norms: Sequence[str] = ("standard",), pca: Sequence[float | None] = (None,)
    ) -> Head:
        """Return this head with normalisations and PCA in its search.

        Parameters
        ----------
        norms
            Names out of ``NORMS``.
        pca
            Share of variance (below 1) or number of components to keep; None for no PCA.

        Raises
        ------
        FitError
            For an unknown normalisation.

        Examples
        --------
        >>> sorted(get_head("svm").with_preparation(["standard", "l2"]).grid)
        ['clf__C', 'scale']
        """
        scales = [make_norm(name) for name in norms]
        projections = ["passthrough" if k is None else PCA(k, random_state=0) for k in pca]
        steps = {"scale": scales, "pca": projections}
        several = {k: v for k, v in steps.items() if len(v) > 1}
        fixed = {k: v[0] for k, v in steps.items() if len(v) == 1}
        return self.with_params(**fixed).with_grid({**several, **self.grid})


def _fresh(value: Any) -> Any:
    return clone(value) if isinstance(value, BaseEstimator) else value


def _l2() -> Pipeline:
    # Columns are standardised after the rows, so that one grid of C fits every normalisation.
    return make_pipeline(Normalizer(), StandardScaler())


def _signed_power() -> Pipeline:
    # The cube root keeps the sign, and skops trusts a numpy ufunc.
    return make_pipeline(FunctionTransformer(np.cbrt), StandardScaler())


NORMS: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {
        "standard": StandardScaler,
        "l2": _l2,
        "signed-power": _signed_power,
        "none": lambda: "passthrough",
    }
)


def make_norm(name: str) -> Any:
    """Make the unfitted ``scale`` step of this name.

    Raises
    ------
    FitError
        For a name that is not in ``NORMS``.
    """
    if name not in NORMS:
        known = ", ".join(NORMS)
        hint = nearest(name, NORMS)
        raise FitError(f"no normalisation is called {name!r}{hint} (there are {known})")
    return NORMS[name]()


def _steps(clf: Any, *before: tuple[str, Any]) -> Pipeline:
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
    mapped = Nystroem(n_components=n_components, random_state=seed)
    return _steps(_primal(seed), ("map", mapped))


def _stack(seed: int, n_samples: int) -> Pipeline:
    parts = [
        ("svm", make_pipeline(StandardScaler(), SVC(kernel="linear", C=1e-3))),
        ("svm_rbf", make_pipeline(StandardScaler(), SVC(C=3.0))),
        ("logreg", make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=1000))),
    ]
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    final = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    stack = StackingClassifier(parts, final_estimator=final, cv=folds)
    # Each part scales its own rows, inside the folds of the stack.
    return _steps(stack).set_params(scale="passthrough")


_ALL = (
    Head(
        "svm",
        "classification",
        "the first to try: linear, fast, strong when there are more features than images",
        _simple(lambda seed: SVC(kernel="linear")),
        {"clf__C": LINEAR_C},
        large=_linear_svc,
    ),
    Head(
        "svm-rbf",
        "classification",
        "the best accuracy up to about ten thousand images",
        _simple(lambda seed: SVC(kernel="rbf")),
        {"clf__C": RBF_C},
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
    ),
    Head(
        "lda",
        "classification",
        "few images of many classes, with probabilities at no extra cost",
        _simple(lambda seed: LinearDiscriminantAnalysis(solver="lsqr")),
        {"clf__shrinkage": (0.9, 0.5, 0.2, 0.1, 0.03, 0.01)},
    ),
    Head(
        "sgd",
        "classification",
        "hundreds of thousands of images, when the others take too long",
        _simple(lambda seed: SGDClassifier(loss="log_loss", random_state=seed)),
        {"clf__alpha": (1.0, 0.1, 1e-2, 1e-3, 1e-4)},
    ),
    Head(
        "nystroem-svm",
        "classification",
        "nearly svm-rbf, beyond ten thousand images",
        _nystroem,
        {"clf__C": (1e-2, 0.1, 1.0, 10.0, 100.0)},
    ),
    Head(
        "stack",
        "classification",
        "the last per cent: svm, svm-rbf and logreg combined; several times slower",
        _stack,
        {},
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
        {"clf__C": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)},
    ),
    Head(
        "knn-reg",
        "regression",
        "a number from the nearest images, without training",
        _simple(lambda seed: KNeighborsRegressor(metric="cosine", weights="distance")),
        {"clf__n_neighbors": NEIGHBOURS},
    ),
)

HEADS: Mapping[str, Head] = MappingProxyType({head.name: head for head in _ALL})


def get_head(what: str | Head | Any) -> Head:
    """Find a head by name, by import path, or around an estimator of your own.

    Parameters
    ----------
    what
        A name out of ``HEADS``, ``package.module:attribute`` (an estimator, or a callable without
        arguments that makes one), a scikit-learn estimator, or a ``Head``.

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
        if what not in HEADS:
            hint = nearest(what, HEADS)
            raise FitError(f"no head is called {what!r}{hint} (there are {', '.join(HEADS)})")
        return HEADS[what]
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
    return found()


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
