"""Labels of a file of their own, over those of a source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import featx
from featx.errors import SourceError


def test_they_embed_nothing_and_can_be_taken_back(
    tmp_path: Path, photos: Path, tiny: dict[str, Any]
) -> None:
    cache, fixes = tmp_path / "c.h5", tmp_path / "fixes.csv"
    featx.extract(photos, cache, **tiny)
    fixes.write_text("id,label\ncat/0002.png,007\ndog/0003.png,\ncat/0000.png,cat\n")
    done = featx.extract(photos, cache, labels=fixes, **tiny)
    assert (done.embedded, done.reused) == (0, 12)
    with featx.open_cache(cache) as found:
        labels = dict(zip(found.ids, found.labels, strict=True))
        assert labels["cat/0002.png"] == "007"
        assert labels["dog/0003.png"] is None
        assert sorted(set(labels.values()) - {None}) == ["007", "cat", "dog"]
        assert found.provenance["labels"]["changed"] == 2
    featx.extract(photos, cache, **tiny)
    with featx.open_cache(cache) as found:
        assert found.labels == [name.split("/")[0] for name in found.ids]
        assert "labels" not in found.provenance


def test_a_source_without_labels_takes_them_from_the_file(
    tmp_path: Path, photos: Path, tiny: dict[str, Any]
) -> None:
    paths = sorted(photos.rglob("*.png"))
    fixes = tmp_path / "labels.csv"
    fixes.write_text("id,label\n" + "".join(f"{p},a|b\n" for p in paths[:3]))
    featx.extract([str(p) for p in paths], tmp_path / "c.h5", labels=fixes, **tiny)
    with featx.open_cache(tmp_path / "c.h5") as found:
        assert found.labels == ["a|b"] * 3 + [None] * 9


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,label\nx.png,a\n", "1 ids that .* does not have, first 'x.png'"),
        ("id,label\ncat/0000.png,a\ncat/0000.png,b\n", "'cat/0000.png' stands in it twice"),
        ("path,label\ncat/0000.png,a\n", "no column `id`"),
        (None, "no such file"),
    ],
)
def test_a_file_that_does_not_fit_changes_nothing(
    tmp_path: Path, photos: Path, tiny: dict[str, Any], text: str | None, words: str
) -> None:
    cache, fixes = tmp_path / "c.h5", tmp_path / "fixes.csv"
    featx.extract(photos, cache, **tiny)
    before = cache.read_bytes()
    if text is not None:
        fixes.write_text(text)
    with pytest.raises(SourceError, match=words):
        featx.extract(photos, cache, labels=fixes, **tiny)
    assert cache.read_bytes() == before


def test_missing_texts_and_what_was_assumed_hold_for_the_file_too(
    tmp_path: Path, photos: Path, tiny: dict[str, Any]
) -> None:
    cache, fixes = tmp_path / "c.h5", tmp_path / "fixes.csv"
    fixes.write_bytes("id;label\ncat/0000.png;NA\ndog/0003.png;Käfer\n".encode("cp1252"))
    done = featx.extract(photos, cache, labels=fixes, missing="NA", **tiny)
    assert [one["code"] for one in done.warnings] == ["table-encoding", "table-separator"]
    with featx.open_cache(cache) as found:
        labels = dict(zip(found.ids, found.labels, strict=True))
    assert labels["cat/0000.png"] is None
    assert labels["dog/0003.png"] == "Käfer"


def test_fractions_are_no_corrections(tmp_path: Path, photos: Path, tiny: dict[str, Any]) -> None:
    fixes = tmp_path / "fixes.parquet"
    pq.write_table(pa.table({"id": ["cat/0000.png"], "label": [1.5]}), fixes)
    with pytest.raises(SourceError, match="column `label` holds numbers"):
        featx.extract(photos, tmp_path / "c.h5", labels=fixes, **tiny)


def test_a_folder_called_with_a_bar_stays_one_class(
    tmp_path: Path, photos: Path, tiny: dict[str, Any]
) -> None:
    (photos / "cat").rename(photos / "a|b")
    fixes = tmp_path / "fixes.csv"
    fixes.write_text("id,label\ndog/0003.png,owl\n")
    featx.extract(photos, tmp_path / "c.h5", labels=fixes, **tiny)
    with featx.open_cache(tmp_path / "c.h5") as found:
        assert found.classes == ["a|b", "dog", "owl"]
