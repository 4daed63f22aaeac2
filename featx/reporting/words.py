"""The words of the page, and how it writes numbers."""

from __future__ import annotations

import math

from featx.reporting.data import ReportData
from featx.typing import JsonObject

NARROW = "\u202f"  # narrow no-break space between a number and its unit
LEAKS = ("duplicates-across-split", "groups-across-split")

METRICS: dict[str, tuple[str, str]] = {
    "accuracy": ("Accuracy", "share of test images labelled right"),
    "balanced_accuracy": ("Balanced accuracy", "mean recall of the classes"),
    "macro_f1": ("Macro F1", "mean F1 of the classes"),
    "micro_f1": ("Micro F1", "F1 of all labels taken together"),
    "roc_auc": ("ROC AUC", "chance that a positive ranks above a negative"),
    "average_precision": ("Average precision", "area under precision and recall"),
    "log_loss": ("Log loss", "of the probabilities; lower is better"),
    "brier": ("Brier score", "squared error of the probabilities; lower is better"),
    "calibration_error": ("Calibration error", "expected, 15 bins (ECE); lower is better"),
    "r2": ("R²", "share of the variance explained"),
    "mae": ("Mean absolute error", "lower is better"),
    "rmse": ("Root mean squared error", "lower is better"),
}
_OF_SEVERAL = {
    "accuracy": "share of test images whose labels are all right",
    "average_precision": "mean over the labels of the area under precision and recall",
}
PERCENT = ("accuracy", "balanced_accuracy")
ON_UNIT = (*PERCENT, "macro_f1", "micro_f1", "roc_auc", "average_precision")
"""Metrics from 0 to 1 where more is better: these are drawn on one scale."""


def percent(share: float, digits: int = 1) -> str:
    """Write a share in per cent.

    Examples
    --------
    >>> percent(0.8384).replace(NARROW, " ")
    '83.8 %'
    """
    return f"{100 * share:.{digits}f}{NARROW}%"


def figure_text(name: str, value: float) -> str:
    """Write a metric's value: per cent for accuracies, about three figures for the rest."""
    if name in PERCENT:
        return percent(value)
    digits = 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return f"{round(value, digits) + 0.0:,.{digits}f}"  # + 0.0: no minus before a zero


def span_text(name: str, figure: JsonObject) -> str:
    """Write an interval."""
    low, high = (
        "no end" if end is None else figure_text(name, end)
        for end in (figure["low"], figure["high"])
    )
    return f"{low.removesuffix(NARROW + '%')} to {high}"


def ends(figure: JsonObject) -> tuple[float, float]:
    """Give an interval's ends; one that has none is infinite."""
    low, high = figure["low"], figure["high"]
    return -math.inf if low is None else low, math.inf if high is None else high


def verdict(data: ReportData) -> str:
    """Say in one sentence what the head is worth."""
    if data.several:
        return _several(data)
    return _regression(data) if data.task == "regression" else _classification(data)


def _regression(data: ReportData) -> str:
    test, base = data.figures["test"], data.figures["baseline"]
    error = test["mae"]
    beside = base["mae"]["value"]
    low, high = ends(error)
    better = _beside(low > beside, high < beside)
    return (
        f"On {len(data.ids):,} test images the predictions are off by "
        f"{figure_text('mae', error['value'])} on average (95{NARROW}% interval "
        f"{span_text('mae', error)}), {better} the "
        f"{figure_text('mae', beside)} of always answering the mean{_caution(data)}."
    )


def _several(data: ReportData) -> str:
    test, base = data.figures["test"], data.figures["baseline"]
    exact = test["accuracy"]
    low, high = ends(exact)
    beside = base["accuracy"]["value"]
    ranked = ""
    if "average_precision" in test:
        mean = test["average_precision"]
        ranked = (
            f"; the mean average precision of {len(data.classes)} labels is "
            f"{figure_text('average_precision', mean['value'])} (interval "
            f"{span_text('average_precision', mean)})"
        )
    return (
        f"All labels of {percent(exact['value'])} of {data.figures['n_test']:,} test images are "
        f"right (95{NARROW}% interval {span_text('accuracy', exact)}), "
        f"{_beside(high < beside, low > beside)} the {percent(beside)} of always giving the labels "
        f"that most images have{ranked}{_caution(data)}."
    )


