"""Pictures of two classes that a head can tell apart by their colour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import make_classification

import featx


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


def fit_coloured(
    folder: Path, network: dict[str, Any], head: str = "logreg", **options: Any
) -> Path:
    """Write 40 of them into folder/photos, their cache c.h5, and a model m.featx of it."""
    save_coloured(folder / "photos", 40)
    featx.extract(folder / "photos", folder / "c.h5", **network)
    featx.fit(folder / "c.h5", head, out=folder / "m.featx", **options)
    return folder


def rows_of_three() -> tuple[Any, Any]:
    """240 rows of three classes that overlap, far from zero; float32, shape (240, 40)."""
    X, y = make_classification(
        240, 40, n_informative=8, n_classes=3, class_sep=0.8, flip_y=0.1, random_state=0
    )
    return (X * 3 + 5).astype(np.float32), y
