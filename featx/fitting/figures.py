"""Figures of a fit: metrics with intervals, of slices too, and the result that holds them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from featx.cache.cache import Cache
from featx.errors import nearest
from featx.evaluation import json_ready
from featx.evaluation.slices import by_slice, require_slices, slice_names
from featx.fitting.columns import column_of
from featx.fitting.samples import Samples
from featx.model import Model
from featx.model.thresholds import Scores
from featx.printing import figures_sheet
from featx.selection.checks import Warn, warn
from featx.typing import JsonObject, RowValues


class Interval(NamedTuple):
    """A figure with the ends of its 95 % interval; an end that cannot be known is None."""

    value: float
    low: float | None
    high: float | None


_LOSSES = ("log_loss", "brier", "mae", "rmse", "rank_mae")


def worse_notes(test: JsonObject, baseline: JsonObject) -> list[Warn]:
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
    groups: RowValues | None = None

    @classmethod
    def of(
        cls, column: str | None, cache: Cache, samples: Samples, groups: RowValues | None
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
    ) -> JsonObject:
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


class Measures(ABC):
    """Give each metric of ``test`` as an attribute, and show the shell's table."""

    @abstractmethod
    def to_dict(self) -> JsonObject:
        """JSON-ready values."""

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


@dataclass(frozen=True, repr=False)
class FitResult(Measures):
    """A fitted head and what it is worth; `to_dict` is the JSON of ``featx fit --json``.

    Each metric of `test` is an attribute too, ``result.accuracy.value``, and the result shows the
    table of the shell.

    Parameters
    ----------
    head
        Its name; of several that competed, that of the winner.
    head_options
        Each head that competed, on each tap or cache: its score on the folds of the search on all
        rows, and how many of the measured searches it won (``won``). Empty where none competed.
    chosen
        Parameters, score in the search, and how they were chosen.
    test
        Metrics on rows that nothing saw, each ``{"value", "low", "high"}``: a 95 % bootstrap
        interval; with repeats the mean over them and the corrected resampled t interval of Nadeau
        and Bengio (2003).
    baseline
        The same of the majority class, or of the mean.
    warnings
        ``{"code", "message"}`` each.
    n_train, n_test
        Rows that a measured head saw, and rows that measured one.
    measured_by
        How rows were held out, in words.
    trained_on
        Rows that the model saw: after the measurement it is fitted on all of them (`fit_on`).
        Zero where a protocol took the place of a head.
    test_ids
        Rows behind the figures, in the order of the cache; each was predicted by a head that had
        not seen it.
    model
        Ready to predict; saved where `path` says. Reference images are added where it is saved.
        None where a protocol took the place of a head.
    decisions
        Thresholds, how they were chosen, and what they are worth on the test rows.
    sets
        The same of conformal sets.
    slices
        Metrics of each value of a column; see `featx.evaluation.slices.by_slice`.
    """

    head: str
    chosen: JsonObject
    test: JsonObject
    baseline: JsonObject
    warnings: list[dict[str, str]]
    n_train: int
    n_test: int
    cv: JsonObject
    classes: list[str]
    confusion: list[list[int]]
    per_class: JsonObject
    cache: str
    fingerprint: str
    tap: str
    excluded: dict[str, int]
    measured_by: str
    trained_on: int
    test_ids: list[str]
    seconds: float
    path: str | None = None
    decisions: JsonObject = field(default_factory=dict)
    sets: JsonObject = field(default_factory=dict)
    slices: JsonObject = field(default_factory=dict)
    head_options: list[JsonObject] = field(default_factory=list)
    model: Model | None = field(default=None, repr=False)

    def to_dict(self) -> JsonObject:
        """JSON-ready values; ``model`` is the file."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "model"}
        ready: JsonObject = json_ready(found | {"model": found.pop("path")})
        return ready
