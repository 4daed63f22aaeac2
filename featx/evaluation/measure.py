"""Metrics with intervals, of labels and what was predicted for them. Nothing is fitted here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.errors import FitError
from featx.evaluation import metrics as m
from featx.evaluation.metrics import among_first, ordered, ranks_of
from featx.evaluation.resampling import (
    LEVEL,
    Kind,
    balanced_rows,
    draw_weights,
    interval,
    mean_interval,
)
from featx.typing import JsonObject, RowValues

KINDS: Mapping[str, Kind] = {
    "log_loss": "positive",
    "brier": "positive",
    "mae": "positive",
    "rmse": "positive",
    "r2": "below-one",
    "quadratic_kappa": "below-one",
    "rank_mae": "positive",
    "calibration_error": "biased",
}
LEAST: Mapping[str, float] = {"quadratic_kappa": -1.0}
"""Lowest value of a metric below one; it is Lin's concordance of the ranks."""


class BootstrapSamples:
    """Measures on the same bootstrap samples, so that metrics can be set side by side."""

    def __init__(
        self,
        n: int,
        n_boot: int,
        seed: int,
        groups: RowValues | None,
        level: float = LEVEL,
    ) -> None:
        self.n, self.n_boot, self.seed, self.groups, self.level = n, n_boot, seed, groups, level
        self.units = n if groups is None else len(np.unique(groups))

    def arrays(self, made: Mapping[str, m.Metric]) -> dict[str, tuple[Any, Any]]:
        """Give each metric's value and its bootstrap samples."""
        ones = np.ones((1, self.n))
        values = {name: metric(ones)[0] for name, metric in made.items()}
        drawn: dict[str, list[Any]] = {name: [] for name in made}
        for weights in draw_weights(self.n, self.n_boot, self.seed, self.groups):
            for name, metric in made.items():
                drawn[name].append(metric(weights))
        return {
            name: (values[name], np.concatenate(drawn[name]) if drawn[name] else np.empty(0))
            for name in made
        }

    def measure(
        self,
        made: Mapping[str, m.Metric],
        biases: Mapping[str, float] | None = None,
        rows: Mapping[str, float] | None = None,
        units: Mapping[str, int] | None = None,
        wrong: Mapping[str, float] | None = None,
    ) -> JsonObject:
        """Give each metric that is defined with its interval.

        Parameters
        ----------
        biases
            How far noise alone lifts a metric.
        rows
            How many rows a share is worth at most; all of them for those not named.
        units
            Independent rows (or groups) behind a metric; all of them for those not named.
        wrong
            What one more wrong row takes from a metric; see `upper_end` in `resampling`.
        """
        bias, most, fewer, another = biases or {}, rows or {}, units or {}, wrong or {}
        means = {k: v for k, v in made.items() if isinstance(v, m.Mean) and k in KINDS}
        errors = self.arrays({name: mean.error for name, mean in means.items()})
        found = {}
        for name, (value, samples) in self.arrays(made).items():
            if name in means:
                power = 2 if isinstance(means[name], m.RootMean) else 1
                made_of = mean_interval(
                    float(value) ** power,
                    samples**power,
                    *errors[name],
                    units=self.units,
                    another=means[name].another,
                    most=means[name].most,
                    level=self.level,
                )
                found[name] = {end: one ** (1 / power) for end, one in made_of.items()}
                found[name]["value"] = float(value)
            elif np.isfinite(value):
                kind, extra = KINDS.get(name, "share"), bias.get(name, 0.0)
                worth = most.get(name, float(self.n))
                found[name] = interval(
                    float(value),
                    samples,
                    kind,
                    fewer.get(name, self.units),
                    extra,
                    worth,
                    self.level,
                    another.get(name, 0.0),
                    LEAST.get(name, -math.inf),
                )
        return found


def by_class(
    names: ArrayLike,
    members: Sequence[NDArray[np.intp]],
    made: Mapping[str, m.Metric],
    sampled: BootstrapSamples,
) -> JsonObject:
    """Give metrics of each class with their intervals; None where one is undefined.

    Parameters
    ----------
    members
        Rows of each class.
    made
        Metrics whose value is of shape (n_classes,).
    """
    arrays = sampled.arrays(made)
    found: JsonObject = {}
    for k, name in enumerate(np.asarray(names).tolist()):
        rows = members[k]
        one: JsonObject = {"support": len(rows)}
        units = len(rows if sampled.groups is None else np.unique(sampled.groups[rows]))
        for what, (values, samples) in arrays.items():
            drawn = samples[:, k] if samples.ndim == 2 else np.empty(0)
            made_of = interval(float(values[k]), drawn, "share", max(units, 1), level=sampled.level)
            one[what] = made_of if np.isfinite(values[k]) else None
        found[str(name)] = one
    return found


