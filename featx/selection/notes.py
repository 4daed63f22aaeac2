"""Warnings of a search: a grid's edge, no convergence, a head that is slow on so many rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from featx.heads import LARGE_ROWS, Head
from featx.selection.checks import Warn, warn
from featx.selection.trials import Trials


@contextmanager
def overheard(notes: list[Warn]) -> Iterator[None]:
    """Turn what libraries warn of into notes, once each: they say it in terms of their own code.

    Parameters
    ----------
    notes
        Added to at the end.
    """
    with warnings.catch_warnings(record=True) as caught:
        yield
    said = dict.fromkeys(" ".join(str(one.message).split()) for one in caught)
    notes += [warn("library-warning", f"a library warns: {text[:300]}") for text in said]


def size_notes(head: Head, n: int) -> list[Warn]:
    """Warn of a head that is replaced, or takes long, on ``n`` training rows."""
    if n <= LARGE_ROWS or not (head.parts or head.name.startswith("sv")):
        return []
    if head.large is not None:
        text = f"{n} training rows: LinearSVC (squared hinge, primal) takes the place of SVC"
        return [warn("large-head", text)]
    text = f"{head.name} takes time with the square of {n} training rows; try nystroem-svm"
    return [warn("slow-head", text)]


def edge_notes(edges: list[str], params: Mapping[str, Any]) -> list[Warn]:
    """Warn of parameters chosen at an end of what was tried."""
    return [
        warn(
            "c-at-grid-edge",
            f"{name.split('__')[-1]} = {params[name]:g} is at the edge of what was tried; a better "
            "value may lie beyond: widen the grid or refine the search",
        )
        for name in edges
    ]


def convergence_notes(trials: Trials, converged: bool) -> list[Warn]:
    """Warn of fits that stopped at their iteration limit."""
    stopped = int((~trials.converged).sum())
    if not converged:
        return [
            warn("not-converged", "the final fit stopped at its iteration limit; raise max_iter")
        ]
    if stopped:
        text = f"{stopped} of {trials.converged.size} fits of the search stopped at their limit"
        return [warn("not-converged", text + "; the chosen one did not")]
    return []
