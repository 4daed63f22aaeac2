"""The listing commands: a dozen first, figures with their sizes, nothing twice."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from featx.backbones import list_backbones, load_backbone
from featx.backbones.published import published, top1_of, write_table
from featx.backbones.recommended import RECOMMENDED
from featx.cli import app
from featx.doctor import diagnose
from featx.heads import HEADS
from featx.listings import doctor_text


def said(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_dozen_networks_come_first_with_their_reasons() -> None:
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


def test_networks_are_sorted_and_filtered() -> None:
    best = list_backbones("timm:resnet*", sort="top1")
    figures = [row.top1 for row in best if row.top1 is not None]
    assert len(figures) > 20
    assert figures == sorted(figures, reverse=True)
    assert all(row.top1 is None for row in best[len(figures) :])
    small = list_backbones("torchvision:", sort="macs")
    assert small[0].macs == min(row.macs for row in small if row.macs)
    assert all(row.local for row in list_backbones(here=True))
    done = CliRunner().invoke(app, ["backbones", "--sort", "colour"])
    assert done.exit_code != 0


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
    monkeypatch.setattr("featx.backbones.published._TARGET", tmp_path / "published.csv")
    assert write_table(results, "somewhere") == 2
    lines = (tmp_path / "published.csv").read_text().splitlines()
    assert lines[0].endswith("; somewhere")
    assert lines[1:] == ["a.y,224,70.25", "b.x,288,81.5"]


def test_layers_show_maps_channels_first_with_their_size() -> None:
    rows = {row.name: row for row in load_backbone("resnet18", weights="random").describe()}
    assert rows["layer3"].map == (256, 14, 14)
    assert rows["layer3"].map_bytes == 256 * 14 * 14 * 2
    assert rows["fc"].map is None
    text = said("layers", "resnet18")
    assert re.search(r"layer3 +Sequential +256x14x14 +98\.0 +256 +1\.02 kB", text)
    swin = {r.name: r for r in load_backbone("torchvision:swin_t", weights="random").describe()}
    assert swin["features.3"].map == (192, 28, 28)
    assert swin["features.3"].shape == (28, 28, 192)


def test_heads_are_listed_with_when_to_use_each() -> None:
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
