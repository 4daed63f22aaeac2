"""Logistic regression on a card: scikit-learn fits arrays where they lie, by the array API.

The search alone runs there. The head that is kept is fitted again on the processor, and needs no
card.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from featx.errors import FitError, words_of


class Device(Protocol):
    """Where arrays can lie; `featx.runtime.devices.ArrayDevice` is one."""

    @property
    def name(self) -> str:
        """As messages call it."""

    def put(self, values: NDArray[Any]) -> Any:
        """Copy an array to the device."""

    def get(self, values: Any) -> NDArray[Any]:
        """Copy an array from the device."""


def require_fit_on(device: Device | None, clf: Any) -> None:
    """Refuse a device on which candidates like `clf` are not fitted.

    Raises
    ------
    FitError
        Saying why, and what to do.
    """
    why = "" if device is None else _unfit(clf)
    if device is not None and why:
        raise FitError(f"the search does not run on {device.name}: {why}, or leave out --device")


def _unfit(clf: Any) -> str:
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
        self, X: NDArray[Any], y: NDArray[Any], weights: NDArray[Any] | None, device: Device
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
