"""Metrics on bootstrap samples, and the interval of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.evaluation import metrics as m
from featx.evaluation.resampling import LEVEL, Kind, draw_weights, interval, mean_interval

KINDS: Mapping[str, Kind] = {
    "log_loss": "positive",
    "brier": "positive",
    "mae": "positive",
    "rmse": "positive",
    "r2": "below-one",
    "quadratic_kappa": "below-one",
    "rank_mae": "positive",
    "calibration_error": "biased",
}


class BootstrapSamples:
    """Measures on the same bootstrap samples, so that metrics can be set side by side."""

    def __init__(
        self,
        n: int,
        n_boot: int,
        seed: int,
        groups: NDArray[Any] | None,
        level: float = LEVEL,
    ) -> None:
        self.n, self.n_boot, self.seed, self.groups, self.level = n, n_boot, seed, groups, level
        self.units = n if groups is None else len(np.unique(groups))

    def arrays(self, made: Mapping[str, m.Metric]) -> dict[str, tuple[Any, Any]]:
        """Give each metric's value and its bootstrap samples."""
        ones = np.ones((1, self.n))
        values = {name: metric(ones)[0] for name, metric in made.items()}
        drawn: dict[str, list[Any]] = {name: [] for name in made}
        for weights in draw_weights(self.n, self.n_boot, self.seed, self.groups):
            for name, metric in made.items():
                drawn[name].append(metric(weights))
        return {
            name: (values[name], np.concatenate(drawn[name]) if drawn[name] else np.empty(0))
            for name in made
        }

    def measure(
        self,
        made: Mapping[str, m.Metric],
        biases: Mapping[str, float] | None = None,
        rows: Mapping[str, float] | None = None,
        units: Mapping[str, int] | None = None,
    ) -> dict[str, Any]:
        """Give each metric that is defined with its interval.

        Parameters
        ----------
        biases
            How far noise alone lifts a metric.
        rows
            How many rows a share is worth at most; all of them for those not named.
        units
            Independent rows (or groups) behind a metric; all of them for those not named.
        """
        bias, most, fewer = biases or {}, rows or {}, units or {}
        means = {k: v for k, v in made.items() if isinstance(v, m.Mean) and k in KINDS}
        errors = self.arrays({name: mean.error for name, mean in means.items()})
        found = {}
        for name, (value, samples) in self.arrays(made).items():
            if name in means:
                ends = means[name].most, means[name].unseen
                found[name] = mean_interval(float(value), samples, *errors[name], *ends, self.level)
            elif np.isfinite(value):
                kind, extra = KINDS.get(name, "share"), bias.get(name, 0.0)
                worth = most.get(name, float(self.n))
                found[name] = interval(
                    float(value),
                    samples,
                    kind,
                    fewer.get(name, self.units),
                    extra,
                    worth,
                    self.level,
                )
        return found


def by_class(
    names: ArrayLike,
    members: Sequence[NDArray[np.intp]],
    made: Mapping[str, m.Metric],
    sampled: BootstrapSamples,
) -> dict[str, Any]:
    """Give metrics of each class with their intervals; None where one is undefined.

    Parameters
    ----------
    members
        Rows of each class.
    made
        Metrics whose value is of shape (n_classes,).
    """
    arrays = sampled.arrays(made)
    found: dict[str, Any] = {}
    for k, name in enumerate(np.asarray(names).tolist()):
        rows = members[k]
        one: dict[str, Any] = {"support": len(rows)}
        units = len(rows if sampled.groups is None else np.unique(sampled.groups[rows]))
        for what, (values, samples) in arrays.items():
            drawn = samples[:, k] if samples.ndim == 2 else np.empty(0)
            made_of = interval(float(values[k]), drawn, "share", max(units, 1), level=sampled.level)
            one[what] = made_of if np.isfinite(values[k]) else None
        found[str(name)] = one
    return found


def several_labels(
    true: NDArray[Any],
    predicted: NDArray[Any],
    ranked: Any,
    classes: Any,
    sampled: BootstrapSamples,
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
    found["per_class"] = by_class(
        names, [np.flatnonzero(column) for column in wanted.T], each, sampled
    )
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
