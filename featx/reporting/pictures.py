"""Which images a report shows, and how small they are kept."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

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
