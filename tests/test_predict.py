"""What `Model.predict` is given, and what its table knows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from coloured import fit_coloured
from conftest import Shell
from PIL import Image

import featx
from featx.auditing import unit_rows
from featx.errors import ModelError, OptionError
from featx.model import Model
from featx.model.archive import TRAINING, VECTORS, read_archive, write_archive
from featx.model.given import as_source
from featx.model.likeness import likeness_of, usual_distance

NEAR = ["confidence", "unfamiliar", "nearest", "nearest_label"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> Path:
    return fit_coloured(tmp_path_factory.mktemp("predict"), tiny)


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return featx.load_model(folder / "m.featx")


@pytest.fixture
def how(tiny: dict[str, Any]) -> dict[str, Any]:
    return {"backbone": tiny["backbone"], "progress": False}


def pictures(folder: Path) -> list[Path]:
    return [folder / "photos" / "red" / "000.png", folder / "photos" / "blue" / "001.png"]


def test_paths_pictures_pixels_and_features_say_the_same(
    model: Model, folder: Path, how: dict[str, Any]
) -> None:
    paths = pictures(folder)
    images = [Image.open(path) for path in paths]
    with featx.open_cache(folder / "c.h5") as cache:
        rows = [list(cache.ids).index(f"{p.parent.name}/{p.name}") for p in paths]
        X = np.asarray(cache.X)[rows]
        whole = model.predict(cache).to_frame()
    by = {
        "paths": model.predict(paths, **how),
        "pictures": model.predict(images, **how),
        "pixels": model.predict([np.asarray(image.convert("RGB")) for image in images], **how),
        "features": model.predict(X),
    }
    for found in by.values():
        table = found.to_frame()
        assert list(table["label"]) == ["red", "blue"]
        np.testing.assert_allclose(table["p_red"], whole["p_red"][rows], atol=1e-4)
        assert list(table["nearest"]) == ["red/000.png", "blue/001.png"]
        assert list(table["nearest_label"]) == ["red", "blue"]
    stacked = np.stack([np.asarray(images[0].convert("RGB"))] * 2)
    assert list(model.predict(stacked, **how).to_frame()["label"]) == ["red", "red"]
    assert model.predict(images[0], **how).labels == {"red": 1}
    assert model.predict(str(paths[1]), **how).labels == {"blue": 1}


def test_a_folder_among_paths_is_its_images_once(
    model: Model, folder: Path, how: dict[str, Any]
) -> None:
    red = folder / "photos" / "red"
    found = model.predict([red / "000.png", red], **how)
    assert found.predicted == len(list(red.iterdir()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: [str(p), Image.open(p)], r"mixes a path \(entry 0\) and a picture \(entry 1\)"),
        (lambda p: [str(p), np.zeros(48, np.float32)], r"a path \(entry 0\) and features"),
        (lambda p: [str(p), 3], "entry 1 of the list is of type int"),
        (lambda p: np.zeros((2, 5), np.float32), r"takes 48 features a row; got shape \(2, 5\)"),
        (lambda p: np.full((1, 48), np.nan), "row 0 of the features holds NaN"),
        (lambda p: [], "empty list"),
        (lambda p: 3.5, "got float"),
    ],
)
def test_a_mix_is_refused_in_one_line(model: Model, folder: Path, make: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        model.predict(make(pictures(folder)[0]))
    assert "\n" not in str(caught.value)


def test_what_resembles_nothing_in_training_is_unfamiliar(model: Model, folder: Path) -> None:
    with featx.open_cache(folder / "c.h5") as cache:
        X = np.asarray(cache.X)
    rng = np.random.default_rng(0)
    strange = -np.abs(rng.normal(size=(3, X.shape[1]))).astype(np.float32)
    found = model.predict(np.concatenate([X[:5], strange]))
    table = found.to_frame()
    assert list(table["unfamiliar"][5:]) == [True] * 3
    assert not table["unfamiliar"][:5].any()
    assert found.unfamiliar == 3
    np.testing.assert_allclose(table["confidence"], table[["p_blue", "p_red"]].max(axis=1))


def test_the_model_alone_knows_what_is_near(model: Model, folder: Path, tmp_path: Path) -> None:
    """Far from its cache it says the same; an old model asks the cache beside it."""
    with featx.open_cache(folder / "c.h5") as cache:
        X, ids, y = np.asarray(cache.X), list(cache.ids), list(cache.y)
        classes = list(cache.classes or [])
    own = likeness_of(model)
    assert own is not None
    assert (own.n_all, own.names) == (40, ids)
    assert own.labels == [classes[k] for k in y]
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    assert own.limit == pytest.approx(max(usual_distance(unit), 1e-4), abs=2e-3)
    members = read_archive(folder / "m.featx")
    assert {VECTORS, TRAINING} <= set(members)
    old = {name: data for name, data in members.items() if name not in (VECTORS, TRAINING)}
    write_archive(folder / "old.featx", old)
    beside = likeness_of(featx.load_model(folder / "old.featx"))
    assert beside is not None
    assert (beside.names, beside.labels) == (own.names, own.labels)
    torn = {**members, TRAINING: b'{"ids": ["a"], "labels": ["b"], "limit": 1, "n_all": 1}'}
    write_archive(tmp_path / "torn.featx", torn)
    with pytest.raises(ModelError, match=r"damaged: training\.json does not fit"):
        featx.load_model(tmp_path / "torn.featx").predict(X)


def test_a_picture_that_fails_is_a_row(
    model: Model, folder: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    both = model.predict([pictures(folder)[0], broken], **how)
    assert (both.predicted, both.failed) == (1, 1)
    assert both.to_frame()["error"][1]
    alone = model.predict(broken, out=tmp_path / "p.csv", **how)
    assert (alone.predicted, alone.failed) == (0, 1)
    table = pd.read_csv(tmp_path / "p.csv")
    assert list(table) == ["id", "path", "label", *NEAR, "p_blue", "p_red", "error"]
    assert table["error"][0]


def test_the_shell_prints_a_table_or_writes_it(
    folder: Path, tmp_path: Path, tiny: dict[str, Any], shell: Shell
) -> None:
    red, blue = pictures(folder)
    flags = ["--backbone", tiny["backbone"]]
    done = shell("predict", str(folder / "m.featx"), str(red), str(blue), *flags)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "2 predicted, 0 failed, 0 unlike the training images"
    assert next(line for line in lines if "confidence" in line).split() == [
        *("image", "label", "confidence", "unfamiliar", "nearest")
    ]
    assert f"{red}" in done.stdout
    assert "red/000.png (red)" in done.stdout
    out = tmp_path / "p.jsonl"
    shutil.copy(red, tmp_path / "one.png")
    more = ["--out", str(out), "--json"]
    done = shell("predict", str(folder / "m.featx"), str(tmp_path / "one.png"), *flags, *more)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert {k: found[k] for k in ("predicted", "failed", "unfamiliar")} == {
        "predicted": 1,
        "failed": 0,
        "unfamiliar": 0,
    }
    assert json.loads(out.read_text())["nearest"] == "red/000.png"


def test_it_shows_its_rows(model: Model, folder: Path) -> None:
    with featx.open_cache(folder / "c.h5") as cache:
        found = model.predict(cache)
    assert "red/000.png (red)" in repr(found)
    assert "<table>" in found._repr_html_()


def test_text_of_a_table_is_no_formula_where_that_is_asked_for(
    folder: Path, tmp_path: Path, model: Model, how: dict[str, Any]
) -> None:
    names = ["=1+1.png", "'quoted.png", "plain=.png"]
    for name in names:
        (tmp_path / "new").mkdir(exist_ok=True)
        shutil.copy(pictures(folder)[0], tmp_path / "new" / name)
    (tmp_path / "new" / "-bad.png").write_bytes(b"no picture")
    for safe in (False, True):
        out = tmp_path / f"{safe}.csv"
        model.predict(tmp_path / "new", out=out, excel_safe=safe, **how)
        read = pd.read_csv(out, dtype=str, keep_default_na=False)
        ids = [name.removeprefix("'") if safe else name for name in read["id"]]
        assert sorted(ids) == sorted([*names, "-bad.png"])
        assert ("'=1+1.png" in set(read["id"])) is safe
        assert "plain=.png" in set(read["id"])
        assert (read["p_red"] != "").sum() == 3
    with pytest.raises(ModelError, match=r"--excel-safe is for \.csv"):
        model.predict(tmp_path / "new", out=tmp_path / "p.jsonl", excel_safe=True, **how)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_false_alarms_of_unfamiliar_are_what_is_asked(rate: float) -> None:
    """Over training sets, new rows of the same kind exceed the limit at no more than the rate."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(60):
        X = unit_rows(rng.standard_t(4, size=(520, 6)).astype(np.float32))
        limit = usual_distance(X[:120], rate)
        shares.append(np.mean((1 - X[120:] @ X[:120].T).min(axis=1) > limit))
    error = np.std(shares) / np.sqrt(len(shares))
    assert rate / 2 - 3 * error < np.mean(shares) < rate + 3 * error


def test_the_rate_of_unfamiliar_can_be_chosen(model: Model, folder: Path) -> None:
    own = likeness_of(model)
    assert own is not None
    loose = own.at(0.5)
    assert (loose.rate, own.at(0.01) is own) == (0.5, True)
    assert loose.limit < own.limit
    with featx.open_cache(folder / "c.h5") as cache:
        X = np.asarray(cache.X)
    rng = np.random.default_rng(0)
    moved = X + rng.normal(scale=np.median(np.abs(X)) / 4, size=X.shape).astype(np.float32)
    rates = [model.predict(moved, unfamiliar_at=rate).unfamiliar for rate in (0.01, 0.5, 0.9)]
    assert rates == sorted(rates)  # type: ignore[type-var]
    assert rates[0] < rates[-1]
    with pytest.raises(OptionError, match="between 0 and 1; got 2"):
        model.predict(X, unfamiliar_at=2.0)


def test_the_address_of_one_picture_stays_an_address() -> None:
    """As a path its two slashes became one, and a file of that name was looked for."""
    address = "https://example.org/a.png"
    assert as_source(address, Any) == address
