"""Several labels of one image: from a table through the cache and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import featx
from featx.labels import indicator, joined_labels, split_labels
from featx.sources.load import load_manifest


def test_a_bar_in_one_row_makes_every_row_a_set():
    assert split_labels(["dog", None, "a"]) is None
    assert split_labels(["dog| cat|dog", None, "a", "|"]) == [("cat", "dog"), None, ("a",), ()]


def test_indicator_and_text_are_two_ways_of_saying_the_same():
    labels = [("a", "c"), (), None, ("b",)]
    table = indicator(labels, ["a", "b", "c"])
    assert table.tolist() == [[1, 0, 1], [0, 0, 0], [-1, -1, -1], [0, 1, 0]]
    assert split_labels(joined_labels(table, ["a", "b", "c"])) == labels


@pytest.fixture
def table(photos: Path) -> Path:
    files = sorted(photos.rglob("*.png"))[:4]
    labels = ["x|y", "y", "", "|"]
    lines = [f"{file},{label}" for file, label in zip(files, labels, strict=True)]
    path = photos / "several.csv"
    path.write_text("path,label\n" + "\n".join(lines) + "\n")
    return path


def test_the_manifest_holds_a_tuple_a_row(table: Path):
    assert load_manifest(table).labels == [("x", "y"), ("y",), None, ()]


def test_the_cache_holds_a_column_a_class(table: Path, tmp_path: Path, tiny: dict[str, Any]):
    place = tmp_path / "several.h5"
    featx.extract(table, place, **tiny)
    with h5py.File(place) as file:
        assert file["labels"].dtype == np.int8
        assert file["labels"][...].tolist() == [[1, 1], [0, 1], [-1, -1], [0, 0]]
    with featx.open_cache(place) as cache:
        assert cache.classes == ["x", "y"]
        assert cache.labels == ["x|y", "y", None, "|"]
        assert cache.info()["classes"] == {"x": 1, "y": 2}
        assert cache.to_frame()["label"].tolist()[:2] == ["x|y", "y"]


def test_other_labels_embed_nothing(table: Path, tmp_path: Path, tiny: dict[str, Any]):
    place = tmp_path / "several.h5"
    featx.extract(table, place, **tiny)
    table.write_text(table.read_text().replace("x|y", "z"))
    found = featx.extract(table, place, **tiny)
    assert (found.embedded, found.reused) == (0, 4)
    with featx.open_cache(place) as cache:
        assert cache.labels == ["z", "y", None, "|"]
