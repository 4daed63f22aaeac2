"""How a fit is measured where the user leaves it open: nested for few rows, repeated for more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from featx.errors import FitError
from featx.fitting.options import FitOptions
from featx.fitting.samples import Samples
from featx.heads import Head

NESTED_ROWS = 2000
"""Rows below which every one of them is measured, by nested folds."""
_MANY_ROWS = 5000


def settle(options: FitOptions, head: Head, samples: Samples) -> FitOptions:
    """Fill in ``nested`` and ``repeats`` where the user left them open.

    A head that is chosen among several is measured with the choice inside: nested where rows are
    few, so that each of them counts, and by repeated splits where there are many. A split of the
    source, a share, thresholds or sets leave one split. Only the number of rows decides.

    Raises
    ------
    FitError
        If a class has too few rows to choose and to measure.
    """
    given = options.nested is not None or options.repeats is not None
    open_ = bool(head.options) and not given and samples.split is None and options.split == "auto"
    if not open_ or options.promises:
        repeats = 1 if options.repeats is None else options.repeats
        return replace(options, nested=bool(options.nested), repeats=repeats)
    if len(samples) >= NESTED_ROWS:
        repeats = 5 if len(samples) < _MANY_ROWS else 3
        return replace(options, nested=False, repeats=repeats)
    if options.fit_on == "train":
        return replace(options, nested=False, repeats=5)
    folds = min(options.folds, _rarest(samples, options.folds))
    return replace(options, nested=True, repeats=1, folds=folds)


def _rarest(samples: Samples, enough: int) -> int:
    """Count the rows of the rarest class; `enough` where rows have no single class."""
    if samples.task != "classification":
        return enough
    classes, counts = np.unique(samples.y, return_counts=True)
    if len(classes) > 1 and counts.min() < 3:
        few = [f"{c} ({n})" for c, n in zip(classes, counts, strict=True) if n < 3]
        named = ", ".join(few[:5]) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
        raise FitError(
            f"class {named} has fewer than 3 images: one to learn from, one to choose by and one "
            "to measure with; add images, or leave such classes out. Without a head, the features "
            "can still be used: featx.open_cache, or a head such as knn on them in scikit-learn"
        )
    return max(2, int(counts.min()))
