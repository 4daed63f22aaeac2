"""Sums over rows, from which ridge regression and LDA follow exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import eigh

from featx.streaming.blocks import Array, Blocks, Rows

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Sums over some rows ``x``, with weights ``w`` and targets ``t``; they add and subtract.

    Parameters
    ----------
    n
        How many rows.
    plain, squares
        Shape (n_features,): sums of x and of its squares, without weights (a scaler takes none).
    weight
        Sum of w.
    first
        Shape (n_features,): sum of w x.
    second
        Shape (n_features, n_features): sum of w x xᵀ.
    target
        Shape (n_targets,): sum of w t.
    cross
        Shape (n_features, n_targets): sum of w x tᵀ.
    """

    n: int
    plain: Floats
    squares: Floats
    weight: float
    first: Floats
    second: Floats
    target: Floats
    cross: Floats

    def __add__(self, other: Moments) -> Moments:
        return Moments(*(a + b for a, b in _pairs(self, other)))

    def __sub__(self, other: Moments) -> Moments:
        return Moments(*(a - b for a, b in _pairs(self, other)))


def _pairs(left: Moments, right: Moments) -> list[tuple[Any, Any]]:
    return [(getattr(left, f.name), getattr(right, f.name)) for f in fields(Moments)]


@dataclass(frozen=True)
class Statistics:
    """Sums of all rows and of each fold.

    Parameters
    ----------
    shift
        Shape (n_features,): what was taken off every row before it was summed.
    whole
        Of all rows.
    folds
        Of the held-out rows of each fold.
    """

    shift: Floats
    whole: Moments
    folds: list[Moments]

    def training(self, fold: int | None) -> Moments:
        """Sums of the rows that a fold trains on; of all rows for None."""
        return self.whole if fold is None else self.whole - self.folds[fold]


@dataclass(frozen=True)
class Scaler:
    """The statistics that StandardScaler learns: ``(x - mean) / scale``."""

    mean: Floats
    var: Floats
    scale: Floats
    n: int


