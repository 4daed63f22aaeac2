"""Re-read every byte of a cache or shard and say which rows are damaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.cache.distrust import open_trusted
from featx.cache.fingerprint import ExtractSpec
from featx.cache.format import blocks, row_digest, vector_datasets
from featx.errors import CacheFormatError


@dataclass(frozen=True)
class Verification:
    """What `verify` found: rows re-read, and one line for each problem."""

    rows: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every byte is as it was written."""
        return not self.problems


def verify_file(path: Path) -> Verification:
    """Re-read every dataset, and check each row against its digest.

    Raises
    ------
    CacheError
        If there is no such file.
    """
    try:
        file, spec = open_trusted(path)
    except CacheFormatError as error:
        return Verification(0, (str(error),))
    with file:
        problems = _unreadable(file, set(vector_datasets(spec)))
        n_rows = int(file["features"].shape[0])
        if any(problem.startswith(("/ids", "/content", "/row_digest")) for problem in problems):
            return Verification(n_rows, tuple(problems))
        damaged = np.flatnonzero(damaged_rows(file, spec))
        ids = file["ids"]
        problems += [f"row {row} ({ids[row].decode()}) is damaged" for row in damaged]
        return Verification(n_rows, tuple(problems))


def _unreadable(file: h5py.File, vectors: set[str]) -> list[str]:
    problems: list[str] = []

    def visit(name: str, thing: Any) -> None:
        if not isinstance(thing, h5py.Dataset) or name in vectors:
            return
        try:
            thing[...]
        except OSError:
            problems.append(f"/{name} fails its checksum")

    file.visititems(visit)
    return problems


def damaged_rows(file: h5py.File, spec: ExtractSpec) -> NDArray[np.bool_]:
    """Check every row against its checksum and digest.

    Returns
    -------
    damaged : bool, shape (n,)
    """
    names = vector_datasets(spec)
    n_rows = file["features"].shape[0]
    row_bytes = sum(file[n].shape[1] * file[n].dtype.itemsize for n in names)
    damaged = np.zeros(n_rows, bool)
    for rows in blocks(n_rows, row_bytes):
        damaged[rows] = ~_good(file, names, rows)
    return damaged


def _good(file: h5py.File, names: Sequence[str], rows: slice) -> NDArray[np.bool_]:
    try:
        vectors = [file[name][rows] for name in names]
    except OSError:  # a checksum: find the chunk, one row at a time
        if rows.stop - rows.start == 1:
            return np.zeros(1, bool)
        return np.concatenate(
            [_good(file, names, slice(row, row + 1)) for row in range(rows.start, rows.stop)]
        )
    ids, contents = file["ids"][rows], file["content"][rows]
    digests = file["row_digest"][rows]
    return np.array(
        [
            row_digest(ids[k].decode("utf-8", "replace"), contents[k], [v[k] for v in vectors])
            == digests[k]
            for k in range(len(ids))
        ],
        bool,
    )
