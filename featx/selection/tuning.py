"""Choose hyperparameters on training rows, refit on all of them, calibrate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from featx.errors import FitError
from featx.heads import Grid, Head, get_head
from featx.selection import candidates as grids
from featx.selection.checks import Warn, check_rows, few_samples
from featx.selection.folds import Folds, hold_out_once, make_folds
from featx.selection.multilabel import (
    check_single_label,
    each_label,
    label_notes,
    whole_labels,
)
from featx.selection.notes import convergence_notes, edge_notes, size_notes
from featx.selection.ondevice import Device, require_fit_on
from featx.selection.refit import check_weights, clone_values, refit
from featx.selection.result import SearchResult
from featx.selection.stacking import combine
from featx.selection.trials import try_all

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
    require_fit_on(device, pipeline["clf"])
    if task == "multilabel":
        check_single_label(head, sample_weight)
    weights = check_weights(sample_weight, len(y), pipeline["clf"])
    rows, notes = _folds(folds, y, groups, seed, task, strata)
    scoring = scoring or SCORING[task]
    notes += few_samples(y) if task == "classification" else []
    notes += label_notes(rows, y) if task == "multilabel" else []
    notes += size_notes(head, len(y))
    if head.parts:
        whole = _whole(rows, y, groups, seed)
        return combine(head, pipeline, (X, y, weights), (rows, whole), scoring, notes, n_jobs)
    listed = grids.as_grids(head.grid if grid is None else _nonempty(grid), rows)
    if task == "multilabel":
        pipeline, listed = each_label(pipeline, listed)
    data = (X, y, weights)
    trials = try_all(pipeline, listed, data, rows, scoring, refine, n_jobs, device)
    best = int(trials.means.argmax())
    edges = grids.at_edge(trials.params, trials.means, best)
    if one_standard_error:
        best = grids.simplest_within(trials.params, listed, trials.scores, best)
    calibrate = None
    if probabilities and _lacks_probabilities(pipeline, trials.params[best], task):
        each_once = whole_labels if task == "multilabel" else _whole
        calibrate = each_once(rows, y, groups, seed)
    fitted = refit(pipeline, trials.params[best], data, calibrate, n_jobs)
    notes += edge_notes(edges, trials.params[best])
    notes += convergence_notes(trials, fitted.converged)
    return SearchResult(
        head=head.name,
        best_params=dict(trials.params[best]),
        best_score=float(trials.scores[best].mean()),
        table=trials.table(),
        scoring=scoring,
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


def _folds(
    folds: int | Folds, y: Any, groups: Any, seed: int, task: str, strata: Any
) -> tuple[Folds, list[Warn]]:
    if isinstance(folds, int):
        return make_folds(y, folds=folds, groups=groups, seed=seed, task=task, strata=strata)
    if not folds or any(not len(part) for fold in folds for part in fold):
        raise FitError("the folds given hold no row on one side; give training and held-out rows")
    return list(folds), []


def _lacks_probabilities(pipeline: Pipeline, params: Mapping[str, Any], task: str) -> bool:
    final = clone(pipeline).set_params(**clone_values(params))
    return task != "regression" and not hasattr(final["clf"], "predict_proba")


def _whole(rows: Folds, y: Any, groups: Any, seed: int) -> Folds:
    """Give the folds if they hold out every row once, else folds that do."""
    if hold_out_once(rows, len(y)):
        return rows
    smallest = int(np.unique(y, return_counts=True)[1].min())
    return make_folds(y, folds=max(2, min(5, smallest)), groups=groups, seed=seed)[0]
