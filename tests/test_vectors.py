"""Vectors that something else computed: written as a cache, fitted, evaluated, refused."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from coloured import save_coloured
from conftest import Shell

import featx
from featx.cache import import_vectors
from featx.errors import (
    CacheError,
    CacheMismatchError,
    MissingExtraError,
    ModelError,
    SourceError,
)
from featx.fitting.looks import atlas_table

N, WIDTH = 120, 12


def blobs(seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Three classes that a linear head tells apart."""
    rng = np.random.default_rng(seed)
    y = np.arange(N) % 3
    X = rng.normal(size=(N, WIDTH))
    X[np.arange(N), y] += 6
    return X.astype(np.float32), [f"class {k}" for k in y]


def test_a_cache_holds_what_was_given(tmp_path: Path) -> None:
    X, labels = blobs()
    path = featx.write_cache(
        tmp_path / "v.h5",
        X,
        ids=[f"007-{k}" for k in range(N)],
        labels=labels,
        groups=[f"g{k // 4}" for k in range(N)],
        columns={"site": ["01"] * N, "age": np.arange(N)},
        content=[f"text {k // 2}" for k in range(N)],
        encoder="mine",
    )
    with featx.open_cache(path) as cache:
        assert np.array_equal(np.asarray(cache.X), X)
        assert list(cache.ids)[:2] == ["007-0", "007-1"]
        assert cache.labels == labels
        assert [str(v) for v in cache.columns["group"]][3:5] == ["g0", "g1"]
        assert {str(v) for v in cache.columns["site"]} == {"01"}
        assert cache.columns["age"].tolist() == list(range(N))
        assert cache.content_digests[0] == cache.content_digests[1] != cache.content_digests[2]
        assert cache.spec.is_external
        assert cache.verify().ok


def test_a_head_is_fitted_evaluated_and_predicts(tmp_path: Path) -> None:
    X, labels = blobs()
    path = featx.write_cache(tmp_path / "v.h5", X, labels=labels, encoder="mine")
    featx.fit(path, head="logreg", out=tmp_path / "m.featx", report=tmp_path / "m.html")
    other, truth = blobs(1)
    names = [f"new {k}" for k in range(len(other))]  # a row of a known name counts as seen
    new = featx.write_cache(tmp_path / "n.h5", other, ids=names, labels=truth, encoder="mine")
    assert featx.evaluate(tmp_path / "m.featx", new).test["accuracy"]["value"] > 0.95
    model = featx.load_model(tmp_path / "m.featx")
    with featx.open_cache(new) as cache:
        found = model.predict(cache).to_frame()
    assert (found["label"] == truth).mean() > 0.95
    with pytest.raises(ModelError, match="vectors of 'mine', not on pictures"):
        model.predict(tmp_path)


def test_a_model_refuses_vectors_of_another_encoder(tmp_path: Path) -> None:
    X, labels = blobs()
    path = featx.write_cache(tmp_path / "v.h5", X, labels=labels, encoder="mine")
    featx.fit(path, head="ridge", out=tmp_path / "m.featx")
    other = featx.write_cache(tmp_path / "o.h5", X, labels=labels, encoder="another")
    with pytest.raises(ModelError, match="external:mine -> external:another"):
        featx.evaluate(tmp_path / "m.featx", other)


def test_a_cache_of_another_encoder_is_not_replaced(tmp_path: Path) -> None:
    X, labels = blobs()
    path = featx.write_cache(tmp_path / "v.h5", X, labels=labels, encoder="a", encoder_digest="1")
    before = path.read_bytes()
    with pytest.raises(CacheMismatchError, match="weights_digest 1 -> 2"):
        featx.write_cache(path, X, labels=labels, encoder="a", encoder_digest="2")
    assert path.read_bytes() == before
    featx.write_cache(path, X[:50], encoder="b", force=True)
    with featx.open_cache(path) as cache:
        assert len(cache) == 50


