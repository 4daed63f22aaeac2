"""Ids as keys of 16 bytes, and tables of them that are searched where they lie."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.cache.format import BLOCK_ROWS, ID_INDEX, create_rows, row_blocks, values_of

KEY_DTYPE = np.dtype("S16")
"""BLAKE2b-128 of a name; empty stands for no name."""
_KEY = KEY_DTYPE.itemsize


def keys_of(names: Iterable[bytes]) -> NDArray[np.bytes_]:
    """Digest names.

    Returns
    -------
    keys : `KEY_DTYPE`, shape (n,)
    """
    digests = b"".join(hashlib.blake2b(name, digest_size=_KEY).digest() for name in names)
    return np.frombuffer(digests, KEY_DTYPE)


class KeyTable:
    """Values of a few bytes by key: nothing but the bytes of both is held.

    Entries are added, then sorted by key and value, then found. A sorted table can be added to and
    sorted again.

    Parameters
    ----------
    width
        Bytes of a value.
    room
        How many entries are expected; more cost a copy.
    key
        Bytes of a key.

    Examples
    --------
    >>> table = KeyTable(1)
    >>> table.add(keys_of([b"cat", b"dog"]), np.array([[7], [8]], np.uint8))
    >>> table.sort()
    >>> at, there = table.find(keys_of([b"cow", b"cat"]))
    >>> there.tolist(), table.values(at[there]).tolist()
    ([False, True], [[7]])
    """

    def __init__(self, width: int, room: int = 0, *, key: int = _KEY) -> None:
        self._key = key
        # The kernel gives memory when it is first written to, so that unused room costs nothing.
        self._data = np.empty((room, key + width), np.uint8)
        self._used = 0

    def reserve(self, more: int) -> None:
        """Make room for `more` entries."""
        if (needed := self._used + more) > len(self._data):
            data = np.empty((needed, self._data.shape[1]), np.uint8)
            data[: self._used] = self.entries()
            self._data = data

    def add(self, keys: NDArray[np.bytes_], values: NDArray[np.uint8]) -> None:
        """Take values, uint8 of shape (n, width), each under its key."""
        used = self._used + len(keys)
        if used > len(self._data):
            self.reserve(used // 4 + len(keys))
        self._data[self._used : used, : self._key] = keys.view(np.uint8).reshape(-1, self._key)
        self._data[self._used : used, self._key :] = values
        self._used = used

    def cut(self, length: int) -> None:
        """Drop what was added after the first `length` entries."""
        self._used = length

    def sort(self) -> None:
        """Make what was added be found."""
        self._data = self.entries()  # a copy in another process needs no room
        self._sortable().sort()

    def __len__(self) -> int:
        return self._used

    def _sortable(self) -> NDArray[np.bytes_]:
        """Entries as texts, which compare byte by byte."""
        found: NDArray[np.bytes_] = self.entries().view(f"S{self._data.shape[1]}")[:, 0]
        return found

    def entries(self) -> NDArray[np.uint8]:
        """Keys and values in their order, uint8 of shape (n, key + width)."""
        return self._data[: self._used]

    def keys(self, at: NDArray[np.integer[Any]]) -> NDArray[np.bytes_]:
        """Keys of entries, shape (n,)."""
        found: NDArray[np.bytes_] = self.entries()[at, : self._key].view(f"S{self._key}")[:, 0]
        return found

    def values(self, at: NDArray[np.integer[Any]] | NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Values of entries, uint8 of shape (n, width)."""
        return self.entries()[at, self._key :]

    def find(self, keys: NDArray[np.bytes_]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Find keys.

        Returns
        -------
        at : int64, shape (n,)
            The entry of each key, of several with that key the one with the largest value.
        there : bool, shape (n,)
            Whether there is one; where there is none, `at` names any entry.
        """
        if not len(self):
            return np.zeros(len(keys), np.int64), np.zeros(len(keys), bool)
        wanted = np.full((len(keys), self._data.shape[1]), 0xFF, np.uint8)
        wanted[:, : self._key] = np.ascontiguousarray(keys).view(np.uint8).reshape(-1, self._key)
        entries = self._sortable()
        last = np.searchsorted(entries, wanted.view(entries.dtype)[:, 0], "right")
        at = np.maximum(last - 1, 0)
        there = (self.entries()[at, : self._key] == wanted[:, : self._key]).all(axis=1)
        return at, there


_BIG = np.dtype(">u8")  # numbers whose bytes sort as they do
_LISTED = 20  # wrong entries that are named


def hash_ids(ids: Iterable[bytes]) -> NDArray[np.uint64]:
    """Hash ids, given as UTF-8.

    Returns
    -------
    hashes : uint64, shape (n,)
    """
    digests = b"".join(hashlib.blake2b(item, digest_size=8).digest() for item in ids)
    return np.frombuffer(digests, _BIG).astype(np.uint64)


def hash_column(ids: h5py.Dataset) -> NDArray[np.uint64]:
    """Hash a column of ids by blocks."""
    found = np.empty(ids.shape[0], np.uint64)
    for block in row_blocks(len(found)):
        found[block] = hash_ids(ids[block].tolist())
    return found


def write_id_index(file: h5py.File, n_rows: int, columns: Iterable[h5py.Dataset]) -> None:
    """Write the sorted table of the `n_rows` ids in `columns`; it takes 16 bytes a row.

    Each column is read before the next is asked for.
    """
    table, start = KeyTable(8, n_rows, key=8), 0
    for ids in columns:
        for block in row_blocks(ids.shape[0]):
            hashes = hash_ids(ids[block].tolist())
            numbers = np.arange(start + block.start, start + block.stop, dtype=_BIG)
            table.add(hashes.astype(_BIG).view("S8"), numbers.view(np.uint8).reshape(-1, 8))
        start += ids.shape[0]
    table.sort()
    dataset = create_rows(file, ID_INDEX, len(table), np.dtype(np.uint64), (2,))
    for block in row_blocks(len(table)):
        dataset[block] = table.entries()[block].view(_BIG)


def find_rows(
    index: h5py.Dataset | None, ids: h5py.Dataset, wanted: Sequence[str]
) -> NDArray[np.int64]:
    """Find the row of each id.

    Parameters
    ----------
    index
        ``id_index``, or None where there is none.
    ids
        The column of ids.

    Returns
    -------
    rows : int64, shape (len(wanted),), -1 where there is no such id
    """
    names = [item.encode() for item in wanted]
    if index is None:
        return _scan(ids, names)
    hashes = hash_ids(names)
    order = np.argsort(hashes, kind="stable")
    found = np.full(len(names), -1, np.int64)
    pairs = sorted((row, at) for at, row in _candidates(index, hashes[order]))
    for _, near in itertools.groupby(pairs, lambda pair: pair[0] // BLOCK_ROWS):
        block = [(row, int(order[at])) for row, at in near if row < ids.shape[0]]
        if not block:
            continue
        first = block[0][0]
        there = values_of(ids, slice(first, block[-1][0] + 1))
        for row, at in block:  # two ids may share a hash: the id itself decides
            if there[row - first] == names[at]:
                found[at] = row
    return found


def _scan(ids: h5py.Dataset, names: list[bytes]) -> NDArray[np.int64]:
    """Search a column without an index."""
    rows: dict[bytes, int] = dict.fromkeys(names, -1)
    for start in range(0, ids.shape[0], BLOCK_ROWS):
        names_here = values_of(ids, slice(start, start + BLOCK_ROWS)).tolist()
        for row, item in enumerate(names_here, start):
            if item in rows:
                rows[item] = row
    return np.array([rows[item] for item in names], np.int64)


def _candidates(index: h5py.Dataset, hashes: NDArray[np.uint64]) -> Iterable[tuple[int, int]]:
    """Give (position in sorted `hashes`, row) of each entry with one of the hashes.

    The table is halved until a block is left that is read at once; each half is looked into only
    when one of the hashes falls there.
    """
    todo = [(0, index.shape[0], 0, len(hashes))]
    while todo:
        low, high, first, last = todo.pop()
        if low >= high or first >= last:
            continue
        if high - low <= BLOCK_ROWS:
            yield from _match(values_of(index, slice(low, high)), hashes, first, last)
            continue
        middle = (low + high) // 2
        pivot = values_of(index, (middle, 0))
        # Equal hashes may lie on both sides.
        todo.append((middle, high, int(np.searchsorted(hashes, pivot, "left")), last))
        todo.append((low, middle, first, int(np.searchsorted(hashes, pivot, "right"))))


def _match(
    entries: NDArray[np.uint64], hashes: NDArray[np.uint64], first: int, last: int
) -> Iterable[tuple[int, int]]:
    keys = np.ascontiguousarray(entries[:, 0])
    starts = np.searchsorted(keys, hashes[first:last], "left")
    stops = np.searchsorted(keys, hashes[first:last], "right")
    for k in np.flatnonzero(stops > starts).tolist():
        for entry in range(int(starts[k]), int(stops[k])):
            yield first + k, min(int(entries[entry, 1]), 2**62)


def index_problems(index: h5py.Dataset, ids: h5py.Dataset) -> list[str]:
    """Check that the table names every row once, under the hash of its id, in order.

    It takes 9 bytes a row.
    """
    n_rows = int(ids.shape[0])
    hashes, seen = hash_column(ids), np.zeros(n_rows, bool)
    before, problems = np.uint64(0), []
    for block in row_blocks(n_rows):
        entries = index[block]
        keys, rows = entries[:, 0], entries[:, 1]
        inside = rows < n_rows
        at = rows[inside].astype(np.int64)
        right = inside.copy()
        right[inside] = hashes[at] == keys[inside]
        seen[at] = True
        if keys[0] < before or (keys[1:] < keys[:-1]).any() or not right.all():
            problems.append(f"/{ID_INDEX} is wrong within entries {block.start} to {block.stop}")
        before = keys[-1]
    if not problems and not seen.all():
        problems.append(f"/{ID_INDEX} names row {int((~seen).argmax())} under no id")
    return problems[:_LISTED] or _doubled(index, ids)


def _doubled(index: h5py.Dataset, ids: h5py.Dataset) -> list[str]:
    """Name ids that two rows have, by a table that is right."""
    problems: list[str] = []
    last = np.empty((0, 2), np.uint64)
    for block in row_blocks(index.shape[0]):
        entries = np.concatenate([last, index[block]])
        keys, rows = entries[:, 0], entries[:, 1]
        for k in np.flatnonzero(keys[1:] == keys[:-1]).tolist():
            first, second = sorted((int(rows[k]), int(rows[k + 1])))
            if len(problems) < _LISTED and ids[first] == ids[second]:
                name = ids[first].decode("utf-8", "replace")
                problems.append(f"rows {first} and {second} have the same id {name}")
        last = entries[-1:]
    return problems
