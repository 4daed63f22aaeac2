"""Fit every strength on every fold's training rows, and score it on the rows it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from featx.errors import FitError
from featx.heads import Head
from featx.selection.refit import check_weights
from featx.selection.splits import Folds
from featx.selection.sweep import limited_threads
from featx.streaming.blocks import Array, Blocks, Rows
from featx.streaming.descent import LOSSES, DescentProblem, Wish, descend
from featx.streaming.moments import Floats, Linear, Statistics, gather, lda, one_hot, ridge


@dataclass(frozen=True)
class LabelledBlocks:
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
    def of(
        cls, head: Head, blocks: Blocks, labels: Array, rows: Folds, given: object
    ) -> LabelledBlocks:
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

    def __init__(self, name: str, data: LabelledBlocks) -> None:
        self.name, self.data, self.statistics = name, data, data.gather()
        self.problem: DescentProblem | None = None
        self._whole: list[Linear] = []
        if name in LOSSES and data.classes is not None:
            k = len(data.classes)
            self.problem = DescentProblem(
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
        with limited_threads(1), ThreadPoolExecutor(self.data.blocks.workers) as pool:
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


KEPT_BYTES = 256 << 20
"""Of held-out decisions that are kept for the calibration; beyond it a random part of the rows."""
_LEAST = 10
"""Rows of each class that are kept in any case, where there are as many."""


@dataclass(frozen=True)
class HeldOut:
    """Decisions of the candidates for rows that they had not seen.

    Parameters
    ----------
    scores
        Shape (n_candidates, n_folds): accuracy, or R2.
    rows
        Rows whose decisions are kept, ascending.
    decisions
        float32, shape (len(rows), n_candidates, n_outputs).
    """

    scores: Floats
    rows: Rows
    decisions: Array


def ask(data: LabelledBlocks, heads: Sequence[Sequence[Linear]], seed: int = 0) -> HeldOut:
    """Score candidates on held-out rows, in one pass.

    Parameters
    ----------
    heads
        For each fold its candidates.
    seed
        Of the choice of rows whose decisions are kept, where these are too many.
    """
    blocks, target, fold_of = data.blocks, data.target, data.fold_of
    classes = data.classes is not None
    shape = (len(heads[0]), *heads[0][0].intercept.shape)
    held = np.flatnonzero(fold_of >= 0)
    kept = _kept(held, target[held] if classes else None, 4 * shape[0] * shape[1], seed)
    place = np.full(blocks.n_rows, -1)
    place[kept] = np.arange(len(kept))
    decisions = np.empty((len(kept), *shape), dtype=np.float32)
    wrong = np.zeros((shape[0], len(heads)))
    flat = [_stacked(several) for several in heads]

    def asked(rows: Rows, X: Array) -> Floats:
        found = np.zeros_like(wrong)
        for fold in np.unique(fold_of[rows][fold_of[rows] >= 0]):
            at = np.flatnonzero(fold_of[rows] == fold)
            coef, offset = flat[fold]
            scale = heads[fold][0].scale
            Z = (X[at] - scale.mean.astype(np.float32)) / scale.scale.astype(np.float32)
            said = (Z @ coef).reshape(len(at), *shape) + offset
            found[:, fold] = _errors(said, target[rows[at]], classes)
            there = place[rows[at]] >= 0
            decisions[place[rows[at]][there]] = said[there]
        return found

    for part in blocks.map(asked):
        wrong += part
    return HeldOut(1 - wrong / _worst(target, fold_of, len(heads), classes), kept, decisions)


def _kept(rows: Rows, codes: Array | None, row_bytes: int, seed: int) -> Rows:
    most = max(1000, KEPT_BYTES // row_bytes)
    if len(rows) <= most:
        return rows
    mixed = np.random.default_rng(seed).permutation(len(rows))
    chosen = mixed[:most]
    if codes is not None:
        # A sigmoid of every class needs rows of every class, however rare it is.
        by_class = mixed[np.argsort(codes[mixed], kind="stable")]
        ordered = codes[by_class]
        rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
        chosen = np.union1d(chosen, by_class[rank < _LEAST])
    return rows[np.sort(chosen)]


def _stacked(heads: Sequence[Linear]) -> tuple[Array, Floats]:
    coef = np.concatenate([head.coef for head in heads]).T.astype(np.float32)
    return coef, np.stack([head.intercept for head in heads])


def _errors(said: Array, target: Array, classes: bool) -> Floats:
    """Count errors of each candidate, or sum their squares: shape (n_candidates,)."""
    if not classes:
        return np.asarray(((said[:, :, 0] - target[:, None]) ** 2).sum(axis=0, dtype=np.float64))
    called = said[:, :, 0] > 0 if said.shape[2] == 1 else said.argmax(axis=2)
    return np.asarray((called != target[:, None]).sum(axis=0), dtype=np.float64)


def _worst(target: Array, fold_of: Rows, n_folds: int, classes: bool) -> Floats:
    """Denominator of each fold's error: its rows, or its sum of squares."""
    held = [target[fold_of == fold] for fold in range(n_folds)]
    if classes:
        return np.array([float(len(rows)) for rows in held])
    return np.array([float(((rows - rows.mean()) ** 2).sum()) or 1.0 for rows in held])
