"""Rows with several labels: one classifier each, on features that are prepared once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline

from featx.errors import FitError
from featx.heads import Head
from featx.selection.candidates import Grids
from featx.selection.checks import Warn, warn
from featx.selection.folds import Folds, hold_out_once, make_folds


def check_single_label(head: Head, sample_weight: Any) -> None:
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
    renamed = [{k.replace("clf__", "clf__estimator__", 1): v for k, v in g.items()} for g in listed]
    return wrapped, renamed


def plain_names(params: Mapping[str, Any]) -> dict[str, Any]:
    """Name parameters as the head itself does, without the classifier a label around it.

    Examples
    --------
    >>> plain_names({"clf__estimator__C": 1.0, "scale": None})
    {'clf__C': 1.0, 'scale': None}
    """
    return {k.replace("clf__estimator__", "clf__", 1): v for k, v in params.items()}


def whole_labels(rows: Folds, y: NDArray[Any], groups: ArrayLike | None, seed: int) -> Folds:
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


def label_notes(rows: Folds, y: NDArray[Any]) -> list[Warn]:
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


def _both_values(folds: Folds, y: NDArray[Any]) -> bool:
    return all(np.ptp(y[train], axis=0).all() for train, _ in folds)
