"""Thresholds and abstaining, chosen on held-out predictions of the head that is kept."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV

from featx.errors import FitError
from featx.evaluation import abstain_band, threshold_for_cost, threshold_for_precision
from featx.evaluation.conformal import require_rows
from featx.evaluation.decisions import asked_for, rows_needed
from featx.fitting.samples import Samples
from featx.heads import Head
from featx.model.thresholds import score_rows
from featx.selection import SearchResult, make_folds
from featx.selection.checks import Warn, check_groups, warn
from featx.selection.refit import refit
from featx.selection.splits import Folds
from featx.streaming import StreamedResult
from featx.typing import JsonObject, RowValues

Rows = NDArray[np.intp]
_FOLDS = 10
"""At least, where there are the rows: a twin that sees nine tenths is close to the head itself."""


@dataclass(frozen=True)
class HeldOutPredictions:
    """Predictions of a head for rows that it had not seen.

    Parameters
    ----------
    y
        Shape (n_samples,): the true classes.
    predicted
        Shape (n_samples,).
    probabilities
        Shape (n_samples, n_classes).
    groups
        Number of the group of each row, or None.
    """

    y: RowValues
    predicted: RowValues
    probabilities: NDArray[np.float64]
    groups: NDArray[np.int64] | None = None


def held_out(
    head: Head, found: SearchResult, samples: Samples, rows: Rows, folds: int, seed: int
) -> HeldOutPredictions:
    """Predict each row that a head was fitted on by its twin, fitted on the other folds.

    A twin has the settings of the head, and its scale of probabilities: only the decisions are
    learnt again. So a cut of the probabilities means the same for the twin as for the head. The
    folds are others than those that chose the settings.

    Parameters
    ----------
    head
        The head that was fitted; of several that competed, the winner.
    found
        Its search on `rows`.
    rows
        Positions of the rows that it was fitted on.
    folds
        How many folds the search had.

    Raises
    ------
    FitError
        If the head gives no probabilities.
    """
    y, classes = samples.y[rows], samples.classes
    codes = check_groups(samples.groups, len(samples))
    groups = None if codes is None else codes[rows]
    if not hasattr(found.estimator, "predict_proba"):
        raise FitError(f"head {head.name} gives no probabilities, and a threshold needs them")
    if isinstance(found, StreamedResult):
        return _streamed(found, y, classes, groups)
    X, predicted, table = samples.take(rows), y.copy(), np.zeros((len(y), len(classes)))
    weights = None if samples.weights is None else samples.weights[rows]
    for rest, held in _folds(y, folds, groups, seed + 1):
        data = X[rest], y[rest], None if weights is None else weights[rest]
        inner = _folds(y[rest], folds, None if groups is None else groups[rest], seed, folds)
        scores = score_rows(_twin(head, found, data, inner, seed), X[held], classes)
        assert scores.probabilities is not None
        predicted[held], table[held] = scores.predicted, scores.probabilities
    return HeldOutPredictions(y, predicted, table, groups)


def _folds(y: Any, folds: int, groups: Any, seed: int, least: int = _FOLDS) -> Folds:
    smallest = int(np.unique(y, return_counts=True)[1].min())
    many = max(2, min(max(folds, least), smallest))
    return make_folds(y, folds=many, groups=groups, seed=seed)[0]


def _twin(head: Head, found: SearchResult, data: Any, inner: Folds, seed: int) -> Any:
    """Fit the head again on some of its rows, with the scale that it has."""
    X, y, weights = data
    given = {} if weights is None else {"clf__sample_weight": weights}
    kept = found.estimator
    if head.parts:
        # The last step of a stack needs folds of its own inside the rows.
        pipeline = head.build(seed, len(y)).set_params(clf__cv=inner)
        return refit(pipeline, found.best_params, data, None).estimator
    if not found.calibrated or not isinstance(kept, CalibratedClassifierCV):
        return clone(kept).fit(X, y, **given)
    twin, scaled = copy.copy(kept), copy.copy(kept.calibrated_classifiers_[0])
    scaled.estimator = clone(scaled.estimator).fit(X, y, **given)
    twin.calibrated_classifiers_ = [scaled]
    return twin


def _streamed(found: StreamedResult, y: Any, classes: list[str], groups: Any) -> HeldOutPredictions:
    """Give what a streamed search said of rows while they were held out."""
    assert found.held_probabilities is not None
    at = found.held_rows
    known = [classes.index(str(name)) for name in np.unique(y)]
    table = np.zeros((len(at), len(classes)))
    table[:, known] = found.held_probabilities
    predicted = np.asarray(classes)[table.argmax(axis=1)]
    return HeldOutPredictions(y[at], predicted, table, None if groups is None else groups[at])


@dataclass(frozen=True)
class DecisionTarget:
    """The target of decisions; at most one of the three.

    Parameters
    ----------
    precision
        For each class: rows called so are answered only where this share of them is right.
    cost
        Of a false positive and a false negative, as ``1:5``; two classes, and the second in
        alphabetical order is the positive one.
    abstain
        Share of errors that is allowed among the answered rows.
    confidence
        Share of draws of training rows in which precision or accuracy is kept on new rows.

    Raises
    ------
    FitError
        For more than one, or a value out of range.

    Examples
    --------
    >>> DecisionTarget.of(cost="1:5")
    DecisionTarget(precision=None, cost=(1.0, 5.0), abstain=None, confidence=0.9)
    """

    precision: float | None = None
    cost: tuple[float, float] | None = None
    abstain: float | None = None
    confidence: float = 0.9

    @classmethod
    def of(
        cls,
        precision: float | None = None,
        cost: str | None = None,
        abstain: float | None = None,
        confidence: float = 0.9,
    ) -> DecisionTarget:
        """Read the options ``--precision-at``, ``--cost`` and ``--abstain``."""
        if sum(value is not None for value in (precision, cost, abstain)) > 1:
            raise FitError("--precision-at, --cost and --abstain exclude each other; give one")
        if precision is not None and not 0 < precision < 1:
            raise FitError(
                f"--precision-at is {precision:g}; expected a share in (0, 1), as no number of "
                "rows can promise that no answer is wrong"
            )
        if abstain is not None and not 0 < abstain < 1:
            raise FitError(
                f"--abstain is {abstain:g}; expected a share of errors in (0, 1), as no number of "
                "rows can promise that no answer is wrong"
            )
        if not 0 < confidence < 1:
            raise FitError(f"--confidence is {confidence:g}; expected a share in (0, 1), as 0.9")
        return cls(precision, None if cost is None else _costs(cost), abstain, confidence)

    def __bool__(self) -> bool:
        return any(value is not None for value in (self.precision, self.cost, self.abstain))


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


def require_decidable(
    wanted: DecisionTarget, sets: float | None, samples: Samples, nested: bool
) -> None:
    """Refuse, before any fit, what the labels, their number or the plan do not allow.

    Raises
    ------
    FitError
        For a regression, costs of more than two classes, a nested measurement, or fewer rows than
        a promise takes if all of them were answered right.
    """
    if samples.task == "regression":
        raise FitError(
            "--precision-at, --cost, --abstain and --sets are for classes; these are numbers"
        )
    if samples.task == "multilabel":
        raise FitError("--precision-at, --cost, --abstain and --sets are for one label a row")
    if wanted.cost is not None and len(samples.classes) != 2:
        raise FitError(f"--cost needs two classes, and there are {len(samples.classes)}")
    if nested:
        raise FitError(
            "thresholds and sets are measured on rows that did not choose them, and --nested "
            "leaves none; leave out --nested"
        )
    if sets is not None:
        require_rows(samples.y, sets)
    _require_promisable(wanted, samples)


def _require_promisable(wanted: DecisionTarget, samples: Samples) -> None:
    target, level = wanted.precision, wanted.confidence
    if target is not None:
        level = 1 - (1 - level) / len(samples.classes)
    elif wanted.abstain is not None:
        target = 1 - wanted.abstain
    if target is None:
        return
    codes = check_groups(samples.groups, len(samples))
    units = len(samples) if codes is None else len(np.unique(codes))
    if units < rows_needed(target, level):
        what = "a precision" if wanted.precision is not None else "an accuracy"
        raise FitError(
            f"{what} of {target:g} cannot be promised with these rows: "
            f"{asked_for(target, level, units, codes)}; ask for less, lower --confidence, or add "
            "rows"
        )


def choose(
    wanted: DecisionTarget, scores: HeldOutPredictions, samples: Samples, must: bool = True
) -> tuple[JsonObject, list[Warn]]:
    """Choose thresholds on what a head said of rows while they were held out.

    Parameters
    ----------
    scores
        Of `featx.fitting.deciding.held_out`.
    must
        Refuse where no class, or no confidence, has a cut; else the rule answers nothing.

    Returns
    -------
    thresholds : JSON-ready, for `featx.model.thresholds.decide`
    warnings : ``precision-not-reached`` for classes that are never answered

    Raises
    ------
    FitError
        If these rows allow no promise; the message says what it takes.
    """
    y, n = scores.y, len(scores.y)
    found: JsonObject = {"chosen_on": f"out-of-fold predictions of {n} training rows"}
    if wanted.cost is not None:
        return found | _cheapest(wanted.cost, scores, samples.classes), []
    found["level"] = wanted.confidence
    if wanted.precision is not None:
        classes, notes = _precise(wanted, scores, samples.classes, must)
        return found | {"by": "precision", "wanted": wanted.precision, "classes": classes}, notes
    errors = float(wanted.abstain or 0)
    found |= {"by": "abstain", "errors": errors}
    try:
        return found | abstain_band(
            y,
            scores.predicted,
            scores.probabilities,
            accuracy=1 - errors,
            confidence=wanted.confidence,
            groups=scores.groups,
        ), []
    except FitError:
        if must:
            raise
        nothing = {"confidence": math.inf, "answered": 0.0, "accuracy": 0.0, "low": 0.0}
        return found | nothing, []


def _cheapest(
    cost: tuple[float, float], scores: HeldOutPredictions, classes: list[str]
) -> JsonObject:
    positive, (fp, fn) = classes[1], cost
    best = threshold_for_cost(
        scores.y == positive, scores.probabilities[:, 1], false_positive=fp, false_negative=fn
    )
    # JSON knows no infinity: without a threshold nothing is called positive.
    at = best["threshold"] if math.isfinite(best["threshold"]) else None
    costs = {"false_positive": fp, "false_negative": fn, "cost": best["cost"]}
    return {"by": "cost", "positive": positive, "threshold": at} | costs


def _precise(
    wanted: DecisionTarget, scores: HeldOutPredictions, classes: list[str], must: bool
) -> tuple[JsonObject, list[Warn]]:
    """Choose a cut for each class; all of them keep the promise together."""
    target = wanted.precision
    assert target is not None
    level = 1 - (1 - wanted.confidence) / len(classes)
    found: JsonObject = {}
    why: dict[str, str] = {}
    for k, name in enumerate(classes):
        # Only rows that are called so can be answered so.
        called = scores.predicted == name
        right, given = scores.y[called] == name, scores.probabilities[called, k]
        groups = None if scores.groups is None else scores.groups[called]
        try:
            found[name] = threshold_for_precision(
                right, given, target, confidence=level, groups=groups
            )
        except FitError:
            units = int(called.sum()) if groups is None else len(np.unique(groups))
            found[name], why[name] = None, asked_for(target, level, units, groups)
    if not why:
        return found, []
    first, reason = next(iter(why.items()))
    if must and len(why) == len(classes):
        raise FitError(
            f"no class can be promised precision {target:g} with these rows: of those called "
            f"{first}, {reason}; ask for less, lower --confidence, or add rows"
        )
    text = (
        f"precision {target:g} cannot be promised for {', '.join(why)}; never answered so "
        f"(of rows called {first}, {reason})"
    )
    return found, [warn("precision-not-reached", text)]
