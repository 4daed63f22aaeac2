"""The charts of the page, each from plain numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from featx.evaluation.metrics import BINS
from featx.evaluation.resampling import wilson
from featx.reporting.charts import (
    SHAPES,
    Axis,
    Frame,
    bar,
    curve,
    dot,
    draw,
    make_axis,
    shape,
    unit_axis,
    whisker,
)
from featx.reporting.data import FeatureMap, ReportData
from featx.reporting.words import ends, figure_text
from featx.typing import JsonObject

WORST_CURVES = 6
"""Of more classes, the curves of so many are told apart: those that are ranked worst."""
_MOST_POINTS, _FEW_POINTS = 300, 120  # of each curve; of each of more than ten


def ranking_curves(
    y_true: ArrayLike, probabilities: ArrayLike, classes: list[str]
) -> list[JsonObject]:
    """Make ROC and precision-recall curves: of the second class of two, else of each class.

    Returns
    -------
    curves : list of ``{"class", "prevalence", "auc", "average_precision", "roc", "pr"}``
        ``roc`` is false and true positive rate, ``pr`` recall and precision, as two lists each.
        A class without rows, or with all of them, has none.

    Examples
    --------
    >>> curves = ranking_curves(["a", "b"], [[0.9, 0.1], [0.2, 0.8]], ["a", "b"])
    >>> curves[0]["class"], curves[0]["auc"]
    ('b', 1.0)
    """
    true, table = np.asarray(y_true), np.asarray(probabilities, dtype=np.float64)
    several = true.ndim == 2
    columns = [1] if len(classes) == 2 and not several else range(len(classes))
    most = _MOST_POINTS if len(classes) <= 10 else _FEW_POINTS
    found = []
    for k in columns:
        positive = true[:, k] == 1 if several else true == classes[k]
        if positive.all() or not positive.any():
            continue
        scores = table[:, k]
        fpr, tpr, _ = roc_curve(positive, scores)
        precision, recall, _ = precision_recall_curve(positive, scores)
        found.append(
            {
                "class": classes[k],
                "prevalence": float(positive.mean()),
                "auc": float(roc_auc_score(positive, scores)),
                "average_precision": float(average_precision_score(positive, scores)),
                "roc": _thin(fpr, tpr, most),
                "pr": _thin(recall[::-1], precision[::-1], most),
            }
        )
    return found


def told_apart(curves: list[JsonObject]) -> list[JsonObject]:
    """Give the curves that are drawn in colour: all of a few, else those that are ranked worst.

    Examples
    --------
    >>> curves = [{"class": str(k), "average_precision": k / 10} for k in range(9)]
    >>> [one["class"] for one in told_apart(curves)]
    ['0', '1', '2', '3', '4', '5']
    """
    if len(curves) <= WORST_CURVES:
        return curves
    return sorted(curves, key=lambda one: float(one["average_precision"]))[:WORST_CURVES]


def _thin(xs: NDArray[Any], ys: NDArray[Any], most: int) -> list[list[float]]:
    at = np.unique(np.linspace(0, len(xs) - 1, most).astype(int))
    return [np.round(xs[at], 4).tolist(), np.round(ys[at], 4).tolist()]


def calibration_bins(
    y_true: ArrayLike, y_pred: ArrayLike, probabilities: ArrayLike
) -> list[dict[str, float]]:
    """Compare confidence (the highest probability of a row) with the share that is right.

    Where a row has several labels each is a yes or no of its own, and its confidence that of the
    answer given.

    Returns
    -------
    bins : list of ``{"low", "high", "confidence", "accuracy", "accuracy_low", "accuracy_high",
        "n"}``
        Of the equal bins of the calibration error those that hold a row; with the 95 % Wilson
        interval of the accuracy.
    """
    right = (np.asarray(y_true) == np.asarray(y_pred)).ravel()
    table = np.asarray(probabilities, dtype=np.float64)
    confidence = np.maximum(table, 1 - table).ravel() if np.ndim(y_true) == 2 else table.max(axis=1)
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    found = []
    for k in np.unique(places):
        inside = places == k
        n, share = int(inside.sum()), float(right[inside].mean())
        ends = wilson(share, n)
        found.append(
            {
                "low": k / BINS,
                "high": (k + 1) / BINS,
                "confidence": float(confidence[inside].mean()),
                "accuracy": share,
                "accuracy_low": ends["low"],
                "accuracy_high": ends["high"],
                "n": n,
            }
        )
    return found


MOST_COLOURS = len(SHAPES)


def colour(k: int) -> str:
    """Name the CSS class of the k-th class; all beyond the tenth share one."""
    return f"c{k}" if k < MOST_COLOURS else "other"


def interval_chart(figure: JsonObject, beside: float | None, text: str) -> Markup:
    """Draw a value, its interval and the baseline on a line from 0 to 1."""
    frame = Frame(Axis(0, 1), Axis(0, 1), 230, 20, 6, 6, 0, 0)
    low, high = (frame.px(min(max(end, 0.0), 1.0)) for end in ends(figure))
    base = "" if beside is None else f"M{frame.px(beside):g} 3V17"
    return Markup(
        '<svg class="whiskers" viewBox="0 0 230 20" role="img" aria-label="{}">'
        '<path class="grid" d="M6 10H224M6 7v6M224 7v6M115 7v6"/><path class="base" d="{}"/>'
        '<path class="interval c0" d="M{:g} 10H{:g}"/><circle class="dot c0" cx="{:g}" cy="10" '
        'r="3.2"/></svg>'
    ).format(text, base, low, high, frame.px(figure["value"]))


def roc_chart(curves: list[JsonObject], classes: list[str]) -> Markup:
    """Draw false against true positive rate."""
    frame = Frame(unit_axis("False positive rate"), unit_axis("True positive rate"))
    marks = [curve(frame, [0, 1], [0, 1], "chance"), *_traced(frame, curves, "roc", classes)]
    said = ", ".join(f"{one['class']}: area {one['auc']:.3f}" for one in curves)
    return draw(frame, "ROC curve", said, marks)


def precision_recall_chart(curves: list[JsonObject], classes: list[str]) -> Markup:
    """Draw recall against precision; the dashed line is the share of positives."""
    frame = Frame(unit_axis("Recall"), unit_axis("Precision"))
    marks = []
    if len(curves) == 1:
        marks.append(curve(frame, [0, 1], [curves[0]["prevalence"]] * 2, "chance"))
    marks += _traced(frame, curves, "pr", classes)
    said = ", ".join(
        f"{c['class']}: average precision {c['average_precision']:.3f}" for c in curves
    )
    return draw(frame, "Precision and recall", said, marks)


def _traced(frame: Frame, curves: list[JsonObject], name: str, classes: list[str]) -> list[Markup]:
    """Draw the curves that are told apart above the others, which are thin and grey."""
    kinds = curve_kinds(curves, classes)
    found = []
    for one in sorted(curves, key=lambda one: one["class"] in kinds):
        xs, ys = one[name]
        found.append(curve(frame, xs, ys, kinds.get(one["class"], "rest")))
    return found


def curve_kinds(curves: list[JsonObject], classes: list[str]) -> dict[str, str]:
    """Name the colour of each class whose curve is told apart, in the order of the legend.

    Where there are more classes than colours, a colour stands for another class than on the map.
    """
    if len(curves) == 1:
        return {curves[0]["class"]: colour(0)}
    apart = [one["class"] for one in told_apart(curves)]
    few = len(classes) <= MOST_COLOURS
    return {name: colour(classes.index(name) if few else k) for k, name in enumerate(apart)}


def calibration_chart(bins: list[dict[str, float]], error: float) -> Markup:
    """Draw confidence against the share that is right, and how many rows lie where."""
    frame = Frame(unit_axis("Confidence"), unit_axis("Share that is right"))
    most = max(b["n"] for b in bins)
    bars = [
        bar(frame, (b["low"], b["high"]), 0.16 * b["n"] / most, "count", f"{b['n']} images")
        for b in bins
    ]
    marks = [curve(frame, [0, 1], [0, 1], "chance")]
    for b in bins:
        text = f"confidence {b['confidence']:.2f}: {b['accuracy']:.2f} right of {b['n']} images"
        marks.append(whisker(frame, b["confidence"], b["accuracy_low"], b["accuracy_high"], "c0"))
        marks.append(dot(frame, b["confidence"], b["accuracy"], "c0", text))
    return draw(frame, "Calibration", f"Expected calibration error {error:.3f}", bars, marks)


def learning_chart(found: JsonObject) -> Markup:
    """Draw the score against the number of labels, and what twice as many might give."""
    points, ahead, name = found["points"], found["doubled"], found["metric"]
    every = [*points, ahead] if ahead else points
    low, high = min(p["low"] for p in every), max(p["high"] for p in every)
    pad = (high - low) * 0.08 or 0.01
    top = min(1.0, high + pad) if name == "accuracy" else high + pad
    ticks = tuple((float(p["n"]), f"{p['n']:,}") for p in every)
    title = "Accuracy" if name == "accuracy" else "Mean absolute error"
    frame = Frame(
        Axis(
            every[0]["n"] * 0.85, every[-1]["n"] * 1.15, "Training labels (log scale)", ticks, True
        ),
        make_axis(low - pad, top, title, percent=name == "accuracy"),
        width=380,
        left=56,
    )
    marks = [curve(frame, [p["n"] for p in points], [p["value"] for p in points], "c0")]
    if ahead:
        pair = (points[-1], ahead)
        marks.append(curve(frame, [p["n"] for p in pair], [p["value"] for p in pair], "ahead"))
    for p in every:
        kind = "ahead" if p is ahead else "c0"
        text = f"{p['n']:,} labels: {figure_text(name, p['value'])}"
        marks.append(whisker(frame, p["n"], p["low"], p["high"], kind))
        marks.append(dot(frame, p["n"], p["value"], kind, text))
    said = "; ".join(f"{p['n']} labels {figure_text(name, p['value'])}" for p in points)
    return draw(frame, "Learning curve", said, marks, kind="wide")


def map_chart(points: FeatureMap, kinds: list[str]) -> Markup:
    """Draw the map; a point carries its number, by which the page finds its picture."""
    ends = [(float(c.min()), float(c.max())) for c in points.xy.T]
    x, y = (Axis(low - (high - low) * 0.03, high + (high - low) * 0.03) for low, high in ends)
    frame = Frame(x, y, 860, 540, 14, 14, 14, 14)
    ranks = _ranks(points.labels)
    marks = []
    for k, (place, label) in enumerate(zip(points.xy, points.labels, strict=True)):
        wrong = bool(kinds) and str(label) != str(points.predicted[k])
        number = kinds.index(str(label)) if kinds else 0
        kind = colour(number) if kinds else f"q{ranks[k]}"
        drawn = shape(SHAPES[number] if number < MOST_COLOURS else "circle", *_at(frame, place))
        marks.append(
            Markup('<path class="pt {}{}" data-k="{}" d="{}"><title>{}</title></path>').format(
                kind, " wrong" if wrong else "", k, drawn, _point_text(points, k, wrong)
            )
        )
    said = (
        f"{len(points.ids)} images. Focus the map and use the arrow keys to go from one to the next"
    )
    return Markup('<div class="map" tabindex="0" role="group" aria-label="{}">{}</div>').format(
        f"Map of the features. {said}", _plain(frame, marks)
    )


def _plain(frame: Frame, marks: list[Markup]) -> Markup:
    """Draw a chart without axes: the coordinates of a map mean nothing by themselves."""
    box = Markup('<rect class="frame" x="4" y="4" width="852" height="532" rx="6"/>')
    return Markup('<svg class="chart" viewBox="0 0 {} {}" aria-hidden="true">{}{}</svg>').format(
        frame.width, frame.height, box, Markup("").join(marks)
    )


def map_axes(points: FeatureMap) -> str:
    """Say what lies across a map and what upwards."""
    if len(points.explained) == 2:
        first, second = (f"{100 * share:.0f} %" for share in points.explained)
        return f"Across: first component ({first} of the variance); upwards: second ({second})."
    return f"Across and upwards: the two axes of {points.method}."


def _at(frame: Frame, place: Any) -> tuple[float, float]:
    return frame.px(float(place[0])), frame.py(float(place[1]))


def _point_text(points: FeatureMap, k: int, wrong: bool) -> str:
    label, called = points.labels[k], points.predicted[k]
    if isinstance(label, float):
        return f"{points.ids[k]}: {label:.3g}, predicted {float(called):.3g}"
    return f"{points.ids[k]}: {label}{f', called {called}' if wrong else ''}"


def _ranks(labels: list[Any]) -> list[int]:
    """Which fifth a number lies in, 0 to 4; all 0 for text."""
    if not labels or not isinstance(labels[0], float):
        return [0] * len(labels)
    cuts = np.quantile(labels, [0.2, 0.4, 0.6, 0.8])
    return [int(k) for k in np.searchsorted(cuts, labels)]


def scatter_chart(data: ReportData) -> Markup:
    """Draw predicted against true numbers."""
    both = np.concatenate([data.y_true, data.y_pred])
    low, high = float(both.min()), float(both.max())
    pad = (high - low) * 0.04 or 1.0
    frame = Frame(
        make_axis(low - pad, high + pad, "True"), make_axis(low - pad, high + pad, "Predicted"),
        width=400, height=380, left=58,
    )  # fmt: skip
    marks = [curve(frame, [low - pad, high + pad], [low - pad, high + pad], "chance")]
    marks += _cloud(frame, data.y_true, data.y_pred, data)
    return draw(frame, "Predicted against true", f"{len(data.ids)} test images", marks)


def residual_chart(data: ReportData) -> Markup:
    """Draw what is left over: predicted less true, against predicted."""
    left = data.y_pred - data.y_true
    reach = float(np.abs(left).max()) * 1.08 or 1.0
    low, high = float(data.y_pred.min()), float(data.y_pred.max())
    pad = (high - low) * 0.04 or 1.0
    frame = Frame(
        make_axis(low - pad, high + pad, "Predicted"),
        make_axis(-reach, reach, "Predicted less true"),
        width=400, height=380, left=58,
    )  # fmt: skip
    marks = [curve(frame, [low - pad, high + pad], [0, 0], "chance")]
    marks += _cloud(frame, data.y_pred, left, data)
    return draw(frame, "Residuals", f"largest {np.abs(left).max():.3g}", marks)


def _cloud(frame: Frame, xs: Any, ys: Any, data: ReportData, most: int = 2000) -> list[Markup]:
    at = np.unique(np.linspace(0, len(xs) - 1, most).astype(int))
    return [dot(frame, float(xs[k]), float(ys[k]), "c0 faint", data.shown(int(k)), 3) for k in at]
