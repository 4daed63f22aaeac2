"""The images that a report shows: which, how small they are kept, and their map in the plane."""

from __future__ import annotations

import io
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from featx.errors import FitError, MissingExtraError

N_GALLERY = 24
GALLERY_SIDE, SMALL_SIDE = 224, 80
"""Longer sides of the pictures of a gallery, which a click enlarges, and of all others."""
MOST_PICTURES = 800
"""Test images whose picture is kept, galleries and map apart."""


def thumbnail(pixels: NDArray[np.uint8], side: int = SMALL_SIDE) -> bytes:
    r"""Make a small JPEG.

    Parameters
    ----------
    pixels
        uint8, shape (height, width, 3), RGB.
    side
        The longer side of the result; a smaller picture stays as it is.

    Returns
    -------
    data : JPEG, grey where all three channels are the same

    Examples
    --------
    >>> thumbnail(np.zeros((200, 100, 3), np.uint8))[:2]
    b'\xff\xd8'
    """
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    small = np.asarray(image)
    if small.ndim == 3 and (small == small[..., :1]).all():
        image = image.convert("L")
    file = io.BytesIO()
    image.save(file, "JPEG", quality=75, optimize=True)
    return file.getvalue()


def worst_mistakes(
    y_true: ArrayLike, y_pred: ArrayLike, probabilities: ArrayLike | None, n: int = N_GALLERY
) -> NDArray[np.intp]:
    """Find the rows that are wrong with the highest confidence; the first ones without any.

    Numbers are compared by how far apart they are; several labels by how much probability is
    wrong, or how many labels.

    Examples
    --------
    >>> table = [[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]]
    >>> worst_mistakes(["b", "b", "b"], ["a", "a", "b"], table).tolist()
    [0, 1]
    """
    true, predicted = np.asarray(y_true), np.asarray(y_pred)
    if true.dtype.kind == "f":
        return np.argsort(-np.abs(predicted - true), kind="stable")[:n]
    if true.ndim == 2:
        wrong = np.flatnonzero((true != predicted).any(axis=1))
        said = predicted if probabilities is None else np.asarray(probabilities, dtype=np.float64)
        far = np.abs(said - true).sum(axis=1)
        return wrong[np.argsort(-far[wrong], kind="stable")][:n]
    wrong = np.flatnonzero(true != predicted)
    if probabilities is None:
        return wrong[:n]
    confidence = np.asarray(probabilities, dtype=np.float64).max(axis=1)
    return wrong[np.argsort(-confidence[wrong], kind="stable")][:n]


def least_certain(
    probabilities: ArrayLike | None,
    n: int = N_GALLERY,
    several: bool = False,
    leave_out: ArrayLike = (),
) -> NDArray[np.intp]:
    """Find the rows whose two highest probabilities are closest.

    Parameters
    ----------
    several
        Whether each column is a label of its own; then the one closest to a half counts.
    leave_out
        Rows that are shown elsewhere, such as the worst mistakes.

    Examples
    --------
    >>> least_certain([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]], n=1).tolist()
    [1]
    """
    if probabilities is None:
        return np.empty(0, dtype=np.intp)
    if several:
        unsure = np.abs(np.asarray(probabilities, dtype=np.float64) - 0.5).min(axis=1)
        return _others(np.argsort(unsure, kind="stable"), leave_out)[:n]
    table = np.sort(np.asarray(probabilities, dtype=np.float64), axis=1)
    if table.shape[1] < 2:
        return np.empty(0, dtype=np.intp)
    return _others(np.argsort(table[:, -1] - table[:, -2], kind="stable"), leave_out)[:n]


def _others(rows: NDArray[np.intp], leave_out: ArrayLike) -> NDArray[np.intp]:
    return rows[~np.isin(rows, np.asarray(leave_out, dtype=np.intp))]


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
