"""Kernels between photographs seen from several sides, and the machines that use them.

A support vector machine trained on every view as a row, whose scores are averaged over a
photograph's views, treats all views of a photograph alike. The same is had at 1/64 of the rows by
the mean of the kernel over all pairs of views of two photographs (Haasdonk and Burkhardt 2007,
"Invariant kernel functions for pattern analysis and machine learning"): the views of one
photograph cannot come to stand on both sides, and one matrix serves every C, fold and label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from sklearn.svm import SVC

from featx.selection.sweep import in_threads
from pipelines.elpv_table import figures

Array = NDArray[Any]
Kernels = dict[float, NDArray[np.float32]]


def prepare(taps: Sequence[Array], train: Array, scale: bool = True) -> Array:
    """Standardise each column by the training rows, and give each tap of each view length one.

    Parameters
    ----------
    taps
        One array a tap, float32, shape (n_views, n_samples, n_features).
    train
        Training rows, of which mean and deviation are taken over all views.
    scale
        Whether to divide by the deviation; not where the columns of a tap have one unit already.

    Returns
    -------
    X : float32, shape (n_views, n_samples, n_features of all taps)
    """
    parts = []
    for tap in taps:
        seen = tap[:, train]
        Z = tap - seen.mean(axis=(0, 1))
        if scale:
            Z = Z / (seen.std(axis=(0, 1)) + 1e-6)
        parts.append(Z / np.maximum(np.linalg.norm(Z, axis=2, keepdims=True), 1e-9))
    return np.ascontiguousarray(np.concatenate(parts, axis=2), dtype=np.float32)


def logarithms(roots: Array, floor: float = 1e-3) -> Array:
    """Turn square roots of covariances into their matrix logarithms.

    Between logarithms, straight distances are those of the log-Euclidean metric (Arsigny, Fillard,
    Pennec and Ayache 2006, "Log-Euclidean metrics for fast and simple calculus on diffusion
    tensors").

    Parameters
    ----------
    roots
        As the pooling ``cov`` gives them, shape (n_views, n_samples, n_channels * (n_channels + 1)
        / 2): upper triangles whose entries off the diagonal are weighted by sqrt(2).
    floor
        Added to the eigenvalues, of which each covariance's sum to one.

    Returns
    -------
    logarithms : float32, of the same shape and layout
    """
    n_channels = int(np.sqrt(2 * roots.shape[-1]))
    i, j = np.triu_indices(n_channels)
    scale = np.where(i == j, 1.0, np.sqrt(2.0))
    found = np.empty(roots.shape, dtype=np.float32)
    for view, row in np.ndindex(*roots.shape[:2]):
        matrix = np.zeros((n_channels, n_channels))
        matrix[i, j] = matrix[j, i] = roots[view, row] / scale
        values, vectors = np.linalg.eigh(matrix)
        values = np.square(np.maximum(values, 0))
        logs = np.log(values / max(float(values.sum()), 1e-12) + floor)
        found[view, row] = ((vectors * logs) @ vectors.T)[i, j] * scale
    return found


def mean_kernels(X: Array, train: Array, gammas: Sequence[float]) -> Kernels:
    """Average the RBF kernel over all pairs of views, for several widths.

    Parameters
    ----------
    X
        As `prepare` returns.
    gammas
        In units of one over the mean squared distance of training rows; each is twice the one
        before, so that its exponential is a square.

    Returns
    -------
    kernels : for each gamma float32, shape (n_samples, n_samples)
    """
    n_views, n, _ = X.shape
    squares = np.einsum("vnd,vnd->vn", X, X)
    seen = X[:, train].reshape(-1, X.shape[2])
    distance = 2 * (squares[:, train].mean() - np.square(seen.mean(axis=0)).sum())
    first = np.float32(gammas[0] / distance)

    def total(pairs: list[tuple[int, int]]) -> NDArray[np.float32]:
        found = np.zeros((len(gammas), n, n), dtype=np.float32)
        for a, b in pairs:
            near = 2 * (X[a] @ X[b].T) - squares[a][:, None] - squares[b][None, :]
            near = np.exp(np.minimum(near, 0) * first)
            for kernel in found:
                kernel += near if a == b else near + near.T
                near = np.square(near)
        return found

    pairs = [(a, b) for a in range(n_views) for b in range(a, n_views)]
    with in_threads(None, len(pairs)):
        cores = effective_n_jobs()
        parts = Parallel()(delayed(total)(pairs[i::cores]) for i in range(cores))
    summed = sum(parts[1:], parts[0])
    return {gamma: _unit(K, train) for gamma, K in zip(gammas, summed, strict=True)}


def _unit(K: NDArray[np.float32], train: Array) -> NDArray[np.float32]:
    """Scale to a mean of one on the training rows' diagonal, so that a cost means the same."""
    return np.asarray(K / np.diag(K)[train].mean())


def worth_of_settings(
    kernels: Kernels,
    y: Array,
    weight: Array,
    inner: Sequence[tuple[Array, Array]],
    costs: Sequence[float],
    ridges: Sequence[float],
) -> dict[tuple[float, float], float]:
    """Give the mean accuracy plus AUC over the inner folds, by (width, share of the ridge)."""
    means: dict[tuple[float, float], float] = {}
    for gamma, K in kernels.items():
        of_fold = partial(scores_of, K, y, weight, costs=costs, ridges=ridges)
        with in_threads(None, len(inner)) as each:
            folds = each(partial(_apply, of_fold), inner)
        for i, ridge in enumerate(ridges):
            measured = [figures(y[b], found[i]) for (_, b), found in zip(inner, folds, strict=True)]
            means[gamma, ridge] = float(np.mean([m["accuracy"] + m["roc_auc"] for m in measured]))
    return means


def _apply(function: Callable[..., list[Array]], rows: tuple[Array, Array]) -> list[Array]:
    return function(*rows)


def scores_of(
    K: Array,
    y: Array,
    weight: Array,
    train: Array,
    other: Array,
    costs: Sequence[float],
    ridges: Sequence[float],
) -> list[Array]:
    """Fit on training rows; score other rows, above zero where the label 1 is called.

    The score is the mean of those of a support vector machine at each cost, plus a share of that
    of a kernel ridge regression on -1 and 1: costs, and two losses, on one kernel err a little
    apart.

    Parameters
    ----------
    K
        Kernel of all rows at one width.
    y, weight
        0 and 1, and the confidence in each, shape (n_samples,).
    costs
        Of the machines that are averaged.
    ridges
        Shares of the ridge's score.

    Returns
    -------
    scores : for each share of `ridges` float64, shape (n_other,)
    """
    inner, across = (np.asarray(K[np.ix_(at, train)], np.float64) for at in (train, other))
    machines = np.zeros(len(other))
    for cost in costs:
        svc = SVC(kernel="precomputed", C=cost, cache_size=500)
        fitted = svc.fit(inner, y[train], sample_weight=weight[train])
        machines += fitted.decision_function(across) / len(costs)
    ridge = _ridge(inner, across, y[train], weight[train])
    return [machines + share * ridge for share in ridges]


def _ridge(inner: Array, across: Array, y: Array, weight: Array) -> Array:
    target = 2.0 * y - 1
    system = inner + 0.1 * np.diag(1 / weight)
    return np.asarray(across @ cho_solve(cho_factor(system), target))
