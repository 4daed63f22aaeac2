"""The images that a model was trained on: which are nearest, and whether any is near at all."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featx.cache.folder import holds_cache
from featx.cache.reader import Cache, open_cache
from featx.errors import FeatxError, ModelError
from featx.fitting.columns import Columns, load_samples
from featx.fitting.publishing import small_picture
from featx.fitting.samples import Samples
from featx.heads import HEADS
from featx.labels import joined_labels
from featx.model import Model
from featx.model.references import image_reader

if TYPE_CHECKING:
    import os

METRIC = "cosine distance between features"
QUANTILE = 0.99
PICTURE_SIDE = 160
_MOST_ROWS = 100_000
_MOST_PRODUCTS = 1e11  # multiplications that the quantile may cost: about a second
_BLOCK = 256

Vectors = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """Features of the training images, at unit length.

    Parameters
    ----------
    unit
        float32, shape (n, n_features).
    names, labels
        Of each row.
    limit
        99th percentile of the training rows' own distances to their nearest other row: a picture
        beyond it resembles nothing seen in training.
    n_all
        Rows that the model was trained on and the cache holds; `unit` may be an even part of them.
    cache
        Where they come from, closed; it knows paths and digests of the images.
    rows
        Row numbers in the cache.

    Examples
    --------
    >>> training = load_training(model, "photos.h5")  # doctest: +SKIP
    >>> rows, distances = training.nearest(X, 5)  # doctest: +SKIP
    """

    unit: Vectors = field(repr=False)
    names: list[str] = field(repr=False)
    labels: list[Any] = field(repr=False)
    limit: float
    n_all: int
    cache: Cache = field(repr=False)
    rows: NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.unit)

    def nearest(self, X: Vectors, k: int) -> tuple[NDArray[np.intp], Vectors]:
        """Find the nearest training rows.

        Parameters
        ----------
        X
            Shape (n, n_features).

        Returns
        -------
        rows : int, shape (n, min(k, len(self))), nearest first
        distances : float32, the same shape, from 0 to 2
        """
        distances = 1 - _unit(X) @ self.unit.T
        k = min(k, len(self))
        near = np.argpartition(distances, k - 1, axis=1)[:, :k]
        near = np.take_along_axis(
            near, np.argsort(np.take_along_axis(distances, near, 1), 1, kind="stable"), 1
        )
        return near, np.maximum(np.take_along_axis(distances, near, 1), 0)

    def picture(self, row: int) -> bytes | None:
        """Make a small JPEG of a training image; None where it cannot be read any more."""
        return _picture(self, row)


@functools.lru_cache(maxsize=2048)
def _picture(training: TrainingRows, row: int) -> bytes | None:
    return small_picture(
        training.cache, int(training.rows[row]), image_reader(training.cache), PICTURE_SIDE
    )


def load_training(model: Model, cache: str | os.PathLike[str]) -> TrainingRows:
    """Take the rows of a cache that a model was trained on.

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
        samples = samples.at(np.flatnonzero(model.saw(samples.ids.tolist(), samples.digests)))
        if not len(samples):
            raise ModelError(f"{model.name} was trained on no row of {opened.path}; name its cache")
        found = _training(opened, samples)
        # What a picture needs is read now: the file is closed afterwards.
        image_reader(opened), opened.paths, opened.ids, opened.content_digests
        return found


def find_training(
    model: Model, cache: str | os.PathLike[str] | None
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
        return load_training(model, cache), ""
    named = Path(str(model.meta.get("cache") or ""))
    beside = named if model.path is None else model.path.parent / named.name
    places = (path for path in (named, beside) if named.name and holds_cache(path))
    place = next(places, None)
    if place is None:
        return None, f"the cache of the training ({named.name}) is not here; name it with --cache"
    try:
        return load_training(model, place), ""
    except FeatxError as error:
        return None, str(error)


def _training(cache: Cache, samples: Samples) -> TrainingRows:
    at = np.unique(np.linspace(0, len(samples) - 1, min(len(samples), _MOST_ROWS)).astype(int))
    unit, y = _unit(samples.take(at)), samples.y[at]
    return TrainingRows(
        unit=unit,
        names=samples.ids[at].tolist(),
        labels=joined_labels(y, samples.classes) if y.ndim == 2 else y.tolist(),
        limit=usual_distance(unit),
        n_all=len(samples),
        cache=cache,
        rows=samples.rows[at],
    )


def usual_distance(unit: Vectors) -> float:
    """Give the 99th percentile of the distances from each row to the nearest of the others.

    Of very many rows an even part is asked, each against all.

    Examples
    --------
    >>> usual_distance(np.eye(3, dtype=np.float32))
    1.0
    """
    n = len(unit)
    if n < 2:
        return 2.0  # a single row says nothing of what is usual
    asked = int(np.clip(_MOST_PRODUCTS / unit.size, 100, n)) if n > 100 else n
    rows = np.unique(np.linspace(0, n - 1, asked).astype(int))
    found = []
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        cosine = unit[block] @ unit.T
        cosine[np.arange(len(block)), block] = -2  # not itself
        found.append(1 - cosine.max(axis=1))
    return float(np.quantile(np.concatenate(found), QUANTILE))


def _unit(X: Vectors) -> Vectors:
    lengths = np.linalg.norm(X, axis=1, keepdims=True)
    unit: Vectors = X / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit
