"""What is done in blocks is the same in blocks of three rows: nothing depends on where one ends."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from conftest import picture, save_pictures

import featx
from featx.auditing import nearest_rows, unit_rows
from featx.cache import Cache
from featx.cache.features import Features
from featx.cache.h5file import seal
from featx.evaluation import evaluate
from featx.explaining.explanation import occlusion_map
from featx.fitting import measuring
from featx.model.likeness import usual_distance
from featx.protocols.neighbours import knn_shares

BLOCKS = {
    "BLOCK_ROWS": (8192, 16_384),  # of a cache, and of the rows that a search compares
    "SHARD_ROWS": (512,),
    "PART_ROWS": (65_536,),
    "_BLOCK_ROWS": (65_536,),  # of a table
    "_BLOCK": (8192, 256),  # of columns of text, pictures, vectors; not the 512 bytes of a tar
    "_BATCH": (4096, 8192, 16),  # of predictions, of evaluated rows, of covered pictures
    "_NEAR_BATCH": (256,),
    "_QUERIES": (1024,),
    "CELLS_AT_ONCE": (4_000_000,),
}
"""Each constant that says how much is done at a time, and what it is as a rule."""

NOT_ROWS = {
    ("_BLOCK", 512),  # bytes of a header in a tar
    ("_BLOCK", 1 << 20),  # bytes that are inflated at a time
    ("CPU_BATCH", 8),  # pictures of a forward pass, which `batch_size` sets
    ("CUDA_BATCH", 256),
    ("_GPU_BATCH", 32),
    ("REFERENCE_BATCH", 32),
    ("_MOST_BATCH_ROWS", 16_384),  # of Parquet, which `row groups` of a few rows test
    ("BLOCK_BYTES", 512),  # of the seal
    ("BLOCK_BYTES", 16 << 20),  # of features in a stream, whose rows `step` sets
    ("_CHUNK_BYTES", 384 * 1024),
    ("_MAP_CHUNK_BYTES", 32 * 1024),
}


INSIDE = ("_NEAR_BATCH", "_QUERIES")
"""Blocks of what is in a block already."""


def in_threes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set every such constant of every module that is loaded to three, or two."""
    changed = set()
    for module in [m for name, m in sys.modules.items() if name.startswith("featx.")]:
        for name, usual in BLOCKS.items():
            if vars(module).get(name) in usual:
                monkeypatch.setattr(module, name, 2 if name in INSIDE else 3)
                changed.add(name)
    assert changed >= {"BLOCK_ROWS", "_BLOCK", "_BATCH"}
    for function in (Features.batches, measuring._batches):
        monkeypatch.setattr(function, "__defaults__", (3,))


@pytest.fixture
def twice(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], tuple[Any, Any]]:
    """Call something as it is, and in blocks of three."""

    def call(function: Callable[[], Any]) -> tuple[Any, Any]:
        usual = function()
        with monkeypatch.context() as patch:
            in_threes(patch)
            return usual, function()

    return call


def test_no_constant_is_forgotten() -> None:
    pattern = re.compile(r"^(_?[A-Z_]*(?:BLOCK|BATCH|CELLS|QUERIES|CHUNK|(?:PART|SHARD)_ROWS)"
                         r"[A-Z_]*) = ([\d_<>* ]+?)(?: *#.*)?$", re.M)  # fmt: skip
    found = set()
    for path in Path(featx.__file__).parent.rglob("*.py"):
        for name, value in pattern.findall(path.read_text(encoding="utf-8")):
            found.add((name, int(eval(value))))
    known = NOT_ROWS | {(name, value) for name, usual in BLOCKS.items() for value in usual}
    known |= {("CELLS", 8), ("_CHUNK", 1 << 20), ("_BATCHES_OF_A_CARD", 4), ("_BATCHES", 8)}
    known |= {("_CHUNKS_EACH", 16), ("_MOST_CHUNKS", 500_000), ("_MOST_BLOCKS", 100_000)}
    known |= {("_MOST_CODE_BLOCKS", 2_000_000), ("MANY_CELLS", 1 << 26), ("_N_BLOCKS", 44)}
    known |= {("_MOST_CELLS", 20)}
    assert found <= known, f"in blocks of three as well, or not rows: {found - known}"
    assert found >= {(name, value) for name, usual in BLOCKS.items() for value in usual}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> Path:
    """Thirteen pictures and five that cannot be read, their cache, and a model of it."""
    found = tmp_path_factory.mktemp("blocks")
    save_pictures(found / "photos", 13)
    for k in range(5):
        (found / "photos" / "dog" / f"broken-{k}.png").write_bytes(b"no picture")
    featx.extract(found / "photos", found / "c.h5", **tiny)
    featx.fit(found / "c.h5", "logreg", folds=2, out=found / "m.featx", fit_on="train")
    return found


