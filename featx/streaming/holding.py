"""One pass that asks the heads of every fold about the rows that they have not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featx.streaming.blocks import Array, Rows
from featx.streaming.closed import Linear
from featx.streaming.moments import Floats
from featx.streaming.solving import Labelled

KEPT_BYTES = 256 << 20
"""Of held-out decisions that are kept for the calibration; beyond it a random part of the rows."""
_LEAST = 10
"""Rows of each class that are kept in any case, where there are as many."""


@dataclass(frozen=True)
class HeldOut:
    """What the candidates said of rows that they had not seen.

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


def ask(data: Labelled, heads: Sequence[Sequence[Linear]], seed: int = 0) -> HeldOut:
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
    """What the errors of each fold are shares of: its rows, or its sum of squares."""
    held = [target[fold_of == fold] for fold in range(n_folds)]
    if classes:
        return np.array([float(len(rows)) for rows in held])
    return np.array([float(((rows - rows.mean()) ** 2).sum()) or 1.0 for rows in held])
