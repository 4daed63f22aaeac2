"""Try candidates on folds, keep what each scored, and warn of what the search shows."""

from __future__ import annotations

import warnings
import warnings as python_warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import get_scorer, get_scorer_names
from sklearn.pipeline import Pipeline

from featx.errors import FitError, nearest, words_of
from featx.heads import LARGE_ROWS, Head
from featx.selection import candidates as grids
from featx.selection.candidates import scored
from featx.selection.checks import Warn, warn
from featx.selection.splits import Folds
from featx.selection.sweep import FitRun, Sweep, sweep
from featx.typing import Estimator, JsonObject


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

    def table(self) -> list[JsonObject]:
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


def _scorer(name: str, y: Any) -> Any:
    """Give a score; log loss also takes held-out rows that lack a class, as groups may."""
    return _log_score if name == "neg_log_loss" and np.ndim(y) == 1 else get_scorer(name)


def _log_score(clf: Estimator, X: Any, y: Any) -> float:
    given = clf.predict_proba(X)[np.arange(len(y)), np.searchsorted(clf.classes_, y)]
    return float(np.log(np.clip(given, 1e-15, 1)).mean())


def _sweep(
    pipeline: Pipeline,
    waiting: list[JsonObject],
    data: tuple[Any, Any, Any],
    rows: Folds,
    scoring: str,
    run: FitRun,
) -> Sweep:
    try:
        with python_warnings.catch_warnings():
            # A score that is undefined comes back as NaN, and is refused below by name.
            python_warnings.simplefilter("ignore", UndefinedMetricWarning)
            found = sweep(pipeline, waiting, data, rows, _scorer(scoring, data[1]), run)
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


@contextmanager
def overheard(notes: list[Warn]) -> Iterator[None]:
    """Turn what libraries warn of into notes, once each: they say it in terms of their own code.

    Parameters
    ----------
    notes
        Added to at the end.
    """
    with warnings.catch_warnings(record=True) as caught:
        yield
    said = dict.fromkeys(" ".join(str(one.message).split()) for one in caught)
    notes += [warn("library-warning", f"a library warns: {text[:300]}") for text in said]


def stand_in_notes(asked: Head, fitted: Head, why: str) -> list[Warn]:
    """Say that a head of another definition is fitted, and under which name."""
    if asked.name == fitted.name or asked.many != fitted.name:
        return []
    text = (
        f"{why}: {fitted.name} (squared hinge, each class against the rest) takes the place of "
        f"{asked.name}, which needs all pairs of rows in memory"
    )
    return [warn("large-head", text)]


def size_notes(head: Head, n: int) -> list[Warn]:
    """Warn of a head that takes long on ``n`` training rows."""
    if n <= LARGE_ROWS or not (head.parts or head.name in ("svm-rbf", "svr")):
        return []
    text = f"{head.name} takes time with the square of {n} training rows; try nystroem-svm"
    return [warn("slow-head", text)]


def edge_notes(edges: list[str], params: Mapping[str, object]) -> list[Warn]:
    """Warn of parameters chosen at an end of what was tried."""
    return [
        warn(
            "c-at-grid-edge",
            f"{name.split('__')[-1]} = {params[name]:g} is at the edge of what was tried; a better "
            "value may lie beyond: widen the grid or refine the search",
        )
        for name in edges
    ]


def convergence_notes(trials: Trials, converged: bool) -> list[Warn]:
    """Warn of fits that stopped at their iteration limit."""
    stopped = int((~trials.converged).sum())
    if not converged:
        return [
            warn("not-converged", "the final fit stopped at its iteration limit; raise max_iter")
        ]
    if stopped:
        text = f"{stopped} of {trials.converged.size} fits of the search stopped at their limit"
        return [warn("not-converged", text + "; the chosen one did not")]
    return []
