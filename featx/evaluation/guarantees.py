"""Cuts of a score that keep a promise on new rows, with a stated confidence.

The best cut on some rows looks better than it is, because it was chosen for that. Here every cut
of a fixed family is a test of "the share of right answers is below the target", by the exact
binomial bound (Clopper and Pearson 1934), and the family is tested so that a wrong promise has at
most the probability ``1 - confidence`` ("Learn then Test", Angelopoulos et al. 2021, arXiv
2110.01052): from several starts, each with an equal part of that probability, to more and more
rows until a test fails.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv  # the quantile of beta; scipy.stats takes a second to load

from featx.errors import FitError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cut:
    """Answer from `threshold` on.

    Parameters
    ----------
    value
        Share of right answers among the rows that are answered.
    low
        Lower end of that share on new rows, at the level of the test that passed.
    answered
        Share of the rows.
    """

    threshold: float
    value: float
    low: float
    answered: float


def lowest_share(right: ArrayLike, n: ArrayLike, level: float) -> Floats:
    """Give the one-sided lower bound of Clopper and Pearson (1934) of a share.

    Parameters
    ----------
    right, n
        How many were right of how many; any shape. Parts of a row are allowed.
    level
        Confidence in (0, 1).

    Examples
    --------
    >>> float(lowest_share(59, 59, 0.95).round(3)), float(lowest_share(0, 5, 0.95))
    (0.95, 0.0)
    """
    k, of = np.asarray(right, dtype=np.float64), np.asarray(n, dtype=np.float64)
    bound = betaincinv(np.maximum(k, 1e-300), of - k + 1, 1 - level)
    return np.where(k > 0, bound, 0.0)


def rows_needed(target: float, level: float) -> float:
    """Count the rows, all of them right, whose lower bound is `target`; infinity for 1.

    Examples
    --------
    >>> rows_needed(0.95, 0.9)
    45.0
    """
    return math.inf if target >= 1 else float(math.ceil(math.log(1 - level) / math.log(target)))


def laxest_cut(
    right: ArrayLike,
    scores: ArrayLike,
    target: float,
    confidence: float = 0.9,
    groups: ArrayLike | None = None,
) -> Cut | None:
    """Find the lowest cut above which the share of right answers is promised to be `target`.

    Parameters
    ----------
    right
        Shape (n_samples,): whether the answer is right. The rows must not have fitted the scores.
    scores
        Shape (n_samples,): how sure the answer is.
    target
        Share of right answers in (0, 1).
    confidence
        Share of draws of such rows in which the promise is kept, at least.
    groups
        Group of each row; a whole group then counts as one row, because its rows may all be wrong
        together.

    Returns
    -------
    cut : None where these rows allow no promise

    Raises
    ------
    FitError
        If lengths do not fit, or there is no row.
    """
    hits, values = np.asarray(right, dtype=bool), np.asarray(scores, dtype=np.float64)
    if len(hits) != len(values) or not len(hits):
        raise FitError(f"there are {len(hits)} labels and {len(values)} scores; expected as many")
    order = np.argsort(-values, kind="stable")
    last = np.flatnonzero(np.r_[np.diff(values[order]) != 0, True])
    shares = np.cumsum(hits[order])[last] / (last + 1)
    counts = _units(order, groups)[last]
    starts, level = _starts(float(counts[-1]), target, confidence)
    lows = lowest_share(shares * counts, counts, level)
    at = _walk(lows >= target, [int(np.searchsorted(counts, start)) for start in starts])
    if at is None:
        return None
    ordered = values[order]
    # Halfway to the next score, so that the rows that passed are a sample of those above the cut.
    whole = at + 1 == len(last)
    threshold = 0.0 if whole else float((ordered[last[at]] + ordered[last[at] + 1]) / 2)
    answered = float((last[at] + 1) / len(values))
    return Cut(threshold, float(shares[at]), float(lows[at]), answered)


def _units(order: NDArray[np.intp], groups: ArrayLike | None) -> Floats:
    """Count the independent rows (or groups) among the first rows of an order."""
    if groups is None:
        return np.arange(1.0, len(order) + 1)
    codes = np.unique(np.asarray(groups), return_inverse=True)[1][order]
    new = np.zeros(len(order))
    new[np.unique(codes, return_index=True)[1]] = 1
    return np.cumsum(new)


def _starts(n: float, target: float, confidence: float) -> tuple[list[float], float]:
    """Give how many rows the first cut of each sequence answers, and the level of its tests.

    Only the number of rows decides: each start has twice the rows of the one before.
    """
    least = rows_needed(target, confidence)
    if least > n:
        return [], confidence
    many = 1 + int(math.log2(n / least))
    level = 1 - (1 - confidence) / many
    first = rows_needed(target, level)
    return [first * 2**k for k in range(many) if first * 2**k <= n], level


def _walk(passed: NDArray[np.bool_], starts: list[int]) -> int | None:
    """Go on from each start while cuts pass; give the last place that was reached."""
    best: int | None = None
    for start in starts:
        fails = np.flatnonzero(~passed[start:])
        reached = (len(passed) if not len(fails) else start + int(fails[0])) - 1
        if reached >= start and (best is None or reached > best):
            best = reached
    return best


def asked_for(target: float, confidence: float, n: int, groups: Any = None) -> str:
    """Say what a promise would have needed, for a message."""
    least = rows_needed(target, confidence)
    if math.isinf(least):
        return "no number of rows can promise that no answer is wrong; ask for less"
    unit = "rows" if groups is None else "groups"
    if n >= least:
        return (
            f"among the surest of {n} {unit} too many answers are wrong; with none wrong, "
            f"{least:.0f} {unit} would be enough"
        )
    return f"it takes {least:.0f} {unit} that are all answered right, and there are {n}"
