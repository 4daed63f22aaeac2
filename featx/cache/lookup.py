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

from featx.cache.format import BLOCK_ROWS, ID_INDEX, create_rows, row_blocks, values_of
from featx.cache.keys import KeyTable

_BIG = np.dtype(">u8")  # numbers whose bytes sort as they do
_LISTED = 20  # wrong entries that are named


def hash_ids(ids: Iterable[bytes]) -> NDArray[np.uint64]:
    """Hash ids, given as UTF-8.

    Returns
    -------
    hashes : uint64, shape (n,)
    """
    digests = b"".join(hashlib.blake2b(item, digest_size=8).digest() for item in ids)
    return np.frombuffer(digests, _BIG).astype(np.uint64)


def hash_column(ids: h5py.Dataset) -> NDArray[np.uint64]:
    """Hash a column of ids by blocks."""
    found = np.empty(ids.shape[0], np.uint64)
    for block in row_blocks(len(found)):
        found[block] = hash_ids(ids[block].tolist())
    return found


def write_id_index(file: h5py.File, n_rows: int, columns: Iterable[h5py.Dataset]) -> None:
    """Write the sorted table of the `n_rows` ids in `columns`; it takes 16 bytes a row.

    Each column is read before the next is asked for.
    """
    table, start = KeyTable(8, n_rows, key=8), 0
    for ids in columns:
        for block in row_blocks(ids.shape[0]):
            hashes = hash_ids(ids[block].tolist())
            numbers = np.arange(start + block.start, start + block.stop, dtype=_BIG)
            table.add(hashes.astype(_BIG).view("S8"), numbers.view(np.uint8).reshape(-1, 8))
        start += ids.shape[0]
    table.sort()
    dataset = create_rows(file, ID_INDEX, len(table), np.dtype(np.uint64), (2,))
    for block in row_blocks(len(table)):
        dataset[block] = table.entries()[block].view(_BIG)


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
    """Check that the table names every row once, under the hash of its id, in order.

    It takes 9 bytes a row.
    """
    n_rows = int(ids.shape[0])
    hashes, seen = hash_column(ids), np.zeros(n_rows, bool)
    before, problems = np.uint64(0), []
    for block in row_blocks(n_rows):
        entries = index[block]
        keys, rows = entries[:, 0], entries[:, 1]
        inside = rows < n_rows
        at = rows[inside].astype(np.int64)
        right = inside.copy()
        right[inside] = hashes[at] == keys[inside]
        seen[at] = True
        if keys[0] < before or (keys[1:] < keys[:-1]).any() or not right.all():
            problems.append(f"/{ID_INDEX} is wrong within entries {block.start} to {block.stop}")
        before = keys[-1]
    if not problems and not seen.all():
        problems.append(f"/{ID_INDEX} names row {int((~seen).argmax())} under no id")
    return problems[:_LISTED] or _doubled(index, ids)


def _doubled(index: h5py.Dataset, ids: h5py.Dataset) -> list[str]:
    """Name ids that two rows have, by a table that is right."""
    problems: list[str] = []
    last = np.empty((0, 2), np.uint64)
    for block in row_blocks(index.shape[0]):
        entries = np.concatenate([last, index[block]])
        keys, rows = entries[:, 0], entries[:, 1]
        for k in np.flatnonzero(keys[1:] == keys[:-1]).tolist():
            first, second = sorted((int(rows[k]), int(rows[k + 1])))
            if len(problems) < _LISTED and ids[first] == ids[second]:
                name = ids[first].decode("utf-8", "replace")
                problems.append(f"rows {first} and {second} have the same id {name}")
        last = entries[-1:]
    return problems
