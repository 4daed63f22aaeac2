"""Pictures of two classes that a head can tell apart by their colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def save_coloured(folder: Path, n: int) -> list[Path]:
    """Write n noisy pictures into red and blue in turn: classes that their mean colour tells."""
    paths = []
    for k in range(n):
        name = ("red", "blue")[k % 2]
        rng = np.random.default_rng(k)
        mean = (170, 110, 90) if name == "red" else (90, 110, 170)
        pixels = np.clip(rng.normal(mean, 60, (34 + k % 7, 40, 3)), 0, 255).astype(np.uint8)
        path = folder / name / f"{k:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        paths.append(path)
    return paths
