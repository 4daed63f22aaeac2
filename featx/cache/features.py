"""The matrix of one tap, read from its file or files by rows."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from featx.cache.format import values_of


class Beside:
    """Matrices of the same rows side by side, to be read like one."""

    def __init__(self, parts: Sequence[h5py.Dataset]) -> None:
        self._parts = list(parts)
        self.shape = (parts[0].shape[0], sum(part.shape[1] for part in parts))
        self.dtype = parts[0].dtype
        self.chunks = parts[0].chunks

    def __getitem__(self, key: Any) -> NDArray[Any]:
        return np.concatenate([values_of(part, key) for part in self._parts], axis=-1)


class Features:
    """The matrix of one tap, read from the file by rows when it is indexed.

    Parameters
    ----------
    dataset
        Where the rows lie.
    owner
        The open cache, which must live as long as its features do.

    Raises
    ------
    CacheFormatError
        When rows are read that are damaged.

    Examples
    --------
    ``X[10:20]`` reads ten rows, ``np.asarray(X)`` reads all, ``X.batches(4096)`` iterates.
    """

    def __init__(self, dataset: h5py.Dataset | Beside, owner: object = None) -> None:
        self._dataset, self._owner = dataset, owner
        self.shape: tuple[int, int] = dataset.shape
        self.dtype = dataset.dtype
        self.ndim = 2

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        rows, *rest = key if isinstance(key, tuple) else (key,)
        if np.ndim(rows) and any(map(np.ndim, rest)):
            # numpy would pair them, and h5py refuses them.
            raise IndexError("rows and columns cannot both be lists; write X[rows][:, columns]")
        found = self._rows(rows)
        return found[(slice(None) if found.ndim == 2 else Ellipsis, *rest)] if rest else found

    def _rows(self, rows: Any) -> NDArray[Any]:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return np.asarray(values_of(self._dataset, slice(start, stop)))
            rows = np.arange(start, stop, step)
        if isinstance(rows, (int, np.integer)):
            if not -len(self) <= rows < len(self):
                raise IndexError(f"row {rows} of {len(self)}")
            return np.asarray(values_of(self._dataset, int(rows) % len(self)))
        if rows is Ellipsis:
            return np.asarray(self)
        wanted = np.asarray(rows)
        if wanted.dtype == bool:
            if wanted.shape != (len(self),):
                raise IndexError(f"a mask of shape {wanted.shape} for {len(self)} rows")
            wanted = np.flatnonzero(wanted)
        if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):
            raise IndexError(f"rows are whole numbers in one list, got {reprlib.repr(rows)}")
        wanted = wanted.astype(np.int64)
        if wanted.size and (wanted.min() < -len(self) or wanted.max() >= len(self)):
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of {len(self)}")
        return self._gather(wanted % max(1, len(self)))

    def _gather(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Rows in any order: each stretch of chunks that holds some is read once."""
        found = np.empty((len(rows), self.shape[1]), self.dtype)
        order = np.argsort(rows, kind="stable")
        step = (self._dataset.chunks or (4096,))[0]
        chunks = rows[order] // step
        for at in np.split(order, np.flatnonzero(np.diff(chunks)) + 1) if len(rows) else []:
            start = int(rows[at[0]]) // step * step
            found[at] = values_of(self._dataset, slice(start, start + step))[rows[at] - start]
        return found

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("features lie in a file; reading them makes a copy")
        return np.asarray(values_of(self._dataset), dtype)

    def batches(self, n: int = 4096) -> Iterator[NDArray[Any]]:
        """Iterate over consecutive blocks of `n` rows; the last may be shorter."""
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        for start in range(0, len(self), n):
            yield self[start : start + n]

    def __repr__(self) -> str:
        return f"<Features {self.shape[0]} x {self.shape[1]} {self.dtype}, read by rows>"
