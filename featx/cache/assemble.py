"""Publish a cache: finished rows in the order of the manifest, with everything known of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.cache.distrust import open_trusted
from featx.cache.durable import durable_h5, size_text
from featx.cache.fingerprint import ExtractSpec
from featx.cache.format import (
    DIGEST_DTYPE,
    blocks,
    create_column,
    create_header,
    create_vectors,
    read_text,
    row_digest,
)
from featx.cache.known import RowReader
from featx.cache.verify import damaged_rows
from featx.errors import CacheError, NoSpaceError

_RESERVE = 1 << 20  # bytes kept free for metadata


@dataclass(frozen=True)
class Description:
    """Everything about the rows of a cache that is not computed by the network.

    Parameters
    ----------
    ids, paths
        One for each row.
    labels
        None, or codes into `classes` (int32, -1 where missing), or float64 for regression.
    split, columns
        As in `featx.manifest.Manifest`, for the rows alone.
    failed
        ``id -> reason`` of each image that gave no row.
    """

    ids: list[str]
    paths: list[str]
    labels: NDArray[Any] | None = None
    classes: list[str] | None = None
    split: list[str] | None = None
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def datasets(self) -> dict[str, NDArray[Any] | Sequence[str]]:
        """Name and value of each dataset that it becomes."""
        found: dict[str, NDArray[Any] | Sequence[str]] = {"ids": self.ids, "paths": self.paths}
        if self.labels is not None:
            found["labels"] = self.labels
        if self.classes is not None:
            found["classes"] = self.classes
        if self.split is not None:
            found["split"] = self.split
        found |= {f"columns/{name}": values for name, values in self.columns.items()}
        return found | {
            "failed/ids": list(self.failed),
            "failed/reasons": list(self.failed.values()),
        }


def describes(description: Description, path: Path) -> bool:
    """Tell whether a cache already holds exactly these rows with this description."""
    file, _ = open_trusted(path)
    wanted = description.datasets()
    with file:
        groups = ("columns", "failed")
        names = {name for name in file if name in wanted or name in ("split", "labels", "classes")}
        names -= set(groups)
        names |= {f"{group}/{name}" for group in groups for name in file.get(group, ())}
        if names != set(wanted):
            return False
        return all(_same(file[name], values) for name, values in wanted.items())


def _same(dataset: h5py.Dataset, values: NDArray[Any] | Sequence[str]) -> bool:
    if dataset.shape != np.shape(values):
        return False
    if dataset.dtype.kind in "SO":
        return read_text(dataset) == [str(v) for v in values]
    found, wanted = dataset[...], np.asarray(values)
    return found.dtype == wanted.dtype and np.array_equal(
        found, wanted, equal_nan=found.dtype.kind == "f"
    )


def write_cache(
    path: Path,
    spec: ExtractSpec,
    description: Description,
    places: NDArray[np.int64],
    files: Sequence[Path],
    provenance: dict[str, Any],
) -> int:
    """Copy finished rows into a new file and put it in the place of the old one.

    Parameters
    ----------
    places
        int64, shape (n, 2): for each row of `description`, a file of `files` and a row in it.

    Returns
    -------
    n_features
        Length of the first tap's vectors.

    Raises
    ------
    NoSpaceError
        Before anything is written, if the disk has no room; the old cache stays.
    """
    with RowReader(files, spec) as source:
        widths = source.widths(int(places[0, 0]))
        itemsize = np.dtype(spec.dtype).itemsize
        needed = len(places) * (sum(widths) * itemsize + 400) + _RESERVE
        free = shutil.disk_usage(path.parent).free
        if free < needed:
            raise NoSpaceError(
                f"no space to write {path}: {size_text(needed)} needed, {size_text(free)} free; "
                "make room and run the same command again, what is done is kept"
            )
        with durable_h5(path, needed=needed, check=_check_cache) as file:
            create_header(file, spec)
            file.create_dataset(
                "provenance", data=json.dumps(provenance), dtype=h5py.string_dtype()
            )
            for name, values in description.datasets().items():
                create_column(file, name, values)
            _copy_rows(file, spec, description.ids, places, source, widths)
    return widths[0]


def _copy_rows(
    file: h5py.File,
    spec: ExtractSpec,
    ids: list[str],
    places: NDArray[np.int64],
    source: RowReader,
    widths: list[int],
) -> None:
    n_rows = len(places)
    datasets = create_vectors(file, spec, n_rows, widths)
    contents, stamps = np.empty(n_rows, "S64"), np.empty((n_rows, 2), np.int64)
    digests = np.empty(n_rows, DIGEST_DTYPE)
    row_bytes = sum(widths) * np.dtype(spec.dtype).itemsize
    for rows in blocks(n_rows, row_bytes):
        vectors, _, contents[rows], stamps[rows] = source.read(places[rows])
        for dataset, vector in zip(datasets, vectors, strict=True):
            dataset[rows] = vector
        for k, row in enumerate(range(rows.start, rows.stop)):
            digests[row] = row_digest(ids[row], contents[row], [v[k] for v in vectors])
    create_column(file, "content", contents)
    create_column(file, "stamps", stamps)
    create_column(file, "row_digest", digests)


def _check_cache(path: Path) -> None:
    file, spec = open_trusted(path)
    with file:
        if damaged_rows(file, spec).any():
            raise CacheError(f"{path} reads back other than it was written; check the disk")
