"""Pictures with little in them, unlike all others, or unlike their own class."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LIMIT = 3.5
"""Largest modified z-score that counts as usual: Iglewicz and Hoaglin (1993), How to detect and
handle outliers, section 3."""
_CONSISTENT = 0.6745  # quartile of the normal distribution: makes the median deviation a sigma


def find_outliers(
    similarities: NDArray[Any], groups: NDArray[Any] | None = None
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Find rows that lie much farther from their neighbours than rows usually do.

    Parameters
    ----------
    similarities
        Cosine of each row with its nearest others, shape (n_samples, k).
    groups
        Class of each row: what is usual is then what is usual in the class, where it has 20 rows or
        more.

    Returns
    -------
    rows : outliers, the farthest first
    scores : float64, shape (n_samples,), modified z-scores of the logarithm of the mean distance

    Examples
    --------
    >>> near = np.full((50, 1), 0.9) + np.linspace(0, 0.05, 50)[:, None]
    >>> near[7] = 0.1
    >>> find_outliers(near)[0].tolist()
    [7]
    """
    distance = 1 - np.clip(np.nanmean(np.asarray(similarities, np.float64), axis=1), -1, 1)
    values = np.log(np.maximum(distance, 1e-6))
    scores = modified_z(values)
    if groups is not None:
        for name in np.unique(groups):
            inside = np.flatnonzero(groups == name)
            if len(inside) >= 20:
                scores[inside] = np.minimum(scores[inside], modified_z(values[inside]))
    rows = np.flatnonzero(scores > LIMIT)
    return rows[np.argsort(-scores[rows], kind="stable")], scores


def modified_z(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Score values by how many robust standard deviations they lie above the median."""
    median = np.median(values)
    spread = np.median(np.abs(values - median))
    if spread == 0:  # half of the rows are alike: the mean deviation, as the same source says
        spread = _CONSISTENT * 1.253314 * np.mean(np.abs(values - median))
    z: NDArray[np.float64] = _CONSISTENT * (values - median) / max(float(spread), 1e-12)
    return z


SMALLEST = 32
"""Pixels of the shorter side, below which a picture is called tiny."""
LONGEST = 4.0
"""Longer side over the shorter, above which a shape is called odd."""
DARK, BRIGHT = 40.0, 215.0
"""Grey level that all but 1 % of a dark picture lie below, or of a bright one above."""
BLANK = 3.0
"""Standard deviation of the grey levels, below which a picture is called blank."""
_SIDE = 128
_MUCH_BLURRED = 0.25  # of the usual sharpness


def faults_of(pixels: NDArray[np.uint8]) -> list[str]:
    """Name what is wrong with a picture by itself.

    Parameters
    ----------
    pixels
        uint8, shape (height, width, 3), RGB.

    Examples
    --------
    >>> faults_of(np.zeros((20, 200, 3), np.uint8))
    ['tiny', 'odd shape', 'blank']
    """
    height, width = pixels.shape[:2]
    grey = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))
    low, high = np.percentile(grey, [1, 99])
    found = {
        "tiny": min(height, width) < SMALLEST,
        "odd shape": max(height, width) / min(height, width) > LONGEST,
        "blank": float(grey.std()) < BLANK,
    }
    found |= {
        "dark": high < DARK and not found["blank"],
        "bright": low > BRIGHT and not found["blank"],
    }
    return [name for name, there in found.items() if there]


def sharpness(pixels: NDArray[np.uint8]) -> float:
    """Measure how sharp a picture is: the spread of its Laplacian over the spread of its greys.

    Pech-Pacheco et al. (2000), Diatom autofocusing in brightfield microscopy, use the variance of
    the Laplacian; dividing by the contrast makes it the same for a darker picture.

    Returns
    -------
    sharpness : 0 for a blank picture
    """
    image = Image.fromarray(np.ascontiguousarray(pixels)).convert("L")
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    grey = np.asarray(image, np.float32)
    if min(grey.shape) < 3 or float(grey.std()) < BLANK:
        return 0.0
    middle = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4 * middle).std() / grey.std())


def blurred(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which pictures are far less sharp than the others of the set.

    Parameters
    ----------
    values
        `sharpness` of each picture, shape (n,).

    Examples
    --------
    >>> blurred(np.array([1.0, 1.1, 0.9, 1.05, 0.95, 0.1])).tolist()
    [False, False, False, False, False, True]
    """
    there = values > 0
    found = np.zeros(len(values), bool)
    if there.sum() >= 5:
        logs = np.log(values[there])
        found[there] = (modified_z(-logs) > LIMIT) & (
            values[there] < _MUCH_BLURRED * np.median(values[there])
        )
    return found
