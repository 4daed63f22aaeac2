"""A score beside another: the constant answer, a second model, or other splits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit  # the quantile of t; scipy.stats takes a second to load

from featx.errors import FitError
from featx.evaluation.measure import evaluate, intervals_of
from featx.evaluation.resampling import draw_weights, wilson
from featx.typing import JsonObject


def baseline(
    y_train: ArrayLike,
    y_test: ArrayLike,
    *,
    task: str = "classification",
    groups: ArrayLike | None = None,
    seed: int = 0,
    shares: bool = True,
) -> JsonObject:
    """Measure on the test rows what needs no picture: one answer for all, of the training rows.

    The label is that of the majority (of a regression the mean, of several labels those of most
    rows), the probabilities are the shares of the training rows.

    Parameters
    ----------
    shares
        Give the metrics of probabilities too; needs training rows, and not their majority only.

    Returns
    -------
    baseline : dict
        Every metric of `evaluate` that one answer has, with its interval, and the ``class``; the
        error of calibration is left out, as one answer has none. A metric of ranking is that of
        rows in no order.

    Examples
    --------
    >>> found = baseline(["a", "a", "b"], ["a", "b", "b", "b"])
    >>> found["accuracy"]["value"], round(found["log_loss"]["value"], 3), found["class"]
    (0.25, 0.925, 'a')
    """
    known, test = np.asarray(y_train), np.asarray(y_test)
    if not len(known):
        raise FitError("there is no training row to take a baseline from")
    if task == "regression":
        guess = np.full(len(test), known.mean())
        return _figures(evaluate(test, guess, task=task, groups=groups, seed=seed))
    if task == "multilabel":
        share = np.asarray(known.mean(axis=0), dtype=np.float64)
        guess = np.tile((share >= 0.5).astype(int), (len(test), 1))
        table = np.tile(share, (len(test), 1)) if shares else None
        given = evaluate(test, guess, probabilities=table, task=task, groups=groups, seed=seed)
        return _figures(given)
    names, counts = np.unique(known, return_counts=True)
    majority = str(names[counts.argmax()])
    classes = np.union1d(names, test)
    share = np.array([np.mean(known == name) for name in classes])
    found = evaluate(
        test,
        np.full(len(test), names[counts.argmax()]),
        probabilities=np.tile(share, (len(test), 1)) if shares else None,
        classes=classes,
        groups=groups,
        seed=seed,
    )
    return {**_figures(found), "class": majority}


def _figures(found: JsonObject) -> JsonObject:
    """Keep what has an interval, but for the error of calibration."""
    return {name: one for name, one in intervals_of(found).items() if name != "calibration_error"}


def compare_paired(
    y: ArrayLike,
    pred_a: ArrayLike,
    pred_b: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> JsonObject:
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
        Rows, or groups where there are any, that were tested at all.

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


def values_of(figures: JsonObject) -> dict[str, float]:
    """Give the value of each metric that has an interval."""
    return {k: v["value"] for k, v in intervals_of(figures).items()}


def over_rounds(several: Sequence[JsonObject]) -> dict[str, dict[str, float]]:
    """Average values and ends of intervals, of the metrics that every round has.

    For rounds that measure the same rows: more of them make no narrower interval.
    """
    names = [n for n in values_of(several[0]) if all(n in one for one in several)]
    ends = ("value", "low", "high")
    return {n: {k: float(np.mean([one[n][k] for one in several])) for k in ends} for n in names}
