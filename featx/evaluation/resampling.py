"""Bootstrap weights, and intervals from the spread of a metric over them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

# Quantiles of beta, gamma, the normal and t; scipy.stats takes a second to load.
from scipy.special import betaincinv, gammaincinv, ndtr, ndtri, stdtrit

from featx.typing import RowValues

Floats = NDArray[np.float64]
Kind = Literal["share", "positive", "below-one", "biased"]

LEVEL = 0.95
"""Of every interval that no one asked to be wider."""

CELLS_AT_ONCE = 4_000_000
"""Weights held at a time, so that many rows cost time and not memory."""


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
    another: float = 0.0,
    least: float = -math.inf,
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
    another
        What one more wrong row takes from a metric ``below-one``; see `upper_end`.
    least
        What a metric ``below-one`` is at least.

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
    if kind == "share":
        effective = value * (1 - value) / error**2 if error > 0 and 0 < value < 1 else float(units)
        worth = min(effective, most)
        return {"value": value, **wilson(value, worth, _quantile(min(units, worth), level))}
    z = _quantile(units, level)
    if kind == "positive":
        return {"value": value, **_on_log_scale(value, error, z)}
    if kind == "below-one":
        # The samples differ by one wrong row at least, also where they do not show it.
        mirrored = _on_log_scale(1 - value, max(error, another / units), z)
        away = mirrored["high"]
        if another:
            away = max(away, upper_end(1 - value, error, units, another, level))
        return {"value": value, "low": max(1 - away, least), "high": 1 - mirrored["low"]}
    high = min(1.0, max(value + z * error, upper_end(value, error, units, 1.0, level)))
    low = max(0.0, value - bias - z * error)
    return {"value": value, "low": low, "high": max(value, high)}


def _quantile(units: float, level: float) -> float:
    """Give Student's t, a little wider than the normal, which few units (or groups) need."""
    return float(stdtrit(max(units - 1, 1), (1 + level) / 2))


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
    units: int,
    another: float,
    most: float = math.inf,
    level: float = LEVEL,
) -> dict[str, float]:
    """Make a mean loss with its interval: each end by what holds where large losses are rare.

    The studentised bootstrap on a log scale gives the lower end (Efron and Tibshirani 1993): losses
    are skewed, so a sample with a small mean has a small error too. It gives no usable upper end
    when most samples lack the few wrong rows; `upper_end` gives it from a gamma distribution.

    Parameters
    ----------
    samples, errors
        The mean and its standard error on bootstrap samples.
    units
        Independent rows (or groups) behind it.
    another
        What one more row may lose.
    most
        What the loss of a row is at most.
    level
        Of the interval, in (0, 1).
    """
    there = samples[np.isfinite(samples)]
    spread = float(there.std(ddof=1)) if len(there) > 1 else error
    high = max(value, min(most, upper_end(value, spread, units, another, level)))
    usable = np.isfinite(samples) & (errors > 0) & (samples > 0)
    if value <= 0 or error <= 0 or usable.sum() < 2:
        return {"value": value, "low": value if units > 1 else 0.0, "high": high}
    ratio = errors[usable] / samples[usable]
    t = (np.log(samples[usable]) - np.log(value)) / ratio
    reach = float(np.quantile(t, (1 + level) / 2)) * error / value
    return {"value": value, "low": min(value, value * float(np.exp(-reach))), "high": high}


def upper_end(
    value: float, error: float, units: int, another: float, level: float = LEVEL
) -> float:
    """Give the upper end of a mean of losses of which few are large, as a quantile of gamma.

    The end of Fay and Feuer (1997, https://doi.org/10.1002/(SICI)1097-0258(19970415)16:7%3C791)
    for a weighted sum of rare events: the mean and its variance once one more unit loses as much as
    a unit may. With no event seen it is Poisson's 3.7 events, with many it is Student's t.

    Parameters
    ----------
    error
        Standard error of the mean.
    units
        Independent rows (or groups) behind it.
    another
        What one more row may lose.

    Examples
    --------
    >>> round(100 * upper_end(0.0, 0.0, 100, 1.0), 2)
    3.69
    """
    one, tail = another / units, (1 + level) / 2
    # Few units know their error less well.
    few = _quantile(units, level) / float(ndtri(tail))
    mean, variance = value + one, (error * few) ** 2 + one**2
    if mean <= 0 or variance <= 0:
        return mean
    return float(gammaincinv(mean**2 / variance, tail) * variance / mean)


def wilson(share: float, n: float, z: float = 1.959964) -> dict[str, float]:
    """Make Wilson's score interval of a share (Wilson 1927), as modified near 0 and 1.

    With one wrong row of many its end is too far from 1: it holds a truth so near to 1 that one row
    in seven samples is wrong in six of them only. Brown, Cai and DasGupta (2001,
    https://doi.org/10.1214/ss/1009213286) take the exact one-sided end there.

    Examples
    --------
    >>> {k: round(v, 3) for k, v in wilson(0.9, 100).items()}
    {'low': 0.826, 'high': 0.945}
    >>> round(wilson(59 / 60, 60)["high"], 4)
    0.9991
    """
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = max(0.0, float(middle - half)), min(1.0, float(middle + half))
    if 0 < share < 1:
        tail = 2 * float(ndtr(-z))
        right, wrong = share * n, (1 - share) * n
        low = min(low, float(betaincinv(right, wrong + 1, tail)))
        high = max(high, 1 - float(betaincinv(wrong, right + 1, tail)))
    # At 0 and 1 the formula meets the end but for rounding.
    return {"low": min(low, share), "high": max(high, share)}


def _on_log_scale(value: float, error: float, z: float) -> dict[str, float]:
    if value <= 0:
        return {"low": value, "high": value}
    with np.errstate(over="ignore"):  # an interval without an end
        factor = float(np.exp(z * error / value))
    return {"low": value / factor, "high": value * factor}
