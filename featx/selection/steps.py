"""How far a search is: fits are counted, and how many there will be is known before.

Who calls a search and wants to show how far it is hands in a plain function; nothing here knows
what becomes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from featx.heads import Grid, Head, for_rows
from featx.selection.candidates import grid_size
from featx.selection.fold import Scorer
from featx.selection.ondevice import Device

Step = Callable[[int], Any]
"""Called with the number of fits that have been made since the last call, from any thread."""


@dataclass(frozen=True)
class FitRun:
    """Where candidates are fitted, and who is told.

    Parameters
    ----------
    n_jobs
        Threads; all cores when None.
    device
        Where logistic regressions are fitted; the processor when None.
    step
        Told of each fit, if anybody wants to know.
    """

    n_jobs: int | None = None
    device: Device | None = None
    step: Step | None = None

    def tell(self, n: int) -> None:
        """Say that `n` fits have been made."""
        if self.step is not None:
            self.step(n)

    def counted(self, scorer: Scorer) -> Scorer:
        """Give a score that tells of each fit: every fit of a search is scored once."""
        if self.step is None:
            return scorer

        def score(*given: Any) -> float:
            value = scorer(*given)
            self.tell(1)
            return value

        return score


def fits_of(
    head: Head, n_samples: int, n_folds: int, grid: Grid | Sequence[Grid] | None = None
) -> int:
    """Count the fits of one search: those of every candidate on every fold, and of the winner.

    The winner is fitted on all rows, and on each fold once more for its probabilities.

    Parameters
    ----------
    n_samples
        Rows of the search.

    Examples
    --------
    >>> from featx.heads import get_head
    >>> fits_of(get_head("svm").with_grid({"clf__C": [1, 10]}), 100, 5)
    16
    """
    options = for_rows(head, n_samples).options
    if options:
        return sum(n_folds * grid_size(one.grid) for one in options) + n_folds + 1
    if head.parts:
        return sum(n_folds * grid_size(one.grid) + n_folds + 1 for one in head.parts)
    return n_folds * grid_size(head.grid if grid is None else grid) + n_folds + 1
