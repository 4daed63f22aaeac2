"""A run with nothing to do loads no torch, and a record is void when anything has changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import picture, save_pictures

import featx
from featx.backbones import load_backbone
from featx.extraction import records
from featx.extraction.options import ExtractOptions

NETWORK = "torchvision:shufflenet_v2_x0_5"
SMALL = {"backbone": NETWORK, "input_size": 32, "precision": "fp32"}
SMALL |= {"compile": "off", "progress": False, "threads": 1}

PROGRAM = """
import json, sys
import featx
source, cache, options = json.loads(sys.argv[1])
found = featx.extract(source, cache, **options)
loaded = [name for name in ("torch", "torchvision", "timm") if name in sys.modules]
print(json.dumps([found.to_dict(), loaded]))
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.save(load_backbone(NETWORK, weights="random").net.state_dict(), place)
    return place


@pytest.fixture
def made(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path, dict[str, Any]]:
    """A folder of pictures with one that is none, its cache, and the options."""
    monkeypatch.setenv("FEATX_CACHE_HOME", str(tmp_path / "home"))
    save_pictures(tmp_path / "photos", 6)
    for path in (tmp_path / "photos").rglob("*.png"):
        os.utime(path, (1e9, 1e9))  # long ago, so that their times prove something
    (tmp_path / "photos" / "cat" / "bad.png").write_text("a note")
    shutil.copy2(weights, tmp_path / "w.pth")
    options = {**SMALL, "weights": str(tmp_path / "w.pth")}
    featx.extract(tmp_path / "photos", tmp_path / "c.h5", **options)
    return tmp_path / "photos", tmp_path / "c.h5", options


def run_apart(
    source: Path, cache: Path, options: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Extract in a process of its own: the result, and which of torch and its kin it loaded."""
    import json

    given = json.dumps([str(source), str(cache), options])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, given], capture_output=True, text=True, check=True
    )
    found, loaded = json.loads(done.stdout.splitlines()[-1])
    return found, loaded


def test_nothing_to_do_and_dry_run_load_no_torch(made: Any) -> None:
    source, cache, options = made
    before = cache.read_bytes()
    found, loaded = run_apart(source, cache, options)
    assert loaded == []
    assert (found["reused"], found["embedded"], found["failed"]) == (6, 0, 1)
    assert cache.read_bytes() == before
    records_of = records.cache_home() / "records"
    shutil.rmtree(records_of)
    full, loaded = run_apart(source, cache, options)
    assert "torch" in loaded
    for name in set(found) - {"seconds", "shares"}:
        assert found[name] == full[name], name
    picture(99).save(source / "cat" / "new.png")
    found, loaded = run_apart(source, cache, {**options, "dry_run": True})
    assert (found["reused"], found["embedded"]) == (6, 2)  # a dry run decodes nothing
    assert found["plan"]["images"] == 2
    assert "torch" in loaded  # nothing is known of the time yet
    again, loaded = run_apart(source, cache, {**options, "dry_run": True})
    assert loaded == []
    assert again["plan"]["images"] == 2
    assert {**again, "seconds": 0, "plan": 0} == {**found, "seconds": 0, "plan": 0}


def add(source: Path) -> None:
    picture(50).save(source / "cat" / "50.png")


def alter(source: Path) -> None:
    picture(51).save(source / "cat" / "0000.png")


def remove(source: Path) -> None:
    (source / "cat" / "0000.png").unlink()


def relabel(source: Path) -> None:
    (source / "cat").rename(source / "lynx")


def mend(source: Path) -> None:
    picture(52).save(source / "cat" / "bad.png")


@pytest.mark.parametrize(
    ("change", "embedded", "rows"),
    [(add, 1, 7), (alter, 1, 6), (remove, 0, 5), (relabel, 0, 6), (mend, 1, 7)],
)
def test_what_changed_is_done(
    made: Any, change: Callable[[Path], None], embedded: int, rows: int
) -> None:
    source, cache, options = made
    change(source)
    found = featx.extract(source, cache, **options)
    assert found.embedded == embedded
    with featx.open_cache(cache) as opened:
        assert len(opened) == rows
        assert opened.classes == sorted(p.name for p in source.iterdir())


def recalled(options: dict[str, Any]) -> bool:
    return records.recall(ExtractOptions.of(**options), "fp32") is not None


def test_a_record_is_void_when_anything_has_changed(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, options = made
    assert recalled(options)
    for name, other in {
        "input_size": 64,
        "layers": ("layer3",),
        "mean": (0.5, 0.5, 0.5),
        "dtype": "float16",
        "device": "cuda",
        "batch_size": 3,
        "views": "hflip",
        "backbone": "torchvision:resnet34",
        "weights": "random",
    }.items():
        assert not recalled({**options, name: other}), name
    here = records._here()
    for name, library in (("versions", "torch"), ("versions", "timm"), ("versions", "pillow")):
        changed = {**here, name: {**here[name], library: "0"}}
        monkeypatch.setattr(records, "_here", lambda changed=changed: changed)
        assert not recalled(options), library
    monkeypatch.undo()
    monkeypatch.setenv("FEATX_CACHE_HOME", str(tmp_path / "home"))
    assert recalled(options)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    records._here.cache_clear()
    assert not recalled(options)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    records._here.cache_clear()
    assert recalled(options)
    file = Path(options["weights"])
    data, stamp = file.read_bytes(), file.stat()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # only ctime tells
    assert not recalled(options)


def test_another_file_in_the_place_of_the_weights_is_another_record(made: Any) -> None:
    source, cache, options = made
    file = Path(options["weights"])
    net = load_backbone(NETWORK, weights="random").net
    with torch.no_grad():
        next(iter(net.parameters())).add_(1)
    torch.save(net.state_dict(), file)
    with pytest.raises(featx.errors.CacheMismatchError, match="weights"):
        featx.extract(source, cache, **options)


def test_code_of_the_users_own_is_never_recorded(
    tiny: dict[str, Any], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATX_CACHE_HOME", str(tmp_path / "home"))
    for _ in range(2):
        featx.extract(photos, tmp_path / "c.h5", **tiny)
    assert not (tmp_path / "home" / "records").exists()


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_record(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("FEATX_CACHE_HOME", str(tmp_path / "home"))
    for _ in range(2):
        found = featx.extract(photos, tmp_path / "c.h5", **SMALL, weights="random")
    assert (found.reused, found.embedded) == (12, 0)


def test_a_damaged_record_is_none(made: Any) -> None:
    _, _, options = made
    for file in (records.cache_home() / "records").iterdir():
        file.write_text("{")
    assert not recalled(options)


def test_a_pace_is_kept_when_a_later_run_embeds_nothing(made: Any) -> None:
    _, _, options = made
    asked = ExtractOptions.of(**options)
    found = records.recall(asked, "fp32")
    assert found is not None
    assert found.pace is not None
    records.remember(asked, "fp32", replace(found, pace=None), ())
    again = records.recall(asked, "fp32")
    assert again is not None
    assert again.pace == found.pace
