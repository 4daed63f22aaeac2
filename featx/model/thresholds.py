"""Scores of a fitted head for rows, and the thresholds that a model keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import ModelError
from featx.evaluation import evaluate
from featx.evaluation.resampling import wilson
from featx.typing import Estimator, JsonObject


@dataclass(frozen=True)
class Scores:
    """Scores of a fitted head for some rows.

    Parameters
    ----------
    predicted
        Shape (n_samples,): class names, or numbers; 0 and 1, a column a class, for multilabel.
    probabilities
        Shape (n_samples, n_classes), or None.
    """

    predicted: NDArray[Any]
    probabilities: NDArray[np.float64] | None = None


def score_rows(estimator: Estimator, X: NDArray[np.float32], classes: list[str]) -> Scores:
    """Predict labels and, where the head gives them, probabilities of all `classes`."""
    if has_several(estimator):
        return _several(estimator, X)
    if not classes or not hasattr(estimator, "predict_proba"):
        return Scores(np.asarray(estimator.predict(X)))
    given = np.asarray(estimator.predict_proba(X), dtype=np.float64)
    # A class without training rows has probability zero, and its column stays.
    probabilities = np.zeros((len(X), len(classes)))
    probabilities[:, [classes.index(str(name)) for name in estimator.classes_]] = given
    return Scores(np.asarray(classes)[probabilities.argmax(axis=1)], probabilities)


def has_several(estimator: Estimator) -> bool:
    """True if a fitted head says several labels a row."""
    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    return bool(getattr(last, "multilabel_", False) or getattr(last, "outputs_2d_", False))


def _several(estimator: Estimator, X: NDArray[np.float32]) -> Scores:
    if not hasattr(estimator, "predict_proba"):
        return Scores(np.asarray(estimator.predict(X), dtype=np.int8))
    given = estimator.predict_proba(X)
    if isinstance(given, list):  # neighbours give a table for each label
        given = np.stack([table[:, 1] for table in given], axis=1)
    probabilities = np.asarray(given, dtype=np.float64)
    return Scores((probabilities > 0.5).astype(np.int8), probabilities)


def joined(parts: list[Scores]) -> Scores:
    """Put the scores of consecutive batches together."""
    given = [p.probabilities for p in parts if p.probabilities is not None]
    return Scores(
        np.concatenate([p.predicted for p in parts]), np.concatenate(given) if given else None
    )


Labels = NDArray[Any]
_NUMBER = (int, float)


def decide(
    thresholds: JsonObject, classes: list[str], scores: Scores
) -> tuple[Labels, NDArray[np.bool_]]:
    """Apply thresholds to what a head says.

    Parameters
    ----------
    thresholds
        From `featx.fitting.deciding.choose`; empty for none.

    Returns
    -------
    labels : shape (n_samples,)
        By cost, moved by the threshold; else as predicted.
    abstained : bool, shape (n_samples,)
    """
    p, labels = scores.probabilities, scores.predicted
    no = np.zeros(len(labels), dtype=bool)
    if not thresholds or p is None:
        return labels, no
    if thresholds["by"] == "cost":
        at = classes.index(thresholds["positive"])
        bar = np.inf if thresholds["threshold"] is None else thresholds["threshold"]
        return np.where(p[:, at] >= bar, classes[at], classes[1 - at]), no
    if thresholds["by"] == "abstain":
        return labels, p.max(axis=1) < thresholds["confidence"]
    bars = {n: np.inf if c is None else c["threshold"] for n, c in thresholds["classes"].items()}
    return labels, p.max(axis=1) < np.array([bars[str(name)] for name in labels])


def worth(
    thresholds: JsonObject,
    classes: list[str],
    y: Labels,
    scores: Scores,
    groups: NDArray[np.int64] | None = None,
) -> JsonObject:
    """Measure decisions on rows that chose nothing.

    Parameters
    ----------
    thresholds
        From `featx.fitting.deciding.choose`.
    classes
        In the order of the probabilities.
    y, scores
        Of the rows: what is true, and what the head says.
    groups
        Numbers of the groups that intervals keep whole.

    Returns
    -------
    figures : ``answered``, and of the answered rows ``accuracy`` and the precision of each class;
        by cost also ``cost`` and ``cost_at_half``, the mean cost of a row with and without the
        threshold
    """
    labels, abstained = decide(thresholds, classes, scores)
    share, kept = float(np.mean(~abstained)), ~abstained
    units = len(y if groups is None else np.unique(groups))
    found: JsonObject = {"answered": {"value": share, **wilson(share, units)}}
    if kept.any():
        some = None if groups is None else groups[kept]
        if some is not None and len(np.unique(some)) < 2:
            some = None  # one group has no interval of groups
        figures = evaluate(y[kept], labels[kept], classes=classes, groups=some)
        precision = {n: one["precision"] for n, one in figures["per_class"].items()}
        found |= {"accuracy": figures["accuracy"], "precision": precision}
    if thresholds["by"] == "cost":
        found["cost"] = _mean_cost(thresholds, y, labels)
        found["cost_at_half"] = _mean_cost(thresholds, y, scores.predicted)
    return found


def _mean_cost(thresholds: JsonObject, y: Labels, labels: Labels) -> float:
    called, true = labels == thresholds["positive"], y == thresholds["positive"]
    false_positive, false_negative = np.mean(called & ~true), np.mean(~called & true)
    return float(
        thresholds["false_positive"] * false_positive
        + thresholds["false_negative"] * false_negative
    )


def check_thresholds(where: str, thresholds: object, classes: list[str]) -> None:
    """Refuse thresholds of a model file that `decide` could not apply.

    Raises
    ------
    ModelError
        If they are not of this form.
    """
    if thresholds == {}:
        return
    if not isinstance(thresholds, dict) or not _sound(thresholds, classes):
        raise ModelError(f"{where} is damaged: meta.json has no proper 'thresholds'")


def check_sets(where: str, sets: object, classes: list[str]) -> None:
    """Refuse sets of a model file that prediction could not apply.

    Raises
    ------
    ModelError
        If a class has no cut that is a number or None.
    """
    cuts = sets.get("classes") if isinstance(sets, dict) else None
    sound = isinstance(cuts, dict) and set(cuts) == set(classes)
    if sets != {} and not (
        sound and all(c is None or isinstance(c, _NUMBER) for c in (cuts or {}).values())
    ):
        raise ModelError(f"{where} is damaged: meta.json has no proper 'sets'")


def _sound(found: JsonObject, classes: list[str]) -> bool:
    by = found.get("by")
    if by == "abstain":
        return isinstance(found.get("confidence"), _NUMBER)
    if by == "cost":
        bar = found.get("threshold", "")
        sound = bar is None or isinstance(bar, _NUMBER)
        return sound and len(classes) == 2 and found.get("positive") in classes
    bars = found.get("classes")
    return (
        by == "precision"
        and isinstance(bars, dict)
        and set(bars) == set(classes)
        and all(
            c is None or (isinstance(c, dict) and isinstance(c.get("threshold"), _NUMBER))
            for c in bars.values()
        )
    )
