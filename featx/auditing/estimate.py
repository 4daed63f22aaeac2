"""The share of wrong labels, from a random sample that a person has looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import FitError

_DRAWS = 20_000


@dataclass(frozen=True)
class Stratum:
    """Rows that were sampled together.

    Parameters
    ----------
    size
        Rows of the cache in it.
    reviewed
        Rows of it that a person looked at, drawn at random.
    wrong
        Those of them whose label is wrong.
    """

    size: int
    reviewed: int
    wrong: int


def review_sample(flagged: NDArray[np.bool_], n: int, seed: int = 0) -> list[tuple[int, str, int]]:
    """Draw rows to look at: half from those flagged, half from the others, each at random.

    Parameters
    ----------
    flagged
        Whether a row's label is suspected, shape (n_samples,).
    n
        How many rows in all; fewer where there are not so many.
    seed
        Random seed of the draw.

    Returns
    -------
    sample : (row, stratum, size of the stratum) of each drawn row, in the order of the rows

    Raises
    ------
    FitError
        If `n` is below 2.

    Examples
    --------
    >>> sample = review_sample(np.arange(100) < 10, 20)
    >>> len(sample), sum(stratum == "flagged" for _, stratum, _ in sample)
    (20, 10)
    """
    if not isinstance(n, int | np.integer) or n < 2:
        raise FitError(f"a review needs 2 rows or more; got {n!r}")
    rng = np.random.default_rng(seed)
    strata = {"flagged": np.flatnonzero(flagged), "other": np.flatnonzero(~flagged)}
    shares = _shares({name: len(rows) for name, rows in strata.items()}, n)
    found = [
        (int(row), name, len(rows))
        for name, rows in strata.items()
        for row in rng.choice(rows, shares[name], replace=False)
    ]
    return sorted(found)


def _shares(sizes: dict[str, int], n: int) -> dict[str, int]:
    half = min(sizes["flagged"], n // 2)
    other = min(sizes["other"], n - half)
    return {"flagged": min(sizes["flagged"], n - other), "other": other}


def estimate_rate(
    strata: list[Stratum], *, confidence: float = 0.95, seed: int = 0
) -> dict[str, float]:
    """Estimate the share of rows with a wrong label from a stratified review.

    The value is the stratified mean (Cochran 1977, Sampling techniques, section 5.3). The interval
    holds the central part of the posterior with Jeffreys' prior in each stratum, over the rows that
    were not looked at; those that were are known (Brown, Cai and DasGupta 2001, Statistical
    Science 16, on the coverage of Jeffreys' interval).

    Parameters
    ----------
    strata
        Each with its size and what the review found.
    confidence
        Of the interval.
    seed
        Random seed of the draws from the posterior.

    Returns
    -------
    rate : ``{"value", "low", "high"}``, shares from 0 to 1

    Raises
    ------
    FitError
        If a stratum with rows has none reviewed, or counts do not fit.

    Examples
    --------
    >>> found = estimate_rate([Stratum(100, 50, 25), Stratum(900, 50, 0)])
    >>> round(found["value"], 3)
    0.05
    >>> found["low"] < 0.05 < found["high"]
    True
    """
    rng = np.random.default_rng(seed)
    total, value = sum(s.size for s in strata), 0.0
    draws: NDArray[Any] = np.zeros(_DRAWS)
    for stratum in strata:
        if not stratum.size:
            continue
        _check(stratum)
        value += stratum.size * stratum.wrong / stratum.reviewed
        p = rng.beta(stratum.wrong + 0.5, stratum.reviewed - stratum.wrong + 0.5, _DRAWS)
        draws += stratum.wrong + rng.binomial(stratum.size - stratum.reviewed, p)
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return {
        "value": value / total,
        "low": float(min(low, value)) / total,
        "high": float(max(high, value)) / total,
    }


def _check(stratum: Stratum) -> None:
    if stratum.reviewed < 1:
        raise FitError(
            f"none of {stratum.size} rows of a stratum has an answer; look at some of them, or "
            "write a new sample with --review"
        )
    if not 0 <= stratum.wrong <= stratum.reviewed <= stratum.size:
        raise FitError(
            f"{stratum.wrong} wrong of {stratum.reviewed} reviewed of {stratum.size} rows cannot be"
        )
