"""Bootstrap weights, and intervals from the spread of a metric over them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit  # the quantile of t; scipy.stats takes a second to load

from featx.typing import RowValues

Floats = NDArray[np.float64]
Kind = Literal["share", "positive", "below-one", "biased"]

LEVEL = 0.95
"""Of every interval that no one asked to be wider."""

CELLS_AT_ONCE = 4_000_000
"""Weights held at a time, so that many rows cost time and not memory."""

_LARGEST = 600.0  # exp() of much more is not finite


def draw_weights(
    n: int, n_boot: int, seed: int, groups: RowValues | None = None
) -> Iterator[Floats]:
    """Yield bootstrap samples as how often each row is in them.

    Parameters
    ----------
    n
        Rows.
    groups
        Whole groups are drawn when given, as rows of one group are not independent.

    Yields
    ------
    weights : float64, shape (some, n); n_boot of them in all
    """
    rng = np.random.default_rng(seed)
    codes = None if groups is None else np.unique(groups, return_inverse=True)[1]
    units = n if codes is None else int(codes.max()) + 1
    share = np.full(units, 1.0 / units)
    at_once = max(1, CELLS_AT_ONCE // max(n, 1))
    for start in range(0, n_boot, at_once):
        drawn = rng.multinomial(units, share, size=min(at_once, n_boot - start)).astype(np.float64)
        yield drawn if codes is None else drawn[:, codes]


def interval(
    value: float,
    samples: Floats,
    kind: Kind,
    units: int,
    bias: float = 0.0,
    most: float = math.inf,
    level: float = LEVEL,
) -> dict[str, float]:
    """Make a metric with its interval.

    The bootstrap gives the standard error; the shape of the interval comes from what the metric
    is, because plain percentiles hold the truth too seldom on few rows, and are a point where
    nothing is wrong. Shares use Wilson's interval with the effective number of rows that this
    standard error implies, losses a log scale.

    Parameters
    ----------
    value
        The metric on the rows as they are.
    samples
        The metric on bootstrap samples; NaN where it is undefined.
    kind
        ``share`` for a metric in [0, 1], ``positive`` for a loss, ``below-one`` for R2,
        ``biased`` for one in [0, 1] that noise alone lifts above zero.
    units
        Independent rows (or groups) behind it.
    bias
        How far noise alone lifts a ``biased`` metric; the lower end makes room for it.
    most
        Rows that a share is worth at most. Near one the bootstrap sees too little spread in most
        samples, because what goes wrong is rare, and would promise too much.
    level
        Of the interval, in (0, 1).

    Examples
    --------
    >>> import numpy as np
    >>> round(interval(1.0, np.ones(100), "share", 50)["low"], 2)
    0.93
    """
    samples = samples[np.isfinite(samples)]
    if not np.isfinite(value) or units < 1:
        return {"value": float("nan"), "low": float("nan"), "high": float("nan")}
    error = float(samples.std(ddof=1)) if len(samples) > 1 else 0.0
    # Student's t is a little wider than the normal, which few units (or groups) need.
    z = float(stdtrit(max(units - 1, 1), (1 + level) / 2))
    if kind == "share":
        effective = value * (1 - value) / error**2 if error > 0 and 0 < value < 1 else float(units)
        return {"value": value, **wilson(value, min(effective, most), z)}
    if kind == "positive":
        return {"value": value, **_on_log_scale(value, error, z)}
    if kind == "below-one":
        mirrored = _on_log_scale(1 - value, error, z)
        return {"value": value, "low": 1 - mirrored["high"], "high": 1 - mirrored["low"]}
    high = max(value, min(1.0, value + z * error))
    return {"value": value, "low": max(0.0, value - bias - z * error), "high": high}


def balanced_rows(support: NDArray[Any]) -> float:
    """Say how many rows a mean over classes is worth: as many balanced rows have its variance.

    Examples
    --------
    >>> balanced_rows(np.array([50, 50])), balanced_rows(np.array([180, 20]))
    (100.0, 72.0)
    """
    there = support[support > 0]
    return float(len(there) ** 2 / (1 / there).sum())


def mean_interval(
    value: float,
    samples: Floats,
    error: float,
    errors: Floats,
    most: float = math.inf,
    unseen: float = 0.0,
    level: float = LEVEL,
) -> dict[str, float]:
    """Make a mean loss with its interval: the studentised bootstrap, on a log scale.

    Losses are skewed: samples without the rare large ones have a small mean and a small error, and
    only the ratio of both says how far the truth may lie above (Efron and Tibshirani 1993).

    Parameters
    ----------
    samples, errors
        The mean and its standard error on bootstrap samples.
    most
        What the loss of a row is at most; on few rows the studentised bootstrap may pass it.
    unseen
        The upper end is not below this; see `featx.evaluation.metrics.Mean`.
    level
        Of the interval, in (0, 1).
    """
    usable = np.isfinite(samples) & (errors > 0) & (samples > 0)
    if value <= 0 or error <= 0 or usable.sum() < 2:
        return {"value": value, "low": value, "high": max(value, unseen)}
    ratio = errors[usable] / samples[usable]
    t = (np.log(samples[usable]) - np.log(value)) / ratio
    low, high = np.quantile(t, [(1 - level) / 2, (1 + level) / 2]) * error / value
    return {
        "value": value,
        "low": value * float(np.exp(-high)),
        "high": max(value, unseen, min(most, value * float(np.exp(min(-low, _LARGEST))))),
    }


def wilson(share: float, n: float, z: float = 1.959964) -> dict[str, float]:
    """Make Wilson's score interval of a share (Wilson 1927).

    Examples
    --------
    >>> {k: round(v, 3) for k, v in wilson(0.9, 100).items()}
    {'low': 0.826, 'high': 0.945}
    """
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = max(0.0, float(middle - half)), min(1.0, float(middle + half))
    # At 0 and 1 the formula meets the end but for rounding.
    return {"low": min(low, share), "high": max(high, share)}


def _on_log_scale(value: float, error: float, z: float) -> dict[str, float]:
    if value <= 0:
        return {"low": value, "high": value}
    factor = float(np.exp(z * error / value))
    return {"low": value / factor, "high": value * factor}
