"""What looks like a mistake in labels: names that hardly differ, one content under two labels."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def conflicting_rows(content: NDArray[Any], labels: NDArray[Any]) -> list[NDArray[np.int64]]:
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


def _labelled(labels: NDArray[Any]) -> NDArray[np.bool_]:
    if labels.ndim == 2:
        return np.asarray((labels >= 0).all(axis=1))
    if labels.dtype.kind in "USO":
        return np.asarray(labels != "")
    return ~np.isnan(labels) if labels.dtype.kind == "f" else np.asarray(labels >= 0)


def conflicts_text(groups: Sequence[NDArray[np.int64]], ids: Sequence[str] | NDArray[Any]) -> str:
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
