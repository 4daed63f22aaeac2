"""Labels, split and other columns of a table, and corrections of labels from a second one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featx.columns import Text, shared
from featx.errors import SourceError, shown
from featx.items import Manifest, Note, note, printable
from featx.labels import SEPARATOR, Labels, folded, split_labels
from featx.slices import WHOLE, SliceCounter, listed
from featx.sources.arrow import MEANT
from featx.sources.table import read_table
from featx.typing import RowValues

RESERVED = ("path", "id", "label", "split")

SPLITS = {
    "train": "train",
    "test": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
}
"""The split that each name means."""

ALMOST_SPLITS = ("training", "testing", "dev", "eval", "evaluation", "holdout")
"""Names of files and folders that may be meant as a split."""


def table_columns(place: str, table: pd.DataFrame) -> dict[str, RowValues]:
    """Give every column of a table that has no meaning of its own.

    Raises
    ------
    SourceError
        If one cannot be stored under its name, or is not quite called as one with a meaning.
    """
    names = [str(name) for name in table.columns]
    odd = [name for name in names if "/" in name or "\0" in name or not name.strip(". ")]
    if odd:
        raise SourceError(
            f"{place}: column {shown(repr(odd[0]))} cannot be kept; rename it without a slash"
        )
    require_spelled(place, names)
    return {str(name): plain(table[name]) for name in table.columns if name not in RESERVED}


def require_spelled(place: str, names: Iterable[str], known: Container[str] = MEANT) -> None:
    """Refuse a column whose name differs from one of the `known` by spaces or invisible letters.

    Raises
    ------
    SourceError
        If there is one.
    """
    for name in names:
        if name.lower() not in known and (meant := folded(name)) in known:
            what = "a space around" if name.strip().lower() == meant else "an invisible letter in"
            raise SourceError(
                f"{place}: column {name!a} has {what} its name; write {meant!r}, or another name"
            )


def almost_meant(place: str, table: pd.DataFrame, parts: Iterable[str] = ()) -> list[Note]:
    """Say of columns that only case keeps from having a meaning, and of names like a split's.

    Parameters
    ----------
    parts
        Names of the files or splits that the rows come from.
    """
    names = [str(name) for name in table.columns]
    words = {word for part in parts for word in _words(part)}
    odd = sorted(words & set(ALMOST_SPLITS))
    notes = []
    if odd and "split" not in names and words & {"train", "training"}:
        text = f"{place}: {', '.join(odd)} names no split; write train, validation or test"
        notes.append(note("split-names", text))
    return notes + [
        note(
            "column-case",
            f"{place}: column {name!r} is kept under its name, and is not the {name.lower()} of "
            f"its rows; write `{name.lower()}` if that is meant",
        )
        for name in names
        if name not in MEANT and name.lower() in MEANT and name.lower() not in names
    ]


def without(table: pd.DataFrame, missing: Sequence[str]) -> pd.DataFrame:
    """Empty every field that holds one of the texts `missing`; paths and ids stay as they are."""
    if not missing:
        return table
    found = table.copy(deep=False)
    for name in table.columns:
        if name in ("path", "id"):
            continue
        column = table[name]
        text = not pd.api.types.is_float_dtype(column)
        hits = column.astype(str).isin(missing).to_numpy()
        if not text:  # the label of a whole float is written without the zero
            hits = hits | column.isin(_numbers(missing)).to_numpy()
        if hits.any():
            found[name] = (column.astype(object) if text else column).mask(hits)
    return found


def _numbers(texts: Iterable[str]) -> list[float]:
    found = []
    for text in texts:
        try:
            found.append(float(text))
        except ValueError:
            continue
    return found


def table_labels(place: str, table: pd.DataFrame) -> Labels | None:
    """Class names as they are written, several where written as ``a|b``.

    A column whose type says that it holds fractions (of Parquet) gives floats; whole floats, as
    pandas makes them of integers beside a missing one, give names without the zero.

    Raises
    ------
    SourceError
        If one is infinite, or a list or an object.
    """
    if "label" not in table.columns:
        return None
    column = table["label"]
    if pd.api.types.is_float_dtype(column):
        values = column.to_numpy(np.float64, na_value=np.nan)
        _refuse(place, table, np.isinf(values), "is infinite; write a number, or leave it empty")
        known = values[~np.isnan(values)]
        if known.size and not np.all(known == np.rint(known)):
            return np.asarray(values)
        _refuse(place, table, np.abs(values) > 2**53, "is a float beyond 2 ** 53; write it as text")
        return shared(None if np.isnan(v) else str(int(v)) for v in values)
    objects = np.array([isinstance(value, dict) for value in column], bool)
    _refuse(place, table, objects, "is an object; write a name")
    lists = np.array([not pd.api.types.is_scalar(value) for value in column], bool)
    _refuse(place, table, lists, "is a list; write several labels as a|b")
    names = shared(None if missing(v) or v == "" else printable(str(v)) for v in column)
    return split_labels(names) or names


def _refuse(place: str, table: pd.DataFrame, odd: NDArray[np.bool_], why: str) -> None:
    if odd.any():
        row = table.index[int(odd.argmax())] + 1
        raise SourceError(f"{place}: column `label` in row {row} {why} ({odd.sum()} such rows)")


def table_split(place: str, table: pd.DataFrame) -> list[str] | None:
    """Membership of each row.

    Raises
    ------
    SourceError
        If a row names another split than train, validation and test.
    """
    if "split" not in table.columns:
        return None
    found = ["" if missing(v) else str(v).strip().lower() for v in table["split"]]
    for row, value in enumerate(found):
        if value and value not in SPLITS:
            raise SourceError(
                f"{place}: split {shown(repr(value))} in row {table.index[row] + 1}; "
                "write train, validation or test, or leave the field empty"
            )
    return [SPLITS.get(value, "") for value in found]


def table_text(place: str, table: pd.DataFrame, name: str) -> Text:
    """Give a column in which no field may be empty.

    Raises
    ------
    SourceError
        If one is.
    """
    empty = np.flatnonzero(table[name].isna().to_numpy())
    if empty.size:
        raise SourceError(
            f"{place}: column `{name}` is empty in row {table.index[empty[0]] + 1} "
            f"({empty.size} such rows); fill it or drop the row"
        )
    return Text.of(printable(str(value)) for value in table[name])


def named_splits(
    names: Sequence[str], counts: Iterable[int], among: Iterable[str]
) -> list[str] | None:
    """Membership by the names of files or folders, as in ``train-00000.tar``.

    Parameters
    ----------
    names, counts
        Of the files that hold the items, and how many each holds.
    among
        Names of all files of the source, of which some may be another slice's.

    Returns
    -------
    split : one for each item
        None unless the names tell of training rows and of others.
    """
    told = {_told_split(name) for name in among}
    if "train" not in told or not {"test", "validation"} & told:
        return None
    found = map(_told_split, names)
    return [split for split, n in zip(found, counts, strict=True) for _ in range(n)]


def _told_split(name: str) -> str:
    return next((SPLITS[word] for word in _words(name) if word in SPLITS), "")


def _words(name: str) -> list[str]:
    return re.split(r"[/._-]", name.lower())


def plain(column: pd.Series) -> RowValues:
    """Numbers as they are, all else as text."""
    if pd.api.types.is_bool_dtype(column) or pd.api.types.is_numeric_dtype(column):
        values: RowValues = column.to_numpy()
        return values if values.dtype != object else column.to_numpy(np.float64)
    texts = shared("" if missing(v) else printable(str(v)) for v in column)
    return np.array(texts, dtype=object)


def missing(value: object) -> bool:
    """True if a field is empty; a list or an object is not."""
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


@dataclass(frozen=True)
class Corrections:
    """Labels by id, and the file that they came from.

    Parameters
    ----------
    labels
        ``id -> label``; None takes a label away.
    file
        Its name.
    sha256
        Of its bytes, in hexadecimal.
    columns
        Names of all its columns.
    notes
        What was assumed in reading it.
    """

    labels: dict[str, str | None]
    file: str
    sha256: str
    columns: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()


def read_corrections(path: Path, missing: Sequence[str] = ()) -> Corrections:
    """Read a table with the columns ``id`` and ``label``; text stays as it is written.

    Parameters
    ----------
    missing
        Texts that mean that a label is missing.

    Raises
    ------
    SourceError
        If it is not such a table, an id stands in it twice, or its labels are numbers.
    """
    if not path.is_file():
        raise SourceError(f"labels {path}: no such file")
    read = read_table(str(path), SliceCounter(WHOLE))
    frame = without(read.frame, missing)
    if absent := [name for name in ("id", "label") if name not in frame.columns]:
        raise SourceError(
            f"labels {path} has no column `{absent[0]}` (it has "
            f"{listed(frame.columns) or 'none'}); write a table with id and label"
        )
    ids = list(table_text(str(path), frame, "id"))
    given = table_labels(str(path), frame)
    if isinstance(given, np.ndarray):
        raise SourceError(
            f"labels {path}: column `label` holds numbers, which only the source's own table can "
            "give; correct them there, or write names of classes as text"
        )
    labels: dict[str, str | None] = {}
    for name, label in zip(ids, [] if given is None else given, strict=True):
        if name in labels:
            raise SourceError(f"labels {path}: id {shown(repr(name))} stands in it twice")
        labels[name] = SEPARATOR.join(label) or SEPARATOR if isinstance(label, tuple) else label
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    columns = tuple(map(str, frame.columns))
    return Corrections(labels, str(path), digest, columns, read.notes)


def corrected(manifest: Manifest, fixes: Corrections) -> tuple[Manifest, int]:
    """Put corrected labels over those of a source; nothing of the source is changed.

    Returns
    -------
    manifest : with the labels of `fixes` where it has some
    changed : how many labels are others than before

    Raises
    ------
    SourceError
        If a correction is for an id that the source does not have, or labels are numbers.
    """
    place = {name: k for k, name in enumerate(manifest.ids)}
    unknown = [n for n in fixes.labels if n not in place and n not in manifest.refused]
    if unknown and manifest.dealt is None:
        raise SourceError(
            f"labels {fixes.file} names {len(unknown)} ids that {manifest.name} does not have, "
            f"first {shown(repr(unknown[0]))}; `featx info` and featx.open_cache(...).ids show ids"
        )
    before = manifest.labels
    if isinstance(before, np.ndarray):
        raise SourceError(
            f"labels of {manifest.name} are numbers; correct them in the table itself"
        )
    labels: list[str | None] = [None] * len(manifest)
    if before is not None:
        labels = [_text(label) for label in before]
    changed = 0
    for name, label in fixes.labels.items():
        at = place.get(name)
        if at is not None and labels[at] != label:
            labels[at], changed = label, changed + 1
    # A folder may be called a|b; only a table writes several labels so.
    several = any(isinstance(label, tuple) for label in before or ())
    several = several or any(SEPARATOR in label for label in fixes.labels.values() if label)
    given = split_labels(labels) if several else None
    return replace(manifest, labels=given or labels), changed


def _text(label: str | tuple[str, ...] | None) -> str | None:
    return SEPARATOR.join(label) or SEPARATOR if isinstance(label, tuple) else label
