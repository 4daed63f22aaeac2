"""Rows are added to rows that exist only where this machine computes those again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import featx
from featx.errors import ExtractError
from featx.extraction.planning import workers_of_card
from featx.runtime.machine import native_bf16

NETWORK = """
import os
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(8, 2)

    def forward(self, x):
        x = self.conv(x).relu().mean((2, 3))
        x = x * torch.linspace(1, float(os.environ.get("OTHER", "1")), 8).to(x)
        return self.classifier(self.flatten(x))


def build():
    torch.manual_seed(0)
    return Net()
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures" / "one"
    folder.mkdir(parents=True)
    for k in range(12):
        draw(folder / f"{k:02d}.png", k)
    (tmp_path / "net.py").write_text(NETWORK)
    return tmp_path / "pictures"


def draw(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def rows(source: Path) -> np.ndarray:
    with featx.open_cache(source.parent / "c.h5") as cache:
        return np.asarray(cache.tap(next(iter(cache.taps)))[:])


def extract(source: Path, **options: object) -> featx.extraction.extraction.ExtractResult:
    return featx.extract(
        source, source.parent / "c.h5", backbone=f"file:{source.parent / 'net.py'}:build",
        weights="random", layers=("flatten",), input_size=32, device="cpu", compile="off",
        mean=(0, 0, 0), std=(1, 1, 1), progress=False, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    "precision",
    [
        "fp32",
        pytest.param("bf16", marks=pytest.mark.skipif(not native_bf16(), reason="no bf16 here")),
    ],
)
def test_a_device_that_computes_other_rows_is_refused_and_nothing_is_changed(
    source: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    extract(source, precision=precision)
    before = (source.parent / "c.h5").read_bytes()
    draw(source / "one" / "new.png", 99)
    monkeypatch.setenv("OTHER", "3")  # as another device, driver or library would
    with pytest.raises(ExtractError, match=r"cpu computes another row for one/.*expected\)"):
        extract(source)
    assert (source.parent / "c.h5").read_bytes() == before
    monkeypatch.delenv("OTHER")
    found = extract(source)
    assert (found.embedded, found.reused, found.precision) == (1, 12, precision)


def test_rows_of_halves_are_added_to(source: Path) -> None:
    extract(source, dtype="float16")
    draw(source / "one" / "new.png", 99)
    assert extract(source, dtype="float16").embedded == 1


def test_a_run_with_nothing_new_computes_nothing_again(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(source)
    monkeypatch.setenv("OTHER", "3")
    assert extract(source).reused == 12


@pytest.mark.parametrize(
    ("cores", "images", "workers"),
    [(16, 10**6, 2), (64, 10**6, 4), (2, 10**6, 1), (64, 19_999, 1)],
)
def test_a_card_is_fed_by_as_many_processes_as_repay_their_start(
    cores: int, images: int, workers: int
) -> None:
    assert workers_of_card(cores, images) == workers


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_workers_of_a_card_decide_and_embed_everything_and_the_driver_opens_nothing(
    source: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """On two processes of this CPU in place of two of a card."""
    from featx.extraction import processes
    from featx.extraction.run import Run

    def refuse(*args: object) -> None:
        raise AssertionError("the driver has opened the device")

    for k in range(100, 190):
        draw(source / "one" / f"{k}.png", k)
    alone = extract(source, precision=precision)
    expected = rows(source)
    (source.parent / "c.h5").unlink()
    monkeypatch.setattr(Run, "decides_here", property(lambda self: False))
    monkeypatch.setattr(Run, "devices", lambda self, n: ["cpu", "cpu"])
    monkeypatch.setattr(processes, "Runner", refuse)
    found = extract(source, precision=precision)
    assert found.embedded == alone.embedded == 102
    assert found.precision == alone.precision
    np.testing.assert_allclose(rows(source), expected, rtol=2e-2, atol=1e-3)
