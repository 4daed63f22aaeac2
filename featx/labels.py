"""Several labels of one image: written as ``cat|dog`` in a table, kept as one column each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

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
