"""One self-contained HTML page of a `ReportData`."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from featx.evaluation.decisions import decision_lines
from featx.files import write_bytes
from featx.reporting import plots, words
from featx.reporting.charts import SHAPES, shape
from featx.reporting.data import ReportData, prediction_rows
from featx.reporting.pictures import least_certain, worst_mistakes
from featx.reporting.plots import calibration_bins, ranking_curves
from featx.selection.candidates import STRENGTHS
from featx.typing import JsonObject

_MOST_ROWS = 5000
"""Predictions of more test images than these are not repeated in the page's JSON."""
_MOST_CELLS = 20
"""Classes up to which the confusion matrix is shown whole."""
_MOST_CANDIDATES = 12


def write_report(path: str | os.PathLike[str], data: ReportData) -> Path:
    """Write the page; a file that is there is replaced only by a whole one.

    Parameters
    ----------
    path
        An .html file; its folder must exist.

    Returns
    -------
    path : where it is

    Raises
    ------
    CacheError
        If it cannot be written.
    """
    place = Path(path)
    write_bytes(place, render(data).encode(errors="backslashreplace"))
    return place


def render(data: ReportData) -> str:
    """Make the page's text; everything from names or labels is escaped."""
    env = Environment(
        loader=PackageLoader("featx.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"percent": words.percent, "number": _number, "span": _span}
    folder = Path(__file__).parent
    script = (folder / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return env.get_template("page.html.j2").render(
        # Both are files of this package: the only texts on the page that are not escaped.
        style=Markup((folder / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_digest=digest,
        data=data,
        figures=data.figures,
        classes=data.classes,
        source=Path(str(data.provenance.get("source") or "")).name,
        verdict=words.verdict(data),
        metrics=_metrics(data),
        decisions=decision_lines(data.figures["decisions"])
        if data.figures.get("decisions")
        else [],
        slices=words.slice_table(data),
        drawn=any(name in words.ON_UNIT for name in data.figures["test"]),
        several=" times " in str(data.figures.get("measured_by", "")),
        confusion=_confusion(data),
        each=("precision", "recall", *(["average_precision"] if data.several else [])),
        curves=_curves(data),
        learning=data.learning,
        answer=data.learning["answer"].split(". ", 1) if data.learning else (),
        learning_chart=plots.learning_chart(data.learning) if data.learning else None,
        map=_map(data),
        galleries=_galleries(data),
        scatter=_scatter(data),
        search=_search(data),
        provenance=_flat({**data.provenance, "spec": data.spec}),
        numbers=numbers(data),
        pictures=_kept_pictures(data),
        table=prediction_rows(data),
    )


def numbers(data: ReportData) -> JsonObject:
    """Give every number of the page as JSON-ready values."""
    found: JsonObject = {
        "verdict": words.verdict(data),
        **data.figures,
        "task": data.task,
        "created": data.created,
        "learning_curve": data.learning,
        "audit": data.audit.get("counts"),
        "search": data.search,
        "spec": data.spec,
        "provenance": data.provenance,
        "commands": list(data.commands),
    }
    if data.probabilities is not None:
        found["curves"] = ranking_curves(data.y_true, data.probabilities, data.classes)
        found["calibration"] = calibration_bins(data.y_true, data.y_pred, data.probabilities)
    if len(data.ids) <= _MOST_ROWS:
        found["predictions"] = {
            "ids": data.ids,
            "true": data.y_true.tolist(),
            "predicted": data.y_pred.tolist(),
            "probabilities": None
            if data.probabilities is None
            else np.round(data.probabilities, 4).tolist(),
        }
    return found


def _metrics(data: ReportData) -> list[JsonObject]:
    rows = words.metric_rows(data)
    for row in rows:
        text = f"{row['title']} {row['value']}, interval {row['span']}"
        row["chart"] = (
            plots.interval_chart(row["figure"], row["beside"], text) if row["drawn"] else ""
        )
    return rows


def _confusion(data: ReportData) -> JsonObject | None:
    counts = np.asarray(data.figures.get("confusion", []))
    if counts.size == 0:
        return None
    sums = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:10]
    pairs = [
        (data.classes[i], data.classes[j], int(wrong[i, j]))
        for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[i, j]
    ]
    return {
        "counts": counts.tolist(),
        "shares": (counts / sums).tolist(),
        "whole": len(counts) <= _MOST_CELLS,
        "pairs": pairs if len(counts) > 2 else [],
    }


def _curves(data: ReportData) -> JsonObject | None:
    if data.probabilities is None or not data.classes:
        return None
    found = ranking_curves(data.y_true, data.probabilities, data.classes)
    bins = calibration_bins(data.y_true, data.y_pred, data.probabilities)
    gaps = sum(b["n"] * abs(b["confidence"] - b["accuracy"]) for b in bins)
    error = gaps / sum(b["n"] for b in bins)
    return {
        "each": found,
        "roc": plots.roc_chart(found, data.classes) if found else None,
        "pr": plots.precision_recall_chart(found, data.classes) if found else None,
        "calibration": plots.calibration_chart(bins, error),
        "error": error,
        "legend": _curve_legend(found, data.classes) if len(found) > 1 else [],
        "apart": len(plots.curve_kinds(found, data.classes)),
    }


def _curve_legend(found: list[JsonObject], classes: list[str]) -> list[dict[str, str]]:
    """Entries of the legend of the curves, the worst ranked with its average precision."""
    kinds = plots.curve_kinds(found, classes)
    value = {one["class"]: f"{one['average_precision']:.3f}" for one in found}
    few = len(kinds) == len(found)
    return [
        {"name": name if few else f"{name} ({value[name]})", "kind": kind}
        for name, kind in kinds.items()
    ]


def _legend(names: list[str], classes: list[str]) -> list[dict[str, str]]:
    """Entries of a legend: a class, its colour and its shape."""
    found = []
    for name in names:
        k = classes.index(name)
        drawn = shape(SHAPES[k] if k < len(SHAPES) else "circle", 8, 8, 4.5)
        found.append({"name": name, "kind": plots.colour(k), "shape": drawn})
    return found[: plots.MOST_COLOURS]


def _fifths() -> list[dict[str, str]]:
    names = ("lowest fifth of the labels", "second", "third", "fourth", "highest fifth")
    drawn = shape("circle", 8, 8, 4.5)
    return [{"name": name, "kind": f"q{k}", "shape": drawn} for k, name in enumerate(names)]


def _map(data: ReportData) -> dict[str, Any] | None:
    points = data.points
    if points is None or not points.ids:
        return None
    return {
        "chart": plots.map_chart(points, data.kinds),
        "legend": _legend(data.kinds, data.kinds) if data.classes else _fifths(),
        "more": max(0, len(data.kinds) - plots.MOST_COLOURS),
        "what": "combinations" if data.several else "classes",
        "n": len(points.ids),
        "method": points.method,
        "axes": plots.map_axes(points),
        "share": sum(points.explained) if points.explained else None,
    }


def _kept_pictures(data: ReportData) -> JsonObject:
    """Give the id of each point of the map, and the small pictures by id as base64."""
    points = [] if data.points is None else data.points.ids
    listed = {*points, *data.ids}
    images = {
        name: base64.b64encode(picture).decode()
        for name, picture in data.pictures.items()
        if name in listed
    }
    return {"points": points, "images": images}


def _galleries(data: ReportData) -> list[JsonObject]:
    worst = worst_mistakes(data.y_true, data.y_pred, data.probabilities)
    maps = _MAPS if data.maps else ""
    if data.task == "regression":
        made = [("Largest errors", f"Test images whose prediction is furthest off.{maps}", worst)]
    else:
        sure = data.probabilities is not None
        most = "most confident first" if sure else "in no order"
        if data.several:
            most = f"those that are wrong by most {'probability' if sure else 'labels'} first"
        but = ", but for those above" if len(worst) else ""
        made = [
            ("Worst mistakes", f"Test images that are labelled wrong, {most}.{maps}", worst),
            (
                "Least certain",
                f"Test images {_unsure(data)}{but}: worth a second look, as some "
                "may be labelled wrong.",
                least_certain(data.probabilities, several=data.several, leave_out=worst),
            ),
        ]
    return [
        {"title": title, "text": text, "items": [_tile(data, int(row)) for row in rows]}
        for title, text, rows in made
        if len(rows)
    ]


_MAPS = (
    " Below each picture is where the answer of the saved model comes from: red speaks for what "
    "was said, blue against it. A model that was fitted on all rows has seen these pictures since."
)


def _tile(data: ReportData, row: int) -> JsonObject:
    picture = data.pictures.get(data.ids[row])
    true, called = data.y_true[row], data.y_pred[row]
    said = {"true": data.text(true), "called": data.text(called), "sure": "", "wrong": False}
    if data.task != "regression":
        said["wrong"] = said["true"] != said["called"]
    if data.probabilities is not None and not data.several:
        said["sure"] = words.percent(data.probabilities[row].max(), 0)
    uris = {"uri": _uri(picture), "map": _uri(data.maps.get(data.ids[row]))}
    name = data.shown(row)
    return {"name": name, "short": name.rsplit("/", 1)[-1], **uris, **said}


def _uri(picture: bytes | None) -> str:
    return "" if picture is None else f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"


def _unsure(data: ReportData) -> str:
    if data.several:
        return "with a label whose probability is closest to a half"
    return "whose two most likely classes are closest"


def _scatter(data: ReportData) -> JsonObject | None:
    if data.task != "regression":
        return None
    return {"predicted": plots.scatter_chart(data), "residuals": plots.residual_chart(data)}


def _search(data: ReportData) -> JsonObject | None:
    if not data.search:
        return None
    chosen = data.figures.get("chosen", {}).get("params")
    best = sorted(data.search, key=lambda row: -row["mean"])
    names = _by_strength({name for row in data.search for name in row["params"]})
    rows = [{**row, "chosen": row["params"] == chosen} for row in best]
    top = rows[:_MOST_CANDIDATES]
    top += [row for row in rows[_MOST_CANDIDATES:] if row["chosen"]]
    top.sort(key=lambda row: [_rank(row["params"].get(name)) for name in names])
    return {"names": names, "rows": top, "n": len(rows), "hidden": len(rows) - len(top)}


def _by_strength(names: set[str]) -> list[str]:
    """Put the strength of the penalty last, so that its values follow each other."""
    return sorted(names, key=lambda name: (name.split("__")[-1] in STRENGTHS, name))


def _rank(value: Any) -> tuple[int, float, str]:
    """Order values of a parameter: numbers by size, then text."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, float(value), "") if number else (1, 0.0, str(value))


def _flat(values: dict[str, Any], head: str = "") -> list[tuple[str, str]]:
    """Write nested values as lines of a table."""
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict) and value:
            found += _flat(value, f"{head}{name}.")
        elif value not in (None, "", {}, []):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            found.append((f"{head}{name}", text))
    return found


def _span(figure: JsonObject) -> str:
    return words.span_text("accuracy", figure)


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