def test_kinds_of_labels(tmp_path: Path) -> None:
    X = np.eye(4, dtype=np.float16)

    def written(labels: Any) -> tuple[Any, list[str] | None]:
        with featx.open_cache(featx.write_cache(tmp_path / "v.h5", X, labels=labels)) as cache:
            assert cache.X.dtype == np.float16
            return cache.labels, cache.classes

    assert written([10, 9, 2, 9]) == (["10", "9", "2", "9"], ["2", "9", "10"])
    assert written(["a", None, "", "b"])[0] == ["a", None, None, "b"]
    numbers = written(np.array([0.5, np.nan, 2.0, 3.0]))[0]
    assert np.array_equal(numbers, [0.5, np.nan, 2.0, 3.0], equal_nan=True)
    assert written([("a", "b"), (), None, ("b",)])[0] == ["a|b", "|", None, "b"]
    assert written(["007", "1E5", "TRUE", "NA"])[0] == ["007", "1E5", "TRUE", "NA"]
    assert written(None) == (None, None)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"ids": ["a", "b", "a", "d"]}, "id 'a' stands in rows 0 and 2"),
        ({"ids": ["a"]}, "ids has 1 values for 4 rows"),
        ({"labels": ["a"] * 5}, "labels has 5 values for 4 rows"),
        ({"labels": ["a", object(), "b", "c"]}, "in row 1"),
        ({"split": ["train", "Test", "", ""]}, "split holds 'Test' in row 1"),
        ({"groups": [1, 2, 3]}, "column 'group' has 3 values for 4 rows"),
        ({"columns": {"a/b": [1, 2, 3, 4]}}, "cannot name a column"),
        ({"content": [1, 2, 3, 4]}, "content holds 1 in row 0"),
        ({"X": np.zeros(4)}, r"the shape \(4,\)"),
        ({"X": np.zeros((0, 3))}, r"the shape \(0, 3\)"),
        ({"X": [["a"]]}, "not a matrix of numbers"),
        ({"X": np.array([[1.0], [np.nan], [3.0], [4.0]])}, "first in row 1"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, wrong: dict, words: str) -> None:
    given = {"X": np.eye(4), **wrong}
    with pytest.raises(CacheError, match=words):
        featx.write_cache(tmp_path / "v.h5", given.pop("X"), **given)
    assert list(tmp_path.iterdir()) == []


def _files(folder: Path, X: np.ndarray, labels: list[str]) -> dict[str, dict]:
    ids = [f"i{k}" for k in range(N)]
    np.savez(folder / "a.npz", X=X, ids=ids, labels=labels, site=["01"] * N)
    np.save(folder / "a.npy", X)
    table = pd.DataFrame({"id": ids, "label": labels, "site": ["01"] * N})
    table.to_csv(folder / "a.csv", index=False)
    table.assign(embedding=list(X)).to_parquet(folder / "a.parquet")
    with h5py.File(folder / "a.h5", "w") as file:
        file["features"] = X
        file["id"] = ids
        file["label"] = labels
        file["site"] = ["01"] * N
    return {"a.npz": {}, "a.npy": {"table": folder / "a.csv"}, "a.parquet": {}, "a.h5": {}}


def test_files_of_every_kind_give_the_same_cache(tmp_path: Path) -> None:
    X, labels = blobs()
    for name, options in _files(tmp_path, X, labels).items():
        path = import_vectors(tmp_path / name, tmp_path / f"{name}.cache.h5", **options)
        with featx.open_cache(path) as cache:
            assert np.array_equal(np.asarray(cache.X), X), name
            assert list(cache.ids)[-1] == f"i{N - 1}", name
            assert cache.labels == labels, name
            assert [str(v) for v in cache.columns["site"]] == ["01"] * N, name


