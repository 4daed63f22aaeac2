"""LogME: how well features will suit labels, said before any head is fitted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.streaming.blocks import Blocks
from featx.streaming.moments import one_hot

_STEPS = 100
_TOLERANCE = 1e-6
_TINY = 1e-12
_PRODUCT_BYTES = 1 << 28

Floats = NDArray[np.float64]


def logme(X: ArrayLike | Blocks, y: ArrayLike) -> float:
    """Score features by the log maximum evidence of a linear model on the labels.

    You et al. 2021, "LogME: practical assessment of pre-trained models for transfer learning",
    https://arxiv.org/abs/2102.11005; with classes the mean over one-against-rest targets.

    Parameters
    ----------
    X
        Shape (n_samples, n_features), or that in blocks: where there are more rows than features,
        never whole in memory.
    y
        Shape (n_samples,): class names, or float64 for a regression; or 0 and 1 of shape
        (n_samples, n_labels).

    Returns
    -------
    score : evidence per sample; higher is better, and only comparable for the same labels

    Examples
    --------
    >>> y = np.array(["a", "b"] * 20)
    >>> noise = np.random.default_rng(0).normal(size=(40, 4))
    >>> logme(noise + 3 * (y == "a")[:, None], y) > logme(noise, y)
    True
    """
    blocks, labels = X if isinstance(X, Blocks) else Blocks.of(np.asarray(X)), np.asarray(y)
    if labels.ndim == 2:
        targets: Any = labels.astype(np.float64)
    elif labels.dtype.kind == "f":
        targets = labels[:, None]
    else:
        names, codes = np.unique(labels, return_inverse=True)
        targets = one_hot(codes, len(names))
    n, d = blocks.n_rows, blocks.n_features
    sigma, squares = _projected(blocks, targets)
    totals = np.asarray((targets * targets).sum(axis=0))
    found = [
        evidence(sigma, squares[:, k], float(totals[k]), n, d)[0] for k in range(targets.shape[1])
    ]
    return float(np.mean(found) / n)


def _projected(blocks: Blocks, targets: Any) -> tuple[Floats, Floats]:
    """Squared singular values of X, and squared products of its left vectors with the targets."""
    n, d = blocks.n_rows, blocks.n_features
    # The smaller of the two Gram matrices gives both, without a full decomposition of X.
    if n < d:
        X = np.concatenate(list(blocks.map(lambda _, block: block.astype(np.float64))))
        gram, cross = X @ X.T, None
    else:
        gram, cross = np.zeros((d, d)), np.zeros((targets.shape[1], d))
        # Each block on its way holds a matrix as large as the sum.
        blocks = replace(blocks, workers=max(1, min(blocks.workers, _PRODUCT_BYTES // gram.nbytes)))
        for products, with_targets in blocks.map(lambda rows, X: _products(X, targets[rows])):
            gram += products
            cross += with_targets
    sigma, vectors = np.linalg.eigh(gram)
    kept = sigma > sigma[-1] * max(n, d) * np.finfo(np.float64).eps
    sigma, vectors = sigma[kept], vectors[:, kept]
    if cross is None:
        return sigma, (vectors.T @ targets) ** 2
    return sigma, (cross @ vectors).T ** 2 / sigma[:, None]


def _products(X: NDArray[Any], targets: Any) -> tuple[Floats, Floats]:
    x = X.astype(np.float64)
    return x.T @ x, targets.T @ x


def evidence(
    sigma: Floats, squares: Floats, total: float, n: int, d: int
) -> tuple[float, float, float]:
    """Maximise the log evidence over the precisions of weights and noise.

    Parameters
    ----------
    sigma
        Squared singular values of the features that are not zero.
    squares
        Squared products of the left singular vectors with the target.
    total
        Sum of the squared target.
    n, d
        Rows and columns of the features.

    Returns
    -------
    evidence, alpha, beta : the log evidence, and the precisions of weights and noise there
    """
    alpha = beta = 1.0
    beyond = max(total - float(squares.sum()), 0.0)
    for _ in range(_STEPS):
        ratio = alpha / beta
        gamma = float((sigma / (sigma + ratio)).sum())
        weight, residual = _norms(sigma, squares, ratio, beyond)
        alpha = max(gamma, _TINY) / max(weight, _TINY)  # features that are all zero say nothing
        beta = max(n - gamma, _TINY) / max(residual, _TINY)
        if abs(alpha / beta - ratio) <= _TOLERANCE * ratio:
            break
    weight, residual = _norms(sigma, squares, alpha / beta, beyond)
    determinant = np.log(alpha + beta * sigma).sum() + (d - len(sigma)) * np.log(alpha)
    found = 0.5 * (
        d * np.log(alpha)
        + n * np.log(beta)
        - determinant
        - beta * residual
        - alpha * weight
        - n * np.log(2 * np.pi)
    )
    return float(found), float(alpha), float(beta)


def _norms(sigma: Floats, squares: Floats, ratio: float, beyond: float) -> tuple[float, float]:
    """Squared norms of the weights and of what they leave."""
    weight = (sigma * squares / (sigma + ratio) ** 2).sum()
    return float(weight), float((squares * (ratio / (ratio + sigma)) ** 2).sum() + beyond)
