"""Labelled rows: what is fitted on, and what is measured against."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.cache.features import Features
from featx.errors import FitError
from featx.labels import conflicting_rows, conflicts_text, lookalikes_text
from featx.selection.checks import Warn, warn
from featx.streaming.blocks import numbered
from featx.typing import RowValues


@dataclass(frozen=True)
class Samples:
    """Labelled rows; every array has one entry for each of them.

    Parameters
    ----------
    rows
        int64, row numbers in the cache.
    y
        Class names; float64 for a regression; int8 of 0 and 1, a column a class, for multilabel.
    task
        ``classification``, ``regression`` or ``multilabel``.
    tap
        Name of the tap.
    ids, digests
        Name and content digest of each row.
    groups, split, weights
        None where there are none.
    excluded
        Why rows of the cache were left out, and how many.
    names
        Of the classes, where rows have several labels.
    widths
        Features of each tap, in the order in which they stand side by side.
    notes
        What was assumed in reading the labels, and what looks like a mistake in them.
    seen
        Whether the network was trained on each row (`featx.tune`); None where it saw none.
    """

    rows: NDArray[np.int64]
    y: RowValues
    task: str
    tap: str
    ids: RowValues
    digests: NDArray[np.bytes_]
    groups: RowValues | None = None
    split: RowValues | None = None
    weights: NDArray[np.float64] | None = None
    excluded: dict[str, int] = field(default_factory=dict)
    features: Features | None = field(default=None, repr=False)
    names: tuple[str, ...] = ()
    widths: dict[str, int] = field(default_factory=dict)
    notes: tuple[Warn, ...] = ()
    seen: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, sorted; empty for a regression."""
        if self.names:
            return list(self.names)
        return [] if self.task == "regression" else [str(name) for name in np.unique(self.y)]

    @property
    def n_features(self) -> int:
        """Length of a row's vector."""
        assert self.features is not None
        return int(self.features.shape[1])

    def take(self, at: NDArray[Any]) -> NDArray[np.float32]:
        """Read the features of some samples from the file.

        Parameters
        ----------
        at
            Positions among these samples, not row numbers of the cache.

        Returns
        -------
        X : float32, shape (len(at), n_features)

        Raises
        ------
        FitError
            If one holds NaN or infinity.
        """
        assert self.features is not None
        X = np.asarray(self.features[self.rows[at]], dtype=np.float32)
        bad = ~np.isfinite(X).all(axis=1)
        if bad.any():
            first = self.ids[at][bad.argmax()]
            named = numbered(self.rows[at][bad])
            raise FitError(
                f"features of tap {self.tap} hold NaN or infinity in {int(bad.sum())} rows, first "
                f"{first!r} ({named} of the cache); extract them again (--precision fp32 and "
                "--dtype float32 keep range)"
            )
        return X

    def keep(self, mask: NDArray[np.bool_], why: str) -> Samples:
        """Leave out what `mask` does not name, and count it."""
        left = int((~mask).sum())
        excluded = {**self.excluded, why: left} if left else self.excluded
        return replace(self.at(np.flatnonzero(mask)), excluded=excluded)

    def at(self, at: NDArray[Any]) -> Samples:
        """Give some of these samples, in the order of the positions `at`."""
        values: dict[str, Any] = {
            name: None if (given := getattr(self, name)) is None else given[at]
            for name in ("rows", "y", "ids", "digests", "groups", "split", "weights", "seen")
        }
        return replace(self, **values)

    def checked(self) -> Samples:
        """Note classes that hardly differ, and pictures that stand under several labels."""
        alike = lookalikes_text(self.classes)
        conflicts = conflicts_text(conflicting_rows(self.digests, self.y), self.ids)
        found = {"similar-classes": alike, "conflicting-labels": conflicts}
        notes = [warn(code, text) for code, text in found.items() if text]
        return replace(self, notes=(*self.notes, *notes))

    def overruled(self) -> Samples:
        """Forget the manifest's split."""
        return replace(self, split=None)


def require_seed(seed: int) -> None:
    """Refuse a seed that NumPy or scikit-learn would refuse.

    Raises
    ------
    FitError
        If it is not a whole number of 32 bits.
    """
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise FitError(f"the seed is {seed!r}; expected a whole number from 0 to {2**32 - 1}")