def test_what_a_stranger_brings_is_taken_or_refused_by_name(tmp_path: Path) -> None:
    X, labels = blobs()
    table = pd.DataFrame({"label": labels, "e": [list(row) for row in X.tolist()]})

    def import_of(name: str, table: pd.DataFrame | None = None, **arrays: Any) -> Path:
        path = tmp_path / name
        np.savez(path, **arrays) if table is None else table.to_parquet(path)
        return import_vectors(path, tmp_path / "c.h5", force=True)

    with featx.open_cache(import_of("a.npz", X=(9 * X).astype(int), y=np.arange(N) % 3)) as cache:
        assert cache.X.dtype == np.float32
        assert cache.classes == ["0", "1", "2"]
    with featx.open_cache(import_of("a.npz", X=X, label=np.array(labels)[:, None])) as cache:
        assert cache.labels == labels  # a column of a matrix is one label a row
    (tmp_path / "t.csv").write_text("id;label\n" + "".join(f"i{k};é\n" for k in range(N)))
    np.save(tmp_path / "a.npy", X)
    semicolons = import_vectors(
        tmp_path / "a.npy", tmp_path / "s.h5", table=tmp_path / "t.csv", encoder="e"
    )
    with featx.open_cache(semicolons) as cache:
        assert (cache.ids[3], cache.classes) == ("i3", ["é"])
    short, ragged = table.copy(), table.copy()
    short.at[3, "e"], ragged.at[4, "e"] = None, [1.0]
    wide = pd.DataFrame(X, columns=[f"f{k}" for k in range(WIDTH)])
    cases: list[tuple[dict[str, Any], str]] = [
        ({"X": X[0]}, r"no matrix of numbers.* X float32 \(12,\)"),
        ({"X": X[:, None]}, r"no matrix of numbers.* X float32 \(120, 1, 12\)"),
        ({"X": X + 1j}, "X complex64"),
        ({"X": X.astype(float) * 1e300}, "NaN or infinity in 120 of 120 rows"),
        ({"X": X, "y": np.eye(N)}, r"'y' has the shape \(120, 120\); the labels are one value"),
        ({"X": X, "ids": ["i"] * N}, "id 'i' stands in rows 0 and 1"),
        ({"X": X, "labels": labels[1:]}, "labels has 119 values for 120 rows"),
        ({"table": short}, "'e': row 3 has no vector, and row 0 has 12 numbers"),
        ({"table": ragged}, "'e': row 4 has 1 numbers, and row 0 has 12 numbers"),
        ({"table": wide}, r"it has f0 \(120,\), .* and 4 others"),
    ]
    for given, words in cases:
        with pytest.raises((SourceError, CacheError), match=words) as caught:
            import_of("b.parquet" if "table" in given else "b.npz", **given)
        assert "\n" not in str(caught.value)
    with pytest.raises(SourceError, match="would be replaced by the cache"):
        import_vectors(tmp_path / "a.npz", tmp_path / "a.npz", force=True)
    with pytest.raises(CacheError, match="complex"):
        featx.write_cache(tmp_path / "z.h5", X + 1j)


def test_a_file_that_is_not_clear_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=np.eye(3), b=np.eye(3))
    np.savez(tmp_path / "code.npz", X=np.array([{}], dtype=object))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "two.npz").read_bytes()[:99])
    (tmp_path / "x.txt").write_text("1 2 3")
    cases = {
        "two.npz": r"several matrices of numbers \(a, b\)",
        "code.npz": "cannot be read",
        "cut.npz": "cannot be read",
        "x.txt": "expected one of",
        "none.npz": "no such file",
    }
    for name, words in cases.items():
        with pytest.raises(SourceError, match=words):
            import_vectors(tmp_path / name, tmp_path / "c.h5")
    with pytest.raises(SourceError, match="nothing called 'c'"):
        import_vectors(tmp_path / "two.npz", tmp_path / "c.h5", vectors="c")
    with featx.open_cache(
        import_vectors(tmp_path / "two.npz", tmp_path / "c.h5", vectors="a", encoder="e")
    ) as cache:
        assert cache.X.shape == (3, 3)


def test_the_command_says_what_it_wrote(tmp_path: Path, shell: Shell) -> None:
    X, labels = blobs()
    np.savez(tmp_path / "a.npz", X=X, labels=labels)
    ended = shell("import", str(tmp_path / "a.npz"), str(tmp_path / "a.h5"), "--json")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert (found["rows"], found["n_features"]) == (N, WIDTH)
    assert found["classes"] == ["class 0", "class 1", "class 2"]


