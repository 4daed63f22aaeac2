"""One dataset that goes on from part to part, indexed as h5py indexes one that lies in a file."""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

if TYPE_CHECKING:
    from featx.cache.folder import Folder


class Joined:
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

    def __getitem__(self, key: Any) -> Any:
        rows, *rest = self._axes(key)
        if hasattr(rows, "__index__") and not np.ndim(rows):
            row = self._inside(operator.index(rows))
            k = self._part_of(row)
            return self._read(k, (row - int(self._starts[k]), *rest))
        pieces = [self._read(k, (here, *rest)) for k, here in self._in_parts(rows)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _read(self, k: int, key: tuple[Any, ...]) -> Any:
        return self._folder.read(self.name[1:], k, key)

    def _axes(self, key: Any) -> tuple[Any, ...]:
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

    def _in_parts(self, rows: Any) -> list[tuple[int, Any]]:
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
