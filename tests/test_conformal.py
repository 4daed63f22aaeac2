"""Sets of classes: chosen, kept in the model, predicted, measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featx
from featx.errors import FitError, ModelError
from featx.evaluation.conformal import coverage_of, members, rows_for, set_cuts
from featx.model.archive import dump, read_archive, write_archive

CLASSES = ["a", "b", "c"]


def draw(n: int, seed: int) -> tuple[Any, Any]:
    """Draw labels with their true probabilities, b the rarest."""
    rng = np.random.default_rng(seed)
    table = rng.dirichlet([2.0, 0.6, 1.2], n)
    return np.array(CLASSES)[(table.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)], table


@pytest.mark.parametrize("wanted", [0.8, 0.95])
def test_each_class_is_covered_as_promised(wanted: float) -> None:
    y, table = draw(20_000, 1)
    found = []
    for seed in range(60):
        cuts = set_cuts(*draw(400, 2 + seed), CLASSES, wanted)
        each = coverage_of(cuts, CLASSES, y, table)["per_class"]
        found.append([each[name]["value"] for name in CLASSES])
    for mean in np.mean(found, axis=0):
        assert wanted - 0.01 < mean < wanted + 0.025


def test_a_class_of_few_rows_is_in_every_set_and_none_is_refused() -> None:
    y, table = draw(200, 0)
    few = np.r_[np.flatnonzero(y != "b"), np.flatnonzero(y == "b")[:5]]
    cuts = set_cuts(y[few], table[few], CLASSES, 0.95)
    assert cuts["b"] is None
    assert members(cuts, CLASSES, table)[:, 1].all()
    assert rows_for(0.95) == 19
    with pytest.raises(FitError, match="take 19 rows of a class, and the largest has"):
        set_cuts(y[:10], table[:10], CLASSES, 0.95)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two overlapping clouds, 150 rows each."""
    place = tmp_path_factory.mktemp("sets") / "x.h5"
    rng = np.random.default_rng(0)
    names = ["cat", "dog"] * 150
    X = rng.normal(size=(300, 5)) + 1.2 * np.array([[name == "dog"] for name in names])
    featx.write_cache(place, X.astype(np.float32), labels=names, encoder="drawn")
    return place


def test_sets_are_kept_predicted_and_measured(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.featx"
    found = featx.fit(cache, "logreg", out=out, sets=0.8, fit_on="train")
    assert found.sets["coverage"] == 0.8
    assert 0.6 < found.sets["test"]["coverage"]["value"] < 0.95
    again = featx.evaluate(out, cache)
    assert again.sets == found.sets
    model = featx.load_model(out)
    with featx.open_cache(cache) as file:
        rows = model.predict(file).rows
        labels = list(file.labels)
    tested = set(found.test_ids)
    held = [str(y) in row["set"].split("|") for y, row in zip(labels, rows, strict=True)]
    of_test = [one for one, row in zip(held, rows, strict=True) if row["id"] in tested]
    assert np.mean(of_test) == pytest.approx(found.sets["test"]["coverage"]["value"])
    assert "sets hold the true class in 80% of the new rows of each class" in repr(found)


def test_damaged_sets_are_refused(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "d.featx"
    featx.fit(cache, "logreg", out=out, sets=0.8)
    parts = read_archive(out)
    meta = json.loads(parts["meta.json"])
    for odd in ([1], {"classes": {"cat": 0.1}}, {"classes": {"cat": "x", "dog": None}}):
        write_archive(tmp_path / "e.featx", parts | {"meta.json": dump(meta | {"sets": odd})})
        with pytest.raises(ModelError, match="no proper 'sets'"):
            featx.load_model(tmp_path / "e.featx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sets": 1.5}, "--sets is 1.5"),
        ({"sets": 0.8, "nested": True}, "leave out --nested"),
        ({"precision_at": 0.999}, "a precision of 0.999 cannot be promised .* takes 2995 rows"),
        ({"abstain": 0.001}, "an accuracy of 0.999 cannot be promised .* takes 2302 rows"),
        ({"sets": 0.999}, "take 999 rows of a class, and the largest has 150"),
    ],
)
def test_what_cannot_be_is_one_line(cache: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(FitError, match=message):
        featx.fit(cache, "logreg", **options)


def test_the_constant_answer_stands_beside_and_what_is_worse_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = np.where(rng.random(200) < 0.8, "often", "rare")
    place = tmp_path / "noise.h5"
    X = rng.normal(size=(200, 40)).astype(np.float32)
    featx.write_cache(place, X, labels=list(names), encoder="noise")
    found = featx.fit(place, "lda", out=tmp_path / "m.featx", fit_on="train")
    share = np.mean(names == "often")
    assert found.baseline["accuracy"]["value"] == pytest.approx(share, abs=0.02)
    assert found.baseline["brier"]["value"] == pytest.approx(share * (1 - share), abs=0.02)
    assert found.baseline["roc_auc"]["value"] == 0.5
    assert found.baseline["log_loss"]["value"] < 0.6
    worse = {w["code"]: w["message"] for w in found.warnings}["worse-than-constant"]
    assert "log_loss" in worse or "accuracy" in worse
    again = featx.evaluate(tmp_path / "m.featx", place)
    assert again.baseline == found.baseline
