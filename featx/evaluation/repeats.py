"""What several splits of the same rows say together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import stdtrit  # the quantile of t; scipy.stats takes a second to load

from featx.evaluation.resampling import wilson

_SHARES = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "micro_f1",
    "roc_auc",
    "average_precision",
    "top_3_accuracy",
    "top_5_accuracy",
)


def over_repeats(
    rounds: Sequence[Mapping[str, float]], test_to_train: float, n_rows: int
) -> dict[str, dict[str, float]]:
    """Average metrics over repeated splits, with the corrected resampled t interval.

    The repeats share rows, so their spread alone is too narrow; Nadeau and Bengio 2003
    (https://doi.org/10.1023/A:1024068626366) add test rows / training rows to 1 / repeats. Shares
    get Wilson's interval of that error, and never one narrower than `n_rows` rows allow.

    Parameters
    ----------
    rounds
        Metric -> value of each split; a metric that a split lacks is left out.
    test_to_train
        Test rows by training rows.
    n_rows
        Rows that were tested at all.

    Returns
    -------
    metrics : for each ``{"value", "low", "high"}``; one split alone has no interval (NaN)

    Examples
    --------
    >>> found = over_repeats([{"accuracy": 0.8}, {"accuracy": 0.9}], 1 / 3, 200)["accuracy"]
    >>> round(found["value"], 2), found["low"] < 0.8, found["high"] <= 1
    (0.85, True, True)
    """
    found = {}
    for name in rounds[0]:
        if not all(name in one for one in rounds):
            continue
        values = np.array([one[name] for one in rounds])
        n, mean = len(values), float(values.mean())
        if n < 2:
            found[name] = {"value": mean, "low": math.nan, "high": math.nan}
            continue
        error = float(np.sqrt((1 / n + test_to_train) * values.var(ddof=1)))
        z = float(stdtrit(n - 1, 0.975))
        if name in _SHARES and 0 <= mean <= 1:
            effective = min(n_rows, mean * (1 - mean) / error**2) if error else n_rows
            found[name] = {"value": mean, **wilson(mean, max(effective, 1e-9), z)}
            continue
        low = mean - z * error
        low = low if name in ("r2", "quadratic_kappa") else max(0.0, low)
        found[name] = {"value": mean, "low": low, "high": mean + z * error}
    return found
