"""From probabilities to decisions: a threshold for a wanted precision or cost, and abstaining."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.errors import FitError


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
    positive: ArrayLike, scores: ArrayLike, precision: float
) -> dict[str, float]:
    """Find the threshold that keeps the precision at the highest recall.

    Choose it on rows that are not the test rows.

    Parameters
    ----------
    positive
        Shape (n_samples,), true for the class to be found.
    scores
        Shape (n_samples,), probability of that class.
    precision
        In (0, 1].

    Returns
    -------
    found : ``threshold`` (positive at or above it), ``precision``, ``recall``

    Raises
    ------
    FitError
        If no threshold reaches the precision; the message names the best.

    Examples
    --------
    >>> threshold_for_precision([1, 0, 1, 1], [0.2, 0.3, 0.6, 0.9], 1.0)["threshold"]
    0.6
    """
    cuts, true, false = _cuts(positive, scores)
    reached = true / (true + false)
    if reached.max() < precision:
        raise FitError(f"no threshold has precision {precision:g}; the best is {reached.max():.3f}")
    at = int(np.flatnonzero(reached >= precision)[-1])
    return {
        "threshold": float(cuts[at]),
        "precision": float(reached[at]),
        "recall": float(true[at] / true[-1]),
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
    y_true: ArrayLike, y_pred: ArrayLike, probabilities: ArrayLike, *, accuracy: float
) -> dict[str, float]:
    """Find the confidence below which to abstain, so that the rest is as accurate as wanted.

    Parameters
    ----------
    probabilities
        Shape (n_samples, n_classes); confidence is a row's highest. With two classes the band in
        which to abstain is (1 - confidence, confidence).
    accuracy
        Wanted among the rows that are answered.

    Returns
    -------
    found : ``confidence``, ``answered`` (share of rows), ``accuracy`` among them

    Raises
    ------
    FitError
        If no part of the rows is as accurate.

    Examples
    --------
    >>> abstain_band([0, 1], [0, 0], [[0.9, 0.1], [0.6, 0.4]], accuracy=1.0)["answered"]
    0.5
    """
    right = np.asarray(y_true) == np.asarray(y_pred)
    confidence = np.asarray(probabilities, dtype=np.float64).max(axis=1)
    if len(right) != len(confidence) or not len(right):
        raise FitError(f"{len(right)} labels, {len(confidence)} probabilities; expected as many")
    order = np.argsort(-confidence, kind="stable")
    last = np.flatnonzero(np.r_[np.diff(confidence[order]) != 0, True])
    reached = np.cumsum(right[order])[last] / (last + 1)
    if reached.max() < accuracy:
        raise FitError(
            f"no confidence gives accuracy {accuracy:g}; the best is {reached.max():.3f}"
        )
    at = int(np.flatnonzero(reached >= accuracy)[-1])
    return {
        "confidence": float(confidence[order][last[at]]),
        "answered": float((last[at] + 1) / len(right)),
        "accuracy": float(reached[at]),
    }


def decision_lines(found: dict[str, Any]) -> list[str]:
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
        each = {name: one["value"] if one else None for name, one in test["precision"].items()}
        said = (f"{name} " + ("none" if v is None else f"{v:.4f}") for name, v in each.items())
        worth += f", precision {', '.join(said)}"
    return [f"{_rule(found)} ({found['chosen_on']})", worth]


def _rule(found: dict[str, Any]) -> str:
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
