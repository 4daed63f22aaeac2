"""What looks like a mistake in labels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from featx.labels import conflicting_rows, conflicts_text, lookalikes, lookalikes_text


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["cat", "cat "], [["cat", "cat "]]),
        (["cat", "CAT", "dog"], [["CAT", "cat"]]),
        (["Möhre", "Mo\u0308hre"], [["Mo\u0308hre", "Möhre"]]),
        (["a b", "a\u00a0b", "ab\u200b"], [["a b", "ab\u200b", "a\u00a0b"]]),
        (["straße", "STRASSE"], [["STRASSE", "straße"]]),
        (["1", "01"], []),
        ([], []),
    ],
)
def test_names_that_hardly_differ(names: list[str], found: list[list[str]]) -> None:
    assert lookalikes(names) == found
    assert bool(lookalikes_text(names)) == bool(found)


@pytest.mark.parametrize("seed", range(5))
def test_conflicts_are_those_of_every_pair(seed: int) -> None:
    rng = np.random.default_rng(seed)
    content, labels = rng.integers(0, 40, 80).astype("S16"), rng.integers(-1, 3, 80)
    wanted = set()
    for i, j in itertools.combinations(np.flatnonzero(labels >= 0).tolist(), 2):
        if content[i] == content[j] and labels[i] != labels[j]:
            wanted |= {i, j}
    groups = conflicting_rows(content, labels)
    odd = {int(row) for group in groups for row in group}
    assert wanted <= odd
    for group in groups:
        assert len(set(content[group])) == 1
        assert len(set(labels[group])) > 1
    names = np.array(["a", "b", "c", ""])[labels]
    for other in (names, names.astype(object), np.where(labels < 0, np.nan, labels)):
        assert [g.tolist() for g in conflicting_rows(content, other)] == [
            g.tolist() for g in groups
        ]


def test_rows_of_several_labels_conflict_too() -> None:
    table = np.array([[1, 0], [1, 1], [1, 0], [-1, -1]])
    found = conflicting_rows(np.array([b"x", b"x", b"y", b"y"]), table)
    assert [group.tolist() for group in found] == [[0, 1]]
    assert "a = b" in conflicts_text(found, list("abcd"))
    assert conflicts_text([], []) == ""
