"""What a score is worth beside another: the majority class, or a second model."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from featx.errors import FitError
from featx.evaluation.measure import evaluate
from featx.evaluation.resampling import draw_weights


def baseline(
    y_train: ArrayLike,
    y_test: ArrayLike,
    *,
    task: str = "classification",
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure on the test rows what needs no picture: the training rows' majority class.

    A regression predicts the mean of the training rows.

    Returns
    -------
    baseline : dict
        ``accuracy`` with its interval and the ``class``; or ``r2``, ``mae`` and ``rmse``.

    Examples
    --------
    >>> baseline(["a", "a", "b"], ["a", "b", "b", "b"])["accuracy"]["value"]
    0.25
    """
    known, test = np.asarray(y_train), np.asarray(y_test)
    if not len(known):
        raise FitError("there is no training row to take a baseline from")
    if task == "regression":
        guess = np.full(len(test), known.mean())
        return evaluate(test, guess, task=task, groups=groups, seed=seed)
    if task == "multilabel":
        guess = np.tile((known.mean(axis=0) >= 0.5).astype(int), (len(test), 1))
        return evaluate(test, guess, task=task, groups=groups, seed=seed)
    classes, counts = np.unique(known, return_counts=True)
    majority = classes[counts.argmax()]
    right = np.asarray(test == majority)
    measured = evaluate(np.ones(len(test), int), right.astype(int), groups=groups, seed=seed)
    return {"accuracy": measured["accuracy"], "class": str(majority)}


def compare_paired(
    y: ArrayLike,
    pred_a: ArrayLike,
    pred_b: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare two models' predictions of the same rows.

    Parameters
    ----------
    y, pred_a, pred_b
        Shape (n_samples,).
    groups
        Group of each row; the interval then resamples whole groups.

    Returns
    -------
    comparison : dict
        ``difference`` of accuracy, b less a, with its 95 % interval (Bonett and Price 2012);
        ``only_a`` and ``only_b``: rows that only one of them has right; ``p_value`` of McNemar's
        exact test.

    Examples
    --------
    >>> found = compare_paired([1, 1, 0, 0], [1, 0, 1, 1], [1, 1, 0, 0])
    >>> found["difference"]["value"], found["only_b"]
    (0.75, 3)
    """
    true, a, b = (np.asarray(values) for values in (y, pred_a, pred_b))
    if not len(true) == len(a) == len(b) or not len(true):
        raise FitError(f"{len(true)} labels, {len(a)} and {len(b)} predictions; expected as many")
    right_a, right_b = a == true, b == true
    gain = right_b.astype(np.float64) - right_a
    only_a, only_b, n = int((gain < 0).sum()), int((gain > 0).sum()), len(true)
    value = float(gain.mean())
    # One more row on either side keeps the interval wide where the models never differ.
    up, down = (only_b + 1) / (n + 2), (only_a + 1) / (n + 2)
    centre, error = up - down, float(np.sqrt((up + down - (up - down) ** 2) / (n + 2)))
    if groups is not None:
        drawn = draw_weights(n, n_boot, seed, np.asarray(groups))
        centre = value
        error = float(np.std(np.concatenate([w @ gain / w.sum(axis=1) for w in drawn]), ddof=1))
    low, high = max(-1.0, centre - 1.959964 * error), min(1.0, centre + 1.959964 * error)
    differing = only_a + only_b
    from scipy import stats  # takes a second to load

    p_value = float(stats.binomtest(only_b, differing).pvalue) if differing else 1.0
    return {
        "difference": {"value": value, "low": min(low, value), "high": max(high, value)},
        "only_a": only_a,
        "only_b": only_b,
        "p_value": p_value,
    }
