"""Rows that need no computing: those of the cache in place and of the shards beside it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.cache.distrust import open_trusted
from featx.cache.fingerprint import ExtractSpec
from featx.cache.format import CONTENT_DTYPE, read_text, row_digest, vector_datasets
from featx.cache.shards import complete_shards
from featx.cache.verify import damaged_rows
from featx.errors import CacheError, CacheFormatError

_RECENT_NS = 2_000_000_000  # a file changed this shortly before it was read may change unseen


class KnownRows:
    """Finished rows by content, and by id for files that have not been touched.

    Parameters
    ----------
    spec
        Only files of its fingerprint count.
    cache
        The cache in place, or None.
    shards
        The folder of shards.

    Raises
    ------
    CacheFormatError
        If the cache in place cannot be opened, or what names its rows is damaged. A shard like
        that is passed over: its rows are computed again.
    """

    def __init__(self, spec: ExtractSpec, cache: Path | None, shards: Path) -> None:
        self.spec = spec
        self.check = True
        self.files: list[Path] = []
        self.damaged = 0
        self._contents: list[NDArray[Any]] = []
        self._places: list[NDArray[np.int64]] = []
        self._by_id: dict[str, tuple[int, int]] = {}
        self._stamps: list[NDArray[np.int64]] = []
        self._content_of: list[NDArray[np.bytes_]] = []
        self.shards = shards
        if cache is not None:
            self._take(cache, is_cache=True)
        self.refresh()
        self.check = False

    def _take(self, path: Path, *, is_cache: bool) -> None:
        try:
            file, spec = open_trusted(path)
            with file:
                self._index(file, spec, path)
        except CacheFormatError:
            if is_cache:
                raise
        except OSError as error:
            if is_cache:
                raise CacheFormatError(f"{path}: the names of its rows are damaged") from error

    def _index(self, file: h5py.File, spec: ExtractSpec, path: Path) -> None:
        if spec.fingerprint != self.spec.fingerprint:
            raise CacheFormatError(f"{path} has another fingerprint than this run")
        ids, content = read_text(file["ids"]), file["content"][...].astype(CONTENT_DTYPE)
        stamps = file["stamps"][...] if "stamps" in file else np.zeros((len(ids), 2), np.int64)
        bad = damaged_rows(file, spec) if self.check else np.zeros(len(ids), bool)
        number, rows = len(self.files), np.flatnonzero(~bad)
        self.damaged += int(bad.sum())
        self.files.append(path)
        self._contents.append(content[rows])
        self._places.append(np.stack([np.full(len(rows), number), rows], axis=1))
        if not self.check:
            return
        self._stamps.append(stamps)
        self._content_of.append(content)
        for row in rows.tolist():
            if stamps[row, 1]:
                self._by_id[ids[row]] = (number, row)

    def refresh(self) -> None:
        """Take the shards that have come since; they were read back when they were written."""
        for path in complete_shards(self.shards):
            if path not in self.files:
                self._take(path, is_cache=False)
        contents = np.concatenate([np.empty(0, CONTENT_DTYPE), *self._contents])
        places = np.concatenate([np.empty((0, 2), np.int64), *self._places])
        order = np.argsort(contents, kind="stable")
        self._content, self._place = contents[order], places[order]
        self._contents, self._places = [self._content], [self._place]

    def __len__(self) -> int:
        return len(self._content)

    def untouched(self, item: str, stamp: NDArray[np.int64]) -> bytes:
        """Digest of the row of this id if size and time of change still hold, else nothing."""
        place = self._by_id.get(item)
        if place is None or not stamp[1]:
            return b""
        number, row = place
        if not np.array_equal(self._stamps[number][row], stamp):
            return b""
        return bytes(self._content_of[number][row])

    def __contains__(self, content: bytes) -> bool:
        """Whether there is a row of an image with this digest."""
        at = int(np.searchsorted(self._content, np.array(content, CONTENT_DTYPE)))
        return at < len(self._content) and bool(self._content[at] == content)

    def places(self, content: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Where the row of each digest lies.

        Returns
        -------
        places : int64, shape (n, 2)
            A file of `files`, and a row in it.

        Raises
        ------
        CacheError
            If a row is missing.
        """
        at = np.minimum(np.searchsorted(self._content, content), max(0, len(self._content) - 1))
        if not len(self._content) or not np.array_equal(self._content[at], content):
            raise CacheError("rows that were written are missing; run the same command again")
        return self._place[at]

    def forget_names(self) -> None:
        """Free what only `untouched` needs."""
        self._by_id.clear()
        self._stamps.clear()
        self._content_of.clear()


def trusted_stamp(size: int, mtime_ns: int, now_ns: int) -> tuple[int, int]:
    """Keep a stamp only if a later change of the file could not carry the same time."""
    return (size, mtime_ns) if mtime_ns < now_ns - _RECENT_NS else (0, 0)


class RowReader:
    """Read finished rows from many files, in any order, a few files open at a time."""

    def __init__(self, files: Sequence[Path], spec: ExtractSpec, limit: int = 32) -> None:
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
            self._open[number], _ = open_trusted(self.files[number])
        return self._open[number]

    def widths(self, number: int) -> list[int]:
        """Length of the vectors of each tap."""
        return [int(self._file(number)[name].shape[1]) for name in self._names]

    def read(
        self, places: NDArray[np.int64]
    ) -> tuple[list[NDArray[Any]], list[str], NDArray[Any], NDArray[Any]]:
        """Read rows in the order of `places`, int64 (n, 2) of file and row.

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


def _runs(rows: NDArray[np.int64]) -> Iterator[slice]:
    """Cut sorted row numbers where they do not follow each other; what lies between may be bad."""
    cuts = np.flatnonzero(np.diff(rows) > 1) + 1
    edges = [0, *cuts.tolist(), len(rows)]
    for start, stop in itertools.pairwise(edges):
        yield slice(start, stop)
