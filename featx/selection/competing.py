"""Several choices on the same folds, of which the best is fitted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from featx.selection.choice import Choice
from featx.selection.result import SearchResult, describe


def compete(
    choices: Iterable[tuple[int, Choice]], probabilities: bool = True, scales: bool = True
) -> SearchResult:
    """Fit the choice with the best score; of equals, the first.

    Parameters
    ----------
    choices
        Each with the number of the features that it was made on; all on the same folds. They are
        made one after the other, and only the best one so far is kept in memory.
    """
    best: tuple[int, Choice] | None = None
    options: list[dict[str, Any]] = []
    for place, choice in choices:
        options.append(option_entry(choice.head.name, place, choice))
        if best is None or choice.score > best[1].score:
            best = place, choice
    assert best is not None
    place, winner = best
    return replace(winner.fitted(probabilities, scales), options=options, place=place)


def option_entry(name: str, place: int, choice: Choice | SearchResult) -> dict[str, Any]:
    """Describe a competitor, JSON-ready."""
    found = choice.trials.table() if isinstance(choice, Choice) else choice.table
    params = describe(choice.params if isinstance(choice, Choice) else choice.best_params)
    row = next(row for row in found if row["params"] == params)
    return {
        "head": name,
        "features": place,
        "params": params,
        "score": row["mean"],
        "std": row["std"],
    }
