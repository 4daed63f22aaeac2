"""Several labels a row, from a table to a prediction: fitted, measured, saved, said again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
from PIL import Image

import featx
from featx.errors import FitError, ModelError
from featx.evaluation import evaluate

NAMES = ("blue", "green", "red")


def save_mixed(folder: Path, n: int, seed: int = 0) -> Path:
    """Noisy pictures whose channels are bright or dark, and a table that names the bright ones."""
    rng = np.random.default_rng(seed)
    lines = ["path,label,one"]
    for k in range(n):
        bright = rng.random(3) < (0.3, 0.5, 0.6)
        pixels = rng.normal(np.where(bright[::-1], 160, 100), 60, (36, 40, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{k:03d}.png")
        label = "|".join(name for name, on in zip(NAMES, bright, strict=True) if on) or "|"
        lines.append(f"{k:03d}.png,{label if k else ''},x|y")
    path = folder / "mixed.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    featx.extract(save_mixed(folder, 120), folder / "mixed.h5", **tiny)
    return folder


@pytest.mark.parametrize("head", ["svm", "logreg", "knn", "ridge", "lda"])
def test_every_kind_of_head_finds_several_labels(folder: Path, head: str) -> None:
    found = featx.fit(folder / "mixed.h5", head)
    assert found.classes == list(NAMES)
    assert found.excluded == {"without label": 1}
    assert found.test["average_precision"]["value"] > 0.9
    assert found.test["macro_f1"]["low"] > found.baseline["macro_f1"]["value"]
    assert set(found.per_class) == set(NAMES)
    assert found.per_class["red"]["average_precision"]["value"] > 0.9
    assert found.confusion == []


def test_a_saved_model_says_labels_and_probabilities(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "mixed.featx"
    fitted = featx.fit(folder / "mixed.h5", "svm", out=place)
    model = featx.load_model(place)
    assert model.task == "multilabel"
    out = tmp_path / "said.csv"
    with featx.open_cache(folder / "mixed.h5") as cache:
        said = model.predict(cache, out=out)
        scores = model.score(np.asarray(cache.X))
        truth = cache.labels
    table = pd.read_csv(out)
    near = ["confidence", "unfamiliar", "nearest", "nearest_label"]
    columns = [f"p_{n}" for n in NAMES]
    assert list(table.columns) == ["id", "path", "label", *near, *columns, "error"]
    probable = table[[f"p_{n}" for n in NAMES]].to_numpy()
    np.testing.assert_allclose(probable, scores.probabilities, atol=1e-6)
    texts = ["|".join(n for n, p in zip(NAMES, row, strict=True) if p > 0.5) for row in probable]
    assert table["label"].tolist() == [text or "|" for text in texts]
    assert said.labels == {n: int((probable[:, k] > 0.5).sum()) for k, n in enumerate(NAMES)}
    right = np.mean([a == b for a, b in zip(table["label"], truth, strict=True)])
    assert right > 0.8
    assert fitted.chosen["calibrated"]


def test_a_model_is_measured_on_other_rows_with_its_own_order(
    folder: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    place, other = tmp_path / "mixed.featx", tmp_path / "other"
    featx.fit(folder / "mixed.h5", "logreg", out=place, fit_on="train")
    other.mkdir()
    table = save_mixed(other, 60, seed=1)
    # Another name comes first, and one that the model cannot say.
    table.write_text(table.read_text().replace("green|red", "amber|green|red"))
    featx.extract(table, other / "other.h5", **tiny)
    found = featx.evaluate(place, other / "other.h5")
    assert found.classes == list(NAMES)
    assert found.test["average_precision"]["value"] > 0.9
    featx.extract(table, other / "other.h5", **tiny)
    table.write_text("path,label\n" + "\n".join(f"{k:03d}.png,red" for k in range(40)))
    featx.extract(table, other / "single.h5", **tiny)
    with pytest.raises(ModelError, match="several labels a row, and the cache has one"):
        featx.evaluate(place, other / "single.h5")


def test_a_model_of_one_label_is_not_measured_on_several(
    folder: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    table = save_mixed(tmp_path, 60, seed=1)
    rows = [f"{k:03d}.png,{'red' if k % 2 else 'blue'}" for k in range(60)]
    table.write_text("\n".join(["path,label", *rows]))
    featx.extract(table, tmp_path / "one.h5", **tiny)
    featx.fit(tmp_path / "one.h5", "ridge", out=tmp_path / "one.featx")
    with pytest.raises(ModelError, match="one label a row, and the cache has several"):
        featx.evaluate(tmp_path / "one.featx", folder / "mixed.h5")


def test_a_column_may_hold_several_labels(folder: Path) -> None:
    with pytest.raises(FitError, match=r"label 'x' is on 90 of 90 training rows"):
        featx.fit(folder / "mixed.h5", "svm", label="one")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"head": "ridge-reg"}, "predicts a number, and labels are several names a row"),
        ({"head": "stack"}, "stack is for one label a row"),
        ({"head": "svm", "cost": "1:5"}, "for one label a row"),
    ],
)
def test_what_several_labels_do_not_allow(
    folder: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(FitError, match=reason):
        featx.fit(folder / "mixed.h5", **{"head": "svm", **options})


@pytest.mark.slow
def test_nested_and_repeated_measure_several_labels(folder: Path) -> None:
    nested = featx.fit(folder / "mixed.h5", "logreg", nested=True, folds=3)
    assert nested.n_test == 119
    assert nested.test["micro_f1"]["value"] > 0.85
    repeated = featx.fit(folder / "mixed.h5", "logreg", repeats=2, folds=3)
    assert repeated.test["micro_f1"]["low"] < repeated.test["micro_f1"]["value"]


@pytest.mark.slow
def test_the_report_and_the_leaderboard_know_several_labels(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "mixed.featx"
    featx.fit(folder / "mixed.h5", "logreg", out=place, fit_on="train")
    text = featx.report(place).read_text()
    assert "the mean average precision of 3 labels is" in text
    assert "Each label" in text
    assert "What it confuses" not in text
    board = featx.compare([folder / "mixed.h5"], ["logreg", "knn"], folds=3)
    assert board.rows[0].score["value"] > board.baseline["accuracy"]["value"]


def test_figures_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    true = (rng.random((80, 4)) < 0.4).astype(int)
    table = np.clip(true * 0.3 + rng.random((80, 4)) * 0.7, 0, 1)
    called = (table > 0.5).astype(int)
    found = evaluate(true, called, probabilities=table, classes=list("abcd"), task="multilabel")
    assert found["accuracy"]["value"] == pytest.approx(sk.accuracy_score(true, called))
    for name in ("macro", "micro"):
        value = sk.f1_score(true, called, average=name)
        assert found[f"{name}_f1"]["value"] == pytest.approx(value)
    wanted = sk.average_precision_score(true, table)
    assert found["average_precision"]["value"] == pytest.approx(wanted)
    each = sk.average_precision_score(true, table, average=None)
    got = [found["per_class"][name]["average_precision"]["value"] for name in "abcd"]
    assert got == pytest.approx(each.tolist())
    assert [found["per_class"][n]["support"] for n in "abcd"] == true.sum(axis=0).tolist()
