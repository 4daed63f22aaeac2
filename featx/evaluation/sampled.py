"""Metrics on bootstrap samples, and the interval of each."""

from __future__ import annotations

from collections.abc import Mapping
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


class Sampled:
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
    names: ArrayLike, support: NDArray[Any], made: Mapping[str, m.Metric], sampled: Sampled
) -> dict[str, Any]:
    """Give metrics of each class with their intervals; None where one is undefined.

    Parameters
    ----------
    support
        Rows of each class.
    made
        Metrics whose value is of shape (n_classes,).
    """
    arrays = sampled.arrays(made)
    found: dict[str, Any] = {}
    for k, name in enumerate(np.asarray(names).tolist()):
        one: dict[str, Any] = {"support": int(support[k])}
        for what, (values, samples) in arrays.items():
            drawn = samples[:, k] if samples.ndim == 2 else np.empty(0)
            rows = max(int(support[k]), 1)
            made_of = interval(float(values[k]), drawn, "share", rows, level=sampled.level)
            one[what] = made_of if np.isfinite(values[k]) else None
        found[str(name)] = one
    return found
