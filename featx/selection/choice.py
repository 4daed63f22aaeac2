"""The choice of a head's parameters on some rows, and the head fitted with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline

from featx.heads import Head
from featx.selection.calibration import best_scale, calibrated, held_answers, scales_for
from featx.selection.candidates import SearchResult, describe
from featx.selection.checks import Warn, warn
from featx.selection.multilabel import whole_labels
from featx.selection.refit import FittedHead, clone_values, refit
from featx.selection.splits import Folds, hold_out_once, make_folds
from featx.selection.sweep import FitRun, in_threads
from featx.selection.trials import Trials, convergence_notes, edge_notes
from featx.typing import JsonObject

Array = NDArray[Any]

_SHARES_OF_NEIGHBOURS = (
    "probabilities of knn are shares of neighbours here, and not calibrated: rows have several "
    "labels, or a class has one row; take another head where they matter"
)


@dataclass(frozen=True)
class SearchRows:
    """Rows of a search: features, labels, weights or None, groups or None, and the folds."""

    X: Array
    y: Array
    weights: Array | None
    groups: ArrayLike | None
    folds: Folds
    task: str
    seed: int

    @property
    def data(self) -> tuple[Array, Array, Array | None]:
        """Features, labels and weights."""
        return self.X, self.y, self.weights

    def each_once(self) -> Folds:
        """Give the folds if they hold out every row once, else folds that do."""
        if self.task == "multilabel":
            return whole_labels(self.folds, self.y, self.groups, self.seed)
        if hold_out_once(self.folds, len(self.y)):
            return self.folds
        smallest = int(np.unique(self.y, return_counts=True)[1].min())
        folds = max(2, min(5, smallest))
        return make_folds(self.y, folds=folds, groups=self.groups, seed=self.seed)[0]


@dataclass(frozen=True)
class Choice:
    """Parameters chosen by cross-validation; `fitted` fits the head with them.

    Parameters
    ----------
    trials
        What was tried, and what it scored.
    best
        The number of the candidate that was chosen.
    edges
        Parameters of the best at an end of their grid.
    """

    head: Head
    pipeline: Pipeline
    rows: SearchRows
    trials: Trials
    best: int
    edges: list[str]
    scoring: str
    notes: list[Warn]
    run: FitRun = FitRun()  # noqa: RUF009 - frozen

    @property
    def params(self) -> JsonObject:
        """The chosen parameters of the pipeline."""
        return dict(self.trials.params[self.best])

    @property
    def score(self) -> float:
        """Mean score over the folds, rounded so that equal choices are equal."""
        return float(self.trials.means[self.best])

    def fitted(self, probabilities: bool = True, compete: bool = False) -> SearchResult:
        """Fit the head on all rows.

        Parameters
        ----------
        probabilities
            Calibrate a classifier that has no probabilities, or none to be shown as they are; the
            scale is chosen too (`featx.selection.calibration`).
        compete
            Let the probabilities of a classifier that has some compete with calibrated ones.
        """
        asked = probabilities and self.rows.task != "regression"
        to_calibrate = asked and self._needs_calibration()
        notes = [*self.notes, *edge_notes(self.edges, self.params)]
        if to_calibrate and not self._can_calibrate():
            notes.append(warn("not-calibrated", _SHARES_OF_NEIGHBOURS))
            to_calibrate = False
        one_label = self.rows.task == "classification" and self.rows.weights is None
        if asked and one_label and (to_calibrate or compete):
            fitted, scale = self._scaled(compete, own=not to_calibrate)
        else:
            folds = self.rows.each_once() if to_calibrate else None
            fitted = refit(self.pipeline, self.params, self.rows.data, folds, self.run.n_jobs)
            scale = "sigmoid" if fitted.calibrated else "own"
        self.run.tell(len(self.rows.folds) + 1)
        return SearchResult(
            head=self.head.name,
            best_params=self.params,
            best_score=float(self.trials.scores[self.best].mean()),
            table=self.trials.table(),
            scoring=self.scoring,
            folds=len(self.rows.folds),
            at_edge=self.edges,
            warnings=[*notes, *convergence_notes(self.trials, fitted.converged)],
            estimator=fitted.estimator,
            calibrated=fitted.calibrated,
            scale=scale,
        )

    def _needs_calibration(self) -> bool:
        final = clone(self.pipeline).set_params(**clone_values(self.params))
        return self.head.calibrate or not hasattr(final["clf"], "predict_proba")

    def _can_calibrate(self) -> bool:
        """Tell whether there are held-out decisions of neighbours; other heads have them always."""
        if type(self.pipeline["clf"]) is not KNeighborsClassifier:
            return True
        # One row of a class is its own nearest neighbour where it is trained and asked.
        apart = all(not np.isin(held, train).any() for train, held in self.rows.folds)
        return self.rows.task == "classification" and apart

    def _scaled(self, compete: bool, own: bool) -> tuple[FittedHead, str]:
        """Fit the head, and give it the probabilities that suit held-out rows best.

        Parameters
        ----------
        own
            Whether those that the head gives itself may be the best ones.
        """
        X, y, _ = self.rows.data
        fitted = refit(self.pipeline, self.params, self.rows.data, None, self.run.n_jobs)
        folds = self.rows.each_once()
        with in_threads(self.run.n_jobs, len(folds)):
            said, probable = held_answers(fitted.estimator, X, y, folds)
        scales = scales_for(own, len(fitted.estimator.classes_), compete)
        scale, _ = best_scale(said, y, folds, scales, probable)
        if scale == "own":
            return fitted, scale
        estimator, _ = calibrated(fitted.estimator, said, y, len(folds), scale, probable=probable)
        return FittedHead(estimator, True, fitted.converged), scale


def compete(
    choices: Iterable[tuple[int, Choice]], probabilities: bool = True, scales: bool = True
) -> SearchResult:
    """Fit the choice with the best score; of equals, the first.

    Parameters
    ----------
    choices
        Each with the number of the features that it was made on; all on the same folds. They are
        made one after the other, and only the best one so far is kept in memory.
    """
    best: tuple[int, Choice] | None = None
    options: list[dict[str, Any]] = []
    for place, choice in choices:
        options.append(option_entry(choice.head.name, place, choice))
        if best is None or choice.score > best[1].score:
            best = place, choice
    assert best is not None
    place, winner = best
    return replace(winner.fitted(probabilities, scales), options=options, place=place)


def option_entry(name: str, place: int, choice: Choice | SearchResult) -> JsonObject:
    """Describe a competitor, JSON-ready."""
    found = choice.trials.table() if isinstance(choice, Choice) else choice.table
    params = describe(choice.params if isinstance(choice, Choice) else choice.best_params)
    row = next(row for row in found if row["params"] == params)
    return {
        "head": name,
        "features": place,
        "params": params,
        "score": row["mean"],
        "std": row["std"],
    }
