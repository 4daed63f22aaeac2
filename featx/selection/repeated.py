"""How good a head is on rows that its search never saw: repeated or nested."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from featx.errors import FitError
from featx.evaluation import baseline, evaluate
from featx.heads import Head
from featx.selection.checks import Warn, check_rows
from featx.selection.result import SearchResult, describe
from featx.selection.splits import Folds, SplitPlan, make_folds, make_split
from featx.selection.tuning import head_and_task, search

LABELS = ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "average_precision", "log_loss")
METRICS = (*LABELS, "brier", "calibration_error", "r2", "mae", "rmse")


@dataclass(frozen=True)
class CrossResult:
    """Scores of every outer split, and what they say together.

    Parameters
    ----------
    rounds
        For each outer split ``{"repeat", "fold", "n_train", "n_test", "params", "metrics"}``.
    metrics
        Mean over the outer splits with its 95 % interval.
    baseline
        The same of the majority class, or of the mean label.
    warnings
        Each distinct warning of the searches once.
    held_out
        For each outer split its test rows, predicted labels and probabilities (or None).
    """

    rounds: list[dict[str, Any]] = field(repr=False)
    metrics: dict[str, dict[str, float]]
    baseline: dict[str, dict[str, float]]
    warnings: list[Warn]
    held_out: list[tuple[NDArray[np.intp], NDArray[Any], NDArray[Any] | None]] = field(repr=False)


def cross_evaluate(
    head: str | Head | Any,
    X: Any,
    y: Any,
    plan: SplitPlan | None = None,
    *,
    groups: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    **options: Any,
) -> CrossResult:
    """Search, fit and measure on each outer split of a plan.

    Every outer split has a search of its own on its training rows, so no score is the best of
    several.

    Parameters
    ----------
    X, y
        As in ``search``.
    plan
        ``repeats`` hold-outs of ``test_size``, or with ``nested`` as often ``folds`` outer folds.
    groups
        Group of each row, kept together in outer and inner splits.
    strata
        What to stratify by in place of ``y``.
    options
        Further options of ``search``.

    Raises
    ------
    FitError
        If rows cannot be split, fitted or scored.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> found = cross_evaluate("ridge", X, y, SplitPlan(repeats=2))
    >>> found.metrics["accuracy"]["value"] > 0.7, len(found.rounds)
    (True, 2)
    """
    plan = plan or SplitPlan()
    head, task = head_and_task(head, y)
    X, y = check_rows(X, y, task)
    columns = {
        name: None if given is None else np.asarray(given)
        for name, given in (("groups", groups), ("strata", strata), ("weights", sample_weight))
    }
    for name, column in columns.items():
        if column is not None and len(column) != len(y):
            raise FitError(f"there are {len(y)} rows and {len(column)} {name}; expected as many")
    rounds: list[dict[str, Any]] = []
    plain: list[dict[str, float]] = []
    held_out: list[tuple[NDArray[np.intp], NDArray[Any], NDArray[Any] | None]] = []
    notes: list[Warn] = []
    for repeat in range(plan.repeats):
        seed = plan.seed + repeat
        for fold, (train, test) in enumerate(_outer(y, plan, seed, task, columns)):
            own = {name: None if c is None else c[train] for name, c in columns.items()}
            found = search(
                head,
                X[train],
                y[train],
                folds=plan.folds,
                seed=seed,
                groups=own["groups"],
                strata=own["strata"],
                sample_weight=own["weights"],
                **options,
            )
            predicted, probabilities, measured = _measure(found, X[test], y[test], task)
            held_out.append((test, predicted, probabilities))
            notes += [n for n in found.warnings if n["code"] not in {m["code"] for m in notes}]
            plain.append(_values(baseline(y[train], y[test], task=task)))
            rounds.append(
                {
                    "repeat": repeat,
                    "fold": fold,
                    "n_train": len(train),
                    "n_test": len(test),
                    "params": describe(found.best_params),
                    "metrics": measured,
                }
            )
    share = float(np.mean([r["n_test"] / r["n_train"] for r in rounds]))
    summary = summarise([r["metrics"] for r in rounds], share)
    return CrossResult(rounds, summary, summarise(plain, share), notes, held_out)


def _outer(y: Any, plan: SplitPlan, seed: int, task: str, columns: dict[str, Any]) -> Folds:
    groups, strata = columns["groups"], columns["strata"]
    if plan.nested:
        made, _ = make_folds(
            y, folds=plan.folds, groups=groups, seed=seed, task=task, strata=strata
        )
        return made
    train, _, test = make_split(
        y, groups=groups, test_size=plan.test_size, seed=seed, task=task, strata=strata
    )
    return [(train, test)]


def _measure(
    found: SearchResult, X: NDArray[Any], y: NDArray[Any], task: str
) -> tuple[NDArray[Any], NDArray[Any] | None, dict[str, float]]:
    estimator = found.estimator
    predicted = estimator.predict(X)
    probabilities, classes = None, None
    if task != "regression" and hasattr(estimator, "predict_proba"):
        probabilities = estimator.predict_proba(X)
        classes = estimator.classes_
    measured = evaluate(
        y, predicted, probabilities=probabilities, classes=classes, task=task, n_boot=0
    )
    return predicted, probabilities, _values(measured)


def _values(measured: dict[str, Any]) -> dict[str, float]:
    return {name: measured[name]["value"] for name in METRICS if name in measured}


def summarise(rounds: list[dict[str, float]], test_to_train: float) -> dict[str, dict[str, float]]:
    """Average metrics over outer splits, with a 95 % interval.

    Training sets overlap, so the variance of the mean is corrected by the ratio of test to
    training rows (Nadeau and Bengio 2003); with one split there is no interval.

    Parameters
    ----------
    rounds
        Metric -> value, for each outer split.
    test_to_train
        Test rows by training rows.

    Examples
    --------
    >>> summarise([{"accuracy": 0.8}, {"accuracy": 0.9}], 1 / 3)["accuracy"]["value"]
    0.85
    """
    found = {}
    for name in METRICS:
        values = np.array([r[name] for r in rounds if name in r])
        if not len(values):
            continue
        mean, half = float(values.mean()), math.nan
        if len(values) > 1:
            error = math.sqrt((1 / len(values) + test_to_train) * float(values.var(ddof=1)))
            half = float(stats.t.ppf(0.975, len(values) - 1)) * error
        found[name] = {"value": round(mean, 12), "low": mean - half, "high": mean + half}
    return found
