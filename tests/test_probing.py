"""fit --protocol: a paper's rules on a cache's own split, and what cannot go with them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coloured import save_coloured
from conftest import Shell

from featx import fit, open_cache
from featx.errors import FitError
from featx.extraction.extraction import extract
from featx.protocols import PROTOCOLS, run_protocol

PARTS = ("train", "train", "validation", "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> Path:
    """64 pictures of two colours, once without and once with a split."""
    found = tmp_path_factory.mktemp("probing")
    paths = save_coloured(found / "photos", 64)
    extract(found / "photos", found / "plain.h5", **tiny)
    with (found / "split.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split", "patient"])
        for k, path in enumerate(paths):
            row = [path.relative_to(found), path.parent.name, PARTS[k // 2 % 4], f"p{k // 4}"]
            writer.writerow(row)
    extract(found / "split.csv", found / "split.h5", **tiny)
    return found


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_runs_on_a_cache_without_split(folder: Path, name: str) -> None:
    found = fit(folder / "plain.h5", protocol=name).to_dict()
    assert found["head"] == name
    assert found["chosen"]["params"]
    # Of few rows those of one draw: 16 of each class.
    few = "shots" in found["chosen"]["params"]
    assert (found["n_train"], found["n_test"]) == (32 if few else 48, 16)
    figure = next(iter(found["test"].values()))  # the protocol's own
    assert {"accuracy", "balanced_accuracy", "macro_f1", "roc_auc"} <= set(found["test"])
    assert np.sum(found["confusion"]) == 16
    assert 0.5 <= figure["low"] <= figure["value"] <= figure["high"] <= 1
    assert found["baseline"]["accuracy"]["value"] == 0.5
    assert found["model"] is None
    json.dumps(found, allow_nan=False)


def test_the_split_of_the_source_is_the_protocols(folder: Path) -> None:
    found = fit(folder / "split.h5", protocol="kornblith")
    with open_cache(folder / "split.h5") as cache:
        X, y, split = cache.tap(cache.taps[0])[:], cache.y, list(cache.split)
    assert y is not None
    same = run_protocol("kornblith", np.asarray(X), y, split)
    assert found.test["accuracy"] == same["figure"]
    assert found.chosen["params"] == same["chosen"]
    assert (found.n_train, found.n_test) == (48, 16)
    assert found.measured_by == "the split of the source; 16 validation rows chose"
    overruled = fit(folder / "split.h5", protocol="kornblith", split=0.5)
    assert (overruled.n_train, overruled.n_test) == (32, 32)


def test_groups_are_kept_from_the_test_rows(folder: Path) -> None:
    found = fit(folder / "split.h5", protocol="clip", split=0.25, groups="patient")
    assert not {w["code"] for w in found.warnings} & {"groups-across-split"}
    assert found.n_test % 4 == 0
    # Twelve patients say less than 48 pictures of them would, were these independent.
    alone = fit(folder / "split.h5", protocol="clip", split=0.25)
    assert found.baseline["accuracy"]["low"] < alone.baseline["accuracy"]["low"]
    # The source's own split cuts through groups of four, and this is said.
    cut = fit(folder / "split.h5", protocol="clip", groups="patient")
    assert "groups-across-split" in {w["code"] for w in cut.warnings}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "kornblit"}, "no protocol is called 'kornblit'; did you mean kornblith"),
        ({"protocol": "clip", "head": "svm"}, "--protocol clip and --head exclude each other"),
        ({"protocol": "clip", "nested": True}, "--protocol clip and --nested exclude"),
        ({"protocol": "clip", "out": "m.featx"}, "--protocol clip and --out exclude"),
        ({"protocol": "clip", "precision_at": 0.9}, "--protocol clip and --precision-at exclude"),
        ({"protocol": "clip", "label": "patent"}, "did you mean patient"),
        ({"protocol": "clip", "shots": 4}, "--protocol clip has no --shots"),
        ({"protocol": "k-shot", "metric": "accuracy"}, "--protocol k-shot has no --metric"),
        ({"protocol": "k-shot", "shots": 60}, "training rows; 60 of each class take 60"),
        ({"head": "svm", "shots": 4}, "--shots goes with a protocol, as --protocol k-shot"),
    ],
)
def test_what_cannot_be_is_one_line(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(FitError, match=message) as caught:
        fit(folder / "split.h5", **options)
    assert "\n" not in str(caught.value)


def test_k_shot_by_the_shell(folder: Path, shell: Shell) -> None:
    line = ["fit", str(folder / "plain.h5"), "--protocol", "k-shot", "--episodes", "5"]
    done = shell(*line, "--shots", "1,2", "--shots", "4", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found["chosen"]["by_k"]) == ["1", "2", "4"]
    assert found["chosen"]["params"] == {"shots": [1, 2, 4], "episodes": 5}
    text = shell(*line, "--shots", "1,2,40").stdout
    assert "2 rows of each class: " in text
    assert "few-shots" in text
    odd = shell(*line, "--shots", "few")
    assert odd.returncode == 2
    assert "--shots takes whole numbers as 1,2,4; got 'few'" in odd.stderr


def test_pictures_read_otherwise_than_the_protocol_asks_are_said(
    folder: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    notes = {
        w["code"]: w["message"] for w in fit(folder / "plain.h5", protocol="kornblith").warnings
    }
    text = notes["preprocessing-differs"]
    assert "kornblith asks for resize size 224x224, input size 224x224" in text
    assert "--input-size 224 --crop-pct 1 --resize crop --interpolation bicubic" in text
    as_asked = {"input_size": 224, "crop_pct": 1.0, "resize": "crop", "interpolation": "bicubic"}
    extract(folder / "photos", tmp_path / "asked.h5", **tiny | as_asked)
    codes = {w["code"] for w in fit(tmp_path / "asked.h5", protocol="kornblith").warnings}
    assert "preprocessing-differs" not in codes


def test_razavian_takes_the_views_of_a_cache_that_keeps_them_apart(
    folder: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    place = tmp_path / "views.h5"
    extract(folder / "photos", place, **tiny | {"views": "hflip,vflip", "view_merge": "apart"})
    found = fit(place, protocol="razavian")
    assert found.chosen["params"]["views"] == 3
    with open_cache(place) as cache:
        X = np.stack([np.asarray(cache.tap(name)) for name in cache.taps], axis=1)
        labels = np.array(cache.labels)
    test = np.isin(np.array(open_cache(place).ids), found.test_ids)
    same = run_protocol("razavian", X, labels, np.where(test, "test", "train"))
    assert same["figure"] == found.test["accuracy"]


def test_the_shell_says_the_same(folder: Path, shell: Shell) -> None:
    cache = str(folder / "plain.h5")
    done = shell("fit", cache, "--protocol", "dinov2-knn", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["test"] == fit(cache, protocol="dinov2-knn").test
    text = shell("fit", cache, "--protocol", "vissl-svm")
    assert text.returncode == 0
    assert "mean_average_precision" in text.stdout
    done = shell("fit", cache, "--protocol", "clip", "--head", "svm")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
