"""Columns of text for millions of items: bytes side by side instead of one string each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featx.typing import RowValues

_BLOCK = 8192  # strings that are Python objects at one time
_POOL = pa.system_memory_pool()  # Arrow's own keeps what is freed


class Text(Sequence[str]):
    """An unchanging list of strings that holds their UTF-8 bytes and 8 bytes more for each.

    Parameters
    ----------
    data
        Arrow strings, of any string type.

    Examples
    --------
    >>> names = Text.of(["a", "bc"])
    >>> names[1], names == ["a", "bc"]
    ('bc', True)
    """

    def __init__(self, data: Any) -> None:
        chunks = data.chunks if isinstance(data, pa.ChunkedArray) else [data]
        whole = [chunk.cast(pa.large_string(), memory_pool=_POOL) for chunk in chunks]
        # One piece, so that a row is found by its number alone.
        self._data = pa.concat_arrays(whole, _POOL) if whole else pa.array([], pa.large_string())

    @classmethod
    def of(cls, strings: Iterable[str]) -> Text:
        """Pack strings, a block at a time."""
        chunks, block = [], []
        for text in strings:
            block.append(text)
            if len(block) == _BLOCK:
                chunks.append(pa.array(block, pa.large_string(), memory_pool=_POOL))
                block = []
        chunks.append(pa.array(block, pa.large_string(), memory_pool=_POOL))
        return cls(pa.chunked_array(chunks))

    @classmethod
    def joined(cls, parts: Sequence[Text]) -> Text:
        """Set columns one after the other."""
        return cls(pa.chunked_array([part._data for part in parts], pa.large_string()))

    def prefixed(self, prefix: str) -> Text:
        """Write `prefix` before each string."""
        first, between = (pa.scalar(text, pa.large_string()) for text in (prefix, ""))
        return Text(pc.binary_join_element_wise(first, self._data, between, memory_pool=_POOL))

    def order(self) -> NDArray[np.int64]:
        """Places of the strings in ascending order, as Python sorts them."""
        found: NDArray[np.uint64] = pc.sort_indices(self._data, memory_pool=_POOL).to_numpy()
        return found.view(np.int64)

    def take(self, places: NDArray[np.int64]) -> Text:
        """Pick strings by place."""
        return Text(pc.take(self._data, pa.array(places), memory_pool=_POOL))

    def __len__(self) -> int:
        return len(self._data)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            if step == 1:
                return list(self._data[start : max(start, stop)].to_pylist())
            return [self[k] for k in range(start, stop, step)]
        return str(self._data[int(place)].as_py())

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _BLOCK):
            yield from self._data[start : start + _BLOCK].to_pylist()

    def __eq__(self, other: object) -> bool:
        return _same(self, other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return _shown(self)


class Prefixed(Sequence[str]):
    """The strings of another column with the same words before each, made when asked for."""

    def __init__(self, prefix: str, strings: Sequence[str]) -> None:
        self.prefix, self.strings = prefix, strings

    def __len__(self) -> int:
        return len(self.strings)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self.prefix + text for text in self.strings[place]]
        return self.prefix + self.strings[place]

    def __iter__(self) -> Iterator[str]:
        return (self.prefix + text for text in self.strings)

    def __eq__(self, other: object) -> bool:
        return _same(self, other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return _shown(self)


def _same(text: Sequence[str], other: object) -> bool:
    if not isinstance(other, Sequence) or isinstance(other, str) or len(text) != len(other):
        return False
    return all(a == b for a, b in zip(text, other, strict=True))


def _shown(text: Sequence[str]) -> str:
    more = ", ..." if len(text) > 3 else ""
    return f"<{len(text)} strings: {', '.join(map(repr, text[:3]))}{more}>"


def first_duplicate(strings: Sequence[str]) -> tuple[int, int] | None:
    """Rows of the first two equal strings; None if all differ, which takes 8 bytes an item.

    Examples
    --------
    >>> first_duplicate(["a", "b", "a"])
    (0, 2)
    """
    ordered = _hashes(strings)
    ordered.sort()
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    seen: dict[str, int] = {}
    for row in np.flatnonzero(np.isin(_hashes(strings), twice)).tolist() if len(twice) else ():
        first = seen.setdefault(strings[row], row)
        if first != row:
            return first, row
    return None


def _hashes(strings: Sequence[str]) -> NDArray[np.int64]:
    return np.fromiter(map(hash, strings), np.int64, len(strings))


def shared(names: Iterable[str | None]) -> list[str | None]:
    """List names so that equal ones are one object: 8 bytes an item."""
    known: dict[str, str] = {}
    return [None if name is None else known.setdefault(name, name) for name in names]


_BLOCK = 8192  # strings that are Python objects at one time


class TextSubset(Sequence[str]):
    """Rows of another column of text.

    Parameters
    ----------
    strings
        The other column.
    rows
        int64, shape (n,), ascending.

    Examples
    --------
    >>> some = TextSubset(["ant", "bee", "cat"], np.array([0, 2]))
    >>> some[1], some[:], list(some)
    ('cat', ['ant', 'cat'], ['ant', 'cat'])
    """

    def __init__(self, strings: Sequence[str], rows: NDArray[np.int64]) -> None:
        self._strings, self._rows = strings, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if not isinstance(place, slice):
            return self._strings[int(self._rows[place])]
        rows = self._rows[place].tolist()
        span = rows[-1] - rows[0] + 1 if rows else 0
        if not 0 < span <= 2 * len(rows):
            return [self._strings[row] for row in rows]
        # They lie close together: one slice is far quicker than as many strings one by one.
        near = self._strings[rows[0] : rows[0] + span]
        return [near[row - rows[0]] for row in rows]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _BLOCK):
            yield from self[start : start + _BLOCK]


@overload
def pick(column: RowValues, rows: NDArray[np.int64]) -> RowValues: ...
@overload
def pick(column: Sequence[str], rows: NDArray[np.int64]) -> Sequence[str]: ...
def pick(column: RowValues | Sequence[str], rows: NDArray[np.int64]) -> RowValues | Sequence[str]:
    """Pick ascending rows of a column; all of them are the column itself."""
    if len(rows) == len(column):
        return column
    return column[rows] if isinstance(column, np.ndarray) else TextSubset(column, rows)


_STARTS = (*"=+-@\t\r\n'", *"\uff1d\uff0b\uff0d\uff20")  # full-width forms count in some countries


def excel_safe(value: object) -> Any:
    """Put an apostrophe before text that a spreadsheet would compute; numbers stay.

    Text that begins with an apostrophe gets one more: what was written is always what stands
    behind the first apostrophe of a field that begins with one.

    Examples
    --------
    >>> excel_safe("=1+1"), excel_safe("a=1"), excel_safe(-0.5)
    ("'=1+1", 'a=1', -0.5)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_STARTS) else value
