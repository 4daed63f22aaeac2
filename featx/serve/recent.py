"""The last pictures of a server: whether they have changed since the training."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.auditing.shift import LEAST_ROWS
from featx.fitting.drift import Drift, compare_rows
from featx.model import Model
from featx.model.likeness import Likeness

SIZE = 500
"""Pictures that are remembered, by their features."""
_AGAIN = 0.1  # share of the pictures that must be new before the test is made again
_SAME = 1e-4  # distance within which a picture is one of the training


class RecentPictures:
    """Features of the last pictures, and their test against those of the training.

    Pictures of the training are not taken in, and copies count once. The test is made when it is
    asked for, and again once a tenth of the pictures is new.

    Parameters
    ----------
    model, training
        What is served, and the rows that it was trained on.
    size
        How many pictures.

    Examples
    --------
    >>> recent = RecentPictures(model, training, 500)  # doctest: +SKIP
    >>> recent.add(X, distances)  # doctest: +SKIP
    >>> recent.drift().p_value  # doctest: +SKIP
    0.38
    """

    def __init__(self, model: Model, training: Likeness, size: int = SIZE) -> None:
        self.model, self.training, self.size = model, training, size
        self._rows: dict[bytes, NDArray[np.float32]] = {}  # in the order in which they came
        self._change, self._test = threading.Lock(), threading.Lock()
        self._new = 0
        self._found: Drift | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, X: NDArray[np.float32], distances: NDArray[Any]) -> None:
        """Remember pictures.

        Parameters
        ----------
        X
            Shape (n, n_features).
        distances
            Shape (n,), to the nearest of the training.
        """
        with self._change:
            for row in X[distances > _SAME]:
                if (key := row.tobytes()) not in self._rows:
                    self._rows[key] = row
                    self._new += 1
                if len(self._rows) > self.size:
                    del self._rows[next(iter(self._rows))]

    def drift(self) -> Drift | None:
        """Test the pictures; None while there are fewer than 20."""
        with self._test:
            with self._change:
                rows = list(self._rows.values())
                due = self._found is None or self._new >= max(1, _AGAIN * len(rows))
                if len(rows) < LEAST_ROWS or not due:
                    return self._found
                self._new = 0
            names = [str(k) for k in range(len(rows))]
            self._found = compare_rows(self.model, self.training, np.stack(rows), names)
            return self._found
