"""A cache as a folder of parts: read like one file, whichever part a row lies in."""

from __future__ import annotations

import hashlib
import operator
import re
import stat
import threading
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from featx.cache.format import ID_INDEX, INDEX, read_text, values_of
from featx.cache.h5file import open_file, open_index
from featx.errors import CacheError, CacheFormatError
from featx.spec import ExtractSpec

_PART_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.h5", re.ASCII)


@dataclass(frozen=True)
class Part:
    """One part as the index names it: its rows are `start` to `stop` of the whole."""

    name: str
    start: int
    stop: int
    n_bytes: int
    digest: str


def file_digest(path: Path) -> str:
    """BLAKE2b-128 of the bytes of a file, as ``b2sum -l 128`` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def read_parts(index: h5py.File) -> list[Part]:
    """List the parts that an index names, in the order of their rows.

    Raises
    ------
    CacheFormatError
        If a name is not a plain one, or rows overlap or are missing.
    """
    names, digests = read_text(index["parts"]), read_text(index["part_digest"])
    spans, sizes = index["part_rows"][...].tolist(), index["part_bytes"][...].tolist()
    for name in names:
        if not _PART_NAME.fullmatch(name) or name == INDEX:
            raise CacheFormatError(f"{INDEX} names the part {name!r}, which is not a plain name")
    if len(set(names)) != len(names):
        raise CacheFormatError(f"{INDEX} names a part twice")
    for before, (start, stop) in pairwise([(0, 0), *spans]):
        if start != before[1]:
            what = "overlap" if start < before[1] else "are missing"
            raise CacheFormatError(
                f"{INDEX}: rows {min(start, before[1])} to {max(start, before[1])} {what}"
            )
        if stop <= start:
            raise CacheFormatError(f"{INDEX} names a part of rows {start} to {stop}")
    return [
        Part(name, int(start), int(stop), int(size), digest)
        for name, (start, stop), size, digest in zip(names, spans, sizes, digests, strict=True)
    ]


class JoinedDataset:
    """One dataset of all the parts of a folder.

    Rows are chosen as in an `h5py.Dataset`: by a number, a slice that goes up, a mask, or a list in
    increasing order; what else it takes or refuses is left to h5py.

    Raises
    ------
    IndexError
        For a row that is not there.
    TypeError, ValueError
        For what h5py does not take.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        first = folder.part(0)[name]
        self._folder, self.name = folder, f"/{name}"
        self._starts = np.array([part.start for part in folder.parts])
        self.shape: tuple[int, ...] = (len(folder), *first.shape[1:])
        self.dtype, self.ndim, self.chunks = first.dtype, first.ndim, first.chunks

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("the values lie in files; reading them makes a copy")
        return np.asarray(self[...], dtype)

    def __getitem__(self, key: object) -> Any:
        rows, *rest = self._axes(key)
        if hasattr(rows, "__index__") and not np.ndim(rows):
            row = self._inside(operator.index(rows))
            k = self._part_of(row)
            return self._read(k, (row - int(self._starts[k]), *rest))
        pieces = [self._read(k, (here, *rest)) for k, here in self._in_parts(rows)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _read(self, k: int, key: tuple[object, ...]) -> Any:
        return self._folder.read(self.name[1:], k, key)

    def _axes(self, key: object) -> tuple[Any, ...]:
        """One key an axis, as far as there are any; an ellipsis stands for whole axes."""
        keys = key if isinstance(key, tuple) else (key,)
        at = [k for k, one in enumerate(keys) if one is Ellipsis]
        if len(at) == 1:
            whole = (slice(None),) * (self.ndim - len(keys) + 1)
            keys = (*keys[: at[0]], *whole, *keys[at[0] + 1 :])
        return keys or (slice(None),)

    def _inside(self, row: int) -> int:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return row % len(self)

    def _part_of(self, row: int) -> int:
        return int(np.searchsorted(self._starts, row, "right")) - 1

    def _in_parts(self, rows: object) -> list[tuple[int, Any]]:
        """Say which parts several rows lie in, and what they are called there."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step > 0:
                return list(self._slices(range(start, stop, step))) or [(0, slice(0))]
        wanted = np.asarray(rows)
        if wanted.dtype == bool:
            if not wanted.ndim or wanted.shape != self.shape[: wanted.ndim]:
                raise TypeError(f"a mask of shape {wanted.shape} for values of shape {self.shape}")
            return [(k, wanted[p.start : p.stop]) for k, p in enumerate(self._folder.parts)]
        if wanted.dtype.kind in "iu" and wanted.ndim == 1 and wanted.size:
            return list(self._lists([self._inside(row) for row in wanted.tolist()]))
        return [(0, rows)]  # what there is of them in a part says what h5py makes of such a key

    def _slices(self, rows: range) -> Iterator[tuple[int, slice]]:
        for k in range(self._part_of(rows.start), len(self._starts)):
            part = self._folder.parts[k]
            if part.start >= rows.stop:
                return
            here = rows[bisect_left(rows, part.start) : bisect_left(rows, part.stop)]
            if here:
                yield k, slice(here.start - part.start, here.stop - part.start, here.step)

    def _lists(self, rows: list[int]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        wanted = np.array(rows, np.int64)
        if np.any(np.diff(wanted) <= 0):
            raise TypeError("rows in a list must be in increasing order, each once")
        parts = np.searchsorted(self._starts, wanted, "right") - 1
        for here in np.split(wanted, np.flatnonzero(np.diff(parts)) + 1):
            k = self._part_of(int(here[0]))
            yield k, here - self._starts[k]


_GROUPS = ("taps", "columns")
_IN_INDEX = ("spec", "provenance", "classes", ID_INDEX, "failed", "failed/ids", "failed/reasons")
_OPEN_PARTS = 32  # at a time


class Folder:
    """The parts of a folder behind the names of one cache file.

    It answers what readers ask an `h5py.File`: ``in``, ``[name]``, ``get``. A part is opened, and
    checked against the index, when one of its rows is asked for.

    Raises
    ------
    CacheFormatError
        If the index is damaged, or names what is not a part.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / INDEX).is_file():
            raise CacheError(
                f"{path} is a folder without {INDEX}, not a cache; if `featx split` was stopped "
                "there, run it again"
            )
        if (path / INDEX).is_symlink():
            raise CacheFormatError(f"{path}: {INDEX} is a link; a cache holds no links")
        self.index, self.spec = open_index(path / INDEX)
        try:
            self.parts = read_parts(self.index)
        except (CacheFormatError, OSError) as error:
            self.index.close()
            raise CacheFormatError(f"{path}: {error}") from None
        self._open: dict[int, h5py.File] = {}
        self._tables: dict[str, tuple[Any, ...]] = {}
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close the index and every part."""
        with self._lock:
            for file in self._open.values():
                file.close()
            self._open.clear()
            self.index.close()

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.parts[-1].stop

    def __contains__(self, name: str) -> bool:
        if name in _IN_INDEX:
            return name in self.index
        return bool(self.get(name, False)) if name in _GROUPS else name in self._names()

    def __getitem__(self, name: str) -> Any:
        if name in _IN_INDEX:
            return self.index[name]
        if name in _GROUPS:
            inside = [full for full in self._names() if full.startswith(f"{name}/")]
            return {full.removeprefix(f"{name}/"): JoinedDataset(self, full) for full in inside}
        if name not in self._names():
            raise KeyError(f"{self.path} holds no /{name}")
        return JoinedDataset(self, name)

    def __iter__(self) -> Iterator[str]:
        yield from dict.fromkeys(full.split("/")[0] for full in [*self.index, *self._names()])

    def get(self, name: str, default: object = None) -> Any:
        """Give what is called `name`, or `default`."""
        try:
            return self[name]
        except KeyError:
            return default

    def read(self, name: str, k: int, key: object) -> Any:
        """Read from one dataset of part `k`, which stays open meanwhile."""
        with self._lock:
            return values_of(self.part(k)[name], key)

    def part(self, k: int) -> h5py.File:
        """Open part `k`, or give it when it is open.

        Raises
        ------
        CacheFormatError
            If it is missing, cut short, or not the part that the index means.
        """
        with self._lock:
            file = self._open.pop(k, None)
            if file is None:
                file = self._open_part(self.parts[k])
                while len(self._open) >= _OPEN_PARTS:
                    self._open.pop(next(iter(self._open))).close()
            self._open[k] = file  # the last one in, so that the others are closed before it
            return file

    def require_part(self, part: Part) -> None:
        """Refuse a part that is missing, a link, or of another size, without opening it."""
        try:
            found = (self.path / part.name).lstat()
        except OSError:
            raise CacheFormatError(
                f"{self.path}: part {part.name} is missing; if the cache was replaced just now, "
                "open it again"
            ) from None
        if not stat.S_ISREG(found.st_mode):
            raise CacheFormatError(f"{self.path}: part {part.name} is a link or no file")
        if found.st_size != part.n_bytes:
            raise CacheFormatError(
                f"{self.path}: part {part.name} has {found.st_size} bytes, and the index says "
                f"{part.n_bytes}; it is cut short or another file"
            )

    def _open_part(self, part: Part) -> h5py.File:
        self.require_part(part)
        file, spec = open_file(self.path / part.name)
        try:
            self._check_part(file, spec, part)
        except CacheFormatError:
            file.close()
            raise
        return file

    def _check_part(self, file: h5py.File, spec: ExtractSpec, part: Part) -> None:
        where = f"{self.path}: part {part.name}"
        if spec.fingerprint != self.spec.fingerprint:
            raise CacheFormatError(f"{where} has another fingerprint than the index")
        n_rows, wanted = int(file["features"].shape[0]), part.stop - part.start
        if n_rows != wanted:
            raise CacheFormatError(f"{where} holds {n_rows} rows, and the index says {wanted}")
        found = _tables(file)
        self._tables = self._tables or found
        if found != self._tables:
            odd = min(
                name
                for name in {**found, **self._tables}
                if found.get(name) != self._tables.get(name)
            )
            raise CacheFormatError(f"{where} holds another /{odd} than the other parts")
        if _classes(file) != _classes(self.index):
            raise CacheFormatError(f"{where} names other classes than the index")

    def _names(self) -> dict[str, tuple[Any, ...]]:
        if not self._tables:
            self.part(0)
        return self._tables


def open_trusted(path: Path) -> tuple[h5py.File | Folder, ExtractSpec]:
    """Open a cache for reading, a file or a folder, after checking what it is made of.

    Raises
    ------
    CacheFormatError
        If it is not a cache, is damaged, or holds what a cache must not hold.
    CacheError
        If there is no such cache.
    """
    if not path.is_dir():
        return open_file(path)
    folder = Folder(path)
    try:
        for part in folder.parts:
            folder.require_part(part)
        folder.part(0)
    except CacheError:
        folder.close()
        raise
    return folder, folder.spec


def cache_files(path: Path) -> list[Path]:
    """List the files that hold the rows of a cache: the file itself, or the parts."""
    if not path.is_dir():
        return [path]
    with Folder(path) as folder:
        return [path / part.name for part in folder.parts]


def holds_cache(path: Path) -> bool:
    """True if there is something to open; a folder that waits for its first parts holds nothing."""
    return path.exists() and not (path.is_dir() and not any(path.glob("[!.]*")))


def _tables(file: h5py.File) -> dict[str, tuple[Any, ...]]:
    """Type and width of every dataset that has a value for each row."""
    names = ["features", "ids", "paths", "content", "stamps", "row_digest", "labels", "split"]
    names += [f"{group}/{name}" for group in _GROUPS for name in file.get(group, ())]
    return {n: (file[n].dtype.str, file[n].shape[1:]) for n in names if n in file}


def _classes(file: h5py.File) -> list[str] | None:
    return read_text(file["classes"]) if "classes" in file else None
