"""Fit a stack: tune each part, predict out of fold, and let a logistic regression weigh them.

Every value that the last step learns from was predicted by parts that had not seen its row. What
`StackingClassifier` would do itself is done here, because its folds cannot be grouped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.ensemble import StackingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import get_scorer
from sklearn.pipeline import Pipeline

from featx.errors import FitError
from featx.heads import Head
from featx.selection import candidates as grids
from featx.selection.candidates import SearchResult, scored
from featx.selection.checks import Warn, warn
from featx.selection.fold import has_converged
from featx.selection.refit import clone_values
from featx.selection.splits import Folds
from featx.selection.sweep import FitRun, in_threads
from featx.selection.trials import try_all

Array = NDArray[Any]
Data = tuple[Array, Array, Array | None]


def combine(
    head: Head,
    pipeline: Pipeline,
    data: Data,
    folds: tuple[Folds, Folds],
    scoring: str,
    notes: list[Warn],
    run: FitRun,
) -> SearchResult:
    """Tune, fit and weigh the parts of a stack.

    Parameters
    ----------
    head, pipeline
        The stack, and what it builds.
    data
        Features, labels, and sample weights or None.
    folds
        Those on which each part is tuned, and those that hold out every row once.

    Raises
    ------
    FitError
        If a fold leaves one class only to train on.

    Returns
    -------
    result : its score is that of the last step on out-of-fold predictions, for parameters that were
        chosen on the same rows: a little too good, like every best score of a search
    """
    stack, (tuned_on, whole) = pipeline["clf"], folds
    lost = _lost_classes(data[1], whole)
    params: dict[str, Any] = {}
    parts = []
    for (name, part), one in zip(stack.estimators, head.parts, strict=True):
        listed = grids.as_grids(one.grid, tuned_on)
        trials = try_all(part, listed, data, tuned_on, scoring, 0, run)
        chosen = trials.params[int(trials.means.argmax())]
        params |= {f"clf__{name}__{key}": value for key, value in chosen.items()}
        parts.append((name, clone(part).set_params(**clone_values(chosen))))
    values, fitted = _out_of_fold([part for _, part in parts], data, whole, run)
    codes = np.unique(data[1], return_inverse=True)[1]
    final = clone(stack.final_estimator)
    scores = np.array(
        [
            get_scorer(scoring)(final.fit(values[train], codes[train]), values[held], codes[held])
            for train, held in whole
        ]
    )
    made = _assembled(stack, parts, fitted, final.fit(values, codes), data, len(whole))
    return SearchResult(
        head=head.name,
        best_params=params,
        best_score=float(scores.mean()),
        table=[scored(params, scores)],
        scoring=scoring,
        folds=len(whole),
        at_edge=[],
        warnings=[*notes, *lost, *_stopped(fitted)],
        estimator=Pipeline([("clf", made)]),
    )


def _out_of_fold(
    parts: Sequence[Pipeline], data: Data, whole: Folds, run: FitRun
) -> tuple[NDArray[np.float64], list[Pipeline]]:
    """Predict each row by parts that did not see it; fit the parts on all rows, too."""
    X, y, weights = data
    everything, classes = np.arange(len(y)), np.unique(y)

    def fit(part: Pipeline, train: Array) -> Pipeline:
        given = {} if weights is None else {"clf__sample_weight": weights[train]}
        fitted = clone(part).fit(X[train], y[train], **given)
        run.tell(1)
        return fitted

    def held_out(one: tuple[Pipeline, Array, Array]) -> NDArray[np.float64]:
        part, train, held = one
        return _values(fit(part, train), X[held], classes)

    with in_threads(run.n_jobs, len(whole)) as each:
        done = each(held_out, [(part, *fold) for part in parts for fold in whole])
        fitted = each(lambda part: fit(part, everything), parts)
    columns = []
    for k in range(len(parts)):
        some = done[k * len(whole) : (k + 1) * len(whole)]
        column = np.empty((len(y), some[0].shape[1]))
        for (_, held), values in zip(whole, some, strict=True):
            column[held] = values
        columns.append(column)
    return np.hstack(columns), fitted


def _values(fitted: Pipeline, X: Array, classes: Array) -> NDArray[np.float64]:
    """Give what `StackingClassifier` takes from a part: probabilities if it has any, else scores.

    A part that was trained without a class answers it with probability 0, or with its lowest score.

    Returns
    -------
    values : shape (len(X), 1) of two classes, else (len(X), len(classes))
    """
    probable = hasattr(fitted, "predict_proba")
    asked = fitted.predict_proba if probable else fitted.decision_function
    found = np.asarray(asked(X), dtype=np.float64).reshape(len(X), -1)
    if len(fitted.classes_) < len(classes):
        if found.shape[1] == 1:  # scores of two classes that are left
            found = np.hstack([-found, found])
        known = np.searchsorted(classes, fitted.classes_)
        least = np.zeros(len(X)) if probable else found.min(axis=1)
        every = np.tile(least[:, None], (1, len(classes)))
        every[:, known] = found
        return every
    return found[:, 1:] if found.shape[1] == 2 else found


def _lost_classes(y: Array, folds: Folds) -> list[Warn]:
    """Warn of folds that keep every row of a class from training, as groups can.

    Raises
    ------
    FitError
        If one class is left.
    """
    lost = [np.setdiff1d(y, y[train]) for train, _ in folds]
    if any(len(np.unique(y[train])) < 2 for train, _ in folds):
        raise FitError(
            "a fold of the stack leaves one class to train on, as the rows of the others are in "
            "one group; take fewer folds, another head, or add groups"
        )
    names = np.unique(np.concatenate(lost)).tolist()
    if not names:
        return []
    n, shown = sum(map(len, lost)), ", ".join(map(repr, map(str, names[:5])))
    text = (
        f"{n} folds of the stack train without a row of class {shown}, as its rows are in one "
        "group; its parts answer that class with the least score there"
    )
    return [warn("class-lost-in-fold", text)]


def _assembled(
    stack: StackingClassifier, parts: Any, fitted: Any, final: Any, data: Data, n_folds: int
) -> StackingClassifier:
    """Put fitted parts and a fitted last step into one classifier, without fitting them again."""
    names = [name for name, _ in parts]
    made = StackingClassifier(
        list(zip(names, fitted, strict=True)), final_estimator=FrozenEstimator(final), cv="prefit"
    ).fit(data[0], data[1])
    # As if it had been fitted the plain way: a clone of it can be.
    made.final_estimator_ = final
    return made.set_params(
        estimators=parts, final_estimator=clone(stack.final_estimator), cv=n_folds
    )


def _stopped(fitted: Sequence[Pipeline]) -> list[Warn]:
    if all(has_converged(one["clf"]) for one in fitted):
        return []
    return [warn("not-converged", "a part of the stack stopped at its iteration limit")]
