"""Where the recipes leave their files: data/<set>/<backbone>.h5 and beside it."""

from __future__ import annotations

import re
from pathlib import Path

DATA = Path("data")


def cache_of(data: str, backbone: str) -> Path:
    """The cache of a data set and a backbone; its folder is created."""
    folder = DATA / _slug(Path(data).name or data)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{_slug(backbone)}.h5"


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "data"
