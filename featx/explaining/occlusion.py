"""Where an answer changes when a part of the picture is covered: an approximation for any head."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from featx.images import Pixels

CELLS = 8
"""Cells along each side of the picture; a cover is two of them high and wide."""
_BATCH = 16


def occlusion_map(
    pixels: Pixels, score: Callable[[Pixels], NDArray[np.float64]], fill: tuple[int, int, int]
) -> NDArray[np.float64]:
    """Cover parts of a picture in turn, and give each place how much the score falls.

    Zeiler and Fergus (2014), arXiv 1311.2901, section 4.2.

    Parameters
    ----------
    pixels
        uint8, shape (height, width, 3).
    score
        From pictures, uint8 (n, height, width, 3), to a score each, shape (n,).
    fill
        Colour of the cover.

    Returns
    -------
    map : float64, shape (rows, columns), at most 8 a side; each value is the mean over the covers
        that lie over its cell
    """
    edges = [np.unique(np.linspace(0, side, CELLS + 1).astype(int)) for side in pixels.shape[:2]]
    rows, columns = (len(edge) - 1 for edge in edges)
    # They run over the edge, so that each cell lies under four of them.
    corners = [(i, j) for i in range(-1, rows) for j in range(-1, columns)]
    whole = float(score(pixels[None])[0])
    total, covers = np.zeros((rows, columns)), np.zeros((rows, columns))
    for start in range(0, len(corners), _BATCH):
        some = corners[start : start + _BATCH]
        covered = np.repeat(pixels[None], len(some), axis=0)
        for picture, (i, j) in zip(covered, some, strict=True):
            top, left = edges[0][max(i, 0)], edges[1][max(j, 0)]
            picture[top : edges[0][min(i + 2, rows)], left : edges[1][min(j + 2, columns)]] = fill
        for (i, j), value in zip(some, score(covered), strict=True):
            cells = np.s_[max(i, 0) : i + 2, max(j, 0) : j + 2]
            total[cells] += whole - value
            covers[cells] += 1
    return total / covers
