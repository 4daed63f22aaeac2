"""Text by rows, held as bytes: a million names take tens of megabytes, not hundreds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from featx.cache.format import BLOCK_ROWS, values_of
from featx.errors import CacheFormatError


class Text(Sequence[str]):
    """A column of text that reads like a list of strings.

    Parameters
    ----------
    data
        UTF-8 of all rows, one after the other.
    ends
        int64, shape (n,): where each row ends in `data`.

    Examples
    --------
    >>> import numpy as np
    >>> names = Text(b"catdog", np.array([3, 6]))
    >>> names[1], list(names), names == ["cat", "dog"]
    ('dog', ['cat', 'dog'], True)
    """

    def __init__(self, data: bytes | bytearray, ends: NDArray[np.int64]) -> None:
        self._data, self._ends = data, ends

    @classmethod
    def read(cls, dataset: h5py.Dataset) -> Text:
        """Read a column by blocks.

        Raises
        ------
        CacheFormatError
            If it is damaged, or not UTF-8.
        """
        data, ends = bytearray(), np.empty(dataset.shape[0], np.int64)
        for start in range(0, len(ends), BLOCK_ROWS):
            values = values_of(dataset, slice(start, start + BLOCK_ROWS)).tolist()
            lengths = np.fromiter(map(len, values), np.int64, len(values))
            stop = start + len(values)
            ends[start:stop] = len(data) + np.cumsum(lengths)
            joined = b"".join(values)
            _require_text(joined, ends[start:stop] - lengths - len(data), lengths, dataset)
            data += joined
        return cls(data, ends)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, key: int) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> list[str]: ...
    def __getitem__(self, key: int | slice) -> str | list[str]:
        if isinstance(key, slice):
            return [self[row] for row in range(*key.indices(len(self)))]
        row = int(key)
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        row %= len(self)
        start = int(self._ends[row - 1]) if row else 0
        return self._data[start : int(self._ends[row])].decode()

    def __iter__(self) -> Iterator[str]:
        start = 0
        for at in range(0, len(self), BLOCK_ROWS):
            for end in self._ends[at : at + BLOCK_ROWS].tolist():
                yield self._data[start:end].decode()
                start = end

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, (str, bytes)):
            return NotImplemented
        if len(self) != len(other):
            return False
        return all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Make what a list of the same strings would."""
        if copy is False:
            raise ValueError("text is held as bytes; an array of it is a copy")
        return np.array(list(self), dtype)

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"<Text of {len(self)} rows: {shown}{', ...' if len(self) > 3 else ''}>"


def _require_text(
    joined: bytes, starts: NDArray[np.int64], lengths: NDArray[np.int64], dataset: h5py.Dataset
) -> None:
    """All of it must be UTF-8, and no row may begin within a character."""
    try:
        joined.decode()
    except UnicodeDecodeError:
        raise CacheFormatError(f"{dataset.name} is not UTF-8 text") from None
    first = np.frombuffer(joined, np.uint8)[starts[lengths > 0]]
    if ((first & 0xC0) == 0x80).any():
        raise CacheFormatError(f"{dataset.name} is not UTF-8 text")
