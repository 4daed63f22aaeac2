"""The images that a model was trained on: which are nearest, and whether any is near at all."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featx.auditing import unit_rows
from featx.cache.cache import Cache, open_cache
from featx.errors import FeatxError, ModelError
from featx.fitting.columns import Columns, load_samples
from featx.fitting.looks import small_picture
from featx.fitting.samples import Samples
from featx.heads import HEADS
from featx.labels import joined_labels
from featx.model import Model
from featx.model.likeness import (
    RATE,
    Likeness,
    cache_beside,
    likeness_of,
    usual_distance,
)
from featx.model.references import image_reader

if TYPE_CHECKING:
    import os


PICTURE_SIDE = 160
_MOST_ROWS = 100_000


@dataclass(frozen=True, eq=False)
class TrainingRows(Likeness):
    """The training images with what their pictures need.

    Parameters
    ----------
    cache
        Where they come from, closed; it knows paths and digests of the images. None where the
        model's own rows serve, which have no pictures.
    rows
        Row numbers in the cache.

    Examples
    --------
    >>> training = load_training(model, "photos.h5")  # doctest: +SKIP
    >>> rows, distances = training.nearest(X, 5)  # doctest: +SKIP
    """

    cache: Cache | None = field(default=None, repr=False)
    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64), repr=False)

    def picture(self, row: int) -> bytes | None:
        """Make a small JPEG of a training image; None where it cannot be read any more."""
        return _picture(self, row)


@functools.lru_cache(maxsize=2048)
def _picture(training: TrainingRows, row: int) -> bytes | None:
    if training.cache is None:
        return None
    return small_picture(
        training.cache, int(training.rows[row]), image_reader(training.cache), PICTURE_SIDE
    )


def load_training(model: Model, cache: str | os.PathLike[str], rate: float = RATE) -> TrainingRows:
    """Take the rows of a cache that a model was trained on.

    Parameters
    ----------
    rate
        See `featx.model.likeness.usual_distance`.

    Raises
    ------
    ModelError
        If the cache holds other features, or none of the rows.
    CacheError
        If it cannot be read.
    """
    with open_cache(cache) as opened:
        model.require_cache(opened, precision=False)
        task = "regression" if model.task == "regression" else "classification"
        one = next(head for head in HEADS.values() if head.task == task)
        head = HEADS.get(model.meta["head"], one)
        columns = Columns(tap=model.tap, label=model.meta.get("label"))
        samples = load_samples(opened, columns, head)
        samples = samples.at(
            np.flatnonzero(
                model.saw(samples.ids.tolist(), samples.digests, by_name=opened.has_own_ids)
            )
        )
        if not len(samples):
            raise ModelError(f"{model.name} was trained on no row of {opened.path}; name its cache")
        found = _training(opened, samples, rate)
        # What a picture needs is read now: the file is closed afterwards.
        image_reader(opened), opened.paths, opened.ids, opened.content_digests
        return found


def find_training(
    model: Model, cache: str | os.PathLike[str] | None, rate: float = RATE
) -> tuple[TrainingRows | None, str]:
    """Take the training rows from `cache`, or from where the model says that they are.

    Returns
    -------
    training : None where they are not to be had
    reason : why, else empty

    Raises
    ------
    ModelError, CacheError
        If a cache is named and cannot serve.
    """
    if cache is not None:
        return load_training(model, cache, rate), ""
    place = cache_beside(model)
    if place is None and (own := likeness_of(model)) is not None:
        return TrainingRows(**vars(own.at(rate))), ""
    if place is None:
        named = Path(str(model.meta.get("cache") or "")).name
        return None, f"the cache of the training ({named}) is not here; name it with --cache"
    try:
        return load_training(model, place, rate), ""
    except FeatxError as error:
        return None, str(error)


def _training(cache: Cache, samples: Samples, rate: float) -> TrainingRows:
    at = np.unique(np.linspace(0, len(samples) - 1, min(len(samples), _MOST_ROWS)).astype(int))
    unit, y = unit_rows(samples.take(at)), samples.y[at]
    return TrainingRows(
        unit=unit,
        names=samples.ids[at].tolist(),
        labels=joined_labels(y, samples.classes) if y.ndim == 2 else y.tolist(),
        limit=usual_distance(unit, rate),
        rate=rate,
        n_all=len(samples),
        cache=cache,
        rows=samples.rows[at],
    )
