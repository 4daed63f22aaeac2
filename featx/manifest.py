"""WHAT: the ordered list of images to embed, from a folder, a table, a list or a built-in set."""

from __future__ import annotations

import os
import stat as stat_module
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featx.errors import ImageError, SourceError, nearest
from featx.folders import scan_folder
from featx.labels import Names, split_labels

Source: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"

Labels: TypeAlias = "list[str | None] | list[Names | None] | NDArray[np.float64]"

_MAX_FILE = 1 << 30  # bytes; more than any picture that the decode policy takes
_TABLES = (".csv", ".tsv", ".parquet", ".pq")
_RESERVED = ("path", "id", "label", "split")


@dataclass(frozen=True)
class Stamp:
    """What a file system says of a file: size in bytes and time of change in ns; 0 is unknown."""

    size: int = 0
    mtime_ns: int = 0


@dataclass(frozen=True)
class Manifest:
    """The ordered list of items, held by column.

    Parameters
    ----------
    ids
        Unique names, UTF-8.
    paths
        Where each item is, as it is shown and stored.
    read
        Gives the bytes of item `i` and its `Stamp`; raises `ImageError` with the reason.
    labels
        Class names (None where missing) or, for regression, float64 (NaN where missing); where rows
        have several, a tuple of names each.
    split
        ``train``, ``validation`` or ``test`` for each item, where the source says so.
    columns
        Every other column of the source; one called ``group`` keeps samples together in a fit.
    stamps
        int64, shape (n, 2): size and time of change; zeros where unknown.
    refused
        ``id -> reason`` of entries that are no readable image; they count as failed.
    ignored
        Number of hidden and other files passed over.
    """

    name: str
    ids: list[str]
    paths: list[str]
    read: Callable[[int], tuple[bytes, Stamp]]
    labels: Labels | None = None
    split: list[str] | None = None
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    stamps: NDArray[np.int64] | None = None
    refused: dict[str, str] = field(default_factory=dict)
    ignored: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def __post_init__(self) -> None:
        if len(set(self.ids)) != len(self.ids):
            first: dict[str, int] = {}
            for row, name in enumerate(self.ids):
                if first.setdefault(name, row) != row:
                    raise SourceError(
                        f"{self.name}: id {name!r} stands in rows {first[name] + 1} and {row + 1}; "
                        "ids must be unique: give each row its own in a column `id`"
                    )


def load_manifest(source: Source) -> Manifest:
    """List the images of a source, in a stable order.

    Parameters
    ----------
    source
        A folder (its first level of folders are the classes), a CSV or Parquet table with a
        column ``path``, a sequence of paths, or the name of a built-in set (``elpv``, ``digits``).

    Raises
    ------
    SourceError
        If there is no such source, or nothing in it that could be an image.
    """
    from featx.datasets import BUILT_IN

    if not isinstance(source, (str, os.PathLike)):
        return _from_list(source)
    text, path = os.fspath(source), Path(source)
    if text in BUILT_IN:
        if path.exists():
            raise SourceError(f"{text!r} is a built-in set and also a path here; write ./{text}")
        return BUILT_IN[text]()
    if path.is_dir():
        return _from_folder(path)
    if path.is_file() and path.suffix.lower() in _TABLES:
        return _from_table(path)
    if path.is_file():
        raise SourceError(
            f"{text} is neither a folder nor a table ({', '.join(_TABLES)}); "
            "give the folder that holds the images"
        )
    raise SourceError(
        f"no such folder, table or built-in set: {text}{nearest(text, BUILT_IN)} "
        f"(built in: {', '.join(BUILT_IN)})"
    )


def read_file(path: str) -> tuple[bytes, Stamp]:
    """Read a whole regular file, and the stamp that it had then."""
    try:
        # Non-blocking, so that a pipe called x.jpg cannot stop the run.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(handle, "rb") as file:  # noqa: PTH123 - from a descriptor
            found = os.fstat(file.fileno())
            if not stat_module.S_ISREG(found.st_mode):
                raise ImageError("not a regular file")
            if found.st_size > _MAX_FILE:
                raise ImageError(f"a file of {found.st_size} bytes; at most {_MAX_FILE} are read")
            return file.read(), Stamp(found.st_size, found.st_mtime_ns)
    except FileNotFoundError:
        raise ImageError("file not found") from None
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from None


