"""An audit of caches whose faults were planted, and a search in them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Shell
from PIL import Image
from test_auditing import copies, plain_patches

import featx
from featx.auditing import sketch_of
from featx.errors import CacheError, FeatxError, FitError
from featx.fitting.findings import COLUMNS, write_table
from featx.fitting.looks import PictureLooks, copies_of
from featx.fitting.rowindex import open_index


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> Path:
    """Two classes of 20: a byte copy in the other class, a re-saved copy, a cut-off file."""
    folder = tmp_path_factory.mktemp("planted")
    for k, pixels in enumerate(plain_patches(40)):
        write(folder / "photos" / ("flower", "temple")[k % 2] / f"{k:02}.png", pixels)
    photos = folder / "photos"
    shutil.copy(photos / "flower/04.png", photos / "temple/copy.png")
    write(photos / "flower/again.png", copies(np.asarray(Image.open(photos / "flower/06.png")))[1])
    data = (photos / "temple/05.png").read_bytes()
    (photos / "temple/cut.png").write_bytes(data[: len(data) // 2])
    featx.extract(photos, folder / "c.h5", **tiny)
    return folder


def test_planted_faults_are_called_by_name(planted: Path) -> None:
    found = featx.audit(planted / "c.h5", out=planted / "audit.csv", page=planted / "audit.html")
    table = found.to_frame().set_index("kind")
    assert set(table.loc[["conflict"], "id"]) == {"flower/04.png", "temple/copy.png"}
    assert set(table.loc[["conflict"], "label"]) == {"flower", "temple"}
    pair = table.loc[["near-duplicate"]].iloc[0]
    assert {pair["id"], pair["other"]} == {"flower/06.png", "flower/again.png"}
    assert table.loc["failed", "id"] == "temple/cut.png"
    told = found.to_dict()
    assert (told["rows"], told["conflicts"], told["near_duplicates"]) == (42, 2, 1)
    assert told["error_rate"] is None
    written = pd.read_csv(planted / "audit.csv")
    assert list(written.columns) == ["id", "kind", "score", "label", "suggested", "other"]
    assert len(written) == len(found.findings)
    page = (planted / "audit.html").read_text()
    assert page.count("data:image/jpeg") >= 4
    assert "temple/cut.png" in page


def test_a_fit_warns_of_copies_across_its_split_and_its_report_shows_them(
    tmp_path: Path, tiny: dict[str, Any]
) -> None:
    pictures = plain_patches(40)
    for k, pixels in enumerate(pictures):
        write(tmp_path / f"{k:02}.png", pixels)
    write(tmp_path / "again.png", copies(pictures[3])[0])
    names = [f"{k:02}.png" for k in range(40)] + ["again.png"]
    table = pd.DataFrame({"path": names, "label": ["flower", "temple"] * 20 + ["temple"]})
    table["split"] = ["train"] * 28 + ["test"] * 13
    table.to_csv(tmp_path / "t.csv", index=False)
    cache = featx.extract(tmp_path / "t.csv", tmp_path / "c.h5", **tiny).cache
    found = featx.fit(cache, "ridge", out=tmp_path / "m.featx", report=tmp_path / "m.html")
    said = "1 of 13 test images cannot be told from training images: copies saved again, "
    said += "resized or brightened, or things that look the same (first: 03.png = again.png); "
    said += "of copies the score is too good"
    assert said in [w["message"] for w in found.warnings if w["code"] == "duplicates-across-split"]
    page = (tmp_path / "m.html").read_text()
    assert "What the data says" in page
    assert page.count("03.png = again.png") >= 3
    assert featx.report(tmp_path / "m.featx", tmp_path / "n.html").read_text() == page
    nested = featx.fit(cache, "ridge", split=0.5, nested=True).warnings
    assert any("told from training images" in w["message"] for w in nested)
    apart = table.assign(group=["g"] * 41).drop(columns="split")
    apart["group"] = [f"g{min(k, 3 if n == 'again.png' else 99)}" for k, n in enumerate(names)]
    apart.to_csv(tmp_path / "t.csv", index=False)
    featx.extract(tmp_path / "t.csv", cache, **tiny)
    together = featx.fit(cache, "ridge", nested=True).warnings
    assert not any("told from training images" in w["message"] for w in together)


def test_a_copy_whose_features_are_far_is_found_by_its_pixels() -> None:
    pictures = plain_patches(12)
    small = copies(pictures[5])[1]
    sketches = [sketch_of(p) for p in [*pictures, small]]
    seen = PictureLooks(list(sketches), [[]] * 13, np.ones(13))
    digests = np.array([str(k).encode() for k in range(13)])
    assert [pair[:2] for pair in copies_of(digests, None, seen)] == [(5, 12)]


def test_classes_too_small_for_the_folds_leave_the_others_to_be_checked(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.r_[np.arange(80) % 2, [2] * 4]
    X = rng.normal(size=(84, 6)) + 6 * np.eye(6)[y]
    names = np.array(["a", "b", "rare"])[y]
    names[7] = "a"
    cache = featx.write_cache(tmp_path / "v.h5", X, labels=names.tolist(), encoder="e")
    found = featx.audit(cache)
    assert [f["id"] for f in found.findings if f["kind"] == "label"] == ["7"]
    (said,) = [w["message"] for w in found.warnings if w["code"] == "small-classes"]
    assert said == "classes with too few rows are not checked for label errors: rare"


def test_planted_label_errors_are_ranked_first_and_corrected(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    X = rng.normal(size=(200, 8))
    X[:, 0] += 10 * y
    wrong = rng.choice(200, 8, replace=False)
    names = np.array(["a", "b"])[np.where(np.isin(np.arange(200), wrong), 1 - y, y)]
    cache = featx.write_cache(tmp_path / "v.h5", X, labels=names.tolist(), encoder="e")
    found = featx.audit(cache, apply=tmp_path / "fixes.csv", seed=1)
    assert {int(f["id"]) for f in found.findings if f["kind"] == "label"} == set(wrong)
    worst = sorted(found.quality, key=lambda name: found.quality[name])[:8]
    assert {int(name) for name in worst} == set(wrong)
    fixes = pd.read_csv(tmp_path / "fixes.csv", dtype=str).set_index("id")["label"]
    assert {int(name): label for name, label in fixes.items()} == {k: "ab"[y[k]] for k in wrong}


def test_a_review_gives_a_rate_with_an_interval(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(160) % 2
    X = rng.normal(size=(160, 8))
    X[:, 0] += 5 * y
    wrong = rng.random(160) < 0.1
    names = np.array(["a", "b"])[np.where(wrong, 1 - y, y)].tolist()
    cache = featx.write_cache(tmp_path / "v.h5", X, labels=names, encoder="e")
    sample, answers = tmp_path / "review.csv", tmp_path / "answers.csv"
    featx.audit(cache, review=80, review_out=sample)
    rows = list(csv.DictReader(sample.read_text().splitlines()))
    assert len(rows) == 80
    for row in rows:
        row["answer"] = "ab"[y[int(row["id"])]] if wrong[int(row["id"])] else "ok"
    with answers.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    found = featx.audit(cache, reviewed=answers, apply=tmp_path / "fixes.csv")
    assert found.error_rate is not None
    assert found.error_rate["low"] <= wrong.mean() <= found.error_rate["high"]
    fixes = pd.read_csv(tmp_path / "fixes.csv", dtype=str)
    assert len(fixes) == sum(wrong[int(row["id"])] for row in rows)
    with pytest.raises(CacheError, match="featx did not write"):
        featx.audit(cache, review=80, review_out=answers)  # somebody's work
    answered = [dict(row) for row in rows]

    def audit_answers() -> Any:
        with answers.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(answered)
        return featx.audit(cache, reviewed=answers)

    kept = answered[0]["answer"]
    answered[0]["answer"] = "okk"
    with pytest.raises(
        FitError, match=r"'okk' of .* is not ok, wrong or a label .* did you mean ok"
    ):
        audit_answers()
    answered[0] |= {"answer": kept, "label": "z"}
    with pytest.raises(FitError, match="had the label 'z', and has"):
        audit_answers()
    answered[0]["label"] = rows[0]["label"]
    for row in answered:
        row["answer"] = row["answer"] if row["stratum"] == "flagged" else ""
    with pytest.raises(FitError, match="rows of a stratum has an answer"):
        audit_answers()
    rows[0]["id"] = "another"
    with answers.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(FitError, match="1 ids that this cache does not have, first 'another'"):
        featx.audit(cache, reviewed=answers)


def test_groups_are_kept_together(tmp_path: Path) -> None:
    """A group whose labels are all wrong is found only if none of it is in the training rows."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(40), 5)
    y = group % 2
    X = np.concatenate([rng.normal(0, 3, (40, 6))[group], rng.normal(0, 0.1, (200, 2))], axis=1)
    X[:, 6] += 3 * y
    names = ["ab"[1 - v if g == 7 else v] for g, v in zip(group, y, strict=True)]
    groups = [f"g{g}" for g in group]
    cache = featx.write_cache(tmp_path / "v.h5", X, labels=names, groups=groups, encoder="e")
    found = featx.audit(cache)
    flagged = {int(f["id"]) for f in found.findings if f["kind"] == "label"}
    assert set(np.flatnonzero(group == 7)) <= flagged


