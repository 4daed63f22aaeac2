"""Read finished rows out of many files, wherever they lie."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.cache.distrust import open_file
from featx.cache.fingerprint import ExtractSpec
from featx.cache.format import CONTENT_DTYPE, row_digest, vector_datasets
from featx.errors import CacheError


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
