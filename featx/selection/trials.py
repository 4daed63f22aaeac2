"""Try candidates on folds, and keep what each scored."""

from __future__ import annotations

import warnings as python_warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import get_scorer, get_scorer_names
from sklearn.pipeline import Pipeline

from featx.errors import FitError, nearest, words_of
from featx.selection import candidates as grids
from featx.selection.folds import Folds
from featx.selection.result import scored
from featx.selection.steps import FitRun
from featx.selection.sweep import Sweep, sweep


@dataclass
class Trials:
    """Candidates tried so far, and their scores of shape (n_candidates, n_folds)."""

    params: list[dict[str, Any]]
    scores: NDArray[np.float64]
    converged: NDArray[np.bool_]

    @classmethod
    def none(cls, n_folds: int) -> Trials:
        """Start without any."""
        return cls([], np.empty((0, n_folds)), np.empty((0, n_folds), dtype=bool))

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean score of each candidate."""
        # Rounding makes equal what differs only in the order of a sum, so that the first wins.
        rounded: NDArray[np.float64] = np.round(self.scores.mean(axis=1), 12)
        return rounded

    def add(self, params: list[dict[str, Any]], found: Sweep) -> None:
        """Add candidates and what a sweep found of them."""
        self.params = self.params + params
        self.scores = np.concatenate([self.scores, found.scores])
        self.converged = np.concatenate([self.converged, found.converged])

    def table(self) -> list[dict[str, Any]]:
        """List the candidates, JSON-ready."""
        rows = zip(self.params, self.scores, strict=True)
        return [scored(params, scores) for params, scores in rows]


def try_all(
    pipeline: Pipeline,
    listed: grids.Grids,
    data: tuple[Any, Any, Any],
    rows: Folds,
    scoring: str,
    refine: int,
    run: FitRun,
) -> Trials:
    """Score every candidate of some grids on every fold.

    Parameters
    ----------
    refine
        Rounds in which the best candidate's neighbourhood is tried too.

    Raises
    ------
    FitError
        For an unknown score, or one that these labels do not allow.
    """
    if scoring not in get_scorer_names():
        raise FitError(f"no score is called {scoring!r}{nearest(scoring, get_scorer_names())}")
    trials = Trials.none(len(rows))
    waiting = grids.product(listed)
    for _ in range(1 + refine):
        if waiting:
            trials.add(waiting, _sweep(pipeline, waiting, data, rows, scoring, run))
        waiting = grids.around(trials.params, int(trials.means.argmax()))
    return trials


def _sweep(
    pipeline: Pipeline,
    waiting: list[dict[str, Any]],
    data: tuple[Any, Any, Any],
    rows: Folds,
    scoring: str,
    run: FitRun,
) -> Sweep:
    try:
        with python_warnings.catch_warnings():
            # A score that is undefined comes back as NaN, and is refused below by name.
            python_warnings.simplefilter("ignore", UndefinedMetricWarning)
            found = sweep(pipeline, waiting, data, rows, get_scorer(scoring), run)
    except FitError:
        raise
    except np.linalg.LinAlgError as error:
        raise FitError(
            f"{type(pipeline['clf']).__name__} finds no solution on a fold: its features do not "
            "vary within classes; add images, or take another head"
        ) from error
    except (ValueError, TypeError, AttributeError) as error:
        reason = words_of(error, 400)
        raise FitError(
            f"{type(pipeline['clf']).__name__} with score {scoring}: {reason}"
        ) from error
    if np.isnan(found.scores).any():
        raise FitError(
            f"score {scoring} is undefined for these labels (a fold lacks a class it needs); use "
            "fewer folds or another score"
        )
    return found
