"""From probabilities to decisions: a threshold for a wanted precision or cost, and abstaining."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv  # the quantile of beta; scipy.stats takes a second to load

from featx.errors import FitError
from featx.typing import JsonObject

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


def asked_for(target: float, confidence: float, n: int, groups: object = None) -> str:
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


def _cuts(positive: ArrayLike, scores: ArrayLike) -> tuple[NDArray[Any], ...]:
    """Give the distinct scores from the top, with true and false positives at or above each."""
    hits, values = np.asarray(positive, dtype=bool), np.asarray(scores, dtype=np.float64)
    if len(hits) != len(values) or not len(hits):
        raise FitError(f"there are {len(hits)} labels and {len(values)} scores; expected as many")
    if hits.all() or not hits.any():
        raise FitError("a threshold needs rows of both classes, and these hold one")
    order = np.argsort(-values, kind="stable")
    last = np.flatnonzero(np.r_[np.diff(values[order]) != 0, True])
    true = np.cumsum(hits[order])[last]
    return values[order][last], true, last + 1 - true


def threshold_for_precision(
    positive: ArrayLike,
    scores: ArrayLike,
    precision: float,
    *,
    confidence: float = 0.9,
    groups: ArrayLike | None = None,
) -> dict[str, float]:
    """Find the lowest threshold whose precision on new rows is promised.

    Choose it on rows that fitted nothing and are not the test rows.

    Parameters
    ----------
    positive
        Shape (n_samples,), true for the class to be found.
    scores
        Shape (n_samples,), probability of that class.
    precision
        In (0, 1).
    confidence
        Share of draws of such rows in which the promise is kept, at least; see
        `featx.evaluation.decisions`.
    groups
        Group of each row; a group then counts as one row.

    Returns
    -------
    found : ``threshold`` (positive at or above it), ``precision`` and ``low``, the lower end of its
        interval, and the share of rows that are ``answered``

    Raises
    ------
    FitError
        If these rows allow no such promise; the message says how many rows it takes.

    Examples
    --------
    >>> found = threshold_for_precision([0] * 40 + [1] * 60, [0.1] * 40 + [0.9] * 60, 0.95)
    >>> found["threshold"], found["precision"], round(found["low"], 3)
    (0.5, 1.0, 0.951)
    """
    cut = laxest_cut(positive, scores, precision, confidence, groups)
    if cut is None:
        units = len(np.asarray(scores) if groups is None else np.unique(np.asarray(groups)))
        raise FitError(
            f"no threshold can be promised to have precision {precision:g}: "
            f"{asked_for(precision, confidence, units, groups)}"
        )
    return {
        "threshold": cut.threshold,
        "precision": cut.value,
        "low": cut.low,
        "answered": cut.answered,
    }


def threshold_for_cost(
    positive: ArrayLike, scores: ArrayLike, *, false_positive: float, false_negative: float
) -> dict[str, float]:
    """Find the threshold of the lowest cost, given what each kind of error costs.

    Returns
    -------
    found : ``threshold`` (infinity if calling nothing positive is cheapest), ``cost`` per row

    Examples
    --------
    >>> threshold_for_cost([0, 1, 1], [0.1, 0.4, 0.8], false_positive=1, false_negative=5)
    {'threshold': 0.4, 'cost': 0.0}
    """
    if not (false_positive >= 0 and false_negative >= 0):
        raise FitError(f"costs are {false_positive} and {false_negative}; expected 0 or more")
    cuts, true, false = _cuts(positive, scores)
    cuts, true, false = np.r_[np.inf, cuts], np.r_[0, true], np.r_[0, false]
    cost = (false_positive * false + false_negative * (true[-1] - true)) / len(np.asarray(scores))
    at = int(cost.argmin())
    return {"threshold": float(cuts[at]), "cost": float(cost[at])}


def abstain_band(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    probabilities: ArrayLike,
    *,
    accuracy: float,
    confidence: float = 0.9,
    groups: ArrayLike | None = None,
) -> dict[str, float]:
    """Find the probability below which to abstain, so that the rest is promised to be accurate.

    Parameters
    ----------
    probabilities
        Shape (n_samples, n_classes); a row's highest one counts. With two classes the band in
        which to abstain is (1 - p, p).
    accuracy
        Wanted among the rows that are answered, in (0, 1).
    confidence, groups
        As in `threshold_for_precision`.

    Returns
    -------
    found : ``confidence`` (the probability from which a row is answered), ``answered`` (share of
        rows), ``accuracy`` among them and ``low``, the lower end of its interval

    Raises
    ------
    FitError
        If these rows allow no such promise; the message says how many rows it takes.

    Examples
    --------
    >>> table = [[0.9, 0.1]] * 60 + [[0.6, 0.4]] * 40
    >>> abstain_band([0] * 80 + [1] * 20, [0] * 100, table, accuracy=0.9)["answered"]
    0.6
    """
    right = np.asarray(y_true) == np.asarray(y_pred)
    cut = laxest_cut(
        right, np.asarray(probabilities, np.float64).max(axis=1), accuracy, confidence, groups
    )
    if cut is None:
        units = len(right if groups is None else np.unique(np.asarray(groups)))
        raise FitError(
            f"no cut can be promised to have accuracy {accuracy:g}: "
            f"{asked_for(accuracy, confidence, units, groups)}"
        )
    return {
        "confidence": cut.threshold,
        "answered": cut.answered,
        "accuracy": cut.value,
        "low": cut.low,
    }


def decision_lines(found: JsonObject) -> list[str]:
    """Say a rule of decision, and what it is worth on the test rows, in a line each.

    Parameters
    ----------
    found
        Thresholds of `featx.fitting.deciding.choose`, and under ``test`` the figures of
        `featx.model.thresholds.worth`.
    """
    test = found["test"]
    worth = f"{test['answered']['value']:.1%} of the test rows answered"
    if found["by"] == "cost":
        worth = f"cost {test['cost']:.4f} a row, {test['cost_at_half']:.4f} without"
    if "accuracy" in test:
        a = test["accuracy"]
        worth += f", accuracy {a['value']:.4f} ({_end(a['low'])} - {_end(a['high'])})"
    if found["by"] == "precision" and "precision" in test:
        # A class that no row was answered with has none.
        said = (f"{name} {_figure(one)}" for name, one in test["precision"].items())
        worth += f", precision {', '.join(said)}"
    lines = [f"{_rule(found)} ({found['chosen_on']})", worth]
    return lines if "level" not in found else [lines[0], _promise(found), lines[1]]


def _promise(found: JsonObject) -> str:
    """Say what new rows are promised to have."""
    if found["by"] == "abstain":
        what = f"accuracy at least {1 - found['errors']:g} where answered"
        low = f"{found['accuracy']:.4f}, at least {found['low']:.4f}"
    else:
        what = f"precision at least {found['wanted']:g} in each class"
        low = ", ".join(
            f"{name} {one['precision']:.4f}, at least {one['low']:.4f}"
            for name, one in found["classes"].items()
            if one
        )
    return f"promised on new rows with confidence {found['level']:g}: {what} (seen: {low})"


def _figure(one: JsonObject | None) -> str:
    if not one:
        return "none"
    return f"{one['value']:.4f} ({_end(one['low'])} - {_end(one['high'])})"


def _rule(found: JsonObject) -> str:
    if found["by"] == "cost":
        bar = found["threshold"]
        return f"{found['positive']} " + ("never" if bar is None else f"from {bar:.4f} on")
    if found["by"] == "abstain":
        return f"abstain below confidence {found['confidence']:.4f}"
    bars = found["classes"].items()
    told = [f"{n} {'never' if c is None else format(c['threshold'], '.4f')}" for n, c in bars]
    return f"answer from probabilities {', '.join(told)}"


def _end(value: float | None) -> str:
    return "no end" if value is None else f"{value:.4f}"
