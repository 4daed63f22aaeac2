"""Embed pictures as those of a cache were."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from featx.cache.fingerprint import spec_difference
from featx.cache.reader import Cache, open_cache
from featx.errors import CacheError
from featx.images import file_of
from featx.run.options import DECIDE_VALUES


def embed_like(
    cache: Cache,
    pictures: list[Any],
    folder: Path,
    *,
    device: str = "auto",
    backbone: str | None = None,
    weights: str | None = None,
) -> Path:
    """Extract the features of pictures that a cache's own pictures would have.

    Parameters
    ----------
    pictures
        Paths, PIL images, or pixels as `featx.images.file_of` takes them.
    folder
        Where the new cache and what it needs are written.
    device
        See `featx.extract`.
    backbone
        Confirms the custom network whose code will run.
    weights
        Where the weights lie now, if elsewhere than the cache says.

    Returns
    -------
    path : a cache whose rows have the ids ``"0"``, ``"1"``, ... in the order of `pictures`

    Raises
    ------
    CacheError
        If the features would be others than those of the cache: the message names what differs.
    """
    from featx.extraction import extract

    options = _options(cache, backbone, weights)
    table = folder / "pictures.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path"])
        writer.writerows([k, _place(p, k, folder)] for k, p in enumerate(pictures))
    place = folder / "features.h5"
    extract(table, place, device=device, compile="off", progress=False, **options)
    with open_cache(place) as made:
        # Another precision moves a vector by less than its neighbours are apart.
        changed = spec_difference(cache.spec, replace(made.spec, precision=cache.spec.precision))
    if changed:
        raise CacheError(
            f"pictures would get other features than {cache.path} holds: {'; '.join(changed)}; "
            "extract the cache again"
        )
    return place


def _options(cache: Cache, backbone: str | None, weights: str | None) -> dict[str, Any]:
    """Return what `featx.extract` needs for the same features."""
    given = cache.provenance.get("options")
    if not isinstance(given, dict) or not isinstance(given.get("backbone"), str):
        raise CacheError(f"{cache.path} does not say how it was made; extract it again")
    found = {k: v for k, v in given.items() if k in DECIDE_VALUES and v is not None}
    if found["backbone"].startswith("file:") and backbone is None:
        raise CacheError(
            f"{cache.path} takes its network from code ({found['backbone']}), which a cache may "
            f"not run; if you trust that file, pass --backbone {found['backbone']}"
        )
    found |= {k: v for k, v in (("backbone", backbone), ("weights", weights)) if v is not None}
    found["decode"] = cache.spec.decode["mode"]
    return found


def _place(picture: Any, number: int, folder: Path) -> str:
    """Where a picture is read from; pixels are written as the file that holds exactly them."""
    if isinstance(picture, str | os.PathLike):
        return str(Path(picture).absolute())
    place = folder / f"{number}.picture"
    place.write_bytes(file_of(picture))
    return str(place)
