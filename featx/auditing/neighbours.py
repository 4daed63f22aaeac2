"""The nearest rows, exactly, by blocks that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

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
    rows[np.isneginf(similarity)] = -1
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
