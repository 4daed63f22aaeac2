"""The listing commands: a dozen first, figures with their sizes, nothing twice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Shell
from PIL import Image

import featx
from featx.backbones import list_backbones, load_backbone
from featx.backbones.from_timm import build
from featx.backbones.listing import RECOMMENDED, published, top1_of, write_table
from featx.cli.listings import doctor_text
from featx.doctor import diagnose
from featx.heads import HEADS
from featx.printing import prediction_sheet, table


@pytest.fixture
def said(shell: Shell) -> Callable[..., str]:
    """What a command prints; it must succeed."""

    def run(*words: object) -> str:
        done = shell(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_dozen_networks_come_first_with_their_reasons(said: Callable[..., str]) -> None:
    lines = said("backbones").splitlines()
    names = [line.split()[0] for line in lines[1:13]]
    assert names == list(RECOMMENDED)
    assert all(
        reason in line for reason, line in zip(RECOMMENDED.values(), lines[1:], strict=False)
    )
    assert re.match(r"and 1,\d\d\d more: ", lines[13])
    rows = json.loads(said("backbones", "--json"))["backbones"]
    assert len(rows) > 1000
    assert [row["name"] for row in rows[:12]] == list(RECOMMENDED)


def test_networks_are_sorted_and_filtered(shell: Shell) -> None:
    best = list_backbones("timm:resnet*", sort="top1")
    figures = [row.top1 for row in best if row.top1 is not None]
    assert len(figures) > 20
    assert figures == sorted(figures, reverse=True)
    assert all(row.top1 is None for row in best[len(figures) :])
    small = list_backbones("torchvision:", sort="macs")
    assert small[0].macs == min(row.macs for row in small if row.macs)
    assert all(row.local for row in list_backbones(here=True))
    done = shell("backbones", "--sort", "colour")
    assert done.returncode != 0


def test_published_figures_belong_to_the_default_weights_and_a_size() -> None:
    rows = {row.name: row for row in list_backbones("timm:resnet50*")}
    resnet = rows["timm:resnet50"]
    assert (resnet.top1, resnet.top1_size) == (published()["resnet50.a1_in1k"][224], 224)
    assert top1_of("resnet50", "a1_in1k", 300) == (published()["resnet50.a1_in1k"][288], 288)
    assert top1_of("resnet50", "no_such_tag", 224) == (None, None)
    known = [row for row in list_backbones("timm:") if row.top1 is not None]
    assert len(known) > 800
    assert all(5 < float(row.top1 or 0) < 95 for row in known)


def test_the_table_of_figures_is_made_from_timms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results.csv"
    results.write_text("model,img_size,top1,top5\nb.x,288,81.5,95\na.y,224,70.25,90\n")
    monkeypatch.setattr("featx.backbones.listing._TARGET", tmp_path / "published.csv")
    assert write_table(results, "somewhere") == 2
    lines = (tmp_path / "published.csv").read_text().splitlines()
    assert lines[0].endswith("; somewhere")
    assert lines[1:] == ["a.y,224,70.25", "b.x,288,81.5"]


def test_layers_show_maps_channels_first_with_their_size(said: Callable[..., str]) -> None:
    rows = {row.name: row for row in load_backbone("resnet18", weights="random").describe()}
    assert rows["layer3"].map == (256, 14, 14)
    assert rows["layer3"].map_bytes == 256 * 14 * 14 * 2
    assert rows["fc"].map is None
    text = said("layers", "resnet18")
    assert re.search(r"layer3 +Sequential +256x14x14 +98\.0 +23 +256 +1\.02 kB", text)
    swin = {r.name: r for r in load_backbone("torchvision:swin_t", weights="random").describe()}
    assert swin["features.3"].map == (192, 28, 28)
    assert swin["features.3"].shape == (28, 28, 192)


def test_heads_are_listed_with_when_to_use_each(said: Callable[..., str]) -> None:
    text = said("heads")
    for name, head in HEADS.items():
        assert re.search(rf"^  {name} +{re.escape(head.when)}$", text, re.MULTILINE)
    rows = json.loads(said("heads", "--json"))["heads"]
    assert {row["name"]: row["when"] for row in rows} == {n: h.when for n, h in HEADS.items()}


def test_doctor_says_missing_and_sizes_in_words_and_nothing_twice() -> None:
    found = diagnose() | {
        "versions": {"python": "3.11", "timm": None},
        "extras": {"onnx": [], "umap": ["umap-learn"]},
    }
    found["cpu"] = found["cpu"] | {"compiler": None, "memory": 25_276_514_304}
    found["devices"] = [found["devices"][-1] | {"memory": 25_276_514_304}]
    lines = doctor_text(found).splitlines()
    text = "\n".join(lines)
    assert "timm missing" in text
    assert "umap: missing umap-learn" in text
    assert "complete: onnx" in text
    assert "compiler: missing" in text
    assert "25.3 GB of memory" in text
    assert "none" not in text or not found["weights"]
    assert len(lines) == len(set(lines))
    assert text.count(found["cpu"]["name"]) == 1


def test_info_fits_a_screen_and_names_failed_and_equal_images(
    tmp_path: Path, tiny: Any, said: Callable[..., str]
) -> None:
    (tmp_path / "img").mkdir()
    for k in range(4):
        pixels = np.full((8, 8, 3), 40 * k, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "img" / f"{k}.png")
    for k in (7, 8):
        (tmp_path / "img" / f"{k}.png").write_bytes((tmp_path / "img" / "0.png").read_bytes())
    for k in range(14):
        (tmp_path / "img" / f"bad{k:02}.png").write_bytes(b"no picture")
    featx.extract(tmp_path / "img", tmp_path / "c.h5", **tiny)
    text = said("info", str(tmp_path / "c.h5"))
    assert len(text.splitlines()) <= 24
    assert re.search(r"failed +14: bad00\.png: .*; and 11 more", text)
    assert re.search(r"equal +1: 0\.png = 7\.png = 8\.png", text)
    assert "6 rows" in text
    short = json.loads(said("info", str(tmp_path / "c.h5"), "--json"))
    assert (short["failed"], len(short["failures"]), short["duplicates"]) == (14, 10, 1)
    whole = said("info", str(tmp_path / "c.h5"), "--all")
    assert all(f"bad{k:02}.png" in whole for k in range(14))
    assert "weights_digest" in whole


def test_info_says_what_was_taken_of_a_checkpoint(tmp_path: Path, said: Callable[..., str]) -> None:
    state = build("test_resnet").state_dict()
    torch.save({"student": state, "epoch": 3}, tmp_path / "one.pth")
    (tmp_path / "img").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "img" / "a.png")
    options = {"backbone": "timm:test_resnet", "weights": str(tmp_path / "one.pth")}
    made = {"precision": "fp32", "compile": "off", "progress": False}
    featx.extract(tmp_path / "img", tmp_path / "c.h5", **options, **made)
    text = said("info", str(tmp_path / "c.h5"))
    assert re.search(r"weights +taken: student", text)
    assert re.search(r"weights +not weights: epoch", text)


def test_info_of_vectors_that_something_else_computed(
    tmp_path: Path, said: Callable[..., str]
) -> None:
    featx.write_cache(tmp_path / "v.h5", np.eye(3, dtype=np.float32), ids=["a", "b", "c"])
    text = said("info", str(tmp_path / "v.h5"))
    assert "3 rows" in text
    assert "pixels" not in text


def test_names_of_classes_stay_on_their_line(tmp_path: Path, said: Callable[..., str]) -> None:
    labels = ["a\nb", "a\nb", " ", " ", "y" * 5000, "y" * 5000]
    featx.write_cache(tmp_path / "v.h5", np.eye(6, dtype=np.float32), labels=labels)
    shown = said("info", tmp_path / "v.h5").splitlines()
    (line,) = [one for one in shown if one.startswith("  classes")]
    assert line.split(maxsplit=1)[1] == rf"3: ' ' 2, a\nb 2, {'y' * 60}... 2"
    text = table(["label"], [["a\nb"], ["c"]])
    assert text.splitlines() == ["label", r"a\nb", "c"]


def test_predictions_name_a_dozen_classes() -> None:
    counts = {f"class{k}": 1 for k in range(900)}
    found = SimpleNamespace(
        predicted=900, failed=0, unfamiliar=None, labels=counts, out="x", rows=[]
    )
    assert prediction_sheet(found).above[1].endswith("class11 (1) and 888 others")
