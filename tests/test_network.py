"""Few pictures are embedded in memory, and say what they say through a cache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from coloured import fit_coloured, save_coloured

import featx
from featx.extraction import records
from featx.model import prediction


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> Path:
    found = fit_coloured(tmp_path_factory.mktemp("network"), tiny)
    save_coloured(found / "few", 6)
    (found / "few" / "red" / "broken.png").write_bytes(b"nothing")
    return found


def test_few_pictures_say_what_they_say_through_a_cache(
    folder: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    model = featx.load_model(folder / "m.featx")
    how = {"backbone": tiny["backbone"], "progress": False}
    few = model.predict(folder / "few", **how)
    kept = model.predict(folder / "few", cache=tmp_path / "few.h5", **how)
    assert (few.predicted, few.failed) == (kept.predicted, kept.failed) == (6, 1)
    assert few.failures == kept.failures
    pd.testing.assert_frame_equal(few.to_frame(), kept.to_frame())


def test_what_a_killed_run_left_is_gone_on_from(folder: Path, tmp_path: Path) -> None:
    model = featx.load_model(folder / "m.featx")
    source = [str(path) for path in sorted((folder / "few").rglob("*.png"))]
    assert prediction._few(source, tmp_path / "p.csv", model) == source
    place = prediction._beside(tmp_path / "p.csv", model.fingerprint)
    (tmp_path / f"{place.name}.parts").mkdir()
    assert prediction._few(source, tmp_path / "p.csv", model) is None


def test_many_pictures_are_not_held_in_memory(folder: Path) -> None:
    model = featx.load_model(folder / "m.featx")
    assert prediction._few(folder / "few", None, model) == folder / "few"
    assert prediction._few(folder / "photos", None, model) is None
    assert prediction._few(["a.png"] * 33, None, model) is None
    assert prediction._few("list.csv", None, model) is None


def test_labels_pages_and_precision_play_no_part_in_a_record() -> None:
    from featx.extraction.options import ExtractOptions

    place = records._place(ExtractOptions(), "fp32")
    for other in ({"labels": "l.csv"}, {"pages": "all"}, {"precision": "fp32"}, {"force": True}):
        assert records._place(ExtractOptions(**other), "fp32") == place
    for other in ({"decode": "fast"}, {"pool": "max"}, {"threads": 1}):
        assert records._place(ExtractOptions(**other), "fp32") != place
    assert records._place(ExtractOptions(), "bf16") != place


@pytest.mark.slow
def test_a_second_prediction_builds_no_network(tmp_path: Path) -> None:
    weights = _weights(tmp_path)
    save_coloured(tmp_path / "photos", 24)
    save_coloured(tmp_path / "few", 4)
    more = {"backbone": "timm:test_efficientnet", "weights": weights, "progress": False}
    featx.extract(tmp_path / "photos", tmp_path / "c.h5", **more)
    featx.fit(tmp_path / "c.h5", "logreg", out=tmp_path / "m.featx")
    with featx.open_cache(tmp_path / "c.h5") as cache:
        precision = cache.spec.precision
    code = (
        "import featx, sys; m = featx.load_model('m.featx'); "
        "print(m.predict('few', progress=False).labels, 'timm' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    built = precision != "bf16"  # in float32 the network itself runs
    assert done.stdout.split("}")[1].split() == [str(built)], done.stdout + done.stderr


def _weights(folder: Path) -> Path:
    import timm
    from safetensors.torch import save_file

    net = timm.create_model("test_efficientnet", pretrained=False)
    save_file(net.state_dict(), folder / "w.safetensors")
    return folder / "w.safetensors"
