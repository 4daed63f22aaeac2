"""Rows that need no computing: those of the cache in place and of the shards beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.cache.folder import cache_files, open_trusted
from featx.cache.format import row_blocks, vector_datasets
from featx.cache.h5file import open_file
from featx.cache.ids import KEY_DTYPE, KeyTable, keys_of
from featx.cache.staging import SHARD_ROWS, complete_shards
from featx.cache.verify import damaged_rows
from featx.errors import CacheError, CacheFormatError
from featx.items import Stamp
from featx.spec import ExtractSpec

_KEY = KEY_DTYPE.itemsize
_NUMBER = np.dtype(">i4")  # its bytes sort as it does
_RECENT_NS = 2_000_000_000  # a file changed this shortly before it was read may change unseen


class KnownRows:
    """Finished rows by content, and by id for files that have not been touched.

    A row takes 24 bytes, and 20 more until `forget_names`, however long its id is: ids and contents
    are known by `keys_of` them.

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
        self.spec, self.shards = spec, shards
        self.files: list[Path] = []
        self.damaged = 0
        self._contents = KeyTable(2 * _NUMBER.itemsize)  # file and row
        self.forget_names()
        paths = [] if cache is None else cache_files(cache)
        try:
            sound = [self._sound_rows(path) for path in paths]
            self._contents.reserve(sum(map(len, sound)))
            for path, rows in zip(paths, sound, strict=True):
                self._index(path, rows)
            self.refresh()
            self._names.reserve(sum(map(len, sound)))
            for path, rows in zip(paths, sound, strict=True):
                self._index_names(path, rows)
            self._names.sort()
        except OSError as error:
            if isinstance(error, CacheFormatError):
                raise
            raise CacheFormatError(f"{cache}: the names of its rows are damaged") from error

    def _open(self, path: Path) -> h5py.File:
        file, spec = open_file(path)
        if spec.fingerprint != self.spec.fingerprint:
            file.close()
            raise CacheFormatError(f"{path} has another fingerprint than this run")
        return file

    def _sound_rows(self, path: Path) -> NDArray[np.bool_]:
        """Check every row of a file in place."""
        with self._open(path) as file:
            sound = ~damaged_rows(file, self.spec)
        self.damaged += len(sound) - int(sound.sum())
        return sound

    def _index(self, path: Path, sound: NDArray[np.bool_] | None = None) -> None:
        """Take the contents of a file: all or, if it is damaged, none of them."""
        before = len(self._contents)
        with self._open(path) as file:
            content = file["content"]
            try:
                for rows in row_blocks(len(content)):
                    kept = slice(None) if sound is None else sound[rows]
                    places = np.empty((rows.stop - rows.start, 2), _NUMBER)
                    places[:, 0], places[:, 1] = len(self.files), np.arange(rows.start, rows.stop)
                    keys = keys_of(content[rows][kept].tolist())
                    self._contents.add(keys, places[kept].view(np.uint8))
            except OSError:
                self._contents.cut(before)
                raise
        self.files.append(path)

    def _index_names(self, path: Path, sound: NDArray[np.bool_]) -> None:
        """Take the names of a file's rows whose stamps prove something: entries of contents."""
        with self._open(path) as file:
            for rows in row_blocks(len(sound) if "stamps" in file else 0):
                stamps = file["stamps"][rows]
                kept = sound[rows] & (stamps[:, 1] != 0)
                keys = _name_keys(file["ids"][rows][kept].tolist(), stamps[kept])
                at, _ = self._contents.find(keys_of(file["content"][rows][kept].tolist()))
                self._names.add(keys, at.astype(_NUMBER)[:, None].view(np.uint8))

    def refresh(self) -> None:
        """Take the shards that have come since; they were read back when they were written."""
        self.forget_names()  # which name entries that may be others then
        taken = set(self.files)
        new = [path for path in complete_shards(self.shards) if path not in taken]
        self._contents.reserve(SHARD_ROWS * len(new))
        for path in new:
            with contextlib.suppress(OSError):
                self._index(path)
        self._contents.sort()

    def __len__(self) -> int:
        return len(self._contents)

    def untouched(self, ids: Sequence[str], stamps: NDArray[np.int64]) -> NDArray[np.bytes_]:
        """Find the rows of ids whose size and time of change still hold.

        Returns
        -------
        content : `KEY_DTYPE`, shape (n,)
            Key of the content of each row, empty where there is none.
        """
        found = np.zeros(len(ids), KEY_DTYPE)
        for items in row_blocks(len(ids)):
            names = [name.encode() for name in ids[items]]
            at, there = self._names.find(_name_keys(names, stamps[items]))
            there &= stamps[items, 1] != 0
            entries = self._names.values(at[there]).view(_NUMBER)[:, 0]
            found[items][there] = self._contents.keys(entries)
        return found

    def forget_names(self) -> None:
        """Free what only `untouched` needs."""
        self._names = KeyTable(_NUMBER.itemsize)

    def __contains__(self, content: bytes) -> bool:
        """True if there is a row of an image with this digest."""
        return bool(self.has(keys_of([content]))[0])

    def has(self, content: NDArray[np.bytes_]) -> NDArray[np.bool_]:
        """Tell for which keys of contents there is a row."""
        found = np.empty(len(content), bool)
        for rows in row_blocks(len(content)):
            found[rows] = self._contents.find(content[rows])[1]
        return found

    def places(self, content: NDArray[np.bytes_]) -> NDArray[np.int32]:
        """Where the row of each content lies.

        Parameters
        ----------
        content
            `KEY_DTYPE`, shape (n,).

        Returns
        -------
        places : int32, shape (n, 2)
            A file of `files`, and a row in it: of the newest file where several have it.

        Raises
        ------
        CacheError
            If a row is missing.
        """
        found = np.empty((len(content), 2), np.int32)
        for rows in row_blocks(len(content)):
            at, there = self._contents.find(content[rows])
            if not there.all():
                raise CacheError("rows that were written are missing; run the same command again")
            found[rows] = self._contents.values(at).view(_NUMBER)
        return found

    def vectors(self, content: NDArray[np.bytes_]) -> list[NDArray[np.float32]]:
        """Read the rows of a few contents.

        Parameters
        ----------
        content
            `KEY_DTYPE`, shape (n,).

        Returns
        -------
        taps : one float32 array of shape (n, d_k) a tap, in the spec's order

        Raises
        ------
        CacheError
            If a row is missing.
        """
        taps: list[list[NDArray[np.float32]]] = [[] for _ in vector_datasets(self.spec)]
        for number, row in self.places(content).tolist():
            with self._open(self.files[number]) as file:
                for rows, name in zip(taps, vector_datasets(self.spec), strict=True):
                    rows.append(file[name][row].astype(np.float32))
        return [np.stack(rows) for rows in taps]

    def forget_contents(self) -> None:
        """Free all but `files`, once every place is known."""
        self._contents = KeyTable(2 * _NUMBER.itemsize)


def rows_by_id(cache: Path) -> KeyTable:
    """Key of the content of each row of a cache, by the key of its id; 32 bytes a row."""
    file, _ = open_trusted(cache)
    with file:
        table = KeyTable(_KEY, len(file["ids"]))
        for rows in row_blocks(len(file["ids"])):
            contents = keys_of(file["content"][rows].tolist())
            table.add(
                keys_of(file["ids"][rows].tolist()), contents.view(np.uint8).reshape(-1, _KEY)
            )
    table.sort()
    return table


def _name_keys(names: Sequence[bytes], stamps: NDArray[np.int64]) -> NDArray[np.bytes_]:
    """The key by which an untouched file is known: its id, size and time of change."""
    pairs = zip(names, stamps.tolist(), strict=True)
    return keys_of(b"%b\0%d %d" % (name, size, changed) for name, (size, changed) in pairs)


def trusted_stamp(stamp: Stamp, now_ns: int) -> tuple[int, int]:
    """Keep size and state of a file only if a later change could not carry the same time."""
    return (stamp.size, stamp.state) if stamp.mtime_ns < now_ns - _RECENT_NS else (0, 0)
