"""Pictures that are copies of each other: candidates by features, confirmed by pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 48
"""Pixels a side at which pictures are compared."""
ALIKE = 0.94
"""Least correlation of the grey levels of two copies."""
ALIKE_DETAIL = 0.85
"""Least correlation of their fine structure."""
ALIKE_OWN = 0.8
"""Least correlation of what of it other pictures of the set do not share."""
_NOISE = 1.5
"""Grey levels by which compression changes the fine structure."""
ALIKE_FAINT, ALIKE_OWN_FAINT = 0.45, 0.5
"""The same where there is hardly more fine structure than that; pictures that differ have 0."""
_BLUR = 6  # small pixels that are one blurred pixel
_ASPECT = 1.06  # sides of a copy keep their ratio, but for rounding
_FLAT = 0.5  # grey levels: with less contrast there is nothing to compare
_MOST_SHARED, _SHARED_PER = 40, 20  # at most 40 shared patterns, one for 20 pictures
_SHARED = 0.4  # correlation of pairs drawn at random
_FEW = 200  # pictures, below which nothing is known of what they share
_SAMPLE = 2_000

Pairs = NDArray[np.int64]


@dataclass(frozen=True)
class Sketch:
    """A reduced picture, to compare it with others.

    Parameters
    ----------
    grey, detail
        float32, shape (SIDE * SIDE,), of length one: grey levels less their mean, and what remains
        of them when blurred ones are taken away; zeros where a picture is flat.
    contrast
        Standard deviation of the fine structure, in grey levels.
    aspect
        Width over height.
    """

    grey: NDArray[np.float32]
    detail: NDArray[np.float32]
    contrast: float
    aspect: float

    def coarse(self, side: int) -> NDArray[np.float32]:
        """Give the means of the grey levels over squares, `side` a side; shape (side * side,)."""
        step = SIDE // side
        found: NDArray[np.float32] = self.grey.reshape(side, step, side, step).mean(axis=(1, 3))
        return found.ravel()


def sketch_of(pixels: NDArray[np.uint8]) -> Sketch:
    """Reduce a picture to what copies have in common whatever their size, quality or brightness.

    Parameters
    ----------
    pixels
        uint8, shape (height, width, 3), RGB.

    Examples
    --------
    >>> picture = np.random.default_rng(0).integers(0, 255, (90, 60, 3)).astype(np.uint8)
    >>> round(sketch_of(picture).aspect, 3)
    0.667
    """
    image = Image.fromarray(np.ascontiguousarray(pixels)).convert("L")
    small = image.resize((SIDE, SIDE), Image.Resampling.HAMMING)
    coarse = small.resize((SIDE // _BLUR, SIDE // _BLUR), Image.Resampling.BOX)
    blurred = coarse.resize(small.size, Image.Resampling.BICUBIC)
    grey = np.asarray(small, np.float32)
    height, width = pixels.shape[:2]
    flat = float(grey.std()) < _FLAT
    detail = grey - np.asarray(blurred, np.float32)
    if flat:
        grey, detail = np.zeros_like(grey), np.zeros_like(detail)
    return Sketch(_unit(grey), _unit(detail), float(detail.std()), width / height)


def _unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    centred = (values - values.mean()).ravel()
    unit: NDArray[np.float32] = centred / max(float(np.linalg.norm(centred)), 1e-6)
    return unit


def confirm_copies(sketches: Sequence[Sketch], pairs: Pairs) -> NDArray[np.float64]:
    """Compare pairs of pictures by their pixels.

    Pictures of one kind share much (the bars of a solar cell, the frame of a scan) without being
    copies. So where there are 200 pictures or more and pairs drawn at random are alike, the mean
    and the first principal components are taken away, and what is left must be alike as well.

    Parameters
    ----------
    sketches
        Of all pictures that are in a pair.
    pairs
        int64, shape (n_pairs, 2), positions in `sketches`.

    Returns
    -------
    similarity : float64, shape (n_pairs,)
        Correlation of the fine structure of each pair that is one picture but for size,
        compression and brightness; 0 for every other pair.

    Examples
    --------
    >>> picture = np.random.default_rng(0).integers(0, 255, (90, 60, 3)).astype(np.uint8)
    >>> other = np.random.default_rng(1).integers(0, 255, (90, 60, 3)).astype(np.uint8)
    >>> sketches = [sketch_of(picture), sketch_of(picture // 2), sketch_of(other)]
    >>> (confirm_copies(sketches, np.array([[0, 1], [0, 2]])) > 0).tolist()
    [True, False]
    """
    if not len(pairs):
        return np.zeros(0)
    a, b = pairs.T
    aspect = np.array([sketch.aspect for sketch in sketches])
    grey = np.stack([sketch.grey for sketch in sketches])
    detail = np.stack([sketch.detail for sketch in sketches])
    similarity = _rowwise(detail[a], detail[b])
    same = np.abs(np.log(aspect[a] / aspect[b])) <= np.log(_ASPECT)
    same &= _rowwise(grey[a], grey[b]) >= ALIKE
    contrast = np.array([sketch.contrast for sketch in sketches])
    change = np.maximum(contrast[a], contrast[b]) * np.sqrt(2 * np.maximum(1 - similarity, 0))
    faint = (contrast[a] < 2 * _NOISE) & (change <= _NOISE)
    same &= similarity >= np.where(faint, ALIKE_FAINT, ALIKE_DETAIL)
    if len(sketches) >= _FEW and same.any() and _share_much(detail):
        own = _without_shared(detail)
        same &= _rowwise(own[a], own[b]) >= np.where(faint, ALIKE_OWN_FAINT, ALIKE_OWN)
    return np.where(same, similarity, 0.0)


def _rowwise(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.einsum("ij,ij->i", a, b, dtype=np.float64)
    return found


def _share_much(detail: NDArray[np.float32]) -> bool:
    """Tell whether pairs drawn at random are often alike."""
    a, b = np.random.default_rng(0).integers(0, len(detail), (2, _SAMPLE))
    return bool(np.quantile(_rowwise(detail[a], detail[b])[a != b], 0.9) > _SHARED)


def _without_shared(detail: NDArray[np.float32]) -> NDArray[np.float32]:
    """Take away what the pictures share, and scale what is left to length one."""
    sample = detail[np.unique(np.linspace(0, len(detail) - 1, _SAMPLE).astype(int))]
    mean = sample.mean(axis=0)
    n_shared = min(_MOST_SHARED, len(sample) // _SHARED_PER)
    shared = np.linalg.svd(sample - mean, full_matrices=False)[2][:n_shared]
    own = detail - mean
    own -= (own @ shared.T) @ shared
    scaled: NDArray[np.float32] = own / np.maximum(np.linalg.norm(own, axis=1)[:, None], 1e-6)
    return scaled
