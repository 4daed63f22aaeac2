"""Names of any length as keys of 16 bytes, and tables that are sorted and searched in place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