def test_groups_of_one_class_each_leave_folds_without_a_class(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(12), 10)
    y = group % 3
    X = rng.normal(size=(120, 6)) + 6 * np.eye(6)[y]
    names = np.array(list("abc"))[y]
    names[5] = "b"
    groups = [f"g{g}" for g in group]
    cache = featx.write_cache(tmp_path / "v.h5", X, labels=names.tolist(), groups=groups)
    found = featx.audit(cache)
    assert [f["id"] for f in found.findings if f["kind"] == "label"] == ["5"]
    assert "no-label-check" not in [w["code"] for w in found.warnings]


@pytest.mark.parametrize(
    ("labels", "code"),
    [(None, "no-labels"), (["a"] * 30, "no-labels"), (["a"] * 29 + ["b"], "small-classes")],
)
def test_what_cannot_be_looked_for_is_said(tmp_path: Path, labels: Any, code: str) -> None:
    X = np.random.default_rng(0).normal(size=(30, 5))
    cache = featx.write_cache(tmp_path / "v.h5", X, labels=labels, encoder="e")
    found = featx.audit(cache)
    assert code in [w["code"] for w in found.warnings]
    assert found.to_dict()["label_issues"] == 0


def test_so_few_rows_of_each_class_that_nothing_can_be_held_out(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(20, 5))
    names = [f"k{k}" for k in range(20)]
    cache = featx.write_cache(tmp_path / "v.h5", X, labels=names, encoder="e")
    assert "small-classes" in [w["code"] for w in featx.audit(cache).warnings]
    with pytest.raises(FitError, match=r"--label 'colour': .* has no such column"):
        featx.audit(cache, label="colour")


