"""Fit every strength on every fold's training rows: from sums, or by descent."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from featx.errors import FitError
from featx.heads import Head
from featx.selection.folds import Folds
from featx.selection.refit import check_weights
from featx.streaming.blocks import Array, Blocks, Rows
from featx.streaming.closed import Linear, lda, ridge
from featx.streaming.descent import Problem, Wish, descend
from featx.streaming.losses import LOSSES
from featx.streaming.moments import Floats, Statistics, gather, one_hot


@dataclass(frozen=True)
class Labelled:
    """Features in blocks with their labels and folds, as the passes take them.

    Parameters
    ----------
    classes
        Names, sorted; None for a regression.
    target
        Shape (n_rows,): code of the class, or the number.
    fold_of
        Fold that holds out each row; -1 for rows that none does.
    weights
        Of each row in fitting; 1 when None.
    """

    blocks: Blocks
    classes: Array | None
    target: Array
    fold_of: Rows
    n_folds: int
    weights: Floats | None

    @classmethod
    def of(cls, head: Head, blocks: Blocks, labels: Array, rows: Folds, given: Any) -> Labelled:
        """Check folds and weights.

        Raises
        ------
        FitError
            For folds that do not train on all other rows, or weights that the head cannot take.
        """
        fold_of = np.full(len(labels), -1)
        for fold, (train, held) in enumerate(rows):
            if len(train) + len(held) != len(labels) or (fold_of[held] >= 0).any():
                raise FitError("streamed folds hold out each row once and train on all others")
            fold_of[held] = fold
        classes, target = None, labels
        if head.task == "classification":
            classes, target = np.unique(labels, return_inverse=True)
        weights = check_weights(given, len(labels), head.build(n_samples=10**9)["clf"])
        return cls(blocks, classes, target, fold_of, len(rows), weights)

    def gather(self) -> Statistics:
        """Sum over all rows: one pass."""
        if self.classes is None:
            targets: Any = self.target[:, None]
        else:
            targets = one_hot(self.target, len(self.classes))
        return gather(self.blocks, targets, self.fold_of, self.n_folds, self.weights)


class Solver:
    """Finds heads of some strengths.

    Parameters
    ----------
    name
        Of the head.
    data
        Read once here, for the sums.
    """

    def __init__(self, name: str, data: Labelled) -> None:
        self.name, self.data, self.statistics = name, data, data.gather()
        self.problem: Problem | None = None
        self._whole: list[Linear] = []
        if name in LOSSES and data.classes is not None:
            k = len(data.classes)
            self.problem = Problem(
                data.blocks,
                self.statistics,
                data.target,
                data.fold_of,
                data.weights,
                LOSSES[name](k),
                1 if k == 2 else k,
            )

    def of_folds(self, strengths: Sequence[float]) -> list[list[Linear]]:
        """For each fold, fit every strength on the other rows."""
        folds = range(self.data.n_folds)
        if self.problem is not None:
            found = descend(self.problem, [Wish(C, k) for C in strengths for k in folds])
            return [found[k :: len(folds)] for k in folds]
        with threadpool_limits(1), ThreadPoolExecutor(self.data.blocks.workers) as pool:
            done = list(pool.map(lambda k: self._closed(k, strengths), [*folds, None]))
        self._whole = done.pop()
        return done

    def final(self, strength: float, at: int, near: Linear) -> Linear:
        """Give the head of one strength, the `at`-th, on all rows; `near` is it on fewer."""
        if self.problem is None:
            return self._whole[at]
        return descend(self.problem, [Wish(strength, None, near)])[0]

    def _closed(self, fold: int | None, strengths: Sequence[float]) -> list[Linear]:
        sums, shift = self.statistics.training(fold), self.statistics.shift
        if self.name == "lda":
            return lda(sums, shift, strengths)
        return ridge(sums, shift, strengths, self.data.classes is not None)
