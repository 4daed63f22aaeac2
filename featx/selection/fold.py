"""One fold: fit and score candidates that differ in their last step only, sharing what they can."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import SVC, SVR, LinearSVC

from featx.errors import FitError, words_of
from featx.heads import LARGE_ROWS
from featx.typing import Estimator, RowValues


class Device(Protocol):
    """Where arrays can lie; `featx.runtime.devices.ArrayDevice` is one."""

    @property
    def name(self) -> str:
        """As messages call it."""

    def put(self, values: NDArray[Any]) -> Any:
        """Copy an array to the device."""

    def get(self, values: Any) -> NDArray[Any]:
        """Copy an array from the device."""


def require_fit_on(device: Device | None, clf: Estimator) -> None:
    """Refuse a device on which candidates like `clf` are not fitted.

    Raises
    ------
    FitError
        Saying why, and what to do.
    """
    why = "" if device is None else _unfit(clf)
    if device is not None and why:
        raise FitError(f"the search does not run on {device.name}: {why}, or leave out --device")


def _unfit(clf: Estimator) -> str:
    if type(clf) is OneVsRestClassifier:
        return "it takes one label an image, and these have several; choose one with --label"
    if type(clf) is not LogisticRegression or clf.solver != "lbfgs":
        solver = f" with solver {clf.solver}" if type(clf) is LogisticRegression else ""
        name = f"{type(clf).__name__}{solver}"
        return f"of all heads logreg alone does, and this one ends in {name}; take logreg"
    if not getattr(clf.__sklearn_tags__(), "array_api_support", False):
        return f"scikit-learn {sklearn.__version__} is too old for it; install 1.9 or newer"
    return ""


class DeviceRows:
    """Training rows on a device, for any number of fits.

    Parameters
    ----------
    X
        Shape (n_samples, n_features); used as float32.
    y
        Labels of any kind, shape (n_samples,).
    weights
        Of the rows, or None.

    Raises
    ------
    FitError
        If the device cannot take them, for want of memory say; `fit` raises it, too.
    """

    def __init__(
        self, X: NDArray[Any], y: RowValues, weights: NDArray[Any] | None, device: Device
    ) -> None:
        self._device = device
        self.classes, codes = np.unique(y, return_inverse=True)
        try:
            self._X, self._y = device.put(np.asarray(X, dtype=np.float32)), device.put(codes)
            self._weights = None if weights is None else device.put(weights.astype(np.float32))
        except RuntimeError as error:
            raise self._failed(error) from None

    def fit(self, clf: LogisticRegression) -> None:
        """Fit `clf`, from its coefficients if it has some; what it learns is NumPy's."""
        weight_of, device = clf.class_weight, self._device
        if isinstance(weight_of, dict):
            known = enumerate(self.classes.tolist())
            clf.class_weight = {k: weight_of[name] for k, name in known if name in weight_of}
        if hasattr(clf, "coef_"):
            clf.coef_, clf.intercept_ = device.put(clf.coef_), device.put(clf.intercept_)
        # scikit-learn asks for SciPy's switch, but calls nothing of SciPy's on these arrays.
        os.environ.setdefault("SCIPY_ARRAY_API", "1")
        try:
            with sklearn.config_context(array_api_dispatch=True):
                clf.fit(self._X, self._y, sample_weight=self._weights)
        except RuntimeError as error:
            raise self._failed(error) from None
        for name in ("coef_", "intercept_", "n_iter_"):
            setattr(clf, name, device.get(getattr(clf, name)))
        clf.classes_, clf.class_weight = self.classes, weight_of

    def _failed(self, error: RuntimeError) -> FitError:
        where = self._device.name
        return FitError(f"the search on {where} failed: {words_of(error)}; leave out --device")


Scorer = Callable[..., float]
Array = NDArray[Any]

KERNEL_CACHE_MB = 1000


@dataclass(frozen=True)
class Fold:
    """Training and held-out rows of one fold, as arrays."""

    X_train: Array
    y_train: Array
    X_held: Array
    y_held: Array
    weights: Array | None


def sweep_fold(
    clfs: list[Any], fold: Fold, scorer: Scorer, device: Device | None = None
) -> list[tuple[float, bool]]:
    """Score each of some classifiers on the held-out rows, and say whether it has converged.

    Parameters
    ----------
    clfs
        Unfitted, of one kind; they are fitted here.
    device
        Where logistic regressions are fitted; the processor when None.
    """
    first = clfs[0]
    require_fit_on(device, first)  # a grid, or several labels, change the head that was asked for
    # Subclasses may mean something else by the same parameters, so the type is compared exactly.
    if type(_machine(first)) in (SVC, SVR) and len(fold.X_train) <= LARGE_ROWS:
        if all(_machine(clf).kernel in ("linear", "rbf") for clf in clfs):
            return _sweep_kernel(clfs, fold, scorer)
    if type(first) is LogisticRegression and first.solver == "lbfgs":
        return _sweep_logistic(clfs, in_few_columns(fold), scorer, device)
    if type(first) is LinearSVC and first.penalty == "l2" and not first.dual:
        fold = in_few_columns(fold)
    if type(first) is RidgeClassifier and first.solver == "auto" and not first.positive:
        fold = in_few_columns(fold)
    return [_fit_score(clf, fold, scorer, fold.X_train, fold.X_held) for clf in clfs]


