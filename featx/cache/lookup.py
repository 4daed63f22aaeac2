"""Find rows by id: a sorted table of hashes that is searched where it lies.

``id_index`` is uint64, shape (n, 2): the first 8 bytes of BLAKE2b-64 of each id as a big-endian
number, and its row, sorted by both. Files without it are searched from end to end.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.cache.format import BLOCK_ROWS, ID_INDEX, create_rows, values_of

_LISTED = 20  # wrong entries that are named


def hash_ids(ids: Iterable[bytes]) -> NDArray[np.uint64]:
    """Hash ids, given as UTF-8.

    Returns
    -------
    hashes : uint64, shape (n,)
    """
    digests = b"".join(hashlib.blake2b(item, digest_size=8).digest() for item in ids)
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def hash_column(ids: h5py.Dataset) -> NDArray[np.uint64]:
    """Hash a column of ids by blocks."""
    found = np.empty(ids.shape[0], np.uint64)
    for start in range(0, len(found), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        found[block] = hash_ids(ids[block].tolist())
    return found


def write_id_index(file: h5py.File, hashes: NDArray[np.uint64]) -> None:
    """Write the sorted table; `hashes` are those of the rows in their order."""
    order = np.argsort(hashes, kind="stable")
    dataset = create_rows(file, ID_INDEX, len(hashes), np.dtype(np.uint64), (2,))
    for start in range(0, len(order), BLOCK_ROWS):
        rows = order[start : start + BLOCK_ROWS]
        dataset[start : start + len(rows)] = np.stack([hashes[rows], rows.astype(np.uint64)], 1)


def find_rows(
    index: h5py.Dataset | None, ids: h5py.Dataset, wanted: Sequence[str]
) -> NDArray[np.int64]:
    """Find the row of each id.

    Parameters
    ----------
    index
        ``id_index``, or None where there is none.
    ids
        The column of ids.

    Returns
    -------
    rows : int64, shape (len(wanted),), -1 where there is no such id
    """
    names = [item.encode() for item in wanted]
    if index is None:
        return _scan(ids, names)
    hashes = hash_ids(names)
    order = np.argsort(hashes, kind="stable")
    found = np.full(len(names), -1, np.int64)
    pairs = sorted((row, at) for at, row in _candidates(index, hashes[order]))
    for _, near in itertools.groupby(pairs, lambda pair: pair[0] // BLOCK_ROWS):
        block = [(row, int(order[at])) for row, at in near if row < ids.shape[0]]
        if not block:
            continue
        first = block[0][0]
        there = values_of(ids, slice(first, block[-1][0] + 1))
        for row, at in block:  # two ids may share a hash: the id itself decides
            if there[row - first] == names[at]:
                found[at] = row
    return found


def _scan(ids: h5py.Dataset, names: list[bytes]) -> NDArray[np.int64]:
    """Search a column without an index."""
    rows: dict[bytes, int] = dict.fromkeys(names, -1)
    for start in range(0, ids.shape[0], BLOCK_ROWS):
        names_here = values_of(ids, slice(start, start + BLOCK_ROWS)).tolist()
        for row, item in enumerate(names_here, start):
            if item in rows:
                rows[item] = row
    return np.array([rows[item] for item in names], np.int64)


def _candidates(index: h5py.Dataset, hashes: NDArray[np.uint64]) -> Iterable[tuple[int, int]]:
    """Give (position in sorted `hashes`, row) of each entry with one of the hashes.

    The table is halved until a block is left that is read at once; each half is looked into only
    when one of the hashes falls there.
    """
    todo = [(0, index.shape[0], 0, len(hashes))]
    while todo:
        low, high, first, last = todo.pop()
        if low >= high or first >= last:
            continue
        if high - low <= BLOCK_ROWS:
            yield from _match(values_of(index, slice(low, high)), hashes, first, last)
            continue
        middle = (low + high) // 2
        pivot = values_of(index, (middle, 0))
        # Equal hashes may lie on both sides.
        todo.append((middle, high, int(np.searchsorted(hashes, pivot, "left")), last))
        todo.append((low, middle, first, int(np.searchsorted(hashes, pivot, "right"))))


def _match(
    entries: NDArray[np.uint64], hashes: NDArray[np.uint64], first: int, last: int
) -> Iterable[tuple[int, int]]:
    keys = np.ascontiguousarray(entries[:, 0])
    starts = np.searchsorted(keys, hashes[first:last], "left")
    stops = np.searchsorted(keys, hashes[first:last], "right")
    for k in np.flatnonzero(stops > starts).tolist():
        for entry in range(int(starts[k]), int(stops[k])):
            yield first + k, min(int(entries[entry, 1]), 2**62)


def index_problems(index: h5py.Dataset, ids: h5py.Dataset) -> list[str]:
    """Check that the table names every row once, under the hash of its id, in order."""
    n_rows = int(ids.shape[0])
    hashes, seen = hash_column(ids), np.zeros(n_rows, bool)
    before, problems = np.uint64(0), []
    for start in range(0, n_rows, BLOCK_ROWS):
        entries = index[start : start + BLOCK_ROWS]
        keys, rows = entries[:, 0], entries[:, 1]
        inside = rows < n_rows
        at = rows[inside].astype(np.int64)
        right = inside.copy()
        right[inside] = hashes[at] == keys[inside]
        seen[at] = True
        if keys[0] < before or (keys[1:] < keys[:-1]).any() or not right.all():
            problems.append(f"/{ID_INDEX} is wrong within entries {start} to {start + len(keys)}")
        before = keys[-1]
    if not problems and not seen.all():
        problems.append(f"/{ID_INDEX} names row {int((~seen).argmax())} under no id")
    return problems[:_LISTED] or _doubled(hashes, ids)


def _doubled(hashes: NDArray[np.uint64], ids: h5py.Dataset) -> list[str]:
    """Name ids that two rows have."""
    order = np.argsort(hashes, kind="stable")
    twice = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    pairs = [(int(order[k]), int(order[k + 1])) for k in twice[:_LISTED].tolist()]
    return [
        f"rows {first} and {second} have the same id {ids[first].decode('utf-8', 'replace')}"
        for first, second in pairs
        if ids[first] == ids[second]
    ]
