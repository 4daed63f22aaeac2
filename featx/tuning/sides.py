"""Which rows train, which decide when to stop, and which measure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from featx.cache.reader import Cache
from featx.errors import FitError
from featx.fitting.columns import Columns, load_samples
from featx.fitting.samples import Samples
from featx.fitting.seen import without_seen
from featx.heads import get_head
from featx.selection import SplitPlan, leak_warnings, make_split
from featx.selection.checks import check_classes
from featx.selection.splits import Split
from featx.tuning.options import TuneOptions


def labelled(cache: Cache, options: TuneOptions) -> Samples:
    """Take the labelled rows of a cache of maps.

    Raises
    ------
    FitError
        If there are none, or they have several labels.
    """
    plan = SplitPlan(split=options.split)
    column = None if plan.split == "auto" else str(plan.split)
    columns = Columns(None, options.label, options.groups, options.weights_column, column)
    reader = replace(get_head("logreg"), name="tune")  # errors name it
    samples = load_samples(cache, columns, reader, maps=True)
    if samples.task != "classification":
        raise FitError("tune takes one label a row, and these rows have several")
    check_classes(samples.y)
    if plan.split == "auto" and options.split != "auto":
        return samples.overruled()
    if samples.split is None:
        return samples
    return samples.keep(samples.split != "", "without split")


def split_rows(samples: Samples, options: TuneOptions) -> tuple[Split, list[dict[str, str]]]:
    """Hold out test rows, then the validation rows of the training part, groups together.

    Raises
    ------
    FitError
        If rows do not suffice, or a class has no training row.
    """
    groups, plan = samples.groups, SplitPlan(split=options.split, seed=options.seed)
    samples = without_seen(samples, plan.test_size, options.seed)
    split = make_split(
        samples.y, split=samples.split, groups=groups, test_size=plan.test_size, seed=options.seed
    )
    train, validation = split.train, split.validation
    if validation is None and options.validation:
        train, validation = _divided(samples, train, options)
    missing = np.setdiff1d(samples.classes, samples.y[train])
    if len(missing):
        raise FitError(
            f"tune: {len(missing)} classes have no training row ({', '.join(missing[:5])}); add "
            "images of them, or another --split"
        )
    if options.batchnorm == "train" and len(train) < 2:
        raise FitError("tune: one training row has no statistics for --batchnorm train")
    known = train if validation is None else np.concatenate([train, validation])
    leaks = leak_warnings(known, split.test, digests=samples.digests, groups=groups, y=samples.y)
    return Split(np.sort(train), validation, split.test), [*samples.notes, *leaks]


def _divided(
    samples: Samples, train: NDArray[np.intp], options: TuneOptions
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Draw the validation rows from the training rows."""
    groups = None if samples.groups is None else samples.groups[train]
    share, seed = options.validation, options.seed
    try:
        inner = make_split(samples.y[train], groups=groups, test_size=share, seed=seed)
    except FitError as error:
        raise FitError(
            f"tune: {share:.0%} of the {len(train)} training rows cannot decide when to stop "
            f"({error}); pass another --validation, or 0 to train for all epochs"
        ) from None
    return train[inner.train], train[inner.test]


def row_weights(
    samples: Samples, y: NDArray[np.int64], train: NDArray[np.intp], options: TuneOptions
) -> NDArray[np.float32]:
    """Weight of each row: its own, times that of its class.

    Raises
    ------
    FitError
        If all training rows have the weight 0.
    """
    weights = np.ones(len(y)) if samples.weights is None else samples.weights.astype(np.float64)
    if not weights[train].sum():
        raise FitError(f"tune: column {options.weights_column!r} is 0 in all training rows")
    if options.class_weights == "balanced":
        counts = np.bincount(y[train], minlength=len(samples.classes))
        weights = weights * (len(train) / (len(counts) * np.maximum(counts, 1)))[y]
    return weights.astype(np.float32)
