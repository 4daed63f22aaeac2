"""Columns of several caches under one type: classes get common codes, what one lacks is empty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.cache.format import CONTENT_DTYPE, DIGEST_DTYPE
from featx.errors import CacheError
from featx.labels import MISSING, class_order
from featx.typing import RowValues

Kind: TypeAlias = "tuple[np.dtype[Any], tuple[int, ...]]"
"""Type of a column, and its axes beyond the rows."""

Convert: TypeAlias = Callable[[NDArray[Any]], NDArray[Any]]

_LONGEST = {"b": 5, "i": 20, "u": 20, "f": 24}
"""Bytes of the longest text of a number of each kind."""


@dataclass(frozen=True)
class ColumnTypes:
    """Names and types of the columns of one cache, and its classes."""

    path: Path
    columns: dict[str, Kind]
    classes: list[str] | None


@dataclass(frozen=True)
class CommonColumn:
    """One column of several caches.

    Parameters
    ----------
    kind
        What it is stored as.
    empty
        What stands in the rows of a cache without it.
    convert
        For each cache: makes its values those of the whole.
    """

    kind: Kind
    empty: Any
    convert: list[Convert]

    def of(self, cache: int, values: RowValues | None, n_rows: int) -> RowValues:
        """Give the values of `n_rows` rows of a cache, None where it has no such column."""
        if values is None:
            dtype, tail = self.kind
            return np.full((n_rows, *tail), self.empty, dtype)
        return self.convert[cache](values)


def unite_columns(caches: Sequence[ColumnTypes]) -> dict[str, CommonColumn]:
    """Find one type for each column that any of the caches has, but for the labels."""
    names = [name for name in dict.fromkeys(n for one in caches for n in one.columns)]
    return {
        name: _unite([one.columns.get(name) for one in caches], name)
        for name in names
        if name != "labels"
    }


def _unite(kinds: Sequence[Kind | None], name: str) -> CommonColumn:
    fixed = {"content": CONTENT_DTYPE, "row_digest": DIGEST_DTYPE, "stamps": np.dtype(np.int64)}
    if name in fixed:
        tail = (2,) if name == "stamps" else ()
        return CommonColumn((fixed[name], tail), 0 if tail else b"", [_same] * len(kinds))
    there = [kind[0] for kind in kinds if kind is not None]
    missing = len(there) < len(kinds)
    bools = [dtype.kind == "b" for dtype in there]
    # What a column of truth values becomes where some are missing is text, as in one table.
    if any(dtype.kind in "SO" for dtype in there) or (any(bools) and (missing or not all(bools))):
        return CommonColumn((_text_type(there), ()), b"", [_as_text] * len(kinds))
    dtype = np.result_type(*there)
    if missing and dtype.kind != "f":  # whole numbers have no missing ones
        dtype = np.result_type(dtype, np.float64)
    empty = np.nan if dtype.kind == "f" else 0
    return CommonColumn((dtype, ()), empty, [lambda values: values.astype(dtype)] * len(kinds))


def _text_type(kinds: Sequence[np.dtype[Any]]) -> np.dtype[Any]:
    longest = max(_LONGEST.get(dtype.kind, dtype.itemsize) for dtype in kinds)
    free = any(dtype.kind == "O" for dtype in kinds)
    found: np.dtype[Any] = h5py.string_dtype("utf-8", None if free else longest)
    return found


def _same(values: RowValues) -> RowValues:
    return values


def _as_text(values: RowValues) -> RowValues:
    if values.dtype.kind in "SO":
        return values
    words = ["" if value != value else str(value) for value in values.tolist()]
    return np.array([word.encode() for word in words], dtype=object).astype("S")


def unite_labels(caches: Sequence[ColumnTypes]) -> tuple[CommonColumn | None, list[str] | None]:
    """Give labels common codes: numbers, one class a row, or several where any cache has several.

    Returns
    -------
    labels, classes
        None where no cache has them.

    Raises
    ------
    CacheError
        If some hold numbers and others classes that are none.
    """
    there = [one for one in caches if "labels" in one.columns]
    if not there:
        return None, None
    if any(one.classes is None for one in there):
        numbers = [_to_numbers(one, there) for one in caches]
        return CommonColumn((np.dtype(np.float64), ()), np.nan, numbers), None
    several = any(one.columns["labels"][1] for one in there)
    # Blanks around a name mean nothing where rows may have several.
    named = [[n.strip() if several else n for n in one.classes or ()] for one in caches]
    first, *others = [n for n, one in zip(named, caches, strict=True) if "labels" in one.columns]
    classes = sorted({name for names in named for name in names}, key=class_order)
    if all(names == first for names in others) and len(classes) == len(first):
        classes = first
    code = {name: k for k, name in enumerate(classes)}
    places = [[code[name] for name in names] for names in named]
    if several:
        kind = (np.dtype(np.int8), (len(classes),))
        return CommonColumn(kind, MISSING, [_to_table(p, len(classes)) for p in places]), classes
    return CommonColumn((np.dtype(np.int32), ()), MISSING, [_to_codes(p) for p in places]), classes


def _to_codes(places: Sequence[int]) -> Convert:
    lookup = np.array([*places, MISSING], np.int32)
    return lambda codes: lookup[_known(codes, len(places))]


def _known(codes: RowValues, n_classes: int) -> RowValues:
    """Give codes of known classes, and the one after the last for all others."""
    return np.where((codes >= 0) & (codes < n_classes), codes, n_classes)


def _to_table(places: Sequence[int], n_classes: int) -> Convert:
    def convert(values: RowValues) -> RowValues:
        found = np.zeros((len(values), n_classes), np.int8)
        if values.ndim == 2:
            found[:, places] = values
            found[(values == MISSING).any(axis=1)] = MISSING
            return found
        codes = _to_codes(places)(values)
        found[np.flatnonzero(codes >= 0), codes[codes >= 0]] = 1
        found[codes < 0] = MISSING
        return found

    return convert


def _to_numbers(one: ColumnTypes, there: Sequence[ColumnTypes]) -> Convert:
    """Read classes as the numbers that they are in a column that also holds others."""
    if one.classes is None:
        return lambda values: values.astype(np.float64)
    try:
        if one.columns["labels"][1]:
            raise ValueError
        lookup = np.array([*map(float, one.classes), np.nan])
    except ValueError:
        other = next(cache for cache in there if cache.classes is None)
        raise CacheError(
            f"the labels of {other.path} are numbers, and those of {one.path} classes "
            f"({', '.join(one.classes[:3])}); they do not go together"
        ) from None
    return lambda codes: lookup[_known(codes, len(lookup) - 1)]
