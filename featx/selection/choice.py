"""The choice of a head's parameters on some rows, and the head fitted with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import Pipeline

from featx.heads import Head
from featx.selection.calibration import best_scale, calibrated
from featx.selection.checks import Warn
from featx.selection.folds import Folds, hold_out_once, make_folds
from featx.selection.multilabel import whole_labels
from featx.selection.notes import convergence_notes, edge_notes
from featx.selection.refit import Fitted, clone_values, refit
from featx.selection.result import SearchResult
from featx.selection.steps import FitRun
from featx.selection.sweep import in_threads
from featx.selection.trials import Trials

Array = NDArray[Any]


@dataclass(frozen=True)
class Rows:
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
    rows: Rows
    trials: Trials
    best: int
    edges: list[str]
    scoring: str
    notes: list[Warn]
    run: FitRun = FitRun()  # noqa: RUF009 - frozen

    @property
    def params(self) -> dict[str, Any]:
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
            Calibrate a classifier that has no ``predict_proba``.
        compete
            Choose the scale of the probabilities too (`featx.selection.calibration`).
        """
        one_label = self.rows.task == "classification"
        if compete and probabilities and one_label and self.rows.weights is None:
            fitted, scale = self._scaled()
        else:
            asked = probabilities and _lacks_probabilities(self.pipeline, self.params, self.rows)
            folds = self.rows.each_once() if asked else None
            fitted = refit(self.pipeline, self.params, self.rows.data, folds, self.run.n_jobs)
            scale = "sigmoid" if fitted.calibrated else "own"
        self.run.tell(len(self.rows.folds) + 1)
        notes = [*self.notes, *edge_notes(self.edges, self.params)]
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

    def _scaled(self) -> tuple[Fitted, str]:
        """Fit the head, and give it the probabilities that suit held-out rows best."""
        X, y, _ = self.rows.data
        fitted = refit(self.pipeline, self.params, self.rows.data, None, self.run.n_jobs)
        folds = self.rows.each_once()
        own = hasattr(fitted.estimator, "predict_proba")
        with in_threads(self.run.n_jobs, len(folds)):
            decisions = cross_val_predict(
                clone(fitted.estimator), X, y, cv=folds, method="decision_function"
            )
        scale, _ = best_scale(decisions, y, folds, own)
        if scale == "own":
            return fitted, scale
        estimator, _ = calibrated(fitted.estimator, decisions, y, len(folds), scale)
        return Fitted(estimator, True, fitted.converged), scale


def _lacks_probabilities(pipeline: Pipeline, params: Mapping[str, Any], rows: Rows) -> bool:
    final = clone(pipeline).set_params(**clone_values(params))
    return rows.task != "regression" and not hasattr(final["clf"], "predict_proba")
