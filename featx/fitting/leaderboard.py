"""The leaderboard of `featx.compare`: its lines, its table, its Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featx.evaluation import json_ready
from featx.printing import leaderboard_sheet
from featx.selection.checks import Warn

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Entry:
    """One line of the leaderboard.

    Parameters
    ----------
    score
        Accuracy, or R2 for a regression, on outer folds: ``{"value", "low", "high"}``.
    logme
        Transferability score of the features, from no fit at all.
    fit_seconds
        Of one search with its refit and the held-out answers, reading features included; mean over
        the outer folds.
    bytes_per_image
        On disk, of this tap.
    ms_per_image
        Of the extraction that made the cache, all its taps together; None if it embedded nothing.
    pareto
        Whether no other line is better in one of score, bytes and ms, and as good in the others.
    """

    cache: str
    backbone: str
    tap: str
    head: str
    n_features: int
    score: dict[str, float]
    logme: float
    fit_seconds: float
    bytes_per_image: int
    ms_per_image: float | None
    pareto: bool = False


@dataclass(frozen=True, repr=False)
class Comparison:
    """A leaderboard; `to_dict` is the JSON of ``featx compare --json``.

    Parameters
    ----------
    rows
        Best first.
    selected
        What choosing the best is worth: each outer fold is predicted by the line that did best in
        the search on its training rows, so this score is not the best of many.
    metric
        ``accuracy`` or ``r2``.
    """

    rows: list[Entry]
    selected: dict[str, Any]
    baseline: dict[str, Any]
    metric: str
    folds: int
    n_samples: int
    excluded: dict[str, int]
    warnings: list[Warn] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        ready: dict[str, Any] = json_ready(asdict(self))
        return ready

    def __repr__(self) -> str:
        return leaderboard_sheet(self.to_dict()).text()

    def _repr_html_(self) -> str:
        return leaderboard_sheet(self.to_dict()).html()

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each line."""
        import pandas as pd

        lines = []
        for row in self.rows:
            line = asdict(row)
            figure = line.pop("score")
            names = {"value": self.metric, "low": "low", "high": "high"}
            lines.append(line | {name: figure[key] for key, name in names.items()})
        first = ["cache", "backbone", "tap", "head", self.metric, "low", "high"]
        table = pd.DataFrame(lines)
        return table[[*first, *(c for c in table.columns if c not in first)]]


def pareto_front(entries: Sequence[Entry]) -> NDArray[np.bool_]:
    """Mark the lines that no other beats in score, bytes or ms without losing in another.

    Returns
    -------
    front : bool, shape (len(entries),)
    """
    timed = all(entry.ms_per_image is not None for entry in entries)
    costs = np.array(
        [
            [-e.score["value"], e.bytes_per_image, (e.ms_per_image or 0.0) if timed else 0.0]
            for e in entries
        ]
    )
    beaten = [bool(((costs <= own).all(axis=1) & (costs < own).any(axis=1)).any()) for own in costs]
    return ~np.array(beaten)
