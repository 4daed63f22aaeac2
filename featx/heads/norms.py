"""Normalisations by name: the ``scale`` step of a head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
from sklearn import get_config
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler

from featx.errors import FitError, nearest


def _signed_power() -> Any:
    # The cube root keeps the sign, and skops trusts a numpy ufunc.
    return FunctionTransformer(np.cbrt)


def _standard_power() -> Any:
    # Steps of other names than `make_pipeline` gives tell it from what follows a signed power.
    return Pipeline([("power", _signed_power()), ("standard", StandardScaler())])


NORMS: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {
        "standard": StandardScaler,
        "l2": Normalizer,
        "signed-power": _signed_power,
        "signed-power-standard": _standard_power,
        "none": lambda: "passthrough",
    }
)
"""Operations on each value, row or column; ``none`` does nothing.

``signed-power-standard`` standardises the columns of cube roots, for a head that standardises
nothing by itself.
"""

Then = Literal["columns", "rows", "nothing"]


def make_norm(name: str, then: Then = "columns") -> Any:
    """Make the unfitted ``scale`` step of this name.

    Parameters
    ----------
    then
        What follows. ``columns`` are standardised after ``l2`` and ``signed-power``, so that one
        grid of C fits every normalisation of a linear head; ``rows`` get length one, so that one
        width of a kernel does; or ``nothing``.

    Raises
    ------
    FitError
        For a name that is not in ``NORMS``.

    Examples
    --------
    >>> make_norm("l2", then="nothing")
    Normalizer()
    """
    if name not in NORMS:
        known = ", ".join(NORMS)
        hint = nearest(name, NORMS)
        raise FitError(f"no normalisation is called {name!r}{hint} (there are {known})")
    if then == "columns" and name in ("l2", "signed-power"):
        return make_pipeline(NORMS[name](), StandardScaler())
    if then == "rows" and name != "l2":
        return Normalizer() if name == "none" else make_pipeline(NORMS[name](), Normalizer())
    return NORMS[name]()


def norm_name(step: Any) -> str | None:
    """Name a ``scale`` step that `make_norm` makes; None for any other.

    Examples
    --------
    >>> norm_name(make_norm("l2")), norm_name(make_norm("l2", then="nothing"))
    ('l2', 'l2')
    """
    return _names(get_config()["print_changed_only"]).get(repr(step))


@cache
def _names(changed_only: bool) -> dict[str, str]:
    """The name of each normalisation by how scikit-learn writes it; that takes milliseconds each.

    Parameters
    ----------
    changed_only
        scikit-learn's setting, on which the text depends.
    """
    made = [(name, make_norm(name, then)) for name in NORMS for then in get_args(Then)]
    return {repr(step): name for name, step in reversed(made)}
