"""Metrics of rows that have several labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.evaluation import metrics as m
from featx.evaluation.sampled import Sampled, by_class


def several_labels(
    true: NDArray[Any], predicted: NDArray[Any], ranked: Any, classes: Any, sampled: Sampled
) -> dict[str, Any]:
    """Measure labels of shape (n_samples, n_labels); see `featx.evaluation.evaluate`.

    Parameters
    ----------
    ranked
        Probabilities or scores of the same shape, or None.
    classes
        Names of the columns; their numbers when None.
    """
    wanted, called = (np.asarray(table, dtype=np.float64) for table in (true, predicted))
    hits = wanted * called

    def precision(w: m.Floats) -> m.Floats:
        return m.ratio(w @ hits, w @ called)

    def recall(w: m.Floats) -> m.Floats:
        return m.ratio(w @ hits, w @ wanted)

    def macro_f1(w: m.Floats) -> m.Floats:
        return m.mean_there(m.ratio(2 * (w @ hits), w @ wanted + w @ called))

    def micro_f1(w: m.Floats) -> m.Floats:
        both = (w @ wanted + w @ called).sum(axis=1)
        return m.ratio(2 * (w @ hits).sum(axis=1), both)

    exact = (wanted == called).all(axis=1).astype(np.float64)
    made: dict[str, m.Metric] = {
        "accuracy": m.Mean(exact),
        "macro_f1": macro_f1,
        "micro_f1": micro_f1,
    }
    each: dict[str, m.Metric] = {"precision": precision, "recall": recall}
    if ranked is not None:
        by_label = _precisions(wanted, np.asarray(ranked, np.float64))
        each["average_precision"] = by_label
        made["average_precision"] = lambda w: m.mean_there(by_label(w))
    found = sampled.measure(made)
    names = [str(k) for k in (range(wanted.shape[1]) if classes is None else classes)]
    found["per_class"] = by_class(names, wanted.sum(axis=0).astype(int), each, sampled)
    return found | {"classes": names}


def _precisions(wanted: m.Floats, ranked: m.Floats) -> m.Metric:
    """Make the average precision of each label; NaN where no row has it, or all have."""
    made = {
        k: m.average_precision(wanted[:, k] == 1, ranked[:, k])
        for k in range(wanted.shape[1])
        if 0 < wanted[:, k].sum() < len(wanted)
    }

    def metric(w: m.Floats) -> m.Floats:
        found = np.full((len(w), wanted.shape[1]), np.nan)
        for k, one in made.items():
            found[:, k] = one(w)
        return found

    return metric
