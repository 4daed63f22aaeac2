"""Numbers made of text: losslessly, or not at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import numpy as np
from numpy.typing import NDArray

from featx.errors import FitError

_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")


@dataclass(frozen=True)
class Numbers:
    """Numbers that were read from text.

    Parameters
    ----------
    values
        float64, shape (n,); NaN where the text is empty, infinite where it says so.
    with_commas
        How many were written with a decimal comma.
    """

    values: NDArray[np.float64]
    with_commas: int


def numbers_of(texts: Sequence[str], what: str, ids: Sequence[str]) -> Numbers:
    """Read a column of text as numbers.

    Parameters
    ----------
    what
        How a message names the column.
    ids
        Of the rows, for messages.

    Raises
    ------
    FitError
        If a text is not a number, or is one that float64 cannot hold, or decimal commas are mixed
        with points.

    Examples
    --------
    >>> numbers_of(["1,5", "", "2"], "labels", ["a", "b", "c"]).values.tolist()
    [1.5, nan, 2.0]
    """
    known: dict[str, float] = {}
    written: dict[float, Decimal] = {}
    commas = 0
    for row, text in enumerate(texts):
        commas += "," in text
        if text in known:
            continue
        value = _decimal(text, what, ids[row])
        known[text] = np.nan if value is None else float(value)
        if value is not None and _loses(value, written.setdefault(known[text], value)):
            raise FitError(
                f"{what} are not numbers that can be kept: {text!r} of {ids[row]!r} has more "
                "digits than a float64 holds; use a classifier if they are codes, or round them"
            )
    if commas and (point := next((t for t in known if "." in t), None)) is not None:
        comma = next(t for t in known if "," in t)
        raise FitError(
            f"{what} mix decimal commas and points (as {comma!r} and {point!r}); write all of them "
            "one way"
        )
    return Numbers(np.array([known[text] for text in texts], np.float64), commas)


def _decimal(text: str, what: str, item: str) -> Decimal | None:
    """Read one number exactly; None of an empty text."""
    stripped = text.strip()
    if not stripped:
        return None
    plain = stripped.replace(",", ".") if _COMMA.fullmatch(stripped) else stripped
    try:
        value = Decimal(plain) if "_" not in plain else None
    except InvalidOperation:
        value = None
    if value is None or value.is_nan():
        raise FitError(
            f"{what} hold text that is not a number ({text!r} of {item!r}); write 1.5 or 1,5, and "
            "leave a field empty where a number is missing"
        )
    if value.is_finite() and not np.isfinite(float(value)):
        raise FitError(f"{what} hold {text!r} for {item!r}, which is too large for a float64")
    return value


def _loses(value: Decimal, other: Decimal) -> bool:
    """Tell whether a whole number is not kept exactly, or two values become one."""
    whole = value.is_finite() and value == value.to_integral_value()
    return value != other or (whole and Decimal(float(value)) != value)


def look_like_measurements(names: Sequence[str]) -> bool:
    """Tell whether names are numbers rather than classes: one has a fraction, and most differ.

    Examples
    --------
    >>> look_like_measurements(["1.5", "2.25", "3.0"]), look_like_measurements(["1", "2", "2"])
    (True, False)
    """
    distinct = set(names) - {""}
    if 2 * len(distinct) <= sum(name != "" for name in names):
        return False
    try:
        values = [_decimal(name, "", "") for name in distinct]
    except FitError:
        return False
    return any(v is not None and v.is_finite() and v != v.to_integral_value() for v in values)