def several_labels(
    true: RowValues,
    predicted: RowValues,
    ranked: Any,
    classes: Any,
    sampled: BootstrapSamples,
) -> JsonObject:
    """Measure labels of shape (n_samples, n_labels); see `featx.evaluation.evaluate`.

    Parameters
    ----------
    ranked
        Probabilities or scores of the same shape, or None.
    classes
        Names of the columns; their numbers when None.
    """
    wanted, called = (np.asarray(table, dtype=np.float64) for table in (true, predicted))
    hits = wanted * called

    def precision(w: m.Floats) -> m.Floats:
        return m.ratio(w @ hits, w @ called)

    def recall(w: m.Floats) -> m.Floats:
        return m.ratio(w @ hits, w @ wanted)

    def macro_f1(w: m.Floats) -> m.Floats:
        return m.mean_there(m.ratio(2 * (w @ hits), w @ wanted + w @ called))

    def micro_f1(w: m.Floats) -> m.Floats:
        both = (w @ wanted + w @ called).sum(axis=1)
        return m.ratio(2 * (w @ hits).sum(axis=1), both)

    exact = (wanted == called).all(axis=1).astype(np.float64)
    made: dict[str, m.Metric] = {
        "accuracy": m.Mean(exact),
        "macro_f1": macro_f1,
        "micro_f1": micro_f1,
    }
    each: dict[str, m.Metric] = {"precision": precision, "recall": recall}
    if ranked is not None:
        by_label = _precisions(wanted, np.asarray(ranked, np.float64))
        each["average_precision"] = by_label
        made["average_precision"] = lambda w: m.mean_there(by_label(w))
    found = sampled.measure(made)
    names = [str(k) for k in (range(wanted.shape[1]) if classes is None else classes)]
    found["per_class"] = by_class(
        names, [np.flatnonzero(column) for column in wanted.T], each, sampled
    )
    return found | {"classes": names}


def _precisions(wanted: m.Floats, ranked: m.Floats) -> m.Metric:
    """Make the average precision of each label; NaN where no row has it, or all have."""
    made = {
        k: m.average_precision(wanted[:, k] == 1, ranked[:, k])
        for k in range(wanted.shape[1])
        if 0 < wanted[:, k].sum() < len(wanted)
    }

    def metric(w: m.Floats) -> m.Floats:
        found = np.full((len(w), wanted.shape[1]), np.nan)
        for k, one in made.items():
            found[:, k] = one(w)
        return found

    return metric


_WORTH = {"balanced_accuracy": 1.0, "macro_f1": 1.0, "roc_auc": 1.5, "average_precision": 1.0}
"""Of the rows, how many a mean over classes is worth at most; pairs of rows are worth more."""

_TOP = (3, 5)
"""Numbers of answers among which the true class may be, where there are more classes than that."""


def evaluate(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    probabilities: ArrayLike | None = None,
    scores: ArrayLike | None = None,
    classes: ArrayLike | None = None,
    task: str = "classification",
    seed: int = 0,
    n_boot: int = 1000,
    groups: ArrayLike | None = None,
    level: float = LEVEL,
) -> JsonObject:
    """Measure predictions against labels, each metric with its bootstrap interval.

    Parameters
    ----------
    y_true, y_pred
        Shape (n_samples,); (n_samples, n_labels) of 0 and 1 for ``multilabel``.
    probabilities
        Shape (n_samples, n_classes), columns in the order of ``classes``.
    scores
        Decision values in place of probabilities, shape (n_samples,) for two classes; they give
        the ranking metrics only.
    classes
        All classes; those that occur when None.
    groups
        Group of each row; whole groups are resampled then.
    level
        Of the intervals, in (0, 1); 0.95 for 95 %.

    Returns
    -------
    metrics : dict
        ``{"value", "low", "high"}`` under each metric's name; for a classification also
        ``per_class`` (precision, recall, support), ``confusion`` (rows are true classes) and
        ``classes``. More than three classes have ``top_3_accuracy`` (five: ``top_5_accuracy``);
        three or more whose names are all numbers have ``quadratic_kappa`` and ``rank_mae``, as
        classes in that order. For ``multilabel`` ``per_class`` (with ``average_precision``) and
        ``classes``, and ``accuracy`` is of rows whose labels are all right. JSON-ready.

    Raises
    ------
    FitError
        If lengths or shapes do not fit, or there is no row.

    Examples
    --------
    >>> found = evaluate(["a", "b", "b", "a"], ["a", "b", "a", "a"])
    >>> found["accuracy"]["value"], found["confusion"]
    (0.75, [[2, 0], [1, 1]])
    """
    true, predicted = np.asarray(y_true), np.asarray(y_pred)
    _check_lengths(true, predicted, probabilities, scores, groups)
    units = None if groups is None else np.asarray(groups)
    sampled = BootstrapSamples(len(true), n_boot, seed, units, level)
    if task == "regression":
        return sampled.measure(m.numeric(true.astype(np.float64), predicted.astype(np.float64)))
    if task == "multilabel":
        ranked = scores if probabilities is None else probabilities
        return several_labels(true, predicted, ranked, classes, sampled)
    names = _classes(true, predicted, classes, probabilities)
    codes, called = m.codes_of(true, names), m.codes_of(predicted, names)
    if (codes < 0).any():
        row = int((codes < 0).argmax())
        raise FitError(f"label {str(true[row])!r} of row {row} is not among the classes given")
    made = m.counted(codes, called, len(names))
    each = {k: made.pop(k) for k in ("precision", "recall")}
    made |= _ranking(codes, probabilities, scores, len(names))
    if (ranks := ranks_of(names)) is not None:
        made |= ordered(codes, called, ranks)
    support = np.bincount(codes, minlength=len(names))
    rows = {name: share * balanced_rows(support) for name, share in _WORTH.items()}
    positives = {"average_precision": _positives(codes, units, len(names))}
    wrong = {"quadratic_kappa": 1 / max(m.unlike(codes), 1 / len(codes))}
    found = sampled.measure(made, _biases(probabilities), rows, positives, wrong)
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(support)[:-1])
    found["per_class"] = by_class(names, members, each, sampled)
    table = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(table, (codes[called >= 0], called[called >= 0]), 1)
    found["confusion"] = table.tolist()
    found["classes"] = [str(name) for name in names]
    return found


