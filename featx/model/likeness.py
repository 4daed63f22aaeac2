"""How like the training images a picture is: the nearest of them, and whether any is near."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.auditing.neighbours import nearest_rows, unit_rows
from featx.cache.cache import Cache, open_cache
from featx.cache.folder import holds_cache
from featx.errors import FeatxError, ModelError, OptionError
from featx.labels import joined_labels
from featx.model import Model
from featx.model.archive import TRAINING, VECTORS
from featx.typing import RowValues

METRIC = "cosine distance between features"
RATE = 0.01
"""Share of new pictures like those of the training that are called unfamiliar all the same."""
_MOST_BYTES = 32 << 20  # of the vectors in a model file
_MOST_PRODUCTS = 1e11  # multiplications that the quantile may cost: about a second
_BLOCK = 256
_LEAST = 1e-4  # below, float16 tells nothing apart: copies would be unlike each other

Vectors = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Likeness:
    """Features of the training images, at unit length.

    Parameters
    ----------
    unit
        float32, shape (n, n_features).
    names, labels
        Of each row.
    limit
        A picture whose nearest training row is farther away is unfamiliar (`usual_distance`).
    n_all
        Rows that the model was trained on; `unit` may be an even part of them.
    rate
        Share of new pictures like those of the training that lie beyond `limit`.

    Examples
    --------
    >>> likeness = likeness_of(model)  # doctest: +SKIP
    >>> rows, distances = likeness.nearest(X, 5)  # doctest: +SKIP
    """

    unit: Vectors = field(repr=False)
    names: list[str] = field(repr=False)
    labels: list[Any] = field(repr=False)
    limit: float
    n_all: int
    rate: float = RATE

    def at(self, rate: float) -> Likeness:
        """Return this with the limit of another rate of false alarms."""
        if rate == self.rate:
            return self
        return replace(self, limit=max(_LEAST, usual_distance(self.unit, rate)), rate=rate)

    def __len__(self) -> int:
        return len(self.unit)

    def nearest(self, X: Vectors, k: int) -> tuple[NDArray[np.int64], Vectors]:
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
        rows, similarity = nearest_rows(self.unit, X, k, unit=True)
        return rows, np.maximum(1 - similarity, 0)


def make_likeness(
    take: Callable[[NDArray[Any]], Vectors],
    ids: Sequence[str] | RowValues,
    labels: Sequence[object],
    before: Likeness | None = None,
) -> dict[str, bytes]:
    """Make the members of a model file that say what is near: vectors as float16, at unit length.

    Of very many rows an even part is kept, 32 MB at most.

    Parameters
    ----------
    take
        Gives the features of some training rows, by their numbers.
    ids, labels
        Of every training row.
    before
        What a model knew already: these rows come after its own.
    """
    m = 0 if before is None else len(before)
    n_all = len(ids) + (0 if before is None else before.n_all)
    if before is not None:
        ids, labels = [*before.names, *ids], [*before.labels, *labels]
    n, width = len(ids), take(np.arange(1)).shape[1]
    kept = max(1, min(n, _MOST_BYTES // (2 * width)))
    at = np.unique(np.linspace(0, n - 1, kept).astype(int))
    unit = unit_rows(take(at[at >= m] - m))
    if before is not None:
        unit = np.concatenate([before.unit[at[at < m]], unit])
    unit = unit.astype(np.float16)
    file = io.BytesIO()
    np.save(file, unit, allow_pickle=False)
    about = {
        "ids": [str(ids[k]) for k in at],
        "labels": [labels[k] for k in at],
        "limit": max(_LEAST, usual_distance(unit_rows(unit.astype(np.float32)))),
        "n_all": n_all,
    }
    return {VECTORS: file.getvalue(), TRAINING: json.dumps(about).encode()}


def likeness_of(model: Model) -> Likeness | None:
    """Give what a model file says of its training images, else the cache that it was fitted on.

    Returns
    -------
    likeness : None for an old model whose cache is not there

    Raises
    ------
    ModelError
        If what the file says does not fit together.
    """
    if VECTORS in model.members:
        return _from_members(model)
    place = cache_beside(model)
    if place is None:
        return None
    try:
        with open_cache(place) as cache:
            return _from_cache(model, cache)
    except FeatxError:
        return None


def cache_beside(model: Model) -> Path | None:
    """Find the cache of the training: where it was, or beside the model."""
    named = Path(str(model.meta.get("cache") or ""))
    beside = named if model.path is None else model.path.parent / named.name
    return next((p for p in (named, beside) if named.name and holds_cache(p)), None)


def _from_members(model: Model) -> Likeness:
    try:
        unit = np.load(io.BytesIO(model.members[VECTORS]), allow_pickle=False)
        about = json.loads(model.members[TRAINING])
        names, labels = list(map(str, about["ids"])), list(about["labels"])
        sound = unit.ndim == 2 and len(unit) == len(names) == len(labels) > 0
        if not sound or unit.shape[1] != model.estimator.n_features_in_:
            raise ValueError("numbers of rows or features differ")
        limit, n_all = float(about["limit"]), int(about["n_all"])
    except (KeyError, ValueError, TypeError, EOFError, OSError, MemoryError) as error:
        raise ModelError(f"{model.name} is damaged: {TRAINING} does not fit ({error})") from None
    return Likeness(unit_rows(unit.astype(np.float32)), names, labels, limit, n_all)


def _from_cache(model: Model, cache: Cache) -> Likeness | None:
    model.require_cache(cache, precision=False)
    rows = np.flatnonzero(
        model.saw(list(cache.ids), cache.content_digests, by_name=cache.has_own_ids)
    )
    if not len(rows):
        return None
    labels = row_labels(cache, model.meta.get("label"))
    unit = unit_rows(np.asarray(cache.tap(model.tap)[rows], dtype=np.float32))
    names = [str(cache.ids[int(k)]) for k in rows]
    return Likeness(unit, names, [labels[k] for k in rows], usual_distance(unit), len(rows))


def row_labels(cache: Cache, column: str | None) -> list[Any]:
    """Give the label of each row as a model says it; "" where there is none.

    Parameters
    ----------
    column
        The column that was fitted on; None for the labels of the cache.
    """
    if column is not None and column in cache.columns:
        values = cache.columns[column]
        return values.tolist() if values.dtype.kind == "f" else list(map(str, values))
    if cache.y is None:
        return [None] * len(cache)
    if cache.classes is None:
        return list(np.asarray(cache.y).tolist())
    if cache.y.ndim == 2:
        return joined_labels(np.maximum(cache.y, 0), cache.classes)
    return [cache.classes[code] if code >= 0 else "" for code in cache.y]


def usual_distance(unit: Vectors, rate: float = RATE) -> float:
    """Give the distance that only `rate` of new rows like these exceed, to their nearest of these.

    The distance of each row to the nearest of the others is a sample of what a new row's would be;
    the limit is the ``ceil((n + 1) * (1 - rate))``-th smallest, so that the rate holds for any
    distribution and number of rows, on average over training sets (leave-one-out conformal
    prediction: Vovk et al. 2005; Barber et al. 2021, arXiv 1905.02928). Where fewer than
    ``1 / rate - 1`` rows are asked it is the largest, and the rate at most ``1 / (n + 1)``. It is
    for rows that are new in the way that these are new to each other: where one patient gives many
    pictures, those of a new patient are farther away.

    Of very many rows an even part is asked, each against all.

    Parameters
    ----------
    unit
        Rows at unit length, shape (n, n_features).
    rate
        Between 0 and 1.

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
    distances = np.sort(np.concatenate(found))
    rank = math.ceil((len(distances) + 1) * (1 - rate) - 1e-9)
    return float(distances[min(max(rank, 1), len(distances)) - 1])


def require_rate(rate: float) -> None:
    """Refuse a rate of false alarms that is none.

    Raises
    ------
    OptionError
        If it is not between 0 and 1.
    """
    if not 0 < rate < 1:
        raise OptionError(f"unfamiliar_at must lie between 0 and 1; got {rate:g}")
