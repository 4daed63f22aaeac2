"""A map: features in two dimensions."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.errors import FitError, MissingExtraError

MOST_POINTS = 600


def choose_points(y: ArrayLike, most: int = MOST_POINTS, seed: int = 0) -> NDArray[np.intp]:
    """Choose which rows a map shows: all of them, or as many of each class as its share.

    Returns
    -------
    rows : ascending, at most ``most``
    """
    labels = np.asarray(y)
    if len(labels) <= most:
        return np.arange(len(labels))
    # Every n-th row of a list that is sorted by class and shuffled within it.
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return np.sort(by_class[np.linspace(0, len(labels) - 1, most).astype(int)])


def project(
    X: ArrayLike, method: str = "auto", seed: int = 0
) -> tuple[NDArray[np.float64], str, tuple[float, ...]]:
    """Project features to two dimensions.

    Parameters
    ----------
    X
        Shape (n_samples, n_features).
    method
        ``pca``, ``umap`` (needs umap-learn), or ``auto``: UMAP where it is installed.

    Returns
    -------
    xy : float64, shape (n_samples, 2)
    name : ``PCA`` or ``UMAP``
    explained : share of the variance along each axis; empty for UMAP

    Raises
    ------
    MissingExtraError
        If UMAP is asked for and not installed.
    FitError
        If the method is unknown, or there are fewer than two rows.

    Examples
    --------
    >>> xy, name, explained = project([[0.0, 0, 1], [1, 0, 1], [2, 0, 1]], "pca")
    >>> xy.shape, name, round(explained[0], 3)
    ((3, 2), 'PCA', 1.0)
    """
    table = np.asarray(X, dtype=np.float64)
    if table.ndim != 2 or len(table) < 2:
        raise FitError(f"features have shape {table.shape}; a map needs two rows or more")
    if method not in ("auto", "pca", "umap"):
        raise FitError(f"no map is called {method!r}; expected auto, pca or umap")
    there = find_spec("umap") is not None
    if method == "umap" and not there:
        raise MissingExtraError("a UMAP map needs umap-learn; pip install 'featx[umap]'")
    if method == "umap" or (method == "auto" and there):
        return _umap(table, seed), "UMAP", ()
    return _pca(table, seed)


def _pca(X: NDArray[np.float64], seed: int) -> tuple[NDArray[np.float64], str, tuple[float, ...]]:
    from sklearn.decomposition import PCA

    if not np.ptp(X, axis=0).any():
        return np.zeros((len(X), 2)), "PCA", (0.0, 0.0)
    n = min(2, *X.shape)
    fitted = PCA(n, random_state=seed, svd_solver="full" if min(X.shape) < 10 else "auto")
    xy = fitted.fit_transform(X)
    shares = [float(share) for share in fitted.explained_variance_ratio_]
    missing = 2 - n
    return np.pad(xy, ((0, 0), (0, missing))), "PCA", (*shares, *[0.0] * missing)


def _umap(X: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    import warnings

    with warnings.catch_warnings():
        # It warns that tensorflow is absent, and that a fixed seed means one thread.
        warnings.simplefilter("ignore")
        umap: Any = __import__("umap")
        fitted = umap.UMAP(random_state=seed, n_neighbors=min(15, len(X) - 1), init="pca")
        return np.asarray(fitted.fit_transform(X), dtype=np.float64)