def in_few_columns(fold: Fold) -> Fold:
    """Turn the axes so that the training rows need as many columns as there are rows.

    A linear model with a squared penalty has its weights in the space that the training rows span
    (Hastie and Tibshirani 2004, "Efficient quadratic regularization for expression arrays"), so
    scores are the same, and fits on 200 rows of 1,280 features are several times faster. Rows that
    are no fewer than the columns stay as they are.
    """
    n, d = fold.X_train.shape
    if n >= d:
        return fold
    X = np.asarray(fold.X_train, dtype=np.float64)
    values, vectors = np.linalg.eigh(X @ X.T)
    kept = values > values[-1] * n * np.finfo(np.float64).eps
    lengths, axes = np.sqrt(values[kept]), vectors[:, kept]
    held = np.asarray(fold.X_held, dtype=np.float64) @ (X.T @ (axes / lengths))
    return replace(fold, X_train=axes * lengths, X_held=held)


def _machine(clf: Estimator) -> Estimator:
    """Give what is fitted for each label of several, else the classifier itself."""
    return clf.estimator if type(clf) is OneVsRestClassifier else clf


def _fit_score(
    clf: Estimator, fold: Fold, scorer: Scorer, X_train: Array, X_held: Array
) -> tuple[float, bool]:
    if fold.weights is None:
        clf.fit(X_train, fold.y_train)
    else:
        clf.fit(X_train, fold.y_train, sample_weight=fold.weights)
    return float(scorer(clf, X_held, fold.y_held)), has_converged(clf)


def has_converged(clf: Estimator) -> bool:
    """Say whether a fitted estimator stopped before its last allowed iteration, or was to reach it.

    Without a tolerance it makes the iterations that it was asked for.
    """
    limit, spent = getattr(clf, "max_iter", None), getattr(clf, "n_iter_", None)
    if not limit or limit < 0 or spent is None or getattr(clf, "tol", 0) is None:
        return True
    return bool(np.max(spent) < limit)


def _sweep_kernel(clfs: list[Any], fold: Fold, scorer: Scorer) -> list[tuple[float, bool]]:
    """Fit on kernel matrices that all values of C, and all labels of a row, share.

    libsvm reads them as float64.
    """
    train, held = (np.asarray(Z, dtype=np.float32) for Z in (fold.X_train, fold.X_held))
    gram, across = train @ train.T, held @ train.T
    own, other = np.diag(gram).copy(), np.einsum("ij,ij->i", held, held)
    made: dict[Any, tuple[Array, Array]] = {}
    found = []
    for clf in clfs:
        machine = _machine(clf)
        gamma = None if machine.kernel == "linear" else _gamma(machine.gamma, train)
        if gamma not in made:
            # One kernel at a time: a grid over gamma must not hold several.
            made = {gamma: (_kernel(gram, own, own, gamma), _kernel(across, other, own, gamma))}
        machine.set_params(kernel="precomputed", cache_size=KERNEL_CACHE_MB)
        found.append(_fit_score(clf, fold, scorer, *made[gamma]))
    return found


def _gamma(gamma: Any, Z: Array) -> float:
    if gamma == "scale":
        variance = float(Z.var(dtype=np.float64))
        # Below, squared distances of float32 are all zero, and so the kernel is the same for any.
        return 1.0 / (Z.shape[1] * variance) if variance > np.finfo(np.float32).tiny else 1.0
    return 1.0 / Z.shape[1] if gamma == "auto" else float(gamma)


def _kernel(products: Array, left: Array, right: Array, gamma: float | None) -> Array:
    if gamma is None:
        return products.astype(np.float64)
    # In place, as the matrix is large: squared distances first, then what the kernel makes of them.
    values = np.float32(-2) * products
    values += left[:, None]
    values += right[None, :]
    np.maximum(values, 0, out=values)
    values *= np.float32(-gamma)
    return np.exp(values, out=values).astype(np.float64)


def _sweep_logistic(
    clfs: list[Any], fold: Fold, scorer: Scorer, device: Device | None
) -> list[tuple[float, bool]]:
    """Follow C upwards, each fit starting where the one before ended."""
    there: DeviceRows | None = None
    if device is not None:
        there = DeviceRows(fold.X_train, fold.y_train, fold.weights, device)
    found: dict[int, tuple[float, bool]] = {}
    last: Any = None
    for i in sorted(range(len(clfs)), key=lambda i: clfs[i].C):
        clf = clfs[i].set_params(warm_start=True)
        if last is not None:
            clf.coef_, clf.intercept_ = last.coef_.copy(), last.intercept_.copy()
        if there is None:
            found[i] = _fit_score(clf, fold, scorer, fold.X_train, fold.X_held)
        else:
            there.fit(clf)
            found[i] = float(scorer(clf, fold.X_held, fold.y_held)), has_converged(clf)
        last = clf
    return [found[i] for i in range(len(clfs))]
