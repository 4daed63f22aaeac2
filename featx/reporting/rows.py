"""The table of every prediction, as values that the page's script lays out, sorts and searches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.reporting.data import ReportData

MOST_ROWS = 20_000
"""Test images of which the page lists each; of more, the wrong ones come first."""


def prediction_rows(data: ReportData) -> dict[str, Any]:
    """Give a row for each test image.

    Returns
    -------
    table : dict
        ``columns``: their titles; ``rows``: ``[id, name, true, predicted, figure, wrong]`` each,
        where the figure is the confidence (of numbers: the error) or None; ``left_out``: how many
        rows are not listed.
    """
    n = len(data.ids)
    wrong = _wrong(data)
    at = np.arange(n)
    if n > MOST_ROWS:
        at = np.sort(np.argsort(~wrong, kind="stable")[:MOST_ROWS])
    figures = _figures(data)
    rows = [
        [
            data.ids[k],
            data.shown(k),
            data.text(data.y_true[k]),
            data.text(data.y_pred[k]),
            None if figures is None else round(float(figures[k]), 4),
            bool(wrong[k]),
        ]
        for k in at.tolist()
    ]
    last = "Error" if data.task == "regression" else "Confidence"
    return {
        "columns": ["Image", "True", "Predicted", *([] if figures is None else [last])],
        "numeric": data.task == "regression",
        "rows": rows,
        "left_out": n - len(rows),
    }


def _wrong(data: ReportData) -> NDArray[np.bool_]:
    if data.task == "regression":
        return np.zeros(len(data.ids), dtype=bool)
    both = (data.y_true.reshape(len(data.ids), -1), data.y_pred.reshape(len(data.ids), -1))
    found: NDArray[np.bool_] = np.not_equal(*both).any(axis=1)
    return found


def _figures(data: ReportData) -> Any:
    if data.task == "regression":
        return data.y_pred - data.y_true
    if data.probabilities is None or data.several:
        return None
    return data.probabilities.max(axis=1)
