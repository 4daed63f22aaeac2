"""Metrics of parts of the test rows, with intervals that allow for the number of parts.

Of twenty slices one is outside its 95 % interval by chance. So each interval has the level
1 - 0.05 / n (Bonferroni; Dunn 1961, https://doi.org/10.1080/01621459.1961.10482090): with a
probability of 95 % all n of them hold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit  # the quantile of t

from featx.errors import FitError
from featx.evaluation.measure import evaluate, intervals_of
from featx.evaluation.resampling import LEVEL, wilson
from featx.selection.checks import Warn, warn
from featx.typing import JsonObject

EMPTY = "(empty)"
"""Name of the slice of rows whose column is empty."""
_MAIN = (("accuracy", 1), ("mae", -1))
"""Metrics that slices are compared by, and whether more is better."""
_SHOWN = ("accuracy", "macro_f1", "mae", "r2")
_MOST_LINES = 40


def slice_names(values: ArrayLike) -> NDArray[np.str_]:
    """Write the values of a column as names of slices.

    Examples
    --------
    >>> slice_names(np.array([1.0, 2.5, np.nan])).tolist()
    ['1', '2.5', '(empty)']
    """
    return np.array([_name(value) for value in np.asarray(values).tolist()], dtype=str)


def _name(value: object) -> str:
    if value is None or value == "" or value != value:
        return EMPTY
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def rows_for_slice(n_slices: int) -> int:
    """Count the rows (or groups) that a slice takes.

    With fewer, the interval of an accuracy of one still reaches below one half.

    Examples
    --------
    >>> rows_for_slice(1), rows_for_slice(10)
    (7, 13)
    """
    n, level = 2, 1 - (1 - LEVEL) / n_slices
    while wilson(1.0, n, float(stdtrit(n - 1, (1 + level) / 2)))["low"] < 0.5:
        n += 1
    return n


def require_slices(column: str, names: NDArray[np.str_], groups: object = None) -> None:
    """Refuse a column none of whose values has the rows that a slice takes.

    Raises
    ------
    FitError
        With the number of rows that it takes.
    """
    every = np.unique(names)
    needed, unit = rows_for_slice(len(every)), "rows" if groups is None else "groups"
    most = max(_units(names == name, groups) for name in every)
    if most < needed:
        raise FitError(
            f"--slices {column}: of the column's {len(every)} values none has more than {most} "
            f"{unit}, and a slice takes {needed}; name a column with fewer values, or put its "
            "values into classes"
        )


def by_slice(
    column: str,
    names: NDArray[np.str_],
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    probabilities: ArrayLike | None = None,
    classes: ArrayLike | None = None,
    task: str = "classification",
    seed: int = 0,
    groups: ArrayLike | None = None,
) -> JsonObject:
    """Measure each slice of the test rows; see `featx.evaluation.evaluate` for the options.

    Parameters
    ----------
    column
        What the slices are values of.
    names
        Slice of each test row, shape (n_samples,).

    Returns
    -------
    slices : dict
        ``column``; ``level`` of each interval; ``test``: for each slice ``n_test`` and its metrics;
        ``few``: slices with too few rows for metrics, and how many they have; ``needed``: how many
        it takes (groups, where there are groups); ``unit``: ``rows`` or ``groups``; ``below``:
        slices whose interval lies below the figure of all rows. JSON-ready.

    Examples
    --------
    >>> found = by_slice("site", np.array(["a"] * 20 + ["b"] * 3), ["x"] * 23, ["x"] * 23)
    >>> found["level"], found["few"], found["needed"], found["test"]["a"]["accuracy"]["value"]
    (0.975, {'b': 3}, 9, 1.0)
    """
    every = np.unique(names).tolist()
    level, needed = 1 - (1 - LEVEL) / len(every), rows_for_slice(len(every))
    given = {"y_true": y_true, "y_pred": y_pred, "probabilities": probabilities, "groups": groups}
    rows: Any = {k: None if value is None else np.asarray(value) for k, value in given.items()}
    how: Any = {"classes": classes, "task": task, "seed": seed}
    whole = evaluate(**rows, **how, n_boot=0)
    test: JsonObject = {}
    few: dict[str, int] = {}
    for name in every:
        at = names == name
        if (units := _units(at, rows["groups"])) < needed:
            few[name] = units
            continue
        some: Any = {key: None if value is None else value[at] for key, value in rows.items()}
        # The ends of a wider interval are rarer among the samples.
        found = evaluate(**some, **how, level=level, n_boot=min(1000 * len(every), 4000))
        figures = intervals_of(found)
        test[name] = {"n_test": int(at.sum()), **figures}
    return {
        "column": column,
        "level": level,
        "needed": needed,
        "unit": "rows" if groups is None else "groups",
        "test": test,
        "few": few,
        "below": [name for name, one in test.items() if _is_below(one, whole)],
    }


def _units(at: NDArray[np.bool_], groups: object) -> int:
    return int(at.sum()) if groups is None else len(np.unique(np.asarray(groups)[at]))


def _is_below(one: JsonObject, whole: JsonObject) -> bool:
    name, more = next(pair for pair in _MAIN if pair[0] in whole)
    end = one[name]["high" if more > 0 else "low"]
    return bool(more * (end - whole[name]["value"]) < 0)


def slice_notes(found: JsonObject) -> list[Warn]:
    """Warn of slices of too few rows, and of slices below the whole."""
    column, unit = found["column"], found["unit"]
    notes = []
    if found["few"]:
        had = ", ".join(f"{name} ({n})" for name, n in list(found["few"].items())[:10])
        more = f" and {len(found['few']) - 10} more" if len(found["few"]) > 10 else ""
        text = (
            f"slices of {column} with too few test {unit} for figures of their own: {had}{more}; "
            f"it takes {found['needed']} {unit}"
        )
        notes.append(warn("few-slice-rows", text))
    if found["below"]:
        text = f"worse than all test rows together: {column} {', '.join(found['below'][:10])}"
        notes.append(warn("slices-below", text))
    return notes


def slice_lines(found: JsonObject) -> list[str]:
    """Say what each slice is worth, in a line each."""
    test = found["test"]
    lines = [
        f"by {found['column']} (intervals of {100 * found['level']:.4g} %, so that all "
        f"{len(test) + len(found['few'])} hold together with 95 %)"
    ]
    for name, one in list(test.items())[:_MOST_LINES]:
        said = ", ".join(f"{what} {_figure(one[what])}" for what in _SHOWN if what in one)
        lines.append(f"  {name}: {one['n_test']} test rows, {said}")
    if len(test) > _MOST_LINES:
        lines.append(f"  and {len(test) - _MOST_LINES} more; --json has them all")
    return lines


def _figure(one: JsonObject) -> str:
    low, high = ("no end" if end is None else f"{end:.4f}" for end in (one["low"], one["high"]))
    return f"{one['value']:.4f} ({low} - {high})"
