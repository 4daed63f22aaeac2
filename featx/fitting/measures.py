"""Measured figures as attributes, and as the table that shell and notebook show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featx.cache.reader import Cache
from featx.errors import nearest
from featx.evaluation.slices import by_slice, require_slices, slice_names
from featx.fitting.columns import column_of
from featx.fitting.samples import Samples
from featx.model.scoring import Scores
from featx.printing import figures_sheet
from featx.selection.checks import Warn, warn


class Interval(NamedTuple):
    """A figure with the ends of its 95 % interval; an end that cannot be known is None."""

    value: float
    low: float | None
    high: float | None


_LOSSES = ("log_loss", "brier", "mae", "rmse", "rank_mae")


def worse_notes(test: dict[str, Any], baseline: dict[str, Any]) -> list[Warn]:
    """Warn of metrics that the constant answer has better."""
    worse = [
        f"{name} {test[name]['value']:.4f} against {one['value']:.4f}"
        for name, one in baseline.items()
        if name in test and isinstance(one, dict) and _is_worse(name, test[name], one)
    ]
    if not worse:
        return []
    text = f"worse than always giving the same answer: {', '.join(worse)}"
    return [warn("worse-than-constant", text)]


def _is_worse(name: str, one: dict[str, float], other: dict[str, float]) -> bool:
    gap = one["value"] - other["value"]
    return (gap if name in _LOSSES else -gap) > 1e-12


@dataclass(frozen=True)
class Slicing:
    """Which slice each of some samples is in.

    Parameters
    ----------
    column
        What the slices are values of.
    names
        Slice of each sample, shape (n_samples,).
    groups
        Number of the group of each sample, or None.
    """

    column: str
    names: NDArray[np.str_]
    groups: NDArray[Any] | None = None

    @classmethod
    def of(
        cls, column: str | None, cache: Cache, samples: Samples, groups: NDArray[Any] | None
    ) -> Slicing | None:
        """Read the column that is asked for, if any.

        Raises
        ------
        FitError
            If there is no such column, or no value of it has the rows that a slice takes.
        """
        if column is None:
            return None
        names = slice_names(column_of(cache, column, "--slices")[samples.rows])
        require_slices(column, names, groups)
        return cls(column, names, groups)

    def measure(
        self, samples: Samples, at: NDArray[np.intp], scores: Scores, classes: list[str], seed: int
    ) -> dict[str, Any]:
        """Measure the slices of the samples `at`, of which `scores` are predictions."""
        return by_slice(
            self.column,
            self.names[at],
            samples.y[at],
            scores.predicted,
            probabilities=scores.probabilities,
            classes=classes or None,
            task=samples.task,
            seed=seed,
            groups=None if self.groups is None else self.groups[at],
        )


class Measures:
    """Give each metric of ``test`` as an attribute, and show the shell's table."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Interval:
        test = self.__dict__.get("test", {})  # absent while the object is being copied
        if name in test:
            return Interval(**test[name])
        kind = type(self).__name__
        raise AttributeError(f"{kind} has no metric {name!r}{nearest(name, test)}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.__dict__.get("test", {})})

    def __repr__(self) -> str:
        return figures_sheet(self.to_dict()).text()

    def _repr_html_(self) -> str:
        return figures_sheet(self.to_dict()).html()
