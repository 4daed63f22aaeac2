"""``featx train``: from a folder to a verdict, and what it says where that is not possible."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from coloured import save_coloured
from conftest import Shell

import featx
from featx.errors import CacheError, FeatxError, FitError
from featx.fitting.rare import require_trainable


@pytest.fixture(scope="module")
def how(tiny: dict[str, Any]) -> dict[str, Any]:
    """The tiny network, and few folds: what is tested is not how well it does."""
    options = {k: v for k, v in tiny.items() if k != "backbone"}
    return {**options, "backbones": tiny["backbone"], "folds": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("train")
    save_coloured(found / "photos", 24)
    (found / "photos" / "red" / "broken.png").write_bytes(b"no picture")
    shutil.copy(found / "photos" / "red" / "000.png", found / "photos" / "blue" / "copy.png")
    return found


COUNTS = ("near_duplicates", "label_issues", "outliers")


@pytest.fixture(scope="module")
def trained(folder: Path, how: dict[str, Any]) -> featx.fitting.verdict.TrainResult:
    return featx.train(folder / "photos", folder / "out", **how)


def test_cache_model_and_report_lie_beside_each_other(trained: Any, folder: Path) -> None:
    names = {"cache": "out.h5", "model": "out.featx", "report": "out.html"}
    assert trained.files == {k: str(folder / name) for k, name in names.items()}
    found = json.loads(json.dumps(trained.to_dict()))
    assert set(found) == {"extract", "audit", "fit", "files"}
    assert (found["extract"]["embedded"], found["extract"]["failed"]) == (25, 1)
    assert found["fit"]["trained_on"] == found["fit"]["n_test"] == 25
    assert [o["head"] for o in found["fit"]["head_options"]] == [
        "svm",
        "logreg",
        "ridge",
        "svm-rbf",
    ]
    assert "featx train" in "".join(featx.load_model(folder / "out.featx").kept["commands"])
    assert "<html" in (folder / "out.html").read_text(encoding="utf-8")


def test_copies_and_conflicting_labels_are_named(trained: Any) -> None:
    assert (trained.audit["rows"], trained.audit["conflicts"]) == (25, 2)
    assert all(isinstance(trained.audit[key], int) for key in COUNTS)
    text = repr(trained)
    assert "red/000.png" in text
    assert "blue/copy.png" in text
    assert "2 rows with conflicting labels" in text
    assert "featx audit" in text


def test_it_prints_a_verdict_a_table_and_what_to_do_next(trained: Any, folder: Path) -> None:
    lines = repr(trained).splitlines()
    assert lines[0].endswith("% of 25 images are labelled right" + lines[0].split("right", 1)[1])
    assert "95 % interval" in lines[0]
    assert "measured by nested: 3 outer folds" in lines[1]
    assert "(of svm, logreg, ridge, svm-rbf), then fitted on all 25 images" in lines[2]
    last = [line.strip().split() for line in lines[-3:]]
    assert [line[:2] for line in last] == [["featx", c] for c in ("predict", "serve", "export")]
    assert all(line[2] == str(folder / "out.featx") for line in last)
    assert Path(last[0][3]).is_file()
    assert "<strong>" in trained._repr_html_()


@pytest.mark.slow
def test_a_second_run_reuses_everything(
    trained: Any, folder: Path, how: dict[str, Any], tmp_path: Path
) -> None:
    before = (folder / "out.featx").stat().st_mtime_ns
    again = featx.train(folder / "photos", folder / "out", **how)
    assert again.reused
    assert (again.extract.embedded, again.extract.reused) == (0, 25)
    assert (folder / "out.featx").stat().st_mtime_ns == before
    assert again.fit.to_dict() == trained.fit.to_dict()
    assert again.audit == trained.audit
    assert not featx.train(folder / "photos", folder / "out", **{**how, "seed": 1}).reused


def test_the_shell_says_the_same(folder: Path, how: dict[str, Any], shell: Shell) -> None:
    flags = ["--backbones", how["backbones"], "--folds", "3", "--seed", "1", "--json"]
    flags += ["--weights", "random", "--layer", "flatten", "--input-size", "32"]
    flags += ["--precision", "fp32"]
    done = shell("train", str(folder / "photos"), "--out", str(folder / "shell"), *flags)
    assert done.returncode == 3, done.stderr  # one picture is broken
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["files"]["model"] == str(folder / "shell.featx")
    assert found["audit"]["conflicts"] == 2


def test_what_cannot_be_learnt_is_said_before_anything_is_embedded(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    pictures = save_coloured(photos, 10)
    bare, single, pair = tmp_path / "bare", tmp_path / "single", tmp_path / "pair"
    bare.mkdir()
    for k, path in enumerate(pictures):
        shutil.copy(path, bare / f"{k}.png")
    shutil.copytree(photos / "red", single / "red")
    for name in ("red", "blue"):
        (pair / name).mkdir(parents=True)
        for path in sorted((photos / name).iterdir())[:2]:
            shutil.copy(path, pair / name)
    uneven = tmp_path / "uneven"
    shutil.copytree(photos, uneven)
    shutil.copytree(pair / "red", uneven / "green")
    require_trainable(uneven, drop_rare=True, missing=())
    numbers = tmp_path / "numbers.csv"
    lines = [f"photos/{path.relative_to(photos)},{k / 7:.3f}" for k, path in enumerate(pictures)]
    numbers.write_text("\n".join(["path,label", *lines]))
    require_trainable(numbers, drop_rare=False, missing=(), regression=True)
    for source, message in (
        (bare, "10 images and no labels.*folder of its own.*featx extract"),
        (numbers, "labels are numbers .* --head ridge-reg"),
        (single, "all 5 labelled images are of class 'red'"),
        (pair, r"fewer than 3 images in class 'blue' \(2\), 'red' \(2\)"),
        ([str(p) for p in pictures], "a list of images has no labels"),
        (uneven, r"in class 'green' \(2\).*pass --rare drop to leave such classes out"),
    ):
        with pytest.raises(FitError, match=message) as caught:
            featx.train(source, tmp_path / "none")
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("none*"))
    (tmp_path / "photos.html").write_text("mine")
    with pytest.raises(CacheError, match="featx did not write"):
        featx.train(photos, tmp_path / "photos.h5")
    with pytest.raises(FeatxError, match="a list of images has no name"):
        featx.train([str(p) for p in pictures])


@pytest.mark.slow
def test_ten_images_are_enough_to_say_that_little_is_known(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    save_coloured(tmp_path / "photos", 10)
    found = featx.train(tmp_path / "photos", tmp_path / "ten", **how)
    codes = [w["code"] for w in found.fit.warnings]
    assert {"few-samples", "few-test-rows"} <= set(codes)
    assert found.fit.n_test == 10