def _classification(data: ReportData) -> str:
    accuracy, base = data.figures["test"]["accuracy"], data.figures["baseline"]
    beside = base["accuracy"]["value"]
    low, high = ends(accuracy)
    better = _beside(high < beside, low > beside)
    return (
        f"{percent(accuracy['value'])} of {data.figures['n_test']:,} test images are labelled "
        f"right (95{NARROW}% interval {span_text('accuracy', accuracy)}), {better} the "
        f"{percent(beside)} of always answering “{base.get('class', '')}”"
        f"{_weakest(data)}{_caution(data)}."
    )


def _beside(worse: bool, better: bool) -> str:
    return "clearly better than" if better else "worse than" if worse else "not to be told from"


def _weakest(data: ReportData) -> str:
    """Name the class that is found least often, where it matters."""
    recalls = {
        name: one["recall"]["value"]
        for name, one in data.figures.get("per_class", {}).items()
        if one.get("recall")
    }
    if len(recalls) < 2:
        return ""
    worst = min(recalls, key=lambda name: recalls[name])
    if recalls[worst] > data.figures["test"]["accuracy"]["value"] - 0.05:
        return ""
    return f"; of “{worst}” it finds {percent(recalls[worst], 0)}"


def _caution(data: ReportData) -> str:
    codes = [w["code"] for w in data.figures.get("warnings", [])]
    if any(code in LEAKS for code in codes):
        return "; the split leaks, so this is too good to be true of new images"
    return "; read the warnings" if codes else ""


def chance(name: str, data: ReportData) -> float | None:
    """Give a metric of the constant answer: measured, or what it must be."""
    measured = data.figures["baseline"].get(name)
    if isinstance(measured, dict):
        return float(measured["value"])
    k = len(data.classes)
    if data.several and name == "average_precision":
        each = data.figures.get("per_class", {}).values()
        return float(sum(one["support"] for one in each) / k / data.figures["n_test"])
    if not k or data.several:
        return None
    share = float(data.figures["baseline"]["accuracy"]["value"])
    # A constant answer has recall 1 and precision `share` in one class, and nothing in the others.
    known = {"roc_auc": 0.5, "balanced_accuracy": 1 / k, "macro_f1": 2 * share / (1 + share) / k}
    if k == 2 and (one := data.figures.get("per_class", {}).get(data.classes[1])):
        known["average_precision"] = one["support"] / data.figures["n_test"]
    return known.get(name)


def metric_rows(data: ReportData) -> list[JsonObject]:
    """Make the rows of the table of metrics."""
    rows = []
    for name, figure in data.figures["test"].items():
        title, meaning = METRICS.get(name, (name.replace("_", " "), ""))
        if data.several:
            meaning = _OF_SEVERAL.get(name, meaning)
        beside = chance(name, data)
        rows.append(
            {
                "name": name,
                "title": title,
                "meaning": meaning,
                "value": figure_text(name, figure["value"]),
                "span": span_text(name, figure),
                "baseline": "" if beside is None else figure_text(name, beside),
                "figure": figure,
                "beside": beside,
                "drawn": name in ON_UNIT,
            }
        )
    return rows


_OF_SLICES = ("accuracy", "balanced_accuracy", "macro_f1", "mae", "r2")


def slice_table(data: ReportData) -> JsonObject | None:
    """Make the table of slices; None where there are none."""
    found = data.figures.get("slices")
    if not found:
        return None
    shown = [n for n in _OF_SLICES if any(n in one for one in found["test"].values())]
    rows = []
    for name, one in found["test"].items():
        cells = [
            (figure_text(n, one[n]["value"]), span_text(n, one[n])) if n in one else ("–", "")
            for n in shown
        ]
        rows.append({"name": name, "n_test": one["n_test"], "figures": cells})
    return {
        "column": found["column"],
        "level": f"{100 * found['level']:.4g}",
        "unit": found["unit"],
        "needed": found["needed"],
        "few": ", ".join(f"{name} ({n})" for name, n in found["few"].items()),
        "titles": [METRICS[n][0] for n in shown],
        "rows": rows,
    }
