"""Publish a cache: finished rows in the order of the manifest, with everything known of them."""

from __future__ import annotations

import itertools
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.cache.folder import open_trusted
from featx.cache.format import (
    BLOCK_ROWS,
    CONTENT_DTYPE,
    DIGEST_DTYPE,
    ID_INDEX,
    INDEX,
    column_dtype,
    row_digest,
    vector_datasets,
)
from featx.cache.h5file import open_file
from featx.cache.writing import FileFacts, write_file, write_folder
from featx.errors import CacheError
from featx.files import behind, sync_folder
from featx.spec import ExtractSpec
from featx.targets import require_writable
from featx.typing import JsonObject, RowValues


class RowReader:
    """Read finished rows from many files, in any order, a few files open at a time."""

    def __init__(self, files: Sequence[Path], spec: ExtractSpec, limit: int = 16) -> None:
        self.files, self.spec, self._limit = files, spec, limit
        self._names = vector_datasets(spec)
        self._open: dict[int, h5py.File] = {}

    def close(self) -> None:
        """Close every file."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def __enter__(self) -> RowReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _file(self, number: int) -> h5py.File:
        if number not in self._open:
            if len(self._open) >= self._limit:
                self._open.pop(next(iter(self._open))).close()
            self._open[number], _ = open_file(self.files[number])
        return self._open[number]

    def widths(self, number: int) -> list[int]:
        """Length of the vectors of each tap."""
        return [int(self._file(number)[name].shape[1]) for name in self._names]

    def read(
        self, places: NDArray[np.integer[Any]]
    ) -> tuple[list[NDArray[Any]], list[str], NDArray[Any], NDArray[Any]]:
        """Read rows in the order of `places`, integers (n, 2) of file and row.

        Returns
        -------
        vectors, ids, content, stamps
            As they stand in the files, each checked against its digest.
        """
        n = len(places)
        first = int(places[0, 0])
        vectors = [np.empty((n, w), self.spec.dtype) for w in self.widths(first)]
        ids, content = [""] * n, np.empty(n, CONTENT_DTYPE)
        stamps = np.zeros((n, 2), np.int64)
        for number in np.unique(places[:, 0]).tolist():
            file = self._file(number)
            at = np.flatnonzero(places[:, 0] == number)
            at = at[np.argsort(places[at, 1], kind="stable")]
            for run in _runs(places[at, 1]):
                rows = places[at[run], 1]
                span = slice(int(rows[0]), int(rows[-1]) + 1)
                inside, here = rows - span.start, at[run]
                for vector, name in zip(vectors, self._names, strict=True):
                    vector[here] = file[name][span][inside]
                content[here] = file["content"][span][inside]
                if "stamps" in file:
                    stamps[here] = file["stamps"][span][inside]
                written, digests = file["ids"][span][inside], file["row_digest"][span][inside]
                for k, slot in enumerate(here.tolist()):
                    ids[slot] = written[k].decode()
                    found = row_digest(ids[slot], content[slot], [v[slot] for v in vectors])
                    if found != digests[k]:
                        raise CacheError(
                            f"{self.files[number]} row {rows[k]} changed while it was read; "
                            "check the disk and run the same command again"
                        )
        return vectors, ids, content, stamps


def _runs(rows: NDArray[np.integer[Any]]) -> Iterator[slice]:
    """Cut sorted row numbers where they do not follow each other; what lies between may be bad."""
    cuts = np.flatnonzero(np.diff(rows) > 1) + 1
    edges = [0, *cuts.tolist(), len(rows)]
    for start, stop in itertools.pairwise(edges):
        yield slice(start, stop)


@dataclass(frozen=True)
class Description:
    """The source's facts about the rows of a cache; vectors, digests and stamps lie in files.

    Parameters
    ----------
    ids, paths
        Text for each row; gone through once for the longest, then read by slices.
    labels
        None, or codes into `classes` (int32, -1 where missing), or float64 for regression; where
        rows have several, int8 of shape (n, n_classes) with 1 for each that a row has and -1 in
        rows without labels.
    classes
        Names of the classes; None where there are no labels or they are numbers.
    split, columns
        As in `featx.items.Manifest`, for the rows alone.
    failed
        ``id -> reason`` of each image that gave no row.
    """

    ids: Sequence[str]
    paths: Sequence[str]
    labels: RowValues | None = None
    classes: list[str] | None = None
    split: Sequence[str] | None = None
    columns: dict[str, RowValues] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def by_row(self) -> dict[str, RowValues | Sequence[str]]:
        """Name and value of each dataset with a value for each row."""
        found: dict[str, RowValues | Sequence[str]] = {"ids": self.ids, "paths": self.paths}
        if self.labels is not None:
            found["labels"] = self.labels
        if self.split is not None:
            found["split"] = self.split
        return found | {f"columns/{name}": values for name, values in self.columns.items()}

    def datasets(self) -> dict[str, RowValues | Sequence[str]]:
        """Name and value of each dataset that it becomes."""
        found = self.by_row()
        if self.classes is not None:
            found["classes"] = self.classes
        return found | {
            "failed/ids": list(self.failed),
            "failed/reasons": list(self.failed.values()),
        }


def describes(description: Description, path: Path) -> bool:
    """Tell whether a cache already holds exactly these rows with this description, undamaged."""
    file, _ = open_trusted(path)
    wanted = description.datasets()
    with file:
        groups = ("columns", "failed")
        names = {name for name in file if name in wanted or name in ("split", "labels", "classes")}
        names -= set(groups)
        names |= {f"{group}/{name}" for group in groups for name in file.get(group, ())}
        if names != set(wanted):
            return False
        try:
            index = file.get(ID_INDEX, ())
            for start in range(0, len(index), BLOCK_ROWS):
                index[start : start + BLOCK_ROWS]
            return all(_same(file[name], values) for name, values in wanted.items())
        except OSError:
            return False  # to be written again


def _same(dataset: h5py.Dataset, values: RowValues | Sequence[str]) -> bool:
    text = dataset.dtype.kind in "SO"
    shape, dtype = (len(values),), None
    if isinstance(values, np.ndarray):
        shape, dtype = values.shape, values.dtype
    if dataset.shape != shape or not (text or dataset.dtype == dtype):
        return False
    for start in range(0, len(values), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        found, wanted = dataset[rows], values[rows]
        if text:
            if found.tolist() != [str(v).encode() for v in wanted]:
                return False
        elif not np.array_equal(found, wanted, equal_nan=found.dtype.kind == "f"):
            return False
    return True


def write_cache(
    path: Path,
    spec: ExtractSpec,
    description: Description,
    places: NDArray[np.integer[Any]],
    files: Sequence[Path],
    provenance: JsonObject,
    widths: list[int] | None = None,
) -> int:
    """Copy finished rows into a new cache and put it in the place of the old one.

    Where `path` is a folder, it becomes parts and an index in it, else one file.

    Parameters
    ----------
    places
        Integers, shape (n, 2): for each row of `description`, a file of `files` and a row in it.
    widths
        Length of the vectors of each tap, where there is no row to tell it.

    Returns
    -------
    n_features
        Length of the first tap's vectors.

    Raises
    ------
    NoSpaceError
        Before anything is written, if the disk has no room; the old cache stays.
    CacheError
        If there is no row, and `path` is a folder.
    """
    whole = FileFacts(spec, json.dumps(provenance), description.classes, description.failed)
    with RowReader(files, spec) as source:
        rows = _Assembled(description, places, source, widths)
        if path.is_dir():
            write_folder(path, whole, rows)
        else:
            write_file(path, whole, rows)
    return rows.widths[0]


class _Assembled:
    """Rows from many files in the order of a description."""

    def __init__(
        self,
        description: Description,
        places: NDArray[np.integer[Any]],
        source: RowReader,
        widths: list[int] | None,
    ) -> None:
        self._places, self._source = places, source
        self._given = description.by_row()
        self.widths = widths or source.widths(int(places[0, 0]))
        self.columns: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            name: (column_dtype(values), values.shape[1:] if isinstance(values, np.ndarray) else ())
            for name, values in self._given.items()
        }
        self.columns |= {
            "content": (CONTENT_DTYPE, ()),
            "stamps": (np.dtype(np.int64), (2,)),
            "row_digest": (DIGEST_DTYPE, ()),
        }

    def __len__(self) -> int:
        return len(self._places)

    def read(self, rows: slice) -> tuple[list[NDArray[Any]], JsonObject]:
        """Read a stretch of rows."""
        vectors, _, content, stamps = self._source.read(self._places[rows])
        values: dict[str, Any] = {name: given[rows] for name, given in self._given.items()}
        digests = [
            row_digest(item, content[k], [v[k] for v in vectors])
            for k, item in enumerate(values["ids"])
        ]
        values |= {"content": content, "stamps": stamps}
        return vectors, values | {"row_digest": np.array(digests, DIGEST_DTYPE)}

    def tag(self, rows: slice) -> str:
        """Name a part as no other: what is in it shows only when it is read."""
        return secrets.token_hex(8)


def target_path(cache: str | os.PathLike[str], *, create: bool = True) -> Path:
    """Where a cache is written to: the file behind a link, so that two names of it have one lock.

    A name that ends in a separator is a folder, made if need be.

    Raises
    ------
    CacheError
        If the folder cannot be created.
    """
    path, name = behind(Path(cache)), os.fspath(cache)
    if create and name.endswith(("/", os.sep)) and not path.exists():
        try:
            path.mkdir()
        except OSError as error:
            raise CacheError(f"cannot create {path}: {error.strerror}") from None
        sync_folder(path.parent)
    return path


def require_target(path: Path, source: object) -> None:
    """Refuse a place that a cache cannot be written to, before any work is done for it.

    Raises
    ------
    CacheError
        If it is `source`, or a folder with other things in it, or cannot be written.
    """
    if path.is_dir() and not ((path / INDEX).is_file() or not any(path.glob("[!.]*"))):
        raise CacheError(
            f"cache {path} is a folder with other things in it; name a file, or a folder that is "
            "new or empty"
        )
    require_writable(path, "cache", source, folder=True)
