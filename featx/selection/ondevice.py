"""Logistic regression on a card: scikit-learn fits torch's arrays where they lie.

The search alone runs there. The head that is kept is fitted again on the processor, and needs
neither torch nor a card.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from featx.errors import FitError


def place_for(clf: Any, device: str) -> str:
    """Resolve the device on which candidates like `clf` are fitted.

    Parameters
    ----------
    device
        ``cpu``, a device as torch names it, or ``auto``: the best that is there and fits `clf`.

    Raises
    ------
    FitError
        If `clf` does not run on the device that was asked for.
    DeviceError
        If the device is not there.
    """
    if device == "cpu":
        return device
    why = _unfit(clf)
    if why and device == "auto":
        return "cpu"
    from featx.runtime.plan import choose_device

    chosen = choose_device(device)
    if why and chosen != "cpu":
        raise FitError(f"the search does not run on {device}: {why}, or leave out --device")
    return chosen


def _unfit(clf: Any) -> str:
    """Say what keeps `clf` on the processor and what to do, if anything does."""
    name = type(clf).__name__
    if type(clf) is OneVsRestClassifier:
        return "it takes one label an image, and these have several; choose one with --label"
    if type(clf) is not LogisticRegression or clf.solver != "lbfgs":
        return f"of all heads logreg alone does, and this one ends in {name}; take logreg"
    if not getattr(clf.__sklearn_tags__(), "array_api_support", False):
        return f"scikit-learn {sklearn.__version__} is too old for it; install 1.9 or newer"
    return ""


class DeviceRows:
    """Training rows on a device, for any number of fits.

    Parameters
    ----------
    X
        float32, shape (n_samples, n_features).
    y
        Labels of any kind, shape (n_samples,).
    weights
        Of the rows, or None.
    device
        As torch names it.
    """

    def __init__(
        self, X: NDArray[Any], y: NDArray[Any], weights: NDArray[Any] | None, device: str
    ) -> None:
        import torch

        self._torch, self._device = torch, torch.device(device)
        self.classes, codes = np.unique(y, return_inverse=True)
        try:
            self._X = self._put(np.asarray(X, dtype=np.float32))
            self._y = self._put(codes)
            self._weights = None if weights is None else self._put(weights.astype(np.float32))
        except torch.OutOfMemoryError:
            raise self._too_large() from None

    def _too_large(self) -> FitError:
        where = f"the memory of {self._device}"
        return FitError(f"the features do not fit into {where}; leave out --device")

    def _put(self, values: NDArray[Any]) -> Any:
        return self._torch.as_tensor(np.ascontiguousarray(values), device=self._device)

    def fit(self, clf: LogisticRegression) -> None:
        """Fit `clf`, from its coefficients if it has some; what it learns is NumPy's."""
        weight_of = clf.class_weight
        if isinstance(weight_of, dict):
            known = enumerate(self.classes.tolist())
            clf.class_weight = {k: weight_of[name] for k, name in known if name in weight_of}
        if hasattr(clf, "coef_"):
            clf.coef_, clf.intercept_ = self._put(clf.coef_), self._put(clf.intercept_)
        # scikit-learn asks for SciPy's switch, but calls nothing of SciPy's on these arrays.
        os.environ.setdefault("SCIPY_ARRAY_API", "1")
        try:
            with sklearn.config_context(array_api_dispatch=True):
                clf.fit(self._X, self._y, sample_weight=self._weights)
        except self._torch.OutOfMemoryError:
            raise self._too_large() from None
        for name in ("coef_", "intercept_", "n_iter_"):
            setattr(clf, name, getattr(clf, name).cpu().numpy())
        clf.classes_, clf.class_weight = self.classes, weight_of
