"""Files that earlier versions wrote still open, verify, and say what they said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from shutil import copy
from typing import Any

import numpy as np
import pytest
from coloured import save_coloured

import featx
from featx import evaluate, load_model, open_cache
from featx.cache.verify import verify_file
from featx.errors import FeatxError, ModelError

DATA = Path(__file__).parent / "data"
VERSIONS = sorted(path.stem.rpartition("-")[2] for path in DATA.glob("expected-*.json"))


@pytest.mark.parametrize("version", VERSIONS)
def test_old_cache_opens_and_verifies(version: str) -> None:
    path = DATA / f"cache-{version}.h5"
    found = verify_file(path)
    assert found.ok
    assert found.unsealed == (path.name,)  # version 1.0 wrote no digest of the whole file
    expected = json.loads((DATA / f"expected-{version}.json").read_text())
    with open_cache(path) as cache:
        assert cache.fingerprint == expected["fingerprint"]
        assert list(cache.ids) == [row["id"] for row in expected["rows"]]
        assert np.asarray(cache.X).shape == (24, 32)


@pytest.mark.parametrize("version", VERSIONS)
def test_old_model_says_of_an_old_cache_what_it_said(version: str) -> None:
    model = load_model(DATA / f"model-{version}.featx")
    expected = json.loads((DATA / f"expected-{version}.json").read_text())
    with open_cache(DATA / f"cache-{version}.h5") as cache:
        rows = model.predict(cache).rows
    for row, wanted in zip(rows, expected["rows"], strict=True):
        for name, value in wanted.items():
            close = isinstance(value, float)
            assert row[name] == (pytest.approx(value, abs=1e-5) if close else value)


@pytest.mark.parametrize("version", VERSIONS)
def test_old_model_is_measured_on_the_rows_it_never_saw(version: str) -> None:
    found = evaluate(DATA / f"model-{version}.featx", DATA / f"cache-{version}.h5")
    assert found.n_test == 6
    assert found.test["accuracy"]["value"] == 1
    assert found.decisions["by"] == "abstain"


def test_old_files_are_never_written_again() -> None:
    before = {path.name: path.read_bytes() for path in DATA.iterdir() if path.is_file()}
    done = subprocess.run(
        [sys.executable, DATA / "write_fixtures.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "is there already" in done.stderr
    assert {path.name: path.read_bytes() for path in DATA.iterdir() if path.is_file()} == before


def test_old_files_are_small_and_name_no_folder() -> None:
    for path in DATA.glob("*-v*"):
        data = path.read_bytes()
        assert len(data) < 100_000, path
        assert b"elpv" not in data.lower(), path
        assert b"/home/" not in data, path


def test_a_model_of_an_older_decode_policy_labels_new_pictures(
    tmp_path: Path, photos: Path, tiny: dict[str, Any]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featx.images.policy.POLICY", 1)
        featx.extract(photos, tmp_path / "c.h5", **tiny)
        featx.fit(tmp_path / "c.h5", "logreg", out=tmp_path / "m.featx", folds=2)
    model = load_model(tmp_path / "m.featx")
    assert model.spec.decode["policy"] == 1
    found = model.predict(photos, backbone=str(tiny["backbone"]))
    assert (found.predicted, found.failed) == (12, 0)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_old_model_alone_works_and_says_what_it_lacks(version: str, tmp_path: Path) -> None:
    model = load_model(copy(DATA / f"model-{version}.featx", tmp_path))
    save_coloured(tmp_path / "new", 60)
    found = model.explain(next((tmp_path / "new" / "red").iterdir()))
    assert found.label == "red"
    assert found.nearest_for == []
    assert "older than its training vectors; no neighbours are known" in str(found)
    with pytest.raises(ModelError, match="written before models kept vectors"):
        featx.drift(model, tmp_path / "new")
    # With its cache beside it, it lacks nothing.
    copy(DATA / f"cache-{version}.h5", tmp_path)
    assert model.explain(next((tmp_path / "new" / "red").iterdir())).nearest_for
    with pytest.raises(FeatxError, match=r"the reference has 18 rows, and a test needs 20"):
        featx.drift(model, tmp_path / "new")
