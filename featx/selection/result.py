"""What a search found: the candidates, the choice, and the head fitted with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.heads.norms import norm_name
from featx.selection.checks import Warn


@dataclass(frozen=True)
class SearchResult:
    """What was tried, what was chosen, and the head fitted with it.

    Parameters
    ----------
    head
        Name of the head.
    best_params
        Chosen parameters of the pipeline.
    best_score
        Mean score of the chosen candidate over the folds.
    table
        For each candidate ``{"params", "scores", "mean", "std"}``, JSON-ready.
    scoring
        Name of the score.
    folds
        How many there were.
    at_edge
        Parameters chosen at an end of their grid, where a better value may lie beyond.
    warnings
        List of ``{"code", "message"}``.
    estimator
        Fitted on all given rows; plain scikit-learn.
    calibrated
        Whether its probabilities come from a calibration.
    scale
        How decisions became probabilities: ``own``, ``temperature`` or ``sigmoid``.
    options
        Each head that competed: ``{"head", "features", "params", "score", "std"}``; empty where
        none did.
    place
        The number of the features that won, where several competed.
    """

    head: str
    best_params: dict[str, Any]
    best_score: float
    table: list[dict[str, Any]] = field(repr=False)
    scoring: str
    folds: int
    at_edge: list[str]
    warnings: list[Warn]
    estimator: Any = field(repr=False)
    calibrated: bool = False
    scale: str = "own"
    options: list[dict[str, Any]] = field(default_factory=list, repr=False)
    place: int = 0

    @property
    def chosen(self) -> dict[str, Any]:
        """The choice as JSON: head, parameters and cross-validated score."""
        return {
            "head": self.head,
            "params": describe(self.best_params),
            "scoring": self.scoring,
            "cv_score": self.best_score,
            "folds": self.folds,
            "calibrated": self.calibrated,
            "scale": self.scale,
        }


def describe(params: Mapping[str, Any]) -> dict[str, Any]:
    """Make parameters JSON-ready: numbers and text stay, estimators become their name or text."""
    return {k: _plain(v) for k, v in params.items()}


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return norm_name(value) or " ".join(str(value).split())


def scored(params: Mapping[str, Any], scores: NDArray[np.float64]) -> dict[str, Any]:
    """Make a candidate's row of the table from its score on each fold."""
    return {
        "params": describe(params),
        "scores": [float(s) for s in scores],
        "mean": float(scores.mean()),
        "std": float(scores.std()),
    }
