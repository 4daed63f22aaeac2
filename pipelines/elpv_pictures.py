"""ELPV's photographs without what every cell shows: its shading, fingers and busbars.

Fingers and busbars run along rows and columns: what is left once the medians of each column and
then of each row are taken off is cracks, dark regions and the grain of the silicon.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featx.sources.load import load_manifest

_MIDDLE, _SPREAD = 128.0, 40.0


def flattened(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Take the medians of columns and rows off, and bring what is left to one brightness.

    Parameters
    ----------
    picture : uint8, shape (height, width)

    Returns
    -------
    rest : uint8, shape (height, width)
        128 in the middle, with a standard deviation of 40 before it is cut off at 0 and 255.
    """
    rest = picture.astype(np.float64)
    rest -= np.median(rest, axis=0, keepdims=True)
    rest -= np.median(rest, axis=1, keepdims=True)
    spread = _MIDDLE + _SPREAD * rest / max(float(rest.std()), 1e-6)
    found: NDArray[np.uint8] = np.clip(spread, 0, 255).astype(np.uint8)
    return found


def flattened_files(folder: Path) -> list[Path]:
    """Write the flattened photographs that are missing; list all in the order of the set."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = load_manifest("elpv")
    files = [folder / f"{name}.png" for name in manifest.ids]
    for item, file in enumerate(files):
        if not file.exists():
            _save(Image.fromarray(flattened(_pixels(manifest.read(item)[0]))), file)
    return files


def _pixels(data: bytes) -> NDArray[Any]:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("L"))


def _save(picture: Image.Image, file: Path) -> None:
    half = file.with_suffix(".part")  # a run that is stopped leaves no half-written picture
    picture.save(half, "PNG")
    half.replace(file)
