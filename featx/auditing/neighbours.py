"""The nearest rows, exactly, by blocks that fit into memory; and copies among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featx.errors import FeatxError

Metric = Literal["cosine", "euclidean"]
METRICS: tuple[Metric, ...] = ("cosine", "euclidean")
BLOCK_ROWS = 16_384
_QUERIES = 1_024  # at a time: 64 MB of similarities beside a block

Vectors = NDArray[np.float32]


class Matrix(Protocol):
    """Features by rows: an array, or those of an open cache."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows and of features."""

    def __getitem__(self, rows: slice) -> NDArray[Any]: ...


def unit_rows(X: NDArray[Any]) -> Vectors:
    """Scale rows to length one; a row of zeros stays.

    Parameters
    ----------
    X
        Shape (n_samples, n_features).

    Returns
    -------
    unit : float32, the same shape

    Examples
    --------
    >>> unit_rows(np.array([[3.0, 4.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    X = np.asarray(X, dtype=np.float32)
    lengths = np.linalg.norm(X, axis=1, keepdims=True)
    unit: Vectors = X / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit


def nearest_rows(
    X: Matrix,
    queries: NDArray[Any],
    k: int,
    *,
    metric: Metric = "cosine",
    exclude: NDArray[np.integer[Any]] | None = None,
    allowed: NDArray[np.bool_] | None = None,
    unit: bool = False,
) -> tuple[NDArray[np.int64], Vectors]:
    """Find the rows of `X` that are nearest to each query: exact, in one pass over `X`.

    Parameters
    ----------
    X
        Shape (n_samples, n_features); read a block of rows at a time.
    queries
        Shape (n_queries, n_features).
    k
        How many neighbours.
    metric
        ``cosine`` gives cosine similarities; ``euclidean`` gives the negative distance, so that
        larger is nearer for both.
    exclude
        Row of each query in `X`, shape (n_queries,), that is not its own neighbour; negative for
        none.
    allowed
        Rows that may be found, shape (n_samples,); all when None.
    unit
        Rows of `X` are float32 of length one already (`unit_rows`).

    Returns
    -------
    rows : int64, shape (n_queries, min(k, rows that may be found)), nearest first
        -1 where a query has fewer neighbours.
    similarities : float32, the same shape

    Raises
    ------
    FeatxError
        If `k` is below 1, the metric is unknown, or the widths differ.

    Examples
    --------
    >>> rows, similarity = nearest_rows(np.eye(3), np.array([[0.9, 0.1, 0.0]]), k=2)
    >>> rows.tolist()
    [[0, 1]]
    """
    queries = np.asarray(queries, dtype=np.float32)
    _check(X, queries, k, metric)
    n_found = int(X.shape[0] if allowed is None else np.count_nonzero(allowed))
    k = min(k, n_found)
    rows = np.full((len(queries), k), -1, np.int64)
    similarity = np.full((len(queries), k), -np.inf, np.float32)
    asked = unit_rows(queries) if metric == "cosine" else queries
    for start in range(0, X.shape[0] if k else 0, BLOCK_ROWS):
        block = np.asarray(X[start : start + BLOCK_ROWS], dtype=np.float32)
        squares = None if metric == "cosine" and unit else np.einsum("ij,ij->i", block, block)
        for some in _stretches(len(queries)):
            found = _similarity(asked[some], block, squares, metric)
            if allowed is not None:
                found[:, ~allowed[start : start + len(block)]] = -np.inf
            if exclude is not None:
                own = exclude[some] - start
                inside = np.flatnonzero((own >= 0) & (own < len(block)))
                found[inside, own[inside]] = -np.inf
            _merge(rows[some], similarity[some], found, start)
    there = ~np.isneginf(similarity)
    rows[~there] = -1
    if metric == "cosine":  # rounding passes one, and an angle of it would be NaN
        similarity[there] = np.clip(similarity[there], -1, 1)
    return rows, similarity


def _check(X: Matrix, queries: Vectors, k: int, metric: str) -> None:
    if metric not in METRICS:
        raise FeatxError(f"metric must be one of {', '.join(METRICS)}; got {metric!r}")
    if not isinstance(k, int | np.integer) or k < 1:
        raise FeatxError(f"k must be a whole number of 1 or more; got {k!r}")
    if queries.ndim != 2 or queries.shape[1] != X.shape[1]:
        raise FeatxError(
            f"queries have the shape {queries.shape}; expected (n_queries, {X.shape[1]})"
        )


def _stretches(n: int) -> Iterator[slice]:
    for start in range(0, n, _QUERIES):
        yield slice(start, min(n, start + _QUERIES))


def _similarity(
    queries: Vectors, block: Vectors, squares: Vectors | None, metric: Metric
) -> Vectors:
    """Compare with a block; `squares` are the squared lengths of its rows, None where these are 1.

    The block itself is read once, and not copied to be scaled: for one query that is most of the
    time.
    """
    found: Vectors = queries @ block.T
    if squares is None:
        return found
    if metric == "cosine":
        found /= np.maximum(np.sqrt(squares), np.finfo(np.float32).tiny)
        return found
    own = np.einsum("ij,ij->i", queries, queries)[:, None]
    negative: Vectors = -np.sqrt(np.maximum(own + squares - 2 * found, 0))
    return negative


def _merge(rows: NDArray[np.int64], similarity: Vectors, found: Vectors, start: int) -> None:
    """Keep the best of what was known and of a block, in place; the earlier row wins a tie."""
    k = rows.shape[1]
    near = (
        np.argpartition(found, found.shape[1] - k, axis=1)[:, -k:]
        if k < found.shape[1]
        else np.broadcast_to(np.arange(found.shape[1]), found.shape)
    )
    both = np.concatenate([similarity, np.take_along_axis(found, near, 1)], axis=1)
    names = np.concatenate([rows, near + start], axis=1)
    order = np.lexsort((names, -both), axis=1)[:, :k]
    rows[:] = np.take_along_axis(names, order, 1)
    similarity[:] = np.take_along_axis(both, order, 1)


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
