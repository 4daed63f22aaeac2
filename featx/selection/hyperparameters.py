"""Choose hyperparameters on training rows, refit on all of them, calibrate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.pipeline import Pipeline

from featx.errors import FitError
from featx.heads import Grid, Head, for_rows, get_head
from featx.selection import candidates as grids
from featx.selection.candidates import SearchResult
from featx.selection.checks import Warn, check_rows, few_samples
from featx.selection.choice import Choice, SearchRows, compete
from featx.selection.fold import Device, require_fit_on
from featx.selection.multilabel import (
    against_rest,
    check_single_label,
    each_label,
    label_notes,
    tries_rest,
)
from featx.selection.refit import check_weights
from featx.selection.splits import Folds, make_folds
from featx.selection.stacking import combine
from featx.selection.sweep import FitRun, Step
from featx.selection.trials import size_notes, stand_in_notes, try_all

SCORING = {"classification": "accuracy", "regression": "r2", "multilabel": "f1_macro"}


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
    device: Device | None = None,
    step: Step | None = None,
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
    device
        Where candidates of ``logreg`` are fitted; the processor when None, and for the head that
        is kept.
    step
        Called with the number of fits that were made, as they are made, from any thread;
        `featx.selection.sweep.fits_of` says how many there will be.

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
    found, _ = head_and_task(head, y)
    how = SearchOptions(
        folds=folds,
        groups=groups,
        seed=seed,
        sample_weight=sample_weight,
        scoring=scoring,
        grid=grid,
        refine=refine,
        one_standard_error=one_standard_error,
        strata=strata,
        n_jobs=n_jobs,
        device=device,
        step=step,
    )
    if found.options:
        return search_several(found, [lambda: X], y, how, probabilities)
    if found.parts:
        return _stacked(found, X, y, how)
    return choose(found, X, y, how).fitted(probabilities)


@dataclass(frozen=True)
class SearchOptions:
    """How parameters are chosen: the options of `search` that do not concern its result."""

    folds: int | Folds = 5
    groups: ArrayLike | None = None
    seed: int = 0
    sample_weight: ArrayLike | None = None
    scoring: str | None = None
    grid: Grid | Sequence[Grid] | None = None
    refine: int = 0
    one_standard_error: bool = False
    strata: ArrayLike | None = None
    n_jobs: int | None = None
    device: Device | None = None
    step: Step | None = None

    @property
    def run(self) -> FitRun:
        """Where candidates are fitted, and who is told."""
        return FitRun(self.n_jobs, self.device, self.step)


def search_several(
    head: Head,
    several: Sequence[Callable[[], Any]],
    y: Any,
    how: SearchOptions,
    probabilities: bool = True,
    scales: bool = True,
) -> SearchResult:
    """Let the options of a head compete, on each of several features of the same rows.

    Every choice is made on the same folds, and the best score wins; of equals, the first. Only the
    winner is fitted.

    Parameters
    ----------
    head
        With options, or one that competes with itself on other features.
    several
        Each gives features of shape (n_samples, n_features); called one after the other.
    y
        Labels of the rows.
    scales
        Whether the scale of the winner's probabilities is chosen too; else it is a sigmoid where
        the head has none of its own.

    Returns
    -------
    result : its ``options`` list every competitor, its ``place`` is the number of its features
    """

    def choices() -> Iterator[tuple[int, Choice]]:
        for place, load in enumerate(several):
            X = load()
            for option in for_rows(head, len(y)).options or (head,):
                yield place, choose(option, X, y, how)

    return compete(choices(), probabilities, scales)


def choose(head: Head, X: Any, y: Any, how: SearchOptions) -> Choice:
    """Choose a head's parameters by cross-validation on these rows, without fitting it.

    Raises
    ------
    FitError
        As `search`.
    """
    asked, head = head, for_rows(head, len(y))
    rows, notes, pipeline = _prepared(head, X, y, how)
    notes += stand_in_notes(asked, head, f"{len(y)} training rows")
    scoring, task = how.scoring or SCORING[rows.task], rows.task
    listed = grids.as_grids(head.grid if how.grid is None else _nonempty(how.grid), rows.folds)
    if task == "multilabel":
        pipeline, listed = each_label(pipeline, listed)
    elif how.grid is None and tries_rest(head, rows.y, rows.weights is not None, notes):
        listed += against_rest(pipeline, listed)
    trials = try_all(pipeline, listed, rows.data, rows.folds, scoring, how.refine, how.run)
    best = int(trials.means.argmax())
    edges = grids.at_edge(trials.params, trials.means, best)
    if how.one_standard_error:
        best = grids.simplest_within(trials.params, listed, trials.scores, best)
    return Choice(head, pipeline, rows, trials, best, edges, scoring, notes, how.run)


def _prepared(
    head: Head, X: Any, y: Any, how: SearchOptions
) -> tuple[SearchRows, list[Warn], Pipeline]:
    """Check the rows, and make the folds and the pipeline."""
    _, task = head_and_task(head, y)
    X, y = check_rows(X, y, task)
    pipeline = head.build(how.seed, len(y))
    require_fit_on(how.device, pipeline["clf"])
    if task == "multilabel":
        check_single_label(head, how.sample_weight)
    weights = check_weights(how.sample_weight, len(y), pipeline["clf"])
    folds, notes = _folds(how.folds, y, how.groups, how.seed, task, how.strata)
    notes += few_samples(y) if task == "classification" else []
    notes += label_notes(folds, y) if task == "multilabel" else []
    notes += size_notes(head, len(y))
    return SearchRows(X, y, weights, how.groups, folds, task, how.seed), notes, pipeline


def _stacked(head: Head, X: object, y: object, how: SearchOptions) -> SearchResult:
    rows, notes, pipeline = _prepared(head, X, y, how)
    folds, scoring = (rows.folds, rows.each_once()), how.scoring or SCORING[rows.task]
    return combine(head, pipeline, rows.data, folds, scoring, notes, how.run)


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


def _folds(
    folds: int | Folds, y: Any, groups: Any, seed: int, task: str, strata: Any
) -> tuple[Folds, list[Warn]]:
    if isinstance(folds, int):
        return make_folds(y, folds=folds, groups=groups, seed=seed, task=task, strata=strata)
    if not folds or any(not len(part) for fold in folds for part in fold):
        raise FitError("the folds given hold no row on one side; give training and held-out rows")
    return list(folds), []