def gather(
    blocks: Blocks,
    targets: Any,
    fold_of: Rows,
    n_folds: int,
    weights: Floats | None = None,
    shift: Floats | None = None,
) -> Statistics:
    """Sum in one pass.

    Parameters
    ----------
    targets
        Shape (n_rows, n_targets): numbers, or a sparse matrix with a one for the class of each row.
    fold_of
        Fold that holds out each row; -1 for rows that none does.
    weights
        Of each row; 1 when None.
    shift
        What is taken off every row, shape (n_features,): that of sums to which these shall be
        added; a value near the middle of these rows when None.
    """
    if shift is None:
        # The median is a value of the feature, so that a constant one sums to exactly zero.
        head = np.asarray(blocks.read(np.arange(min(1001, blocks.n_rows))), dtype=np.float64)
        shift = np.sort(head, axis=0)[len(head) // 2]
    about = shift

    def summed(rows: Rows, X: Array) -> dict[int, Moments]:
        return {
            int(fold): _sums(X[at], about, targets[rows[at]], None if w is None else w[rows[at]])
            for fold in np.unique(fold_of[rows])
            if len(at := np.flatnonzero(fold_of[rows] == fold))
        }

    w, found = (
        weights,
        {k: _nothing(blocks.n_features, targets.shape[1]) for k in range(-1, n_folds)},
    )
    for part in blocks.map(summed):
        for fold, sums in part.items():
            _accumulate(found, fold, sums)
    whole = found[-1]
    for fold in range(n_folds):
        whole = whole + found[fold]
    return Statistics(about, whole, [found[k] for k in range(n_folds)])


def _accumulate(found: dict[int, Moments], fold: int, sums: Moments) -> None:
    """Add in place: the second moments are large, and there is one for each block."""
    values = {}
    for f in fields(Moments):
        total = getattr(found[fold], f.name)
        total += getattr(sums, f.name)
        values[f.name] = total
    found[fold] = Moments(**values)


def _sums(X: Array, shift: Floats, targets: Any, weights: Floats | None) -> Moments:
    x = X.astype(np.float64)
    x -= shift
    plain, squares = x.sum(axis=0), np.einsum("ij,ij->j", x, x)
    if weights is None:
        second, first, wx, wt = x.T @ x, plain.copy(), x, targets
    else:
        root = np.sqrt(weights)[:, None]
        first, wt = weights @ x, targets * weights[:, None]
        wx = x
        half = x * root
        second = half.T @ half
    return Moments(
        n=len(x),
        plain=plain,
        squares=squares,
        weight=float(len(x) if weights is None else weights.sum()),
        first=first,
        second=second,
        target=np.asarray(wt.sum(axis=0), dtype=np.float64).ravel(),
        cross=np.ascontiguousarray(np.asarray(wt.T @ wx).T),
    )


def with_targets(moments: Moments, columns: list[int], n_targets: int) -> Moments:
    """Put the targets of sums into other columns; the columns between them are zero.

    Parameters
    ----------
    columns
        New place of each target.
    """
    target, cross = np.zeros(n_targets), np.zeros((len(moments.plain), n_targets))
    target[columns], cross[:, columns] = moments.target, moments.cross
    return replace(moments, target=target, cross=cross)


def _nothing(d: int, k: int) -> Moments:
    return Moments(
        n=0,
        plain=np.zeros(d),
        squares=np.zeros(d),
        weight=0.0,
        first=np.zeros(d),
        second=np.zeros((d, d)),
        target=np.zeros(k),
        cross=np.zeros((d, k)),
    )


def one_hot(codes: Rows, n_classes: int) -> Any:
    """Make a sparse matrix with a one for the class of each row."""
    n = len(codes)
    return sparse.csr_array((np.ones(n), (np.arange(n), codes)), shape=(n, n_classes))


def scale_of(moments: Moments, shift: Floats) -> Scaler:
    """Standardise as scikit-learn's StandardScaler does on the same rows."""
    n, middle = moments.n, moments.plain / moments.n
    mean = shift + middle
    var = np.maximum(moments.squares / n - middle**2, 0.0)
    eps = np.finfo(np.float64).eps
    constant = var <= n * eps * var + (n * mean * eps) ** 2
    scale = np.where(constant, 1.0, np.sqrt(var))
    return Scaler(mean, var, scale, n)


@dataclass(frozen=True)
class Linear:
    """A linear head on standardised features: ``((x - mean) / scale) @ coef.T + intercept``.

    Parameters
    ----------
    coef
        Shape (n_outputs, n_features); one output for two classes, as scikit-learn has it.
    intercept
        Shape (n_outputs,).
    scale
        How features are standardised first.
    evaluations
        Passes that its descent took; 0 for what has a closed form.
    converged
        Whether these were enough.
    """

    coef: Floats
    intercept: Floats
    scale: Scaler
    evaluations: int = 0
    converged: bool = True


def ridge(moments: Moments, shift: Floats, alphas: Sequence[float], classes: bool) -> list[Linear]:
    """Solve ridge regression for every alpha.

    Parameters
    ----------
    classes
        Whether the targets are classes (one column each), which become -1 and 1.

    Returns
    -------
    heads : one for each alpha, equal to scikit-learn's Ridge or RidgeClassifier
    """
    scale = scale_of(moments, shift)
    middle = moments.first / moments.weight
    target = moments.target / moments.weight
    second = moments.second - moments.weight * np.outer(middle, middle)
    cross = moments.cross - np.outer(middle, moments.target)
    if classes:
        # 2 t - 1 for the t of 0 and 1 that were summed; one output is enough for two classes.
        cross, target = 2 * cross, 2 * target - 1
        if len(target) == 2:
            cross, target = cross[:, 1:], target[1:]
    values, vectors = eigh(
        second / np.outer(scale.scale, scale.scale), overwrite_a=True, check_finite=False
    )
    values = np.maximum(values, 0.0)
    rotated = vectors.T @ (cross / scale.scale[:, None])
    # Row weights move the mean of what the scaler, which knows none, has centred.
    centre = (shift + middle - scale.mean) / scale.scale
    found = []
    for alpha in alphas:
        coef = (vectors @ _divided(rotated, values + alpha)).T
        found.append(Linear(coef, target - coef @ centre, scale))
    return found


def lda(moments: Moments, shift: Floats, shrinkages: Sequence[float]) -> list[Linear]:
    """Solve linear discriminant analysis for every shrinkage.

    Returns
    -------
    heads : one for each shrinkage, equal to scikit-learn's LinearDiscriminantAnalysis (lsqr, eigen)
    """
    scale = scale_of(moments, shift)
    means = (moments.cross / moments.target).T
    within = moments.second - (means.T * moments.target) @ means
    within /= moments.weight * np.outer(scale.scale, scale.scale)
    centred = (means + shift - scale.mean) / scale.scale
    values, vectors = eigh(within, overwrite_a=True, check_finite=False)
    values = np.maximum(values, 0.0)
    rotated = vectors.T @ centred.T
    spread, priors = float(values.mean()), moments.target / moments.weight
    found = []
    for shrinkage in shrinkages:
        shrunk = (1 - shrinkage) * values + shrinkage * spread
        coef = (vectors @ _divided(rotated, shrunk)).T
        intercept = -0.5 * np.einsum("ij,ij->i", centred, coef) + np.log(priors)
        if len(priors) == 2:
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        found.append(Linear(coef, intercept, scale))
    return found


def _divided(rows: Floats, by: Floats) -> Floats:
    """Divide rows; directions in which nothing varies get zero, as in least squares."""
    enough = by > by.max() * len(by) * np.finfo(np.float64).eps if len(by) else by > 0
    return np.where(enough[:, None], rows / np.where(enough, by, 1.0)[:, None], 0.0)
