"""Normalisations by name: the ``scale`` step of a head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler

from featx.errors import FitError, nearest


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
