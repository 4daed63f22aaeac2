"""What has changed since a cache was written, counted by keys, and what is said of its rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cache import make_cache, make_rows

from featx.cache import open_cache
from featx.cache.format import BLOCK_ROWS
from featx.cache.ids import KEY_DTYPE, KeyTable, keys_of
from featx.columns import TextSubset, pick
from featx.extraction.changes import Changes, describe_rows, difference
from featx.items import Manifest, Stamp


def listing(ids: list[str], **more: Any) -> Manifest:
    def read(item: int) -> tuple[bytes, Stamp]:
        raise AssertionError(item)

    return Manifest("test", ids, [f"in/{name}" for name in ids], read, **more)


def counted(ids: list[str], contents: list[bytes], refused: list[str], cache: Path) -> Changes:
    """The same by dictionaries of whole names and digests."""
    with open_cache(cache) as old:
        before = dict(zip(old.ids, old.content_digests.tolist(), strict=True))
    found = Changes()
    gone = Counter(d for name, d in before.items() if name not in {*ids, *refused})
    found.removed = gone.total()
    for name, content in zip(ids, contents, strict=True):
        if content and name in before:
            found.unchanged += before[name] == content
            found.changed += before[name] != content
        elif content and gone[content]:
            gone[content] -= 1
            found.renamed += 1
            found.removed -= 1
        elif content:
            found.new += 1
    return found


@pytest.mark.parametrize("seed", range(4))
def test_differences_are_those_of_names_and_contents(tmp_path: Path, seed: int) -> None:
    rng, rows = np.random.default_rng(seed), make_rows(300)
    for k in range(0, 300, 7):  # pictures that stand under several names
        rows[k] = type(rows[k])(rows[k].item, rows[0].content, rows[k].stamp, rows[k].vectors)
    cache = make_cache(tmp_path / "c.h5", rows)
    ids = [f"ü{k}" if rng.random() < 0.7 else f"new {k}" for k in rng.permutation(330)]
    contents = [b"" if k % 11 == 0 else rows[rng.integers(300)].content for k in range(330)]
    contents[::5] = [f"{k:064x}".encode() for k in range(10**6, 10**6 + 66)]
    refused = [f"ü{k}" for k in range(300) if f"ü{k}" not in ids][::3]
    keys = np.zeros(330, KEY_DTYPE)
    there = np.array([bool(content) for content in contents])
    keys[there] = keys_of(content for content in contents if content)
    found = difference(listing(ids, refused=dict.fromkeys(refused, "why")), keys, cache)
    assert found == counted(ids, contents, refused, cache)
    assert min(found.new, found.changed, found.renamed, found.removed) > 0


def test_without_a_cache_everything_is_new() -> None:
    keys = np.array([*keys_of([b"a", b"b"]), b""], KEY_DTYPE)
    assert difference(listing(["x", "y", "z"]), keys, None) == Changes(new=2)


def test_keys_are_found_whatever_their_bytes() -> None:
    """NUL and 255 at either end of a key or a value are bytes as any other."""
    rng = np.random.default_rng(0)
    raw = rng.choice(np.array([0, 1, 254, 255], np.uint8), (5000, 24))
    raw = raw[np.unique(raw[:, :16], axis=0, return_index=True)[1]]
    keys, values = raw[:, :16].copy().view(KEY_DTYPE)[:, 0], raw[:, 16:]
    table, order = KeyTable(8), rng.permutation(len(raw))
    for some in np.array_split(order, 3):
        table.add(keys[some], values[some])
        table.sort()
    assert [bytes(entry) for entry in table.entries()] == sorted(map(bytes, raw))
    at, there = table.find(keys)
    assert there.all()
    np.testing.assert_array_equal(table.values(at), values)
    assert (table.keys(at) == keys).all()
    table.cut(100)
    assert table.find(keys)[1].sum() == 100


def test_the_largest_value_of_a_key_is_found() -> None:
    table, key = KeyTable(1), keys_of([b"a"])
    for value in (3, 255, 7):
        table.add(key, np.array([[value]], np.uint8))
    table.sort()
    assert table.values(table.find(key)[0]).tolist() == [[255]]


@pytest.mark.parametrize("n", [3, BLOCK_ROWS + 5])
def test_rows_are_picked_as_a_list_would_be(n: int) -> None:
    names = [str(k) for k in range(2 * n)]
    for rows in (np.arange(0, 2 * n, 2), np.array([0, 2 * n - 1]), np.arange(n)):
        some, wanted = TextSubset(names, rows), [names[row] for row in rows]
        assert list(some) == some[:] == wanted
        assert (some[-1], some[1:2], len(some)) == (wanted[-1], wanted[1:2], len(wanted))
        assert some[::-1] == wanted[::-1]
        assert some[2:1] == []
    assert pick(names, np.arange(2 * n)) is names


def test_only_rows_are_described() -> None:
    ids = ["a/1", "b/2", "b/3", "c/4"]
    labels = ["a", "b", None, "c"]
    source = listing(ids, labels=labels, split=["train", "", "test", ""])
    told = describe_rows(source, np.array([0, 2, 3]), {"b/2": "why"})
    assert list(told.ids) == ["a/1", "b/3", "c/4"]
    assert list(told.paths) == ["in/a/1", "in/b/3", "in/c/4"]
    assert told.split is not None
    assert list(told.split) == ["train", "test", ""]
    assert told.labels is not None
    assert told.labels.tolist() == [0, -1, 2]
    assert told.classes == ["a", "b", "c"]
