"""Labels as tables write them: several of one image, numbers, and what looks like a mistake."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from featx.errors import FitError
from featx.typing import RowValues

SEPARATOR = "|"
MISSING = -1

Names = tuple[str, ...]

Labels: TypeAlias = "list[str | None] | list[Names | None] | NDArray[np.float64]"
"""Class names (None where missing), several names a row, or numbers (NaN where missing)."""


def split_labels(values: Sequence[str | None]) -> list[Names | None] | None:
    """Take the labels of each row apart, if any row is written as several.

    Returns
    -------
    labels : sorted names for each row, or None where the field is empty; None if no row has a bar
        A bar alone says that the row has none of the labels.

    Examples
    --------
    >>> split_labels(["dog|cat", "cat", "|", ""])
    [('cat', 'dog'), ('cat',), (), None]
    """
    if not any(value and SEPARATOR in value for value in values):
        return None
    return [
        tuple(sorted({part for part in map(str.strip, value.split(SEPARATOR)) if part}))
        if value
        else None
        for value in values
    ]


def indicator(labels: Iterable[Names | None], classes: Sequence[str]) -> NDArray[np.int8]:
    """Make one column a class: 1 where a row has it, -1 in a row without any label.

    Examples
    --------
    >>> indicator([("a", "b"), (), None], ["a", "b"]).tolist()
    [[1, 1], [0, 0], [-1, -1]]
    """
    column = {name: k for k, name in enumerate(classes)}
    rows = list(labels)
    found = np.zeros((len(rows), len(classes)), dtype=np.int8)
    for row, names in enumerate(rows):
        if names is None:
            found[row] = MISSING
        else:
            found[row, [column[name] for name in names]] = 1
    return found


def class_order(name: str) -> tuple[bool, int, str]:
    """Sort classes: whole numbers by value, before names.

    Examples
    --------
    >>> sorted(["b", "10", "a", "9"], key=class_order)
    ['9', '10', 'a', 'b']
    """
    return (False, int(name), name) if name.isascii() and name.isdigit() else (True, 0, name)


def table_of(values: Sequence[str | None]) -> tuple[NDArray[np.int8], list[str]] | None:
    """Read a column as an indicator and the names of its classes; None if no row has a bar."""
    labels = split_labels(values)
    if labels is None:
        return None
    classes = sorted({name for names in labels for name in names or ()})
    return indicator(labels, classes), classes


def joined_labels(table: NDArray[Any], classes: Sequence[str]) -> list[str | None]:
    """Write each row of an indicator as a table would hold it.

    Examples
    --------
    >>> joined_labels(np.array([[1, 1], [0, 0], [-1, -1]]), ["a", "b"])
    ['a|b', '|', None]
    """
    return [
        None
        if len(row) and row[0] == MISSING
        else SEPARATOR.join(name for name, there in zip(classes, row, strict=True) if there)
        or SEPARATOR
        for row in np.asarray(table).tolist()
    ]


def encode_labels(labels: Labels | None) -> tuple[NDArray[Any] | None, list[str] | None]:
    """Class names become codes into their sorted list, -1 where missing; numbers stay.

    Where rows have several labels, each class becomes a column.
    """
    if labels is None or isinstance(labels, np.ndarray):
        return labels, None
    if any(isinstance(label, tuple) for label in labels):
        several = cast("list[Names | None]", labels)
        classes = sorted({name for names in several for name in names or ()}, key=class_order)
        return indicator(several, classes), classes
    single = cast("list[str | None]", labels)
    classes = sorted({label for label in single if label is not None}, key=class_order)
    code = {name: k for k, name in enumerate(classes)}
    codes = (-1 if label is None else code[label] for label in single)
    return np.fromiter(codes, np.int32, len(single)), classes


_SHOWN = 5  # pairs that a message names


def lookalikes(names: Iterable[str]) -> list[list[str]]:
    """Group names that differ only by space, case or Unicode form.

    Examples
    --------
    >>> lookalikes(["cat", "Cat ", "dog"])
    [['Cat ', 'cat']]
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        groups.setdefault(folded(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def folded(name: str) -> str:
    """Write a name without what readers do not see: space, case, Unicode form, invisible marks."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return "".join(c for c in plain if not c.isspace() and unicodedata.category(c) != "Cf")


def lookalikes_text(names: Iterable[str]) -> str:
    """Say which class names hardly differ; nothing where all do."""
    found = lookalikes(names)
    if not found:
        return ""
    shown = "; ".join(" and ".join(map(ascii, group)) for group in found[:_SHOWN])
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return (
        f"classes differ only by space, case or Unicode form: {shown}{more}; they are kept apart: "
        "write them one way if they are one class"
    )


def conflicting_rows(content: RowValues, labels: RowValues) -> list[NDArray[np.int64]]:
    """Group rows that have the same content and not the same label.

    Parameters
    ----------
    content
        Digest or key of the content of each row, shape (n,).
    labels
        Codes (-1 where missing), names ("" where missing) or numbers (NaN where missing), shape
        (n,); or one column a class, -1 where missing.

    Returns
    -------
    groups : row numbers, ascending, of each content that is in conflict

    Examples
    --------
    >>> conflicting_rows(np.array([b"x", b"y", b"x"]), np.array([0, 0, 1]))
    [array([0, 2])]
    """
    known = np.flatnonzero(_labelled(labels))
    order = known[np.argsort(content[known], kind="stable")]
    sorted_content, sorted_labels = content[order], labels[order]
    same = sorted_content[1:] == sorted_content[:-1]
    differs = sorted_labels[1:] != sorted_labels[:-1]
    odd = same & (differs.any(axis=1) if differs.ndim == 2 else differs)
    if not odd.any():
        return []
    starts = np.flatnonzero(np.r_[True, ~same])
    of = np.unique(np.searchsorted(starts, np.flatnonzero(odd), side="right") - 1)
    stops = np.r_[starts[1:], len(order)]
    return [np.sort(order[starts[k] : stops[k]]) for k in of]


def _labelled(labels: RowValues) -> NDArray[np.bool_]:
    if labels.ndim == 2:
        return np.asarray((labels >= 0).all(axis=1))
    if labels.dtype.kind in "USO":
        return np.asarray(labels != "")
    return ~np.isnan(labels) if labels.dtype.kind == "f" else np.asarray(labels >= 0)


def conflicts_text(groups: Sequence[NDArray[np.int64]], ids: Sequence[str] | RowValues) -> str:
    """Say which ids have one content and different labels; nothing where there are none."""
    if not groups:
        return ""
    shown = "; ".join(
        " = ".join(str(ids[int(row)]) for row in group[:4]) for group in groups[:_SHOWN]
    )
    more = f"; and {len(groups) - _SHOWN} more" if len(groups) > _SHOWN else ""
    n_rows = sum(map(len, groups))
    return (
        f"{len(groups)} pictures ({n_rows} rows) stand under different labels, byte for byte the "
        f"same: {shown}{more}; correct the labels or leave the rows out"
    )


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
