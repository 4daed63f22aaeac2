"""Choose hyperparameters on training rows, refit on all of them, calibrate."""

from __future__ import annotations

import warnings as python_warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import get_scorer, get_scorer_names
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline

from featx.errors import FitError, nearest
from featx.heads import LARGE_ROWS, Grid, Head, get_head
from featx.selection import candidates as grids
from featx.selection.checks import Warn, check_rows, few_samples, warn
from featx.selection.refit import check_weights, refit
from featx.selection.splits import Folds, make_folds
from featx.selection.sweep import Sweep, sweep

SCORING = {"classification": "accuracy", "regression": "r2", "multilabel": "f1_macro"}


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
        }


def describe(params: Mapping[str, Any]) -> dict[str, Any]:
    """Make parameters JSON-ready: numbers and text stay, estimators become their text."""
    return {k: _plain(v) for k, v in params.items()}


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return " ".join(str(value).split())


@dataclass
class _Trials:
    """Candidates tried so far, and their scores."""

    params: list[dict[str, Any]]
    scores: NDArray[np.float64]
    converged: NDArray[np.bool_]

    @property
    def means(self) -> NDArray[np.float64]:
        # Rounding makes equal what differs only in the order of a sum, so that the first wins.
        rounded: NDArray[np.float64] = np.round(self.scores.mean(axis=1), 12)
        return rounded

    def add(self, params: list[dict[str, Any]], found: Sweep) -> None:
        self.params = self.params + params
        self.scores = np.concatenate([self.scores, found.scores])
        self.converged = np.concatenate([self.converged, found.converged])

    def table(self) -> list[dict[str, Any]]:
        rows = zip(self.params, self.scores, strict=True)
        return [
            {
                "params": describe(params),
                "scores": [float(s) for s in scores],
                "mean": float(scores.mean()),
                "std": float(scores.std()),
            }
            for params, scores in rows
        ]


def search(
    head: str | Head | Any,
    X: Any,
    y: Any,
    *,
    folds: int | Folds = 5,
    groups: ArrayLike | None = None,
    seed: int = 0,
    sample_weight: ArrayLike | None = None,
    scoring: str | None = None,
    grid: Grid | Sequence[Grid] | None = None,
    refine: int = 0,
    one_standard_error: bool = False,
    probabilities: bool = True,
    strata: ArrayLike | None = None,
    n_jobs: int | None = None,
) -> SearchResult:
    """Choose a head's parameters by cross-validation on these rows, and refit on all of them.

    Parameters
    ----------
    head
        Whatever ``get_head`` takes.
    X
        Shape (n_samples, n_features); used as float32.
    y
        Shape (n_samples,), or (n_samples, n_labels) of 0 and 1 for multi-label.
    folds
        How many, shuffled with ``seed``, stratified, grouped if ``groups`` are given; or the folds
        themselves as (train, held-out) row numbers.
    sample_weight
        Weight of each row in fitting; scores stay unweighted.
    scoring
        Name of a scikit-learn score; accuracy, R2 or macro F1 when None.
    grid
        In place of the head's own; a list of grids is a union.
    refine
        Rounds in which C (or alpha) is tried half a step to either side of the best, and beyond
        the edge if it lies there.
    one_standard_error
        Choose the simplest candidate within one standard error of the best.
    probabilities
        Calibrate a classifier that has no ``predict_proba``, by a sigmoid on held-out folds.
    strata
        What the folds are stratified by in place of ``y``.
    n_jobs
        Threads; all cores when None.

    Raises
    ------
    FitError
        If these rows cannot be fitted or scored, in one line that says why.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> result = search("svm", *load_iris(return_X_y=True), grid={"clf__C": [0.1, 1.0]})
    >>> result.best_score > 0.9
    True
    """
    head, task = head_and_task(head, y)
    X, y = check_rows(X, y, task)
    pipeline = head.build(seed, len(y))
    weights = check_weights(sample_weight, len(y), pipeline["clf"])
    rows, notes = _folds(folds, y, groups, seed, task, strata)
    listed = grids.as_grids(head.grid if grid is None else _nonempty(grid), rows)
    if task == "multilabel":
        pipeline, listed = _each_label(pipeline, listed)
    data = (X, y, weights)
    trials = _try_all(pipeline, listed, data, rows, scoring or SCORING[task], refine, n_jobs)
    best = int(trials.means.argmax())
    edges = grids.at_edge(trials.params, trials.means, best)
    if one_standard_error:
        best = grids.simplest_within(trials.params, listed, trials.scores, best)
    calibrate = (
        _whole(rows, y, groups, seed) if probabilities and task == "classification" else None
    )
    fitted = refit(pipeline, trials.params[best], data, calibrate, n_jobs)
    notes += few_samples(y) if task == "classification" else []
    notes += _size_notes(head, len(y))
    notes += _edge_notes(edges, trials.params[best])
    notes += _convergence_notes(trials, fitted.converged)
    return SearchResult(
        head=head.name,
        best_params=dict(trials.params[best]),
        best_score=float(trials.scores[best].mean()),
        table=trials.table(),
        scoring=scoring or SCORING[task],
        folds=len(rows),
        at_edge=edges,
        warnings=notes,
        estimator=fitted.estimator,
        calibrated=fitted.calibrated,
    )