@pytest.fixture
def cache(folder: Path) -> Iterator[Cache]:
    with featx.open_cache(folder / "c.h5") as opened:
        yield opened


def everything(path: Path) -> dict[str, Any]:
    """All that a reader of a cache sees."""
    with featx.open_cache(path) as cache:
        return {
            "ids": list(cache.ids),
            "paths": list(cache.paths),
            "X": np.asarray(cache.X).tolist(),
            "in batches": np.concatenate(list(cache.X.batches())).tolist(),
            "labels": list(cache.labels),
            "failed": cache.failed,
            "content": cache.content_digests.tolist(),
            "rows": cache.rows(list(cache.ids)[::-1]).tolist(),
            "classes": cache.info()["classes"],
            "split": cache.info()["split"],
            "verified": cache.verify(),
        }


def test_a_prediction_has_the_ids_paths_and_errors_of_its_rows(
    folder: Path, cache: Cache, tmp_path: Path, twice: Any
) -> None:
    model = featx.load_model(folder / "m.featx")

    def predict() -> list[Any]:
        model.predict(cache, out=tmp_path / "p.csv", force=True)
        table = pd.read_csv(tmp_path / "p.csv", dtype=str, keep_default_na=False)
        found = model.predict(cache)
        assert (found.predicted, found.failed) == (13, 5)
        assert [row["id"] for row in found.rows] == list(table["id"])
        assert [row["path"] or "" for row in found.rows] == list(table["path"])
        return [found.to_dict(), found.rows]

    usual, small = twice(predict)
    names = [row["id"] for row in small[1]]
    assert names == [*cache.ids, *cache.failed]
    assert [row["path"] for row in small[1]][:13] == list(cache.paths)
    assert [row["error"] for row in small[1]][13:] == list(cache.failed.values())
    # Each training row is nearest to itself.
    trained = model.saw(list(cache.ids), cache.content_digests)
    near = [row["nearest"] for row in small[1]][:13]
    assert [a for a, there in zip(near, trained, strict=True) if there] == [
        a for a, there in zip(names, trained, strict=False) if there
    ]
    for one, other in zip(usual[1], small[1], strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    assert usual[0] == small[0]


def test_a_cache_reads_the_same(folder: Path, twice: Any) -> None:
    usual, small = twice(lambda: everything(folder / "c.h5"))
    assert usual == small
    assert usual["verified"].ok
    assert usual["rows"] == list(range(13))[::-1]


def test_a_cache_is_written_the_same(
    folder: Path, tmp_path: Path, tiny: dict[str, Any], twice: Any
) -> None:
    """From a folder, from a table with columns and a split, and over a cache that is there."""
    photos, names = folder / "photos", sorted(p.name for p in (folder / "photos/cat").iterdir())
    table = pd.DataFrame({"path": [f"photos/cat/{name}" for name in names]})
    table["label"], table["note"] = [f"n{k % 3}" for k in range(7)], [f"é{k}" for k in range(7)]
    table["split"] = ["train", "test"] * 3 + ["train"]
    table.to_csv(folder / "t.csv", index=False)
    count = iter("ab")

    def extract() -> list[Any]:
        target = tmp_path / next(count)
        target.mkdir()
        made = featx.extract(photos, target / "c.h5", **tiny)
        again = featx.extract(photos, target / "c.h5", **tiny)
        featx.extract(folder / "t.csv", target / "t.h5", **tiny)
        with featx.open_cache(target / "t.h5") as cache:
            notes = cache.columns["note"].tolist()
        counts = [(one.embedded, one.reused, one.failed) for one in (made, again)]
        return [counts, everything(target / "c.h5"), everything(target / "t.h5"), notes]

    usual, small = twice(extract)
    assert usual == small
    assert usual[0] == [(13, 0, 5), (0, 13, 5)]
    assert usual[1] == everything(folder / "c.h5")
    assert usual[3] == [f"é{k}" for k in range(7)]
    assert small[2]["split"] == {"test": 3, "train": 4}


@pytest.mark.parametrize("row", [0, 6])
def test_a_change_in_any_block_is_written(
    tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch, row: int
) -> None:
    """Nothing is embedded again, and the cache says the new label, note and number."""
    rows: dict[str, list[Any]] = {"path": list(map(str, save_pictures(tmp_path / "photos", 7)))}
    rows |= {"label": list("ababbab"), "note": list("tuvwxyz"), "size": [0.5 * k for k in range(7)]}
    table, target = tmp_path / "t.parquet", tmp_path / "c.h5"
    pd.DataFrame(rows).to_parquet(table)
    featx.extract(table, target, **tiny)
    in_threes(monkeypatch)
    for name, new in (("label", "c"), ("note", "q"), ("size", 9.5)):
        rows[name][row] = new
        pd.DataFrame(rows).to_parquet(table)
        found = featx.extract(table, target, **tiny)
        assert (found.embedded, found.reused) == (0, 7)
        with featx.open_cache(target) as cache:
            assert cache.labels == rows["label"]
            assert cache.columns["note"].tolist() == rows["note"]
            assert cache.columns["size"].tolist() == rows["size"]


def test_split_and_merge_give_the_same_rows_back(folder: Path, tmp_path: Path, twice: Any) -> None:
    from featx.cache import merge, split

    count = iter("ab")

    def there_and_back() -> Any:
        name = next(count)
        split(folder / "c.h5", tmp_path / name, rows=4)
        merge(tmp_path / name, tmp_path / f"{name}.h5")
        assert everything(tmp_path / name) == everything(tmp_path / f"{name}.h5")
        return everything(tmp_path / f"{name}.h5")

    usual, small = twice(there_and_back)
    assert usual == small == everything(folder / "c.h5")


@pytest.mark.parametrize("row", [0, 2, 3, 12])
def test_the_row_that_is_damaged_is_named(
    folder: Path, tmp_path: Path, twice: Any, row: int
) -> None:
    path = tmp_path / "c.h5"
    path.write_bytes((folder / "c.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        file["features"][row, 1] += 1
        name = file["ids"][row].decode()
    with path.open("r+b") as raw:
        seal(raw)
    usual, small = twice(lambda: featx.open_cache(path).verify().problems)
    assert usual == small == (f"row {row} ({name}) is damaged",)


def test_a_search_and_an_audit_find_the_same(folder: Path, cache: Cache, twice: Any) -> None:
    order = [12, 0, 5]  # as they are asked for, not as they lie
    asked = [cache.ids[k] for k in order]
    usual, small = twice(lambda: featx.search(cache, ids=asked, k=4))
    assert [one.query for one in small] == asked
    for one, other in zip(usual, small, strict=True):
        assert [m.id for m in one.matches] == [m.id for m in other.matches]
    X = unit_rows(np.asarray(cache.X))
    for row, one in zip(order, usual, strict=True):
        nearest = np.argsort(-(X @ X[row]), kind="stable")
        assert [m.id for m in one.matches] == [cache.ids[k] for k in nearest if k != row][:4]
    usual, small = twice(lambda: featx.search(cache, ids=asked, k=4, label="cat"))
    for one, other in zip(usual, small, strict=True):
        assert [m.id for m in one.matches] == [m.id for m in other.matches]
        assert [m.label for m in other.matches] == ["cat"] * 4
    usual, small = twice(lambda: featx.audit(cache, progress=False).to_frame())
    pd.testing.assert_frame_equal(usual, small)
    rows, _ = nearest_rows(cache.X, np.asarray(cache.X), 1)
    assert rows[:, 0].tolist() == list(range(13))


def assert_close(one: Any, other: Any) -> None:
    """Compare what is nested: numbers to the last bits, which the order of a sum decides."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = list(one.values()), list(other.values())
    if isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_close(a, b)
    else:
        assert one == (pytest.approx(other) if isinstance(one, float) else other)


def test_a_fit_and_an_evaluation_say_the_same(folder: Path, twice: Any) -> None:
    def fitted() -> Any:
        found = featx.fit(folder / "c.h5", "logreg", folds=2, split=0.5).to_dict()
        return {k: v for k, v in found.items() if k != "seconds"}

    assert_close(*twice(fitted))
    usual, small = twice(lambda: featx.evaluate(folder / "m.featx", folder / "c.h5").to_dict())
    assert_close(usual, small)
    assert usual["n_test"] == 4


def test_bootstrap_samples_are_the_same(twice: Any) -> None:
    rng = np.random.default_rng(0)
    true, table = rng.integers(3, size=20), rng.dirichlet([1, 1, 1], 20)
    options = {"probabilities": table, "classes": range(3), "n_boot": 50}
    for groups in (None, np.arange(20) // 4):
        assert_close(
            *twice(lambda groups=groups: evaluate(true, table.argmax(1), groups=groups, **options))
        )


def test_the_usual_distance_is_that_of_every_row_to_its_nearest_other(twice: Any) -> None:
    unit = unit_rows(np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32))
    cosine = unit @ unit.T - 3 * np.eye(20, dtype=np.float32)
    nearest = np.sort(1 - cosine.max(axis=1))
    # Of 21 exchangeable rows, so many may lie beyond; pairs of rows have one distance.
    ranks = {0.01: 20, 0.1: 19, 0.25: 16, 0.3: 15, 0.5: 11, 0.7: 7}
    for rate, wanted in ((rate, nearest[rank - 1]) for rate, rank in ranks.items()):
        usual, small = twice(lambda rate=rate: usual_distance(unit, rate))
        assert usual == small == pytest.approx(float(wanted), abs=1e-6)


def test_a_covered_picture_has_the_same_map(twice: Any) -> None:
    pixels = np.asarray(picture(3, (24, 24)).convert("RGB"))
    weights = np.random.default_rng(0).normal(size=pixels.shape)

    def score(pictures: Any) -> Any:
        return (pictures * weights).sum(axis=(1, 2, 3))

    usual, small = twice(lambda: occlusion_map(pixels, score, (0, 0, 0)))
    np.testing.assert_allclose(usual, small)


def test_votes_of_neighbours_past_a_thousand_rows() -> None:
    """They are counted 1,024 rows at a time."""
    rng = np.random.default_rng(0)
    X, train = (unit_rows(rng.normal(size=(n, 4)).astype(np.float32)) for n in (1030, 9))
    y = np.array(["a", "b", "c"] * 3)
    found = knn_shares(train, y, X, [1, 3])
    for row in (0, 1023, 1024, 1029):
        alone = knn_shares(train, y, X[row : row + 1], [1, 3])
        for k in (1, 3):
            np.testing.assert_allclose(found[k][row], alone[k][0], rtol=1e-5)


def test_the_pictures_that_moved_have_their_own_nearest_ones(tmp_path: Path) -> None:
    """Drift looks for the nearest training rows of 256 pictures at a time."""
    rng = np.random.default_rng(0)
    X, names = rng.normal(size=(30, 6)).astype(np.float32), [f"t{k}" for k in range(30)]
    featx.write_cache(tmp_path / "c.h5", X, ids=names, labels=["a", "b"] * 15)
    featx.fit(tmp_path / "c.h5", "logreg", folds=2, out=tmp_path / "m.featx")
    batch = X[rng.integers(30, size=300)] + rng.normal(scale=0.1, size=(300, 6)).astype(np.float32)
    found = featx.drift(tmp_path / "m.featx", batch)
    assert any(int(one.id) >= 256 for one in found.moved)
    unit = unit_rows(X)
    for one in found.moved:
        cosine = unit_rows(batch[int(one.id)][None]) @ unit.T
        assert one.nearest == names[int(cosine.argmax())]
