"""Some of the rows of a column, as a column: text is made only when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

_BLOCK = 8192  # strings that are Python objects at one time


class Picked(Sequence[str]):
    """Rows of another column of text.

    Parameters
    ----------
    strings
        The other column.
    rows
        int64, shape (n,), ascending.

    Examples
    --------
    >>> some = Picked(["ant", "bee", "cat"], np.array([0, 2]))
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
def pick(column: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]: ...
@overload
def pick(column: Sequence[str], rows: NDArray[np.int64]) -> Sequence[str]: ...
def pick(
    column: NDArray[Any] | Sequence[str], rows: NDArray[np.int64]
) -> NDArray[Any] | Sequence[str]:
    """Pick ascending rows of a column; all of them are the column itself."""
    if len(rows) == len(column):
        return column
    return column[rows] if isinstance(column, np.ndarray) else Picked(column, rows)
