"""Features that are read in blocks of rows, once in every pass."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from featx.errors import FitError
from featx.selection.sweep import limited_threads

Array = NDArray[Any]
Rows = NDArray[np.intp]
Found = TypeVar("Found")

BLOCK_BYTES = 16 << 20
"""Of float32 features in one block: a few are in memory at a time, whatever the matrix is."""


@dataclass
class Blocks:
    """Rows of features that need not fit into memory.

    Parameters
    ----------
    read
        ``read(rows) -> X`` of shape (len(rows), n_features), any float type; `rows` ascend by one.
        Called from several threads.
    n_rows, n_features
        Shape of the whole.
    step
        Rows of a block; as many as `BLOCK_BYTES` hold when 0.
    workers
        Threads that work on blocks side by side; the results do not depend on it.
    passes
        How often everything has been read so far.

    Examples
    --------
    >>> X = np.arange(6.0).reshape(3, 2)
    >>> blocks = Blocks.of(X)
    >>> [float(part) for part in blocks.map(lambda rows, block: block.sum())], blocks.passes
    ([15.0], 1)
    """

    read: Callable[[Rows], Array]
    n_rows: int
    n_features: int
    step: int = 0
    workers: int = field(default_factory=lambda: _cores())
    passes: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.step = self.step or max(64, BLOCK_BYTES // (4 * max(1, self.n_features)))

    @classmethod
    def of(cls, X: Any, step: int = 0) -> Blocks:
        """Take what has a shape and can be cut into slices of rows, in memory or in a file."""
        n_rows, n_features = X.shape
        return cls(lambda at: np.asarray(X[at[0] : at[-1] + 1]), n_rows, n_features, step)

    def map(self, function: Callable[[Rows, Array], Found]) -> Iterator[Found]:
        """Read everything once: yield ``function(rows, X)`` of each block, in order.

        Raises
        ------
        FitError
            If a block holds NaN or infinity, or is of another width.
        """
        self.passes += 1
        starts = deque(range(0, self.n_rows, self.step))
        waiting: deque[Future[Found]] = deque()
        # Each thread has a block and one core: reading, copies and products all run side by side.
        with limited_threads(1), ThreadPoolExecutor(self.workers) as pool:
            while starts or waiting:
                while starts and len(waiting) <= self.workers:
                    waiting.append(pool.submit(self._one, function, starts.popleft()))
                yield waiting.popleft().result()

    def _one(self, function: Callable[[Rows, Array], Found], start: int) -> Found:
        rows = np.arange(start, min(start + self.step, self.n_rows))
        X = np.asarray(self.read(rows), dtype=np.float32)
        if X.shape != (len(rows), self.n_features):
            raise FitError(
                f"rows {rows[0]} to {rows[-1]} of the features have shape {X.shape}; expected "
                f"({len(rows)}, {self.n_features})"
            )
        bad = rows[~np.isfinite(X).all(axis=1)]
        if len(bad):
            raise FitError(
                f"features hold NaN or infinity in {len(bad)} rows of one block "
                f"({numbered(bad)}); extract these again or leave them out"
            )
        return function(rows, X)


def numbered(rows: Rows) -> str:
    """Name the first few of some rows.

    Examples
    --------
    >>> numbered(np.array([3, 4, 9]))
    'rows 3, 4, 9'
    """
    named = ", ".join(str(row) for row in rows[:5])
    return f"row{'s' * (len(rows) > 1)} {named}{', ...' if len(rows) > 5 else ''}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
