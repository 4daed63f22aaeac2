"""The rows of several caches, one after the other, as if one cache held them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.cache.fingerprint import spec_difference
from featx.cache.held import Held, file_state, hold
from featx.cache.stored import Stored, rows_of
from featx.cache.uniting import unite_columns, unite_labels
from featx.cache.wholeness import joint_provenance, require_whole
from featx.cache.writing import Whole
from featx.errors import CacheError, CacheMismatchError
from featx.portion import listed


class ManyRows:
    """The rows of several caches, those of shards in the order of the shards.

    Parameters
    ----------
    partial
        Whether shards may be missing.

    Raises
    ------
    CacheError
        If the caches do not go together.
    """

    def __init__(self, paths: Sequence[Path], partial: bool) -> None:
        found = [hold(path) for path in paths]
        held = [one for one, _ in found]
        self._as_it_is = len(paths) == 1 and paths[0].is_dir()
        self.dealt = held[0].dealt if self._as_it_is else require_whole(held, partial)
        found.sort(key=lambda pair: _by_shard(pair[0]))
        self._all = [one for one, _ in found]
        # A shard that was dealt nothing has no rows, and its precision was never decided.
        self._held = [one for one in self._all if one.n_rows]
        if not self._held:
            raise CacheError(f"there are no rows in {listed(paths)}")
        self._require_alike()
        self._starts = np.cumsum([0, *(one.n_rows for one in self._held)])
        hashes = np.concatenate([hashes for _, hashes in found])
        del found
        self._require_unique_ids(hashes)
        told = [one.told for one in self._held]
        self._united = unite_columns(told)
        labels, self._classes = unite_labels(told)
        if labels is not None:
            self._united["labels"] = labels
        self.widths = self._held[0].widths
        self.columns = {name: column.kind for name, column in self._united.items()}
        self._open: tuple[int, Stored] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> ManyRows:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def whole(self) -> Whole:
        """What is said of the rows once."""
        first = self._held[0].whole
        if self._as_it_is:
            return first
        failed = {name: why for one in self._all for name, why in one.whole.failed.items()}
        provenance = joint_provenance(self._all, self.dealt)
        return Whole(first.spec, json.dumps(provenance), self._classes, failed)

    def _require_alike(self) -> None:
        first = self._held[0]
        for one in self._held[1:]:
            if changed := spec_difference(first.spec, one.spec):
                raise CacheMismatchError(
                    f"{one.path} was computed otherwise than {first.path}: {'; '.join(changed)}; "
                    "extract all shards with the same options, the precision among them"
                )
            if one.widths != first.widths:
                raise CacheError(f"{one.path} has other features than {first.path}")

    def _require_unique_ids(self, hashes: NDArray[np.uint64]) -> None:
        """Refuse an id that two caches have; `hashes` are those of all rows in their order."""
        ordered = np.sort(hashes)
        twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        seen: dict[str, Held] = {}
        # Two ids may share a hash, so that the ids themselves decide.
        for row in np.flatnonzero(np.isin(hashes, twice)).tolist() if len(twice) else ():
            one, item = self._id(row)
            if item in seen:
                raise CacheError(
                    f"the id {item!r} stands in {seen[item].path} and in {one.path}; merge caches "
                    "of different images, and run shards again whose images moved"
                )
            seen[item] = one

    def _id(self, row: int) -> tuple[Held, str]:
        k = int(np.searchsorted(self._starts, row, "right")) - 1
        one, at = self._held[k], row - int(self._starts[k])
        with rows_of(one.path) as (_, stored):
            return one, stored.column("ids")[at : at + 1][0].decode("utf-8", "replace")

    def _stored(self, k: int) -> Stored:
        """Open a cache for its rows; one at a time, for they are read in order."""
        if self._open is None or self._open[0] != k:
            self._stack.close()
            one = self._held[k]
            _, stored = self._stack.enter_context(rows_of(one.path))
            if file_state(one.path) != one.state:
                raise CacheError(f"{one.path} was written anew meanwhile; merge again")
            self._open = k, stored
        return self._open[1]

    def _inside(self, rows: slice) -> Iterator[tuple[int, slice]]:
        """Say in which caches rows lie, and where there."""
        first = int(np.searchsorted(self._starts, rows.start, "right")) - 1
        for k in range(first, len(self._held)):
            start, stop = int(self._starts[k]), int(self._starts[k + 1])
            if start >= rows.stop:
                return
            yield k, slice(max(rows.start, start) - start, min(rows.stop, stop) - start)

    def read(self, rows: slice) -> tuple[list[NDArray[Any]], dict[str, Any]]:
        """Read a stretch of rows, each checked against its digest."""
        vectors: list[list[NDArray[Any]]] = []
        columns: dict[str, list[NDArray[Any]]] = {name: [] for name in self._united}
        for k, here in self._inside(rows):
            found, values = self._stored(k).read(here)
            vectors.append(found)
            for name, column in self._united.items():
                n_rows = here.stop - here.start
                columns[name].append(column.of(k, values.get(name), n_rows))
        joined = [np.concatenate(tap) for tap in zip(*vectors, strict=True)]
        return joined, {name: np.concatenate(values) for name, values in columns.items()}

    def tag(self, rows: slice) -> str:
        """Name a part by what is in it, and by what becomes of that."""
        pieces = [self._stored(k).tag(here) for k, here in self._inside(rows)]
        kinds = sorted((name, kind[0].str, kind[1]) for name, kind in self.columns.items())
        made = repr((pieces, kinds, self._classes))
        return hashlib.blake2b(made.encode(), digest_size=8).hexdigest()


def _by_shard(one: Held) -> tuple[bool, tuple[int, ...]]:
    return (True, ()) if one.dealt is None else (False, one.dealt.held)
