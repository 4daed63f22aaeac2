"""Thresholds and abstaining: what is wanted of them, and their choice on training rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import FitError
from featx.evaluation import abstain_band, threshold_for_cost, threshold_for_precision
from featx.fitting.measuring import Measured
from featx.fitting.samples import Samples
from featx.heads import Head
from featx.model.scoring import Scores, score_rows
from featx.selection import make_folds
from featx.selection.checks import Warn, warn
from featx.selection.refit import refit
from featx.streaming import StreamedResult

Labels = NDArray[Any]


@dataclass(frozen=True)
class Wanted:
    """What decisions shall be worth; at most one of the three.

    Parameters
    ----------
    precision
        For each class: rows called so are answered only where this share of them is right.
    cost
        Of a false positive and a false negative, as ``1:5``; two classes, and the second in
        alphabetical order is the positive one.
    abstain
        Share of errors that is allowed among the answered rows.

    Raises
    ------
    FitError
        For more than one, or a value out of range.

    Examples
    --------
    >>> Wanted.of(cost="1:5")
    Wanted(precision=None, cost=(1.0, 5.0), abstain=None)
    """

    precision: float | None = None
    cost: tuple[float, float] | None = None
    abstain: float | None = None

    @classmethod
    def of(
        cls, precision: float | None = None, cost: str | None = None, abstain: float | None = None
    ) -> Wanted:
        """Read the options ``--precision-at``, ``--cost`` and ``--abstain``."""
        if sum(value is not None for value in (precision, cost, abstain)) > 1:
            raise FitError("--precision-at, --cost and --abstain exclude each other; give one")
        if precision is not None and not 0 < precision <= 1:
            raise FitError(f"--precision-at is {precision:g}; expected a share in (0, 1]")
        if abstain is not None and not 0 <= abstain < 1:
            raise FitError(f"--abstain is {abstain:g}; expected a share of errors in [0, 1)")
        return cls(precision, None if cost is None else _costs(cost), abstain)

    def __bool__(self) -> bool:
        return self != Wanted()


def _costs(text: str) -> tuple[float, float]:
    try:
        first, second = (float(part) for part in text.split(":"))
    except ValueError:
        first = second = math.nan
    if not (0 <= first < math.inf and 0 <= second < math.inf and first + second > 0):
        raise FitError(
            f"--cost is {text!r}; expected FALSE_POSITIVE:FALSE_NEGATIVE, two numbers as 1:5"
        )
    return first, second


def require_decidable(wanted: Wanted, samples: Samples, nested: bool) -> None:
    """Refuse, before any fit, what the labels or the plan do not allow.

    Raises
    ------
    FitError
        For a regression, costs of more than two classes, or a nested measurement.
    """
    if samples.task == "regression":
        raise FitError("--precision-at, --cost and --abstain are for classes; these are numbers")
    if samples.task == "multilabel":
        raise FitError("--precision-at, --cost and --abstain are for one label a row")
    if wanted.cost is not None and len(samples.classes) != 2:
        raise FitError(f"--cost needs two classes, and there are {len(samples.classes)}")
    if nested:
        raise FitError(
            "a threshold is measured on rows that did not choose it, and --nested leaves none; "
            "leave out --nested"
        )


def choose(
    wanted: Wanted, head: Head, samples: Samples, measured: Measured, folds: int, seed: int
) -> tuple[dict[str, Any], list[Warn]]:
    """Choose thresholds on out-of-fold predictions of the training rows.

    The hyperparameters were chosen on the same rows, so what a threshold promises here is a little
    too good; what it is worth is measured by `featx.model.thresholds.worth` on test rows.

    Returns
    -------
    thresholds : JSON-ready, for `featx.model.thresholds.decide`
    warnings : ``precision-not-reached`` for classes that are never answered

    Raises
    ------
    FitError
        If the head gives no probabilities, or no confidence is as accurate as wanted.
    """
    if measured.scores.probabilities is None:
        raise FitError(f"head {head.name} gives no probabilities, and a threshold needs them")
    if isinstance(measured.found, StreamedResult):
        y, scores = _held_out(measured.found, samples.y[measured.train], samples.classes)
    else:
        y, scores = samples.y[measured.train], _out_of_fold(head, samples, measured, folds, seed)
    found: dict[str, Any] = {"chosen_on": f"out-of-fold predictions of {len(y)} training rows"}
    assert scores.probabilities is not None
    if wanted.precision is not None:
        classes, notes = _precise(wanted.precision, y, scores, samples.classes)
        return found | {"by": "precision", "wanted": wanted.precision, "classes": classes}, notes
    if wanted.cost is not None:
        positive = samples.classes[1]
        fp, fn = wanted.cost
        best = threshold_for_cost(
            y == positive, scores.probabilities[:, 1], false_positive=fp, false_negative=fn
        )
        # JSON knows no infinity: without a threshold nothing is called positive.
        at = best["threshold"] if math.isfinite(best["threshold"]) else None
        costs = {"false_positive": fp, "false_negative": fn, "cost": best["cost"]}
        return found | {"by": "cost", "positive": positive, "threshold": at} | costs, []
    errors = float(wanted.abstain or 0)
    band = abstain_band(y, scores.predicted, scores.probabilities, accuracy=1 - errors)
    return found | {"by": "abstain", "errors": errors, **band}, []


def _out_of_fold(head: Head, samples: Samples, measured: Measured, folds: int, seed: int) -> Scores:
    """Predict each training row by the chosen head, fitted on the other folds."""
    train = measured.train
    X, y, classes = samples.take(train), samples.y[train], samples.classes
    groups = None if samples.groups is None else samples.groups[train]
    predicted, probabilities = y.copy(), np.zeros((len(y), len(classes)))
    for rest, held in make_folds(y, folds=folds, groups=groups, seed=seed)[0]:
        weights = None if samples.weights is None else samples.weights[train][rest]
        # The sigmoid, and the last step of a stack, need folds of their own inside the rest.
        inner, _ = make_folds(
            y[rest],
            folds=max(2, min(folds, int(np.unique(y[rest], return_counts=True)[1].min()))),
            groups=None if groups is None else groups[rest],
            seed=seed,
        )
        pipeline = head.build(seed, len(rest))
        if head.parts:
            pipeline.set_params(clf__cv=inner)
        fitted = refit(
            pipeline,
            measured.found.best_params,
            (X[rest], y[rest], weights),
            inner,
        )
        scores = score_rows(fitted.estimator, X[held], classes)
        assert scores.probabilities is not None
        predicted[held], probabilities[held] = scores.predicted, scores.probabilities
    return Scores(predicted, probabilities)


def _held_out(found: StreamedResult, y: Labels, classes: list[str]) -> tuple[Labels, Scores]:
    """Give what a streamed search said of rows while they were held out, and their labels."""
    assert found.held_probabilities is not None
    known = [classes.index(str(name)) for name in np.unique(y)]
    table = np.zeros((len(found.held_rows), len(classes)))
    table[:, known] = found.held_probabilities
    return y[found.held_rows], Scores(np.asarray(classes)[table.argmax(axis=1)], table)


def _precise(
    precision: float, y: Labels, scores: Scores, classes: list[str]
) -> tuple[dict[str, Any], list[Warn]]:
    assert scores.probabilities is not None
    found: dict[str, Any] = {}
    for k, name in enumerate(classes):
        # Only rows that are called so can be answered so.
        called = scores.predicted == name
        right, given = y[called] == name, scores.probabilities[called, k]
        found[name] = _one_precise(precision, right, given)
    never = [name for name in classes if found[name] is None]
    if not never:
        return found, []
    text = f"precision {precision:g} is out of reach for {', '.join(never)}; never answered so"
    return found, [warn("precision-not-reached", text)]


def _one_precise(precision: float, right: Labels, given: Labels) -> dict[str, float] | None:
    if not right.any():
        return None
    if right.all():
        return {"threshold": 0.0, "precision": 1.0, "answered": 1.0}
    try:
        best = threshold_for_precision(right, given, precision)
    except FitError:
        return None
    answered = float(np.mean(given >= best["threshold"]))
    return {"threshold": best["threshold"], "precision": best["precision"], "answered": answered}