def test_numbers_and_several_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 6))
    target = X[:, 0] * 2 + 1
    target[11] += 30
    cache = featx.write_cache(tmp_path / "n.h5", X, labels=target, encoder="e")
    assert next(f["id"] for f in featx.audit(cache).findings if f["kind"] == "label") == "11"
    # A table keeps numbers as text: none of them is a class of one row.
    texts = [f"{value:.6f}" for value in target]
    cache = featx.write_cache(tmp_path / "t.h5", X, labels=texts, encoder="e")
    assert not featx.audit(cache).warnings
    marks = X[:, :3] > 0
    marks[20] = ~marks[20]
    names = [tuple(n for n, there in zip("abc", row, strict=True) if there) for row in marks]
    cache = featx.write_cache(tmp_path / "s.h5", X * 4, labels=names, encoder="e")
    assert "20" in {f["id"] for f in featx.audit(cache).findings if f["kind"] == "label"}


def test_the_command_prints_counts_and_json(planted: Path, shell: Shell) -> None:
    done = shell("audit", str(planted / "c.h5"), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    keys = "rows conflicts near_duplicates label_issues outliers error_rate out"
    assert set(keys.split()) <= set(told)
    done = shell("audit", str(planted / "c.h5"))
    assert "conflict" in done.stdout
    assert "temple/copy.png" in done.stdout


def test_a_split_of_the_source_keeps_no_row_from_being_judged(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    X = rng.normal(size=(200, 8))
    X[:, 0] += 6 * y
    names = np.array(["a", "b"])[y]
    for row in (3, 180):  # one of each part
        names[row] = "ab"[1 - y[row]]
    parts = ["train"] * 150 + ["test"] * 50
    cache = featx.write_cache(tmp_path / "v.h5", X, labels=names.tolist(), split=parts, encoder="e")
    found = featx.audit(cache)
    assert found.warnings == []
    assert {f["id"] for f in found.findings if f["kind"] == "label"} == {"3", "180"}


def test_a_search_finds_the_picture_itself_first(planted: Path, tiny: dict[str, Any]) -> None:
    cache, photos = planted / "c.h5", planted / "photos"
    path = photos / "flower/10.png"
    image = Image.open(path)
    how = {"backbone": str(tiny["backbone"])}
    found = featx.search(cache, [path, image, np.asarray(image)], k=3, **how)
    for match in found:
        assert match.matches[0].id == "flower/10.png"
        assert match.matches[0].similarity == pytest.approx(1, abs=1e-5)
        assert len(match.matches) == 3
    with featx.open_cache(cache) as opened:
        row = opened.row("flower/10.png")
        vector = opened.X[row]
        known = np.asarray(opened.X)
    cosine = known @ vector / np.linalg.norm(known, axis=1) / np.linalg.norm(vector)
    by_vector = featx.search(cache, vector, k=5)[0].matches
    assert [near.similarity for near in by_vector] == pytest.approx(np.sort(cosine)[::-1][:5])
    by_id = featx.search(cache, ids="flower/10.png", k=4, html=planted / "s.html")[0].matches
    assert [near.id for near in by_id] == [near.id for near in by_vector[1:]]
    assert "flower/10.png" in (planted / "s.html").read_text()
    with featx.open_cache(cache) as opened:
        rows, similarity = opened.neighbours([row], 4)
        assert [opened.ids[r] for r in rows[0]] == [near.id for near in by_id]
        assert similarity[0] == pytest.approx([near.similarity for near in by_id])
    only = featx.search(cache, vector, k=99, label="temple")[0].matches
    assert {near.label for near in only} == {"temple"}
    assert len(only) == 21


def test_searches_that_cannot_be(planted: Path, tiny: dict[str, Any], shell: Shell) -> None:
    cache = planted / "c.h5"
    with pytest.raises(FeatxError, match="nothing to search for"):
        featx.search(cache)
    with pytest.raises(CacheError, match="no row with the id 'x'"):
        featx.search(cache, ids="x")
    with pytest.raises(CacheError, match="no row with the label 'cat'"):
        featx.search(cache, ids="flower/10.png", label="cat")
    with pytest.raises(FeatxError, match="a vector of 3 numbers"):
        featx.search(cache, np.zeros(3))
    with pytest.raises(CacheError, match="which a cache may not run"):
        featx.search(cache, planted / "photos/flower/10.png")
    bad, good = planted / "no picture.png", planted / "photos/flower/10.png"
    for asked in ([bad], [good, bad]):
        with pytest.raises(FeatxError, match=r"no picture\.png cannot be searched for: file not"):
            featx.search(cache, asked, backbone=tiny["backbone"])
    done = shell("search", str(cache), "--id", "flower/10.png", "--json", "-k2")
    told = json.loads(done.stdout.splitlines()[-1])
    assert [len(m["matches"]) for m in told] == [2]
    assert set(told[0]["matches"][0]) == {"id", "label", "similarity"}


def test_an_index_finds_what_comparing_every_row_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("usearch")
    monkeypatch.setenv("FEATX_CACHE_HOME", str(tmp_path / "home"))
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 32))
    X = (centres[np.arange(2000) % 40] + 0.3 * rng.normal(size=(2000, 32))).astype(np.float32)
    X[7] = X[3]  # one content twice
    path = featx.write_cache(tmp_path / "c.h5", X, encoder="e")
    asked: dict[str, Any] = {"ids": [str(k) for k in range(0, 2000, 40)], "k": 10}
    exact = featx.search(path, index="exact", **asked)
    near = featx.search(path, index="approximate", **asked)
    shared = [
        len({n.id for n in a.matches} & {n.id for n in b.matches})
        for a, b in zip(exact, near, strict=True)
    ]
    assert sum(shared) / (10 * len(shared)) >= 0.99
    assert featx.search(path, X[3], index="approximate", k=2)[0].matches[1].similarity > 0.9999
    with featx.open_cache(path) as cache:
        assert (open_index(cache, "vectors").added, open_index(cache, "vectors").removed) == (0, 0)
    featx.write_cache(path, np.concatenate([X[100:], rng.normal(size=(5, 32))]), encoder="e")
    with featx.open_cache(path) as cache:
        found = open_index(cache, "vectors")
        assert (found.added, found.removed) == (5, 99)
    with pytest.raises(FeatxError, match="cosine without filters"):
        featx.search(path, X[3], index="approximate", metric="euclidean")


def test_a_table_of_findings_may_be_kept_from_being_formulas(tmp_path: Path) -> None:
    finding = {c: None for c in COLUMNS} | {"id": "=A1.png", "kind": "failed", "score": -0.5}
    found = SimpleNamespace(findings=[finding])
    for safe, name in ((False, "=A1.png"), (True, "'=A1.png")):
        write_table(tmp_path / "a.csv", found, safe=safe)  # type: ignore[arg-type]
        with (tmp_path / "a.csv").open(newline="") as file:
            (row,) = csv.DictReader(file)
        assert (row["id"], row["score"], row["label"]) == (name, "-0.5", "")
