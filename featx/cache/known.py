"""Rows that need no computing: those of the cache in place and of the shards beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.cache.distrust import open_file
from featx.cache.fingerprint import ExtractSpec
from featx.cache.folder import cache_files
from featx.cache.format import BLOCK_ROWS, CONTENT_DTYPE
from featx.cache.shards import complete_shards
from featx.cache.verify import damaged_rows
from featx.errors import CacheError, CacheFormatError

_KEY = np.dtype("S16")
_RECENT_NS = 2_000_000_000  # a file changed this shortly before it was read may change unseen


class _Places:
    """Places of rows, found by a digest of what names them: 24 bytes a row."""

    def __init__(self) -> None:
        self._new: list[tuple[NDArray[Any], NDArray[np.int32]]] = []
        self._keys, self._at = np.empty(0, _KEY), np.empty((0, 2), np.int32)

    def add(self, keys: NDArray[Any], number: int, rows: NDArray[np.integer[Any]]) -> None:
        """Take rows of the file `number`."""
        at = np.empty((len(rows), 2), np.int32)
        at[:, 0], at[:, 1] = number, rows
        self._new.append((keys, at))

    def sort(self) -> None:
        """Make what was added be found."""
        if self._new:
            keys = np.concatenate([self._keys, *(keys for keys, _ in self._new)])
            at = np.concatenate([self._at, *(at for _, at in self._new)])
            self._new.clear()
            order = np.argsort(keys, kind="stable").astype(np.int32)
            self._keys = keys = keys[order]
            self._at = at[order]

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, names: Sequence[bytes]) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
        """Tell which names are there, and the place of each."""
        keys = _keys(names)
        if not len(self):
            return np.zeros(len(keys), bool), np.zeros((len(keys), 2), np.int32)
        # The last of equal ones: the newest, for what is in place is added first.
        at = np.maximum(np.searchsorted(self._keys, keys, "right") - 1, 0)
        return self._keys[at] == keys, self._at[at]


def _keys(names: Sequence[bytes]) -> NDArray[Any]:
    digests = b"".join(hashlib.blake2b(name, digest_size=16).digest() for name in names)
    return np.frombuffer(digests, _KEY)


def _name(item: bytes, stamp: Sequence[int]) -> bytes:
    """What an untouched file is known by: its id, size and time of change."""
    size, changed = stamp
    return b"%b\0%d %d" % (item, size, changed)


def _raw(contents: NDArray[Any]) -> NDArray[np.uint8]:
    """Digests as bytes in place of hexadecimal text, uint8, shape (n, 32)."""
    text = contents.astype(CONTENT_DTYPE).tobytes()
    try:
        raw = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        raw = b""
    if raw.hex().encode() != text:
        raise CacheFormatError("/content holds other things than SHA-256 in hexadecimal")
    return np.frombuffer(raw, np.uint8).reshape(-1, 32)


def _column_keys(dataset: h5py.Dataset) -> NDArray[Any]:
    found = np.empty(dataset.shape[0], _KEY)
    for start in range(0, len(found), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        found[rows] = _keys(dataset[rows].tolist())
    return found


class KnownRows:
    """Finished rows by content, and by id for files that have not been touched.

    Parameters
    ----------
    spec
        Only files of its fingerprint count.
    cache
        The cache in place, a file or a folder, or None.
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
        self._by_content, self._by_name = _Places(), _Places()
        self._content_of: list[NDArray[np.uint8]] = []  # of each file, 32 bytes a row
        self.shards = shards
        for path in [] if cache is None else cache_files(cache):
            self._take(path, is_cache=True)
        self.refresh()
        self._by_name.sort()
        self.check = False

    def _take(self, path: Path, *, is_cache: bool) -> None:
        try:
            file, spec = open_file(path)
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
        content = _column_keys(file["content"])
        bad = damaged_rows(file, spec) if self.check else np.zeros(len(content), bool)
        number, rows = len(self.files), np.flatnonzero(~bad)
        if self.check:
            self._index_names(file, number, rows)
        self.damaged += int(bad.sum())
        self.files.append(path)
        self._by_content.add(content[rows], number, rows)

    def _index_names(self, file: h5py.File, number: int, rows: NDArray[np.int64]) -> None:
        """Keep what `untouched` needs of the rows whose stamps prove something."""
        stamps = file["stamps"][...] if "stamps" in file else np.zeros((len(file["ids"]), 2), int)
        rows = rows[stamps[rows, 1] != 0]
        keys, contents = np.empty(len(rows), _KEY), np.empty((len(rows), 32), np.uint8)
        for start in range(0, len(rows), BLOCK_ROWS):
            here = rows[start : start + BLOCK_ROWS]
            span, inside = slice(int(here[0]), int(here[-1]) + 1), here - here[0]
            names = file["ids"][span][inside].tolist()
            stop = start + len(here)
            keys[start:stop] = _keys(list(map(_name, names, stamps[here].tolist())))
            contents[start:stop] = _raw(file["content"][span][inside])
        self._by_name.add(keys, number, np.arange(len(rows)))
        self._content_of.append(contents)

    def refresh(self) -> None:
        """Take the shards that have come since; they were read back when they were written."""
        taken = set(self.files)
        for path in complete_shards(self.shards):
            if path not in taken:
                self._take(path, is_cache=False)
        self._by_content.sort()

    def __len__(self) -> int:
        return len(self._by_content)

    def untouched(self, item: str, stamp: NDArray[np.int64]) -> bytes:
        """Digest of the row of this id if size and time of change still hold, else nothing."""
        if not stamp[1]:
            return b""
        (there,), ((number, row),) = self._by_name.find([_name(item.encode(), stamp.tolist())])
        return self._content_of[number][row].tobytes().hex().encode() if there else b""

    def __contains__(self, content: bytes) -> bool:
        """Whether there is a row of an image with this digest."""
        return bool(self._by_content.find([content])[0][0])

    def places(self, content: NDArray[np.bytes_]) -> NDArray[np.int32]:
        """Where the row of each digest lies.

        Returns
        -------
        places : int32, shape (n, 2)
            A file of `files`, and a row in it.

        Raises
        ------
        CacheError
            If a row is missing.
        """
        found = np.empty((len(content), 2), np.int32)
        for start in range(0, len(content), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            there, found[rows] = self._by_content.find(content[rows].tolist())
            if not there.all():
                raise CacheError("rows that were written are missing; run the same command again")
        return found

    def forget_names(self) -> None:
        """Free what only `untouched` needs."""
        self._by_name = _Places()
        self._content_of.clear()


def trusted_stamp(size: int, mtime_ns: int, now_ns: int) -> tuple[int, int]:
    """Keep a stamp only if a later change of the file could not carry the same time."""
    return (size, mtime_ns) if mtime_ns < now_ns - _RECENT_NS else (0, 0)
