"""An index of many rows: approximate neighbours, which the exact vectors then rank."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featx.auditing import nearest_rows
from featx.cache.cache import Cache
from featx.errors import MissingExtraError
from featx.files import cache_home, write_bytes
from featx.progress import Progress

if TYPE_CHECKING:
    from usearch.index import Index


log = logging.getLogger("featx")

_BLOCK = 8_192
_CANDIDATES = 8  # for each neighbour that is wanted
_LEAST_CANDIDATES = 100
_EXPANSION_ADD, _EXPANSION_SEARCH = 256, 512


@dataclass(frozen=True)
class RowIndex:
    """An index of the rows of a cache by their content.

    Parameters
    ----------
    index
        Of usearch, by keys.
    keys
        Key of each row of the cache, uint64, shape (n_samples,): rows of one content share it.
    added, removed
        How many keys were added and removed since the index was last saved.
    """

    index: Index
    keys: NDArray[np.uint64]
    added: int = 0
    removed: int = 0

    def nearest(
        self, cache: Cache, tap: str, queries: NDArray[Any], k: int, exclude: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Find neighbours as `featx.auditing.nearest_rows` does, among candidates of the index."""
        n = min(len(self.index), max(_LEAST_CANDIDATES, _CANDIDATES * k))
        found = self.index.search(np.asarray(queries, np.float32), n)
        candidates = np.atleast_2d(np.asarray(found.keys, np.uint64))
        order = np.argsort(self.keys, kind="stable")
        rows = np.full((len(queries), k), -1, np.int64)
        similarity = np.full((len(queries), k), -np.inf, np.float32)
        X = cache.tap(tap)
        for i, wanted in enumerate(candidates):
            first = np.searchsorted(self.keys[order], np.unique(wanted), "left")
            last = np.searchsorted(self.keys[order], np.unique(wanted), "right")
            at = np.sort(np.concatenate([order[a:b] for a, b in zip(first, last, strict=True)]))
            own = np.flatnonzero(at == exclude[i])
            mine = np.array([own[0] if len(own) else -1])
            near, close = nearest_rows(
                np.asarray(X[at], np.float32), queries[i : i + 1], k, exclude=mine
            )
            there = near[0] >= 0
            rows[i, : near.shape[1]] = np.where(there, at[near[0]], -1)
            similarity[i, : near.shape[1]] = close[0]
        return rows, similarity


def open_index(cache: Cache, tap: str, *, progress: bool = True) -> RowIndex:
    """Open the index of a tap, brought up to date with the cache: built where there is none.

    It lies in featx's own folder on this machine, named by fingerprint and tap: an index is read by
    native code, so none that came with a cache is ever opened.

    Raises
    ------
    MissingExtraError
        If usearch is not installed.
    """
    try:
        from usearch.index import Index
    except ImportError:
        raise MissingExtraError(
            "an index of rows needs usearch: pip install 'featx[search]'; index='exact' compares "
            "every row"
        ) from None
    keys = _keys(cache.content_digests)
    width = cache.tap(tap).shape[1]
    place = _place(cache, tap)
    how: dict[str, Any] = {"expansion_add": _EXPANSION_ADD, "expansion_search": _EXPANSION_SEARCH}
    index = Index(ndim=width, metric="cos", dtype="f16", **how)
    if place.is_file():
        try:
            index.load(place.read_bytes())
        except (RuntimeError, ValueError, OSError):
            log.warning("the index %s cannot be read and is built again", place)
            index = Index(ndim=width, metric="cos", dtype="f16", **how)
    found = RowIndex(index, keys, *_update(index, cache, tap, keys, progress))
    if found.added or found.removed:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(place, bytes(index.save() or b""))
    return found


def _place(cache: Cache, tap: str) -> Path:
    known = json.dumps([str(cache.path.resolve()), cache.fingerprint, tap])
    return cache_home() / "search" / f"{hashlib.sha256(known.encode()).hexdigest()[:32]}.usearch"


def _keys(digests: NDArray[np.bytes_]) -> NDArray[np.uint64]:
    """First 64 bits of each content digest."""
    first = b"".join(digest[:16].rjust(16, b"0") for digest in digests.tolist())
    return np.frombuffer(bytes.fromhex(first.decode()), ">u8").astype(np.uint64)


def _update(
    index: Index, cache: Cache, tap: str, keys: NDArray[np.uint64], progress: bool
) -> tuple[int, int]:
    """Add the contents that the index lacks, and remove those that the cache lacks."""
    there = np.fromiter(index.keys, np.uint64, len(index))
    gone = np.setdiff1d(there, keys)
    if len(gone):
        index.remove(gone)
    unique, first = np.unique(keys, return_index=True)
    new = np.sort(first[~np.isin(unique, there)])
    show = Progress(len(new), "index", show=progress)
    try:
        for start in range(0, len(new), _BLOCK):
            rows = new[start : start + _BLOCK]
            index.add(keys[rows], np.asarray(cache.tap(tap)[rows], np.float32))
            show.update(start + len(rows))
    finally:
        show.close()
    return len(new), len(gone)
