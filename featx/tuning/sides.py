"""Which rows train, stop and measure, and their batches: cached maps or pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from featx.cache.cache import Cache
from featx.cache.features import Features
from featx.errors import FitError
from featx.fitting.columns import Columns, load_samples
from featx.fitting.leaks import without_seen
from featx.fitting.samples import Samples
from featx.heads import get_head
from featx.selection import SplitPlan, leak_warnings, make_split
from featx.selection.checks import check_classes
from featx.selection.splits import Split
from featx.streaming.memory import free_bytes
from featx.tuning.options import TuneOptions


def labelled(cache: Cache, options: TuneOptions) -> Samples:
    """Take the labelled rows of a cache of maps.

    Raises
    ------
    FitError
        If there are none, or they have several labels.
    """
    plan = SplitPlan(split=options.split)
    column = None if plan.split == "auto" else str(plan.split)
    columns = Columns(None, options.label, options.groups, options.weights_column, column)
    reader = replace(get_head("logreg"), name="tune")  # errors name it
    samples = load_samples(cache, columns, reader, maps=True)
    if samples.task != "classification":
        raise FitError("tune takes one label a row, and these rows have several")
    check_classes(samples.y)
    if plan.split == "auto" and options.split != "auto":
        return samples.overruled()
    if samples.split is None:
        return samples
    return samples.keep(samples.split != "", "without split")


def split_rows(samples: Samples, options: TuneOptions) -> tuple[Split, list[dict[str, str]]]:
    """Hold out test rows, then the validation rows of the training part, groups together.

    Raises
    ------
    FitError
        If rows do not suffice, or a class has no training row.
    """
    groups, plan = samples.groups, SplitPlan(split=options.split, seed=options.seed)
    samples = without_seen(samples, plan.test_size, options.seed)
    split = make_split(
        samples.y, split=samples.split, groups=groups, test_size=plan.test_size, seed=options.seed
    )
    train, validation = split.train, split.validation
    if validation is None and options.validation:
        train, validation = _divided(samples, train, options)
    missing = np.setdiff1d(samples.classes, samples.y[train])
    if len(missing):
        raise FitError(
            f"tune: {len(missing)} classes have no training row ({', '.join(missing[:5])}); add "
            "images of them, or another --split"
        )
    if options.batchnorm == "train" and len(train) < 2:
        raise FitError("tune: one training row has no statistics for --batchnorm train")
    known = train if validation is None else np.concatenate([train, validation])
    leaks = leak_warnings(known, split.test, digests=samples.digests, groups=groups, y=samples.y)
    return Split(np.sort(train), validation, split.test), [*samples.notes, *leaks]


def _divided(
    samples: Samples, train: NDArray[np.intp], options: TuneOptions
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Draw the validation rows from the training rows."""
    groups = None if samples.groups is None else samples.groups[train]
    share, seed = options.validation, options.seed
    try:
        inner = make_split(samples.y[train], groups=groups, test_size=share, seed=seed)
    except FitError as error:
        raise FitError(
            f"tune: {share:.0%} of the {len(train)} training rows cannot decide when to stop "
            f"({error}); pass another --validation, or 0 to train for all epochs"
        ) from None
    return train[inner.train], train[inner.test]


def row_weights(
    samples: Samples, y: NDArray[np.int64], train: NDArray[np.intp], options: TuneOptions
) -> NDArray[np.float32]:
    """Weight of each row: its own, times that of its class.

    Raises
    ------
    FitError
        If all training rows have the weight 0.
    """
    weights = np.ones(len(y)) if samples.weights is None else samples.weights.astype(np.float64)
    if not weights[train].sum():
        raise FitError(f"tune: column {options.weights_column!r} is 0 in all training rows")
    if options.class_weights == "balanced":
        counts = np.bincount(y[train], minlength=len(samples.classes))
        weights = weights * (len(train) / (len(counts) * np.maximum(counts, 1)))[y]
    return weights.astype(np.float32)


Positions = NDArray[np.intp]

_HELD_SHARE = 4  # maps are held in memory where they take at most this part of what is free
_SMALLEST_CROP = 0.7  # of a side, in augmentation


class InputRows(Protocol):
    """The input of a network, by positions of samples; `n_views` of each."""

    n_views: int

    def take(self, at: Positions, rng: np.random.Generator | None = None, view: int = 0) -> Tensor:
        """Give one view of some samples; with `rng`, as training sees them."""
        ...


class MapRows:
    """Maps of a cache, one tap a view; training sees one view of each image, at random.

    Parameters
    ----------
    views
        The taps, the plain view first.
    shape
        (channels, height, width).
    rows
        Row numbers in the cache of the samples.
    """

    def __init__(
        self, views: list[Features], shape: tuple[int, int, int], rows: NDArray[np.int64]
    ) -> None:
        self.shape, self._rows = shape, rows
        n_bytes = len(views) * len(views[0]) * math.prod(shape) * views[0].dtype.itemsize
        held = n_bytes * _HELD_SHARE <= free_bytes()
        self._views: list[Any] = [np.asarray(one) for one in views] if held else list(views)
        self.n_views = len(views)

    def take(self, at: Positions, rng: np.random.Generator | None = None, view: int = 0) -> Tensor:
        """Give float32 maps (n, channels, height, width)."""
        rows = self._rows[at]
        found = np.empty((len(at), math.prod(self.shape)), np.float32)
        chosen = np.full(len(at), view, np.intp)
        if rng is not None and self.n_views > 1:
            chosen = rng.integers(0, self.n_views, len(at))
        for k, maps in enumerate(self._views):
            here = np.flatnonzero(chosen == k)
            if len(here):
                found[here] = maps[rows[here]]
        return torch.from_numpy(found).view(len(at), *self.shape)


class PictureRows:
    """Pictures, flipped and cropped at random in training.

    Parameters
    ----------
    pixels
        uint8, shape (n_samples, height, width, 3).
    """

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._pixels = pixels
        self.n_views = 1

    def take(self, at: Positions, rng: np.random.Generator | None = None, view: int = 0) -> Tensor:
        """Give uint8 pictures (n, height, width, 3)."""
        plain = torch.from_numpy(self._pixels[at])
        return plain if rng is None else _augmented(plain, rng)


def _augmented(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Show a part of each picture, of 0.7 to 1 of its sides, flipped in half of the cases."""
    n = len(pictures)
    scale = rng.uniform(_SMALLEST_CROP, 1.0, n)
    shift = rng.uniform(-1.0, 1.0, (n, 2)) * (1 - scale[:, None])
    flip = np.where(rng.random(n) < 0.5, -1.0, 1.0)
    theta = np.zeros((n, 2, 3), np.float32)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * flip, scale, shift
    floats = pictures.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(torch.from_numpy(theta), list(floats.shape), align_corners=False)
    drawn = F.grid_sample(floats, grid, padding_mode="reflection", align_corners=False)
    return drawn.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def batches_of(order: Positions, size: int) -> Iterator[Positions]:
    """Cut into batches; a last one of a single row joins the one before.

    Examples
    --------
    >>> [b.tolist() for b in batches_of(np.arange(5), 2)]
    [[0, 1], [2, 3, 4]]
    """
    n = n_batches(len(order), size)
    for k in range(n):
        yield order[k * size : (k + 1) * size if k + 1 < n else len(order)]


def n_batches(n_rows: int, size: int) -> int:
    """Count the batches that `batches_of` gives."""
    whole, left = divmod(n_rows, size)
    return max(1, whole + (left > (1 if size > 1 else 0)))
