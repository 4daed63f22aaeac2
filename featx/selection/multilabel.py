"""One classifier a label, or a class against the rest, on features that are prepared once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline

from featx.errors import FitError
from featx.heads import Head
from featx.selection.candidates import Grids
from featx.selection.checks import Warn, warn
from featx.selection.splits import Folds, hold_out_once, make_folds
from featx.typing import JsonObject, RowValues

MOST_AGAINST_REST = 50
"""Classes up to which an SVM is also fitted for each class against all others: of ten classes that
takes twice as long as pairs, of fifty four times."""


def check_single_label(head: Head, sample_weight: object) -> None:
    """Refuse what only rows of one label can have.

    Raises
    ------
    FitError
        For a stack, or for sample weights.
    """
    if head.parts:
        raise FitError(f"head {head.name} is for one label a row; take svm, logreg or knn")
    if sample_weight is not None:
        raise FitError("sample weights are for one label a row; fit these labels without them")


def each_label(pipeline: Pipeline, listed: Grids) -> tuple[Pipeline, Grids]:
    """Make one classifier a label out of a classifier; neighbours serve all labels at once."""
    clf = pipeline["clf"]
    if type(clf) is KNeighborsClassifier:
        return pipeline, listed
    wrapped = Pipeline([*pipeline.steps[:-1], ("clf", OneVsRestClassifier(clf))])
    return wrapped, [_inside(grid) for grid in listed]


def tries_rest(head: Head, y: RowValues, weighted: bool, notes: list[Warn]) -> bool:
    """Tell whether one class against the rest is tried beside pairs of classes, on these rows.

    Parameters
    ----------
    notes
        Told where there are too many classes for it.
    """
    n = len(np.unique(y))
    if not head.against_rest or n < 3 or weighted:
        return False
    if n > MOST_AGAINST_REST:
        text = (
            f"{head.name} tells {n} classes apart by pairs alone; beyond {MOST_AGAINST_REST} "
            "classes one against the rest takes too long to be tried"
        )
        notes.append(warn("pairs-alone", text))
    return n <= MOST_AGAINST_REST


def against_rest(pipeline: Pipeline, listed: Grids) -> Grids:
    """Make grids of one class against the rest out of those of a classifier.

    A grid that names a classifier of its own stays alone.

    Examples
    --------
    >>> from featx.heads import get_head
    >>> [found] = against_rest(get_head("svm").build(), [{"clf__C": [1.0]}])
    >>> list(found), found["clf"]
    (['clf', 'clf__estimator__C'], [OneVsRestClassifier(estimator=SVC(kernel='linear'))])
    """
    around = OneVsRestClassifier(clone(pipeline["clf"]))
    return [{"clf": [around], **_inside(grid)} for grid in listed if "clf" not in grid]


def _inside(params: Mapping[str, object]) -> JsonObject:
    """Name parameters of a classifier as those of the one around it."""
    return {k.replace("clf__", "clf__estimator__", 1): v for k, v in params.items()}


def whole_labels(rows: Folds, y: RowValues, groups: ArrayLike | None, seed: int) -> Folds:
    """Give folds that hold out every row once and train each label on both its values.

    The given ones where they do; else two folds by the rarest label, grouped if ``groups`` are
    given.

    Raises
    ------
    FitError
        If there are no such folds.
    """
    if hold_out_once(rows, len(y)) and _both_values(rows, y):
        return rows
    counts = np.minimum((y != 0).sum(axis=0), (y == 0).sum(axis=0))
    rarest = y[:, int(counts.argmin())]
    for seeded in range(seed, seed + 20):
        folds, _ = make_folds(
            y, folds=2, groups=groups, seed=seeded, task="multilabel", strata=rarest
        )
        if _both_values(folds, y):
            return folds
    together = "" if groups is None else " while groups stay together"
    raise FitError(
        f"labels of {int(counts.min())} rows are too rare to calibrate probabilities{together}; "
        "add images of them or leave them out"
    )


def label_notes(rows: Folds, y: RowValues) -> list[Warn]:
    """Warn of labels that some fold trains without, or with nothing but."""
    alike = np.any([np.ptp(y[train], axis=0) == 0 for train, _ in rows], axis=0)
    if not alike.any():
        return []
    fewest = int(np.minimum((y != 0).sum(axis=0), (y == 0).sum(axis=0))[alike].min())
    text = (
        f"{int(alike.sum())} of {y.shape[1]} labels do not vary in the training rows of a fold "
        f"(the rarest is on, or off, {fewest} rows); the search knows little of them"
    )
    return [warn("label-not-in-fold", text)]


def _both_values(folds: Folds, y: RowValues) -> bool:
    return all(np.ptp(y[train], axis=0).all() for train, _ in folds)
