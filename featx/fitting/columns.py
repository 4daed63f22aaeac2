"""From the columns of a cache to its labelled rows, for a head that takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featx.cache.cache import Cache
from featx.errors import FitError, nearest
from featx.fitting.samples import Samples
from featx.heads import HEADS, Head
from featx.labels import MISSING, look_like_measurements, numbers_of, table_of
from featx.selection.checks import Warn, warn
from featx.slices import listed
from featx.typing import RowValues

GROUP = "group"
"""The column that keeps rows together without being asked for."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a cache play which part; each is the name of a column, or None.

    Parameters
    ----------
    tap
        Whose features are used, several side by side as ``a,b``; when None the first, and all of
        them for a stack.
    label
        Taken in place of the labels.
    groups
        Rows of one group stay on one side; a column called ``group`` when None.
    weights
        Weight of each row in fitting.
    split
        Says ``train``, ``validation`` or ``test``; the manifest's split when None.
    """

    tap: str | None = None
    label: str | None = None
    groups: str | None = None
    weights: str | None = None
    split: str | None = None


def load_samples(cache: Cache, columns: Columns, head: Head, *, maps: bool = False) -> Samples:
    """Take what a fit needs from a cache; features stay in the file until `Samples.take`.

    Parameters
    ----------
    maps
        Whether rows may be maps; heads take vectors only.

    Raises
    ------
    FitError
        If there are no labels, they do not suit the head, or there is no such column or tap.
    """
    tap, widths = _tap(cache, columns.tap, head)
    for name in [] if maps else widths:
        require_vectors(cache, name)
    several = _several(cache, columns.label, head)
    if several is None:
        target = _labels(cache, columns.label, head)
    else:
        target = _Target(several[0], several[0][:, 0] == MISSING, "multilabel")
    every = Samples(
        rows=np.arange(len(cache)),
        y=target.y,
        task=target.task,
        tap=tap,
        ids=np.array(cache.ids, dtype=object),
        digests=cache.content_digests,
        groups=_groups(cache, columns.groups),
        split=_split(cache, columns.split),
        weights=_weights(cache, columns.weights),
        features=cache.tap(tap),
        names=() if several is None else several[1],
        widths=widths,
        notes=target.notes,
        seen=cache.seen_by_backbone if cache.seen_by_backbone.any() else None,
    )
    found = every.keep(~target.missing, "without label").checked()
    if not len(found):
        where = "labels" if columns.label is None else f"column {columns.label!r}"
        raise FitError(f"{where} of {cache.path} are empty in all {len(cache)} rows")
    return found


def _tap(cache: Cache, asked: str | None, head: Head) -> tuple[str, dict[str, int]]:
    """Which taps are used, by name (several with commas), and how wide each is."""
    every = cache.taps if head.parts else cache.taps[:1]
    names = every if asked is None else [asked] if asked in cache.taps else asked.split(",")
    for k, name in enumerate(names):
        if name not in cache.taps:
            raise FitError(
                f"{cache.path} has no tap {name!r}{nearest(name, cache.taps)}; it has "
                f"{', '.join(cache.taps)}"
            )
        if name in names[:k]:
            raise FitError(f"tap {name!r} is named twice")
    return ",".join(names), {name: cache.tap(name).shape[1] for name in names}


def require_vectors(cache: Cache, tap: str) -> None:
    """Refuse a tap that holds maps.

    Raises
    ------
    FitError
        With the shape of the maps.
    """
    if tap in cache.maps:
        shape = "x".join(map(str, cache.maps[tap]))
        raise FitError(
            f"tap {tap!r} of {cache.path} holds maps of {shape}, and heads take vectors; extract "
            "with --pool avg for a head, or train the layers above the map with `featx tune`"
        )


def column_of(cache: Cache, name: str, what: str) -> RowValues:
    """Give a column of the source, for the option `what`.

    Raises
    ------
    FitError
        If there is none of this name.
    """
    if name not in cache.columns:
        known = listed([*cache.columns]) or "none"
        raise FitError(
            f"{what} {name!r}: {cache.path} has no such column"
            f"{nearest(name, cache.columns)} (it has {known})"
        )
    return cache.columns[name]


@dataclass(frozen=True)
class _Target:
    """Labels, where they are missing, the task, and what was assumed in reading them."""

    y: RowValues
    missing: NDArray[np.bool_]
    task: str
    notes: tuple[Warn, ...] = ()


def _labels(cache: Cache, column: str | None, head: Head) -> _Target:
    if column is not None:
        values = column_of(cache, column, "--label")
        return _suited(values, head, f"column {column!r}", cache.ids)
    if cache.y is None:
        also = f", or name one of its columns with --label: {listed([*cache.columns])}"
        raise FitError(
            f"{cache.path} has no labels; extract a folder of class folders or a table with a "
            f"column `label`{also if cache.columns else ''}"
        )
    if cache.classes is None:
        return _suited(cache.y, head, "labels", cache.ids)
    names = np.array([*cache.classes, ""], dtype=object)[cache.y]
    return _suited(names, head, "labels", cache.ids)


def _several(
    cache: Cache, column: str | None, head: Head
) -> tuple[NDArray[np.int8], tuple[str, ...]] | None:
    """A column a class and their names, where rows have several labels; None where they do not."""
    if column is None:
        if cache.y is None or cache.y.ndim == 1:
            return None
        table, classes, what = cache.y, cache.classes or [], "labels"
        if table.shape[1] != len(classes):
            raise FitError(f"{cache.path} has {table.shape[1]} label columns, {len(classes)} names")
    else:
        values, what = column_of(cache, column, "--label"), f"column {column!r}"
        found = None if values.dtype.kind in "biuf" else table_of([str(v) for v in values])
        if found is None:
            return None
        table, classes = found
    if head.task == "regression":
        raise FitError(
            f"head {head.name} predicts a number, and {what} are several names a row; use a "
            f"classifier: {_named('classification')}"
        )
    used = np.flatnonzero((table == 1).any(axis=0))
    if len(used) < 2:
        raise FitError(f"{what} name {len(used)} class; several labels a row need two or more")
    return table[:, used], tuple(classes[k] for k in used)


def _suited(values: RowValues, head: Head, what: str, ids: Sequence[str]) -> _Target:
    """Take a column as labels, or say why this head cannot."""
    text = values.dtype.kind not in "iuf"
    if head.task == "regression":
        return _measurements(values, head, what, ids) if text else _floats(values, what)
    if text:
        names = np.array([str(v) for v in values], dtype=str)
        if look_like_measurements(names.tolist()):
            raise _numbers_for_classes(head, what, str(names[names != ""][0]))
        return _Target(names, names == "", "classification")
    _require_finite(values, what)
    missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)
    known = values[~missing]
    if not np.array_equal(known, np.rint(known)):
        odd = known[known != np.rint(known)][0]
        raise _numbers_for_classes(head, what, f"{odd:g}")
    names = np.array(["" if gone else str(int(v)) for v, gone in zip(values, missing, strict=True)])
    return _Target(names, missing, "classification")


def _numbers_for_classes(head: Head, what: str, example: str) -> FitError:
    return FitError(
        f"head {head.name} predicts classes, and {what} are numbers (as {example}); use a "
        f"regression head: {_named('regression')}"
    )


def _floats(values: RowValues, what: str) -> _Target:
    found = values.astype(np.float64)
    _require_finite(found, what)
    if values.dtype.kind in "iu" and not np.array_equal(found.astype(values.dtype), values):
        raise FitError(
            f"{what} hold whole numbers that a float64 cannot keep (as {values.max()}); use a "
            "classifier if they are codes"
        )
    return _Target(found, np.isnan(found), "regression")


def _measurements(values: RowValues, head: Head, what: str, ids: Sequence[str]) -> _Target:
    """Read the numbers that a regression needs from text."""
    texts = [str(v) for v in values]
    first = next((text for text in texts if text), "")
    if first and not any(letter.isdigit() for text in texts for letter in text):
        raise FitError(
            f"head {head.name} predicts a number, and {what} are names (as {first!r}); "
            f"use a classifier: {_named('classification')}"
        )
    found = numbers_of(texts, what, ids)
    _require_finite(found.values, what)
    notes: tuple[Warn, ...] = ()
    if found.with_commas:
        said = f"{what}: the comma in {found.with_commas} numbers is read as a decimal comma"
        notes = (warn("decimal-commas", said),)
    return _Target(found.values, np.isnan(found.values), "regression", notes)


def _require_finite(values: RowValues, what: str) -> None:
    """Refuse an infinite label; NaN is one that is missing."""
    odd = np.isinf(values)
    if odd.any():
        raise FitError(
            f"{what} are infinite in {int(odd.sum())} of {len(values)} rows, first in row "
            f"{int(odd.argmax())} of the cache; leave them empty, or write numbers"
        )


def _named(task: str) -> str:
    return ", ".join(name for name, head in HEADS.items() if head.task == task)


def _groups(cache: Cache, column: str | None) -> RowValues | None:
    if column is None:
        return cache.columns.get(GROUP)
    return column_of(cache, column, "--groups")


def _split(cache: Cache, column: str | None) -> RowValues | None:
    if column is not None and column != "split":
        return np.array([str(v) for v in column_of(cache, column, "--split")], dtype=object)
    if cache.split is not None and any(cache.split):
        return np.array(cache.split, dtype=object)
    if column is not None:
        raise FitError(f"--split split: {cache.path} has no split; give a share, as --split 0.25")
    return None


def _weights(cache: Cache, column: str | None) -> NDArray[np.float64] | None:
    if column is None:
        return None
    values = column_of(cache, column, "--weights-column")
    if values.dtype.kind in "biuf":
        weights = values.astype(np.float64)
    else:
        named = f"--weights-column {column!r}: the weights"
        weights = numbers_of([str(v) for v in values], named, cache.ids).values
    odd = ~(np.isfinite(weights) & (weights >= 0))
    if odd.any():
        row = int(odd.argmax())
        raise FitError(
            f"--weights-column {column!r} holds {weights[row]:g} for {cache.ids[row]!r} "
            f"({int(odd.sum())} such rows); a weight is a number of 0 or more"
        )
    return weights