def intervals_of(figures: JsonObject) -> JsonObject:
    """Keep what has an interval: the metrics of a whole, without `per_class` and the like."""
    # A class may be called `low` or `value`: its entry of `per_class` is an object, not a number.
    return {
        name: one
        for name, one in figures.items()
        if isinstance(one, dict) and "low" in one and not isinstance(one["low"], dict)
    }


def json_ready(value: object) -> Any:
    """Replace what JSON has no number for by None: the end of an interval may be infinite."""
    if isinstance(value, dict):
        return {key: json_ready(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_lengths(true: RowValues, predicted: RowValues, *others: Any) -> None:
    if not len(true):
        raise FitError("there is no row to evaluate")
    names = ("probabilities", "scores", "groups")
    given = {"predictions": predicted, **dict(zip(names, others, strict=True))}
    for name, values in given.items():
        if values is not None and len(values) != len(true):
            raise FitError(
                f"there are {len(true)} labels and {len(values)} {name}; expected as many"
            )


def _classes(true: RowValues, predicted: RowValues, classes: Any, probabilities: Any) -> RowValues:
    names = np.union1d(true, predicted) if classes is None else np.asarray(classes)
    if probabilities is not None and np.shape(probabilities)[1:] != (len(names),):
        raise FitError(
            f"probabilities have shape {np.shape(probabilities)} for {len(names)} classes; pass "
            "the classes in the order of their columns"
        )
    return names


def _ranking(
    codes: m.Codes, probabilities: object, scores: object, n_classes: int
) -> dict[str, m.Metric]:
    """Make what needs more than labels; empty where there is one class only."""
    if probabilities is None and scores is None:
        return {}
    found: dict[str, m.Metric] = {}
    ranked = np.asarray(probabilities if scores is None else scores, dtype=np.float64)
    if len(np.unique(codes)) > 1:
        for name, make in (("roc_auc", m.area), ("average_precision", m.average_precision)):
            if n_classes == 2:
                one = ranked if ranked.ndim == 1 else ranked[:, 1]
                found[name] = make(codes == 1, one)
            else:
                found[name] = m.over_classes(make, codes, ranked)
    if probabilities is not None:
        table = np.asarray(probabilities, dtype=np.float64)
        found |= m.losses(codes, table)
        found["calibration_error"] = m.calibration_error(codes, table)
        found |= {f"top_{k}_accuracy": among_first(codes, table, k) for k in _TOP if n_classes > k}
    return found


def _positives(codes: m.Codes, groups: RowValues | None, n_classes: int) -> int:
    """Count the rows (or groups) that an average precision is a mean over.

    Of several classes, how many balanced ones would be worth as much.
    """
    if groups is not None:
        of = np.unique(groups, return_inverse=True)[1]
        codes = np.unique(of * n_classes + codes) % n_classes  # each class once a group
    support = np.bincount(codes, minlength=n_classes)
    if len(support) == 2:
        return max(1, int(support[1]))
    return max(1, int(balanced_rows(support) / np.count_nonzero(support)))


def _biases(probabilities: object) -> dict[str, float]:
    if probabilities is None:
        return {}
    return {"calibration_error": m.calibration_noise(np.asarray(probabilities, dtype=np.float64))}
