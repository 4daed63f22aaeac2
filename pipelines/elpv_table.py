"""The table of `make elpv`: a column for each way of splitting, beside the paper's figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from featx.evaluation import over_repeats

SPLITS = ("random", "blocks", "other half", "augmented")
"""Columns of the table."""

PAPER = (
    ("paper: KAZE/VGG + linear SVM", 82.44, 0.8851),
    ("paper: VGG19 fine-tuned on a GPU", 88.42, 0.9442),
)


def figures(y: NDArray[Any], scores: NDArray[Any]) -> dict[str, float]:
    """Accuracy at a score of zero, the area under the ROC curve, the majority's accuracy, rows."""
    return {
        "accuracy": float(np.mean((scores > 0) == y)),
        "roc_auc": float(roc_auc_score(y, scores)),
        "majority": float(max(np.mean(y), 1 - np.mean(y))),
        "n_test": len(y),
    }


def summary(rounds: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line for each recipe, split, label convention and part of the test cells."""
    table = []
    for key in dict.fromkeys((r["recipe"], r["split"], r["label"]) for r in rounds):
        mine = [r for r in rounds if (r["recipe"], r["split"], r["label"]) == key]
        share = float(np.mean([r["n_test"] / r["n_train"] for r in mine]))
        for cells in mine[0]["test"]:
            each = [r["test"][cells] for r in mine]
            tested = float(np.mean([e["n_test"] for e in each]))
            n_rows = round(tested * min(1 + 1 / share, len(each)))
            if "pool" in mine[0]:  # copies of a cell are one cell, and half of the cells no test
                n_rows = min(n_rows, round(tested / mine[0]["n_test"] * mine[0]["pool"]))
            mean = over_repeats(each, share, n_rows)
            majority = mean.pop("majority")["value"]
            mean.pop("n_test")
            line = dict(zip(("recipe", "split", "label"), key, strict=True))
            leaks = [w["message"] for r in mine for w in r.get("warnings", [])]
            line |= {"repeats": len(each), "cells": cells, "leak": leaks[0] if leaks else ""}
            table.append({**line, **mean, "majority": majority})
    return table


def as_text(table: Sequence[dict[str, Any]], repeats: int) -> str:
    """Lay the table out, a column for each way of splitting, beside the paper's figures."""
    splits = [name for name in SPLITS if any(row["split"] == name for row in table)]
    lines = [
        f"ELPV, approximate protocol: {repeats} repeats of 75/25, mean [95 % interval]",
        f"{'':22}{'':12}{'random':22}{''.join(f'{name:22}' for name in splits[1:])}majority %",
    ]
    for name, accuracy, auc in PAPER:
        lines += [name, _line("p > 1/2  all", "accuracy %", [f"{accuracy:.2f}"])]
        lines.append(_line("", "AUC", [f"{auc:.4f}"]))
    for recipe in dict.fromkeys(row["recipe"] for row in table):
        lines.append(f"frozen: {recipe}")
        mine = [row for row in table if row["recipe"] == recipe]
        for label, cells in dict.fromkeys((row["label"], row["cells"]) for row in mine):
            found = {r["split"]: r for r in mine if (r["label"], r["cells"]) == (label, cells)}
            shown = [found.get(split) for split in splits]
            most = 100 * next(iter(found.values()))["majority"]
            what = f"{label:9}{cells}"
            percents = [_span(row, "accuracy", 100, 1) for row in shown]
            lines.append(_line(what, "accuracy %", percents, f"{most:.1f}"))
            lines.append(_line("", "AUC", [_span(row, "roc_auc", 1, 3) for row in shown]))
    leaks = dict.fromkeys(
        f"{r['split']} ({r['repeats']} repeats): " + r["leak"] for r in table if r["leak"]
    )
    return "\n".join([*lines, *(f"warning, {text}" for text in leaks)])


def _line(what: str, metric: str, cells: Sequence[str], last: str = "") -> str:
    return f"  {what:20}{metric:12}{''.join(f'{cell:22}' for cell in cells)}{last}".rstrip()


def _span(row: dict[str, Any] | None, name: str, unit: int, digits: int) -> str:
    if row is None:
        return "-"
    value, low, high = (f"{unit * row[name][end]:.{digits}f}" for end in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