def head_and_task(what: str | Head | Any, y: ArrayLike) -> tuple[Head, str]:
    """Find the head, and the task that it has on labels of this shape."""
    head = get_head(what)
    many = np.ndim(y) == 2
    if many and head.task == "regression":
        raise FitError(f"head {head.name!r} predicts one number, and labels have {np.shape(y)}")
    return head, "multilabel" if many else head.task


def _nonempty(grid: Grid | Sequence[Grid]) -> Grid | Sequence[Grid]:
    if not grid:
        raise FitError("the grid is empty; give a parameter and its values, or leave it out")
    return grid


def _each_label(pipeline: Pipeline, listed: grids.Grids) -> tuple[Pipeline, grids.Grids]:
    """Make one classifier a label out of a classifier."""
    wrapped = Pipeline([*pipeline.steps[:-1], ("clf", OneVsRestClassifier(pipeline["clf"]))])
    renamed = [{k.replace("clf__", "clf__estimator__", 1): v for k, v in g.items()} for g in listed]
    return wrapped, renamed


def _folds(
    folds: int | Folds, y: Any, groups: Any, seed: int, task: str, strata: Any
) -> tuple[Folds, list[Warn]]:
    if isinstance(folds, int):
        return make_folds(y, folds=folds, groups=groups, seed=seed, task=task, strata=strata)
    if not folds or any(not len(part) for fold in folds for part in fold):
        raise FitError("the folds given hold no row on one side; give training and held-out rows")
    return list(folds), []


def _whole(rows: Folds, y: Any, groups: Any, seed: int) -> Folds:
    """Give the folds if they hold out every row once, else folds that do."""
    held = np.concatenate([held for _, held in rows])
    if len(held) == len(y) and len(np.unique(held)) == len(y):
        return rows
    smallest = int(np.unique(y, return_counts=True)[1].min())
    return make_folds(y, folds=max(2, min(5, smallest)), groups=groups, seed=seed)[0]


def _try_all(
    pipeline: Pipeline,
    listed: grids.Grids,
    data: tuple[Any, Any, Any],
    rows: Folds,
    scoring: str,
    refine: int,
    n_jobs: int | None,
) -> _Trials:
    if scoring not in get_scorer_names():
        raise FitError(f"no score is called {scoring!r}{nearest(scoring, get_scorer_names())}")
    trials = _Trials([], np.empty((0, len(rows))), np.empty((0, len(rows)), dtype=bool))
    waiting = grids.product(listed)
    for _ in range(1 + refine):
        if waiting:
            trials.add(waiting, _sweep(pipeline, waiting, data, rows, scoring, n_jobs))
        waiting = grids.around(trials.params, int(trials.means.argmax()))
    return trials


def _sweep(
    pipeline: Pipeline,
    waiting: list[dict[str, Any]],
    data: tuple[Any, Any, Any],
    rows: Folds,
    scoring: str,
    n_jobs: int | None,
) -> Sweep:
    try:
        with python_warnings.catch_warnings():
            # A score that is undefined comes back as NaN, and is refused below by name.
            python_warnings.simplefilter("ignore", UndefinedMetricWarning)
            found = sweep(pipeline, waiting, data, rows, get_scorer(scoring), n_jobs)
    except (ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise FitError(
            f"{type(pipeline['clf']).__name__} with score {scoring}: {reason}"
        ) from error
    if np.isnan(found.scores).any():
        raise FitError(
            f"score {scoring} is undefined for these labels (a fold lacks a class it needs); use "
            "fewer folds or another score"
        )
    return found


def _size_notes(head: Head, n: int) -> list[Warn]:
    if n <= LARGE_ROWS or not head.name.startswith("sv"):
        return []
    if head.large is not None:
        text = f"{n} training rows: LinearSVC (squared hinge, primal) takes the place of SVC"
        return [warn("large-head", text)]
    text = f"{head.name} takes time with the square of {n} training rows; try nystroem-svm"
    return [warn("slow-head", text)]


def _edge_notes(edges: list[str], params: Mapping[str, Any]) -> list[Warn]:
    return [
        warn(
            "c-at-grid-edge",
            f"{name.split('__')[-1]} = {params[name]:g} is at the edge of what was tried; a better "
            "value may lie beyond: widen the grid or refine the search",
        )
        for name in edges
    ]


def _convergence_notes(trials: _Trials, converged: bool) -> list[Warn]:
    stopped = int((~trials.converged).sum())
    if not converged:
        return [
            warn("not-converged", "the final fit stopped at its iteration limit; raise max_iter")
        ]
    if stopped:
        text = f"{stopped} of {trials.converged.size} fits of the search stopped at their limit"
        return [warn("not-converged", text + "; the chosen one did not")]
    return []
