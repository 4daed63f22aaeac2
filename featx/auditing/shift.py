"""The energy test: it asks whether two batches of rows come from the same distribution."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv  # scipy.stats takes a second to load

from featx.errors import FeatxError

LEAST_ROWS = 20
"""Rows of a batch below which nothing is tested: hardly any shift would be found."""
MOST_ROWS = 2_000
"""Rows of each side that are compared; of more, a random part."""
PERMUTATIONS = 499

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Shift:
    """How far a batch lies from the reference.

    Parameters
    ----------
    distance
        Squared energy distance: twice the mean distance between the two sides, minus the mean
        distances within each.
    p_value
        Share of random divisions of all rows into two sides that lie as far apart.
    moved
        float64, shape (n_batch,): mean distance of each row to the reference minus that to the
        batch. The largest moved most.
    n_reference, n_batch
        Rows that were compared.
    """

    distance: float
    p_value: float
    moved: Floats = field(repr=False)
    n_reference: int
    n_batch: int


def find_shift(
    reference: NDArray[Any],
    batch: NDArray[Any],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Shift:
    """Test whether two sets of rows have one distribution.

    The statistic is the energy distance of Szekely and Rizzo (2013, Journal of Statistical Planning
    and Inference 143), with Euclidean distances; its p-value comes from permutations, so false
    alarms are at most the level for any distribution and any numbers of rows.

    Parameters
    ----------
    reference, batch
        Shape (n, n_features) and (n_batch, n_features). More than 2,000 rows of either are a random
        part.
    permutations
        Random divisions.
    seed
        Of these, and of the part.

    Returns
    -------
    shift : `moved` is of every row of the batch

    Raises
    ------
    FeatxError
        If either has fewer than 20 rows, or the widths differ.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 4))
    >>> find_shift(X[:100], X[100:]).p_value > 0.05, find_shift(X[:100], X[100:] + 1).p_value
    (True, 0.002)
    """
    _check(reference, batch)
    rng = np.random.default_rng(seed)
    first, second = _part(reference, rng), _part(batch, rng)
    rows = np.concatenate([first, second])
    apart = _distances(rows, rows)
    n, m = len(first), len(second)
    own = np.r_[np.full(n, 1 / n), np.full(m, -1 / m)]
    weights = np.stack([own, *(rng.permutation(own) for _ in range(permutations))], axis=1)
    # For weights 1/n and -1/m, minus the quadratic form is 2 E|X-Y| - E|X-X'| - E|Y-Y'|.
    values = -np.einsum("ij,ij->j", weights, apart @ weights)
    # Equal divisions differ by rounding; they count.
    as_far = int(np.count_nonzero(values[1:] >= values[0] - 1e-12 * apart.max()))
    every = np.asarray(batch, dtype=np.float64)
    moved = _distances(every, first).mean(axis=1) - _distances(every, second).mean(axis=1)
    return Shift(float(values[0]), (1 + as_far) / (1 + permutations), moved, n, m)


def _check(reference: NDArray[Any], batch: NDArray[Any]) -> None:
    for name, rows in (("the reference", reference), ("the batch", batch)):
        if len(rows) < LEAST_ROWS:
            raise FeatxError(
                f"{name} has {len(rows)} rows, and a test needs {LEAST_ROWS}; collect more pictures"
            )
    if reference.shape[1:] != batch.shape[1:]:
        raise FeatxError(f"rows are {reference.shape[1:]} and {batch.shape[1:]} long")


def _part(rows: NDArray[Any], rng: np.random.Generator) -> Floats:
    at = rng.permutation(len(rows))[:MOST_ROWS] if len(rows) > MOST_ROWS else slice(None)
    return np.asarray(rows[at], dtype=np.float64)


def _distances(A: Floats, B: Floats) -> Floats:
    squares = (A**2).sum(axis=1)[:, None] + (B**2).sum(axis=1)[None]
    return np.asarray(np.sqrt(np.maximum(squares - 2 * A @ B.T, 0)))


def share_interval(count: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Give the interval of Clopper and Pearson (1934) of a share.

    Examples
    --------
    >>> low, high = share_interval(0, 100)
    >>> low, round(high, 4)
    (0.0, 0.0362)
    """
    tail = (1 - level) / 2
    low = 0.0 if count == 0 else float(betaincinv(count, n - count + 1, tail))
    high = 1.0 if count == n else float(betaincinv(count + 1, n - count, 1 - tail))
    return low, high


def shares_p_value(counts: NDArray[np.integer[Any]], seed: int = 0) -> float:
    """Test by permutations whether two rows of counts have the same shares (chi-square statistic).

    Parameters
    ----------
    counts
        Shape (2, n_classes).

    Examples
    --------
    >>> shares_p_value(np.array([[50, 50], [95, 5]]))
    0.002
    """
    table = np.asarray(counts, dtype=np.int64)
    both = table.sum(axis=0)
    rng = np.random.default_rng(seed)
    drawn = rng.multivariate_hypergeometric(both, int(table[1].sum()), size=PERMUTATIONS)
    expected = both * (table[1].sum() / both.sum())

    def statistic(second: NDArray[Any]) -> Floats:
        some = expected > 0
        return np.asarray(((second - expected)[..., some] ** 2 / expected[some]).sum(axis=-1))

    as_far = np.count_nonzero(statistic(drawn) >= statistic(table[1]) - 1e-9)
    return float((1 + as_far) / (1 + PERMUTATIONS))