def test_rows_without_names_are_known_by_their_content_alone(tmp_path: Path) -> None:
    X, labels = blobs()
    path = featx.write_cache(tmp_path / "v.h5", X, labels=labels)
    featx.fit(path, head="ridge", out=tmp_path / "m.featx", fit_on="all")
    other, truth = blobs(1)
    other[:10] = X[:10]  # these were seen
    new = featx.write_cache(tmp_path / "n.h5", other, labels=truth)
    found = featx.evaluate(tmp_path / "m.featx", new)
    assert found.n_test == N - 10


def test_predict_and_search_name_the_same_nearest_row(tmp_path: Path) -> None:
    X, labels = blobs()
    path = featx.write_cache(tmp_path / "v.h5", X, labels=labels)
    featx.fit(path, head="ridge", out=tmp_path / "m.featx", fit_on="all")
    new, _ = blobs(1)
    said = featx.load_model(tmp_path / "m.featx").predict(new[:20]).to_frame()
    found = featx.search(path, list(new[:20]), k=1)
    assert [match.matches[0].id for match in found] == said["nearest"].tolist()


def test_predict_takes_the_file_of_a_cache(tmp_path: Path, shell: Shell) -> None:
    X, labels = blobs()
    path = featx.write_cache(tmp_path / "v.h5", X, labels=labels)
    featx.fit(path, head="ridge", out=tmp_path / "m.featx", fit_on="all")
    line = ["predict", str(tmp_path / "m.featx"), str(path), "--out", str(tmp_path / "o.csv")]
    ended = shell(*line)
    assert ended.returncode == 0, ended.stderr
    assert pd.read_csv(tmp_path / "o.csv")["label"].tolist() == labels
    model = featx.load_model(tmp_path / "m.featx")
    assert model.predict(path).to_frame()["label"].tolist() == labels
    with pytest.raises(ModelError, match=r"not on pictures.*featx import"):
        model.predict("one.jpg")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_atlas_has_a_place_and_neighbours_for_each_row(tmp_path: Path) -> None:
    X, labels = blobs()
    path = featx.write_cache(tmp_path / "v.h5", X, labels=labels, ids=[f"r{k}" for k in range(N)])
    with featx.open_cache(path) as cache:
        table = atlas_table(cache, tap=None, rows=60, k=3, pictures=True)
        assert list(table["id"])[:2] == ["r0", "r2"]
        assert np.isfinite(table[["x", "y"]].to_numpy()).all()
        assert "picture" not in table  # there are none
        shown = cache.rows(table["id"].tolist())
        wanted = X[shown] / np.linalg.norm(X[shown], axis=1, keepdims=True)
        similar = wanted @ wanted.T - 9 * np.eye(len(shown))
        assert table["neighbours"][7]["ids"][0] == table["id"][similar[7].argmax()]
        assert table["neighbours"][7]["distances"][0] == pytest.approx(
            1 - similar[7].max(), abs=1e-6
        )
        with pytest.raises(CacheError, match="two rows or more"):
            atlas_table(cache, tap=None, rows=1, k=3, pictures=True)
        if find_spec("embedding_atlas") is None:
            with pytest.raises(MissingExtraError, match=r"pip install 'featx\[atlas\]'"):
                cache.atlas()
            return
        view = cache.atlas(rows=60)
        assert view.selected() == []
        view._predicate = "label = 'class 1'"
        assert set(view.selected()) == set(table["id"][table["label"] == "class 1"])


def test_an_atlas_shows_the_pictures_that_are_still_there(
    tmp_path: Path, tiny: dict[str, Any]
) -> None:
    save_coloured(tmp_path / "p", 3)
    featx.extract(tmp_path / "p", tmp_path / "c.h5", **tiny)
    with featx.open_cache(tmp_path / "c.h5") as cache:
        (tmp_path / "p" / cache.ids[1]).unlink()
        found = atlas_table(cache, tap=None, rows=50, k=2, pictures=True)["picture"]
        assert pd.isna(found[1])
        assert found[0].startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize("kind", ["npz", "npy", "parquet", "h5"])
