"""Choose a linear head's strength by folds and fit it, on features larger than memory."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from featx.errors import FitError
from featx.heads import HEADS, LARGE_ROWS, Head
from featx.selection import candidates as grids
from featx.selection.calibration import best_scale, calibrated, probabilities_of, scales_for
from featx.selection.candidates import SearchResult
from featx.selection.checks import check_classes, few_samples
from featx.selection.hyperparameters import SCORING
from featx.selection.splits import Folds, make_folds
from featx.selection.trials import Trials, convergence_notes, edge_notes
from featx.streaming.blocks import Array, Blocks, Rows, numbered
from featx.streaming.moments import Linear, Scaler, Statistics
from featx.streaming.solving import LabelledBlocks, Solver, ask
from featx.typing import Estimator, JsonObject


def as_pipeline(
    head: Head, params: dict[str, Any], found: Linear, classes: Array | None, statistics: Statistics
) -> Pipeline:
    """Make a fitted pipeline ``scale -> clf`` of a streamed head.

    Parameters
    ----------
    classes
        Names in the order of the outputs; None for a regression.
    """
    blank = head.build(n_samples=max(statistics.whole.n, LARGE_ROWS + 1)).set_params(**params)
    clf, d = blank["clf"], len(found.scale.mean)
    labels = np.zeros(2) if classes is None else np.repeat(classes, 2)
    _fit_blank(clf, np.zeros((len(labels), d)), labels)
    single = classes is None
    vars(clf).update(
        coef_=found.coef[0] if single else found.coef,
        intercept_=float(found.intercept[0]) if single else found.intercept,
        n_features_in_=d,
    )
    if hasattr(clf, "covariance_"):
        _describe_lda(clf, found.scale, statistics)
    elif found.evaluations:
        clf.n_iter_ = np.array([found.evaluations])
    return Pipeline([("scale", _scaler(found.scale)), ("clf", clf)])


def _fit_blank(clf: Estimator, X: Array, labels: Array) -> None:
    """Fit on blank rows, so that scikit-learn itself says what a fitted estimator holds."""
    solver = getattr(clf, "solver", None)
    if isinstance(clf, LinearDiscriminantAnalysis):
        # Blank rows have no eigenvectors, which LDA keeps for `transform` alone.
        clf.set_params(solver="lsqr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        clf.fit(X, labels)
    if solver is not None:
        clf.set_params(solver=solver)


def _scaler(scale: Scaler) -> StandardScaler:
    made = StandardScaler()
    made.mean_, made.var_, made.scale_ = scale.mean, scale.var, scale.scale
    made.n_samples_seen_, made.n_features_in_ = scale.n, len(scale.mean)
    return made


def _describe_lda(clf: Any, scale: Scaler, statistics: Statistics) -> None:
    """Set what LDA keeps beside its coefficients."""
    sums, shift = statistics.whole, statistics.shift
    means = (sums.cross / sums.target).T
    within = sums.second - (means.T * sums.target) @ means
    within /= sums.weight * np.outer(scale.scale, scale.scale)
    share = float(clf.shrinkage or 0)
    covariance = (1 - share) * within
    covariance.flat[:: len(within) + 1] += share * float(np.trace(within)) / len(within)
    clf.means_ = (means + shift - scale.mean) / scale.scale
    clf.priors_, clf.covariance_ = sums.target / sums.weight, covariance


STREAMED: Mapping[str, str] = {
    "ridge": "clf__alpha",
    "ridge-reg": "clf__alpha",
    "lda": "clf__shrinkage",
    "logreg": "clf__C",
    "svm-large": "clf__C",
}
"""Heads that need not have all rows in memory, and the parameter that is searched."""


@dataclass(frozen=True)
class StreamedResult(SearchResult):
    """A search result with how often the features were read.

    Parameters
    ----------
    passes
        One for the sums and one for the choice; of logreg and svm also one a step.
    held_rows
        Rows (all, or a random part of very many) that were predicted while held out.
    held_probabilities
        Shape (len(held_rows), n_classes), columns in the order of the sorted classes; None for a
        regression.
    """

    passes: int = 0
    held_rows: Rows = field(default_factory=lambda: np.empty(0, np.intp), repr=False)
    held_probabilities: Array | None = field(default=None, repr=False)

    @property
    def chosen(self) -> JsonObject:
        """As `SearchResult.chosen`, with the passes."""
        return {**super().chosen, "passes": self.passes}


def streams(head: Head, task: str) -> bool:
    """Tell whether a head can be fitted without all rows in memory.

    Examples
    --------
    >>> streams(HEADS["ridge"], "classification"), streams(HEADS["svm"], "classification")
    (True, False)
    """
    known = HEADS.get(head.name)
    return (
        head.name in STREAMED
        and known is not None
        and (head.task, head.make) == (task, known.make)
        and not head.params
        and set(head.grid) == {STREAMED[head.name]}
    )


def search_blocks(
    head: Head,
    blocks: Blocks,
    y: ArrayLike,
    *,
    folds: int | Folds = 5,
    groups: ArrayLike | None = None,
    seed: int = 0,
    sample_weight: ArrayLike | None = None,
    one_standard_error: bool = False,
    compete: bool = False,
) -> StreamedResult:
    """Do what `featx.selection.search` does, on features that are read in blocks.

    Ridge and LDA are exact and read everything twice, whatever the grid: once for sums, once to
    score and calibrate on held-out rows. ``logreg`` and ``svm-large`` reach the same optimum as in
    memory by full gradients, one pass a step for all strengths and folds at once.

    Parameters
    ----------
    head
        One that `streams`.
    y
        Shape (n_rows,): class names, or numbers for a regression.
    folds, groups, seed, sample_weight, one_standard_error
        As in `featx.selection.search`; given folds are (all other rows, held-out rows).
    compete
        Let the probabilities of a classifier that has some compete with calibrated ones.

    Raises
    ------
    FitError
        If the head does not stream, or these rows cannot be fitted.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> found = search_blocks(HEADS["ridge"], Blocks.of(X), y)
    >>> found.best_score > 0.8, found.passes
    (True, 2)
    """
    if not streams(head, head.task):
        raise FitError(
            f"head {head.name} needs all rows in memory; these do not: {', '.join(STREAMED)}"
        )
    labels = _checked(y, head, blocks)
    rows, notes = (
        make_folds(labels, folds=folds, groups=groups, seed=seed, task=head.task)
        if isinstance(folds, int)
        else (list(folds), [])
    )
    data = LabelledBlocks.of(head, blocks, labels, rows, sample_weight)
    listed = grids.as_grids(head.grid, rows)
    params = grids.product(listed)
    strengths = [float(p[STREAMED[head.name]]) for p in params]
    solver = Solver(head.name, data)
    heads = solver.of_folds(strengths)
    held = ask(data, heads, seed)
    trials = Trials(params, held.scores, np.array([[h.converged for h in f] for f in heads]).T)
    best = int(trials.means.argmax())
    edges = grids.at_edge(params, trials.means, best)
    if one_standard_error:
        best = grids.simplest_within(params, listed, trials.scores, best)
    final = solver.final(strengths[best], best, heads[0][best])
    estimator: Any = as_pipeline(head, params[best], final, data.classes, solver.statistics)
    said, probabilities, scale = held.decisions[:, best], None, "own"
    if data.classes is not None:
        own = hasattr(estimator["clf"], "predict_proba")
        scales = scales_for(own, len(data.classes), compete)
        apart = _judging(data.fold_of[held.rows], labels[held.rows])
        scale, _ = best_scale(said, labels[held.rows], apart, scales)
        if scale == "own":
            probabilities = probabilities_of(said)
        else:
            estimator, probabilities = calibrated(
                estimator, said, labels[held.rows], len(rows), scale
            )
    notes += few_samples(labels) if data.classes is not None else []
    notes += edge_notes(edges, params[best]) + convergence_notes(trials, final.converged)
    return StreamedResult(
        head=head.name,
        best_params=dict(params[best]),
        best_score=float(trials.scores[best].mean()),
        table=trials.table(),
        scoring=SCORING[head.task],
        folds=len(rows),
        at_edge=edges,
        warnings=notes,
        estimator=estimator,
        calibrated=scale != "own",
        scale=scale,
        passes=blocks.passes,
        held_rows=held.rows,
        held_probabilities=probabilities,
    )


def _judging(fold_of: Rows, y: Array) -> Folds:
    """Split held-out rows by their folds, to judge scales; where there is one fold, at random."""
    folds = np.unique(fold_of)
    if len(folds) < 2:
        smallest = int(np.unique(y, return_counts=True)[1].min())
        return [] if smallest < 2 else make_folds(y, folds=min(5, smallest))[0]
    return [(np.flatnonzero(fold_of != k), np.flatnonzero(fold_of == k)) for k in folds]


def _checked(y: ArrayLike, head: Head, blocks: Blocks) -> Array:
    labels = np.asarray(y)
    if labels.ndim != 1 or len(labels) != blocks.n_rows:
        raise FitError(
            f"there are {blocks.n_rows} rows of features and labels of shape {labels.shape}; "
            "expected one label a row"
        )
    if head.task == "classification":
        check_classes(labels)
        return labels
    numbers = labels.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise FitError(
            f"labels hold NaN or infinity in {len(bad)} rows ({numbered(bad)}); leave these out"
        )
    return numbers
