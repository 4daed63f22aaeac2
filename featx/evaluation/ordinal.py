"""Metrics of the order: among the first answers, and how far off where classes are numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.evaluation.metrics import Codes, Floats, Mean, Metric, per_class, ratio


def among_first(true: Codes, probabilities: Floats, k: int) -> Metric:
    """Make the share of rows whose class is among the k most probable ones; ties count by chance.

    Examples
    --------
    >>> table = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
    >>> among_first(np.array([1, 2]), table, 2)(np.ones((1, 2))).tolist()
    [0.5]
    """
    own = probabilities[np.arange(len(true)), true]
    before = (probabilities > own[:, None]).sum(axis=1)
    equal = (probabilities == own[:, None]).sum(axis=1)
    return Mean(np.clip((k - before) / equal, 0.0, 1.0))


def ranks_of(names: NDArray[Any]) -> NDArray[np.intp] | None:
    """Rank classes whose names are all numbers; None for others, and for fewer than three.

    Examples
    --------
    >>> ranks_of(np.array(["1", "10", "2"])).tolist()
    [0, 2, 1]
    """
    try:
        values = np.array([float(name) for name in names.tolist()])
    except ValueError:
        return None
    if len(values) < 3 or not all(map(math.isfinite, values)) or len(set(values)) < len(values):
        return None
    return np.argsort(np.argsort(values)).astype(np.intp)


def ordered(true: Codes, called: Codes, ranks: NDArray[np.intp]) -> dict[str, Metric]:
    """Make the metrics of classes that have an order.

    ``quadratic_kappa`` is Cohen's kappa with squared distances of ranks as weights (Cohen 1968,
    https://doi.org/10.1037/h0026256), ``rank_mae`` the mean distance of ranks. Rows that are called
    something unknown are left out.

    Parameters
    ----------
    ranks
        Shape (n_classes,): the place of each class in the order.
    """
    known = called >= 0
    left, right = ranks[true], ranks[np.where(known, called, 0)]
    away = np.where(known, np.abs(left - right), 0).astype(np.float64)
    n = len(ranks)
    squares = (np.arange(n)[:, None] - np.arange(n)).astype(np.float64) ** 2

    def kappa(w: Floats) -> Floats:
        some = w * known
        sides = per_class(some, left, n), per_class(some, right, n)
        chance = np.einsum("bi,ij,bj->b", sides[0], squares, sides[1])
        return 1 - ratio((some @ away**2) * some.sum(axis=1), chance)

    return {"quadratic_kappa": kappa, "rank_mae": Mean(away)}
