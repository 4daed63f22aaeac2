"""The loop of one process: what it shows the runner before it starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import featx
from featx.runtime.machine import native_bf16

BRIGHT_FAILS = '''
"""A network that low precision spoils for bright pictures only."""

import torch
from torch import nn


class BrightFails(nn.Module):
    def __init__(self):
        super().__init__()
        self.grid = nn.AdaptiveAvgPool2d(4)
        self.same = nn.Conv2d(3, 3, 1, bias=False)
        self.same.weight.data.copy_(torch.eye(3).view(3, 3, 1, 1))
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(48, 2)

    def forward(self, x):
        x = self.grid(x)
        offset = torch.where(x.mean((1, 2, 3), keepdim=True) > 0.5, 4096.0, 0.0).to(x.dtype)
        return self.classifier(self.flatten(self.same(x + offset) - offset))


def build():
    torch.manual_seed(0)
    return BrightFails()
'''


@pytest.fixture
def dark_then_bright(tmp_path: Path) -> Path:
    """Two hundred dark pictures and, at the end of the list, a hundred bright ones."""
    rng = np.random.default_rng(0)
    for k in range(300):
        name, low = ("a-dark", 0) if k < 200 else ("b-bright", 190)
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(low, low + 60, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k:03d}.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.skipif(not native_bf16(), reason="this processor does not multiply bf16")
def test_the_precision_is_checked_on_pictures_from_all_over_the_source(
    dark_then_bright: Path, tmp_path: Path, workers: int
) -> None:
    module = tmp_path / "bright.py"
    module.write_text(BRIGHT_FAILS)

    def precision(source: Path, cache: str) -> str:
        found = featx.extract(
            source, tmp_path / cache, backbone=f"file:{module}:build", weights="random",
            layers=("flatten",), input_size=32, device="cpu", batch_size=4, compile="off",
            mean=(0, 0, 0), std=(1, 1, 1), workers=workers, progress=False,
        )  # fmt: skip
        return str(found.precision)

    assert precision(dark_then_bright / "a-dark", "dark.h5") == "bf16"
    assert precision(dark_then_bright, "both.h5") == "fp32"
