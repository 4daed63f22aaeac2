"""Pictures unlike all others, or unlike their own class."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LIMIT = 3.5
"""Largest modified z-score that counts as usual: Iglewicz and Hoaglin (1993), How to detect and
handle outliers, section 3."""
_CONSISTENT = 0.6745  # quartile of the normal distribution: makes the median deviation a sigma


def find_outliers(
    similarities: NDArray[Any], groups: NDArray[Any] | None = None
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Find rows that lie much farther from their neighbours than rows usually do.

    Parameters
    ----------
    similarities
        Cosine of each row with its nearest others, shape (n_samples, k).
    groups
        Class of each row: what is usual is then what is usual in the class, where it has 20 rows or
        more.

    Returns
    -------
    rows : outliers, the farthest first
    scores : float64, shape (n_samples,), modified z-scores of the logarithm of the mean distance

    Examples
    --------
    >>> near = np.full((50, 1), 0.9) + np.linspace(0, 0.05, 50)[:, None]
    >>> near[7] = 0.1
    >>> find_outliers(near)[0].tolist()
    [7]
    """
    distance = 1 - np.clip(np.nanmean(np.asarray(similarities, np.float64), axis=1), -1, 1)
    values = np.log(np.maximum(distance, 1e-6))
    scores = modified_z(values)
    if groups is not None:
        for name in np.unique(groups):
            inside = np.flatnonzero(groups == name)
            if len(inside) >= 20:
                scores[inside] = np.minimum(scores[inside], modified_z(values[inside]))
    rows = np.flatnonzero(scores > LIMIT)
    return rows[np.argsort(-scores[rows], kind="stable")], scores


def modified_z(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Score values by how many robust standard deviations they lie above the median."""
    median = np.median(values)
    spread = np.median(np.abs(values - median))
    if spread == 0:  # half of the rows are alike: the mean deviation, as the same source says
        spread = _CONSISTENT * 1.253314 * np.mean(np.abs(values - median))
    z: NDArray[np.float64] = _CONSISTENT * (values - median) / max(float(spread), 1e-12)
    return z