def test_imported_labels_with_bars_are_several_labels(tmp_path: Path, kind: str) -> None:
    X = np.arange(8, dtype=np.float32).reshape(4, 2)
    labels = ["dog|cat", "cat", "|", ""]
    file, table = tmp_path / f"x.{kind}", None
    if kind == "npz":
        np.savez(file, X=X, labels=np.array(labels))
    elif kind == "npy":
        np.save(file, X)
        table = tmp_path / "rows.csv"
        pd.DataFrame({"id": list("abcd"), "label": labels}).to_csv(table, index=False)
    elif kind == "parquet":
        pd.DataFrame({"vector": list(X), "label": labels}).to_parquet(file)
    else:
        with h5py.File(file, "w") as out:
            out["X"], out["label"] = X, labels
    cache = featx.open_cache(import_vectors(file, tmp_path / "x.h5c", table=table))
    assert cache.classes == ["cat", "dog"]
    assert cache.y.tolist() == [[1, 1], [1, 0], [0, 0], [-1, -1]]
    again = featx.write_cache(tmp_path / "again.h5", X, labels=cache.labels)
    assert featx.open_cache(again).y.tolist() == cache.y.tolist()


def test_imported_labels_without_bars_stay_letter_for_letter(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", X=np.eye(3), labels=np.array(["01", "1", "1.0"]))
    cache = featx.open_cache(import_vectors(tmp_path / "x.npz", tmp_path / "c.h5"))
    assert sorted(cache.classes) == ["01", "1", "1.0"]


def test_parquet_of_datasets_is_imported_with_the_names_of_its_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    feature = {"kind": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    said = {"huggingface": json.dumps({"info": {"features": feature}})}
    columns = {
        "vector": [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]],
        "box": [[1, 2], [3], None],
        "boxes": [[[1]], [], None],
        "image": [{"bytes": b"\xff\x00", "path": None}] * 3,
        "raw": [b"\xff"] * 3,
        "kind": [0, 1, -1],
        "site": [7, None, 2**60 + 1],
        "split": ["Train", "val", None],
    }
    pq.write_table(pa.table(columns).replace_schema_metadata(said), tmp_path / "x.parquet")
    cache = featx.open_cache(import_vectors(tmp_path / "x.parquet", tmp_path / "c.h5"))
    assert cache.labels == ["cat", "dog", None]
    assert list(cache.split or ()) == ["train", "validation", ""]
    found = {name: list(values) for name, values in cache.columns.items()}
    assert found == {
        "box": ["[1, 2]", "[3]", ""],
        "boxes": ["[[1]]", "[]", ""],
        "site": ["7", "", str(2**60 + 1)],
    }
    left = [one.getMessage().split(": ")[1] for one in caplog.records]
    assert left == ["'image' is left out", "'raw' is left out"]


def test_text_that_no_cache_can_hold_is_refused_or_written_out(tmp_path: Path) -> None:
    X = np.eye(2, dtype=np.float32)
    np.savez(tmp_path / "b.npz", X=X, label=np.array(["ä".encode("cp1252"), b"b"]))
    with pytest.raises(SourceError, match="'label' holds bytes that are not UTF-8 text"):
        import_vectors(tmp_path / "b.npz", tmp_path / "c.h5")
    np.savez(tmp_path / "s.npz", X=X, **{" label": np.array(["a", "b"])})
    with pytest.raises(SourceError, match="' label' has a space around its name; write 'label'"):
        import_vectors(tmp_path / "s.npz", tmp_path / "c.h5")
    half = "\ud800"
    names = {"ids": [half, "b"], "labels": [half, "b"], "columns": {"x": [[half], [1, 2]]}}
    cache = featx.open_cache(featx.write_cache(tmp_path / "c.h5", X, **names))
    assert cache.ids[0] == (cache.labels or [""])[0] == r"\xed\xa0\x80"
    assert list(cache.columns["x"]) == [r"['\ud800']", "[1, 2]"]
