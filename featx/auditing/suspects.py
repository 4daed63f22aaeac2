"""Labels that are likely wrong: by a head that was not fitted on the row, and ranked faults."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from featx.errors import FitError
from featx.typing import RowValues

LIMIT = 3.5
"""Largest modified z-score that counts as usual: Iglewicz and Hoaglin (1993), How to detect and
handle outliers, section 3."""
_CONSISTENT = 0.6745  # quartile of the normal distribution: makes the median deviation a sigma


def find_outliers(
    similarities: NDArray[Any], groups: RowValues | None = None
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


IMPROBABLE = 0.1
"""A label of less probability is flagged, also where confident learning estimates no noise."""


@dataclass(frozen=True)
class LabelIssues:
    """Suspected labels.

    Parameters
    ----------
    quality
        float64, shape (n_samples,), from 0 (surely wrong) to 1.
    flagged
        bool, shape (n_samples,): rows whose label is likely wrong.
    suggested
        What the head says instead of each row's label.
    """

    quality: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    suggested: RowValues

    @property
    def ranked(self) -> NDArray[np.intp]:
        """Flagged rows, the most suspect first."""
        rows = np.flatnonzero(self.flagged)
        return rows[np.argsort(self.quality[rows], kind="stable")]


def label_issues(
    y: RowValues,
    held_out: NDArray[Any],
    classes: Sequence[str],
    *,
    task: str = "classification",
) -> LabelIssues:
    """Rank rows by how likely their label is wrong, and flag those that are likely wrong.

    Confident learning (Northcutt, Jiang and Chuang 2021, Journal of Artificial Intelligence
    Research 70), as cleanlab does it; for one label a row, labels of less than `IMPROBABLE` too.

    Parameters
    ----------
    y
        Class names, shape (n_samples,); 0 and 1, a column a class, for ``multilabel``; float64 for
        ``regression``.
    held_out
        Probabilities of `classes` for rows that their head was not fitted on, shape (n_samples,
        n_classes); predictions of shape (n_samples,) for a regression.
    classes
        Names in the order of the probabilities.
    task
        ``classification``, ``multilabel`` or ``regression``.

    Raises
    ------
    FitError
        If shapes do not fit, or there are fewer than two classes.

    Examples
    --------
    >>> y = np.array(["a"] * 5 + ["b"] * 5)
    >>> p = np.array([[0.9, 0.1]] * 5 + [[0.1, 0.9]] * 5)
    >>> y[0] = "b"
    >>> label_issues(y, p, ["a", "b"]).ranked.tolist()
    [0]
    """
    held_out = np.asarray(held_out, np.float64)
    if len(held_out) != len(y):
        raise FitError(f"there are {len(y)} labels and {len(held_out)} predictions")
    if task == "regression":
        return _of_numbers(np.asarray(y, np.float64), held_out)
    if len(classes) < 2:
        raise FitError(f"label errors need two classes or more; there is {', '.join(classes)!r}")
    if task == "multilabel":
        return _of_several(np.asarray(y), held_out, classes)
    return _of_classes(y, held_out, classes)


def _of_classes(y: RowValues, held_out: NDArray[Any], classes: Sequence[str]) -> LabelIssues:
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    place = {name: k for k, name in enumerate(classes)}
    codes = np.array([place[str(name)] for name in y])
    held_out = _scaled(held_out, codes)
    quality = get_label_quality_scores(codes, held_out, method="self_confidence")
    own = held_out[np.arange(len(codes)), codes]
    flagged = own < IMPROBABLE
    if len(np.unique(codes)) > 1:  # confident learning compares classes
        with warnings.catch_warnings():
            # Of a class of one row or two cleanlab flags none; what is improbable is flagged still.
            warnings.filterwarnings("ignore", "May not flag all label issues")
            flagged |= find_label_issues(codes, held_out, n_jobs=1)
    suggested = np.array(classes, dtype=object)[held_out.argmax(axis=1)]
    return LabelIssues(np.asarray(quality), np.asarray(flagged, bool), suggested)


def _scaled(p: NDArray[Any], codes: RowValues) -> NDArray[Any]:
    """Rescale probabilities by one temperature, so that a strongly regularised head counts too.

    Guo et al. (2017), On calibration of modern neural networks, arXiv 1706.04599.
    """
    logs = np.log(np.clip(p, 1e-12, 1))
    rows = np.arange(len(codes))

    def loss(log_t: float) -> float:
        return float(-log_softmax(logs / np.exp(log_t), axis=1)[rows, codes].mean())

    best = minimize_scalar(loss, bounds=(-4, 4), method="bounded").x
    return np.asarray(softmax(logs / np.exp(best), axis=1))


def _of_several(y: RowValues, held_out: NDArray[Any], classes: Sequence[str]) -> LabelIssues:
    from cleanlab.multilabel_classification import get_label_quality_scores
    from cleanlab.multilabel_classification.filter import find_label_issues

    lists = [np.flatnonzero(row == 1).tolist() for row in y]
    quality = get_label_quality_scores(lists, held_out)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "May not flag all label issues")
        flagged = find_label_issues(lists, held_out, n_jobs=1)
    suggested = np.empty(len(y), object)
    suggested[:] = [
        "|".join(name for name, p in zip(classes, row, strict=True) if p >= 0.5) or "|"
        for row in held_out
    ]
    return LabelIssues(np.asarray(quality), np.asarray(flagged, bool), suggested)


def _of_numbers(y: NDArray[np.float64], predicted: NDArray[Any]) -> LabelIssues:
    """Flag numbers whose residual is an outlier; cleanlab ranks them."""
    from cleanlab.regression.rank import get_label_quality_scores

    residual = predicted - y
    centred = np.abs(residual - np.median(residual))
    spread = np.median(centred)
    flagged = 0.6745 * centred > LIMIT * spread if spread else centred > 0
    quality = get_label_quality_scores(y, predicted, method="residual")
    return LabelIssues(np.asarray(quality), np.asarray(flagged, bool), predicted)
