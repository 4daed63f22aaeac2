"""Pictures with little in them: blank, dark, bright, tiny, odd in shape, or blurred."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featx.auditing.outliers import LIMIT, modified_z

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