def _from_folder(root: Path) -> Manifest:
    found = scan_folder(root)
    if not found.ids and not found.refused:
        raise SourceError(
            f"{root} holds no images ({found.ignored} other files); "
            "featx looks for files with an image extension such as .jpg or .png"
        )
    folder = os.fspath(root)
    relative = found.paths
    first = [path.split(os.sep, 1)[0] if os.sep in path else None for path in relative]
    return Manifest(
        name=folder,
        ids=found.ids,
        paths=[printable(os.path.join(folder, path)) for path in relative],  # noqa: PTH118 - fast
        read=lambda i: read_file(os.path.join(folder, relative[i])),  # noqa: PTH118
        labels=[None if c is None else printable(c) for c in first] if any(first) else None,
        stamps=found.stamps,
        refused=found.refused,
        ignored=found.ignored,
    )


def _from_list(source: Sequence[str | os.PathLike[str]]) -> Manifest:
    paths = [os.fspath(p) for p in source]
    if not paths:
        raise SourceError("the list of paths is empty")
    shown = [printable(p) for p in paths]
    return Manifest("list of paths", shown, shown, lambda i: read_file(paths[i]))


def _from_table(path: Path) -> Manifest:
    table = _read_table(path)
    if "path" not in table.columns:
        raise SourceError(
            f"{path} has no column `path` (it has {', '.join(map(str, table.columns)) or 'none'}); "
            "name the column that holds the image files so"
        )
    if not len(table):
        raise SourceError(f"{path} has no rows")
    odd = [str(name) for name in table.columns if "/" in str(name) or not str(name).strip(". ")]
    if odd:
        raise SourceError(f"{path}: column {odd[0]!r} cannot be kept; rename it without a slash")
    written = _text_column(path, table, "path")
    files = [os.fspath(path.parent / p) for p in written]
    labels = _labels(table["label"]) if "label" in table.columns else None
    return Manifest(
        name=os.fspath(path),
        ids=_text_column(path, table, "id") if "id" in table.columns else written,
        paths=[printable(f) for f in files],
        read=lambda i: read_file(files[i]),
        labels=labels,
        split=_split(path, table["split"]) if "split" in table.columns else None,
        columns={
            str(name): _plain_column(table[name]) for name in table.columns if name not in _RESERVED
        },
    )


def _read_table(path: Path) -> pd.DataFrame:
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pd.read_parquet(path)
        # Only an empty field is missing: "NA" and "None" are good names for a class.
        return pd.read_csv(
            path,
            sep="\t" if path.suffix.lower() == ".tsv" else ",",
            keep_default_na=False,
            na_values=[""],
            dtype={"path": str, "id": str, "split": str},
            encoding="utf-8-sig",
        )
    except Exception as error:  # pandas and pyarrow raise a dozen types on a damaged table
        reason = " ".join(str(error).split())[:200]
        raise SourceError(f"{path} cannot be read as a table: {reason}") from None


def _text_column(path: Path, table: pd.DataFrame, name: str) -> list[str]:
    missing = np.flatnonzero(table[name].isna().to_numpy())
    if missing.size:
        raise SourceError(
            f"{path}: column `{name}` is empty in row {missing[0] + 1} "
            f"({missing.size} such rows); fill it or drop the row"
        )
    return [printable(str(value)) for value in table[name]]


def _labels(column: pd.Series) -> Labels:
    """Class names, several where written as ``a|b``, or floats where a number is not whole."""
    if pd.api.types.is_float_dtype(column):
        values = column.to_numpy(np.float64)
        known = values[~np.isnan(values)]
        if known.size and not np.all(known == np.rint(known)):
            return np.asarray(values)
        return [None if np.isnan(v) else str(int(v)) for v in values]
    names = [None if pd.isna(value) or value == "" else printable(str(value)) for value in column]
    return split_labels(names) or names


def _split(path: Path, column: pd.Series) -> list[str]:
    names = {"train": "train", "test": "test", "validation": "validation", "val": "validation"}
    found = ["" if pd.isna(v) else str(v).strip().lower() for v in column]
    for row, value in enumerate(found):
        if value and value not in names:
            raise SourceError(
                f"{path}: split {value!r} in row {row + 1}; "
                "write train, validation or test, or leave the field empty"
            )
    return [names.get(value, "") for value in found]


def _plain_column(column: pd.Series) -> NDArray[Any]:
    """Numbers as they are, all else as text."""
    if pd.api.types.is_bool_dtype(column) or pd.api.types.is_numeric_dtype(column):
        values: NDArray[Any] = column.to_numpy()
        return values if values.dtype != object else column.to_numpy(np.float64)
    return np.array(["" if pd.isna(v) else printable(str(v)) for v in column], dtype=object)


def printable(text: str) -> str:
    r"""Write bytes of a file name that are not UTF-8 as ``\xNN``."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")
