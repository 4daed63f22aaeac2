"""The rows of a cache that are nearest to pictures, rows or vectors."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from featx.arguments import several, typed
from featx.auditing import nearest_rows
from featx.cache.cache import Cache, open_cache, opened
from featx.errors import CacheError, ExtractError, FeatxError
from featx.extraction.options import DECIDE_VALUES
from featx.files import scratch_folder
from featx.fitting.columns import require_vectors
from featx.fitting.rowindex import open_index
from featx.images import file_of
from featx.spec import spec_difference
from featx.targets import require_writable
from featx.typing import JsonObject

if TYPE_CHECKING:
    from PIL import Image

    Query = str | os.PathLike[str] | NDArray[Any] | Image.Image


MOST_EXACT = 1_000_000
"""Rows up to which every row is compared without being asked to."""


@dataclass(frozen=True)
class NearRow:
    """One row that was found; a larger similarity is nearer."""

    id: str
    label: str | float | None
    similarity: float


@dataclass(frozen=True)
class Match:
    """A query and its nearest rows, nearest first."""

    query: str
    matches: list[NearRow]

    def to_dict(self) -> JsonObject:
        """JSON-ready values."""
        return asdict(self)


@typed
def search(
    cache: str | os.PathLike[str] | Cache,
    pictures: Any = (),
    *,
    k: int = 10,
    ids: str | Sequence[str] = (),
    tap: str | None = None,
    metric: Literal["cosine", "euclidean"] = "cosine",
    label: str | None = None,
    split: str | None = None,
    index: Literal["auto", "exact", "approximate"] = "auto",
    html: str | os.PathLike[str] | None = None,
    device: str = "auto",
    backbone: str | None = None,
    weights: str | None = None,
    force: bool = False,
) -> list[Match]:
    """Find the rows of a cache that are nearest to pictures, to its own rows, or to vectors.

    Exact up to a million rows: every row is compared, read by blocks.

    Parameters
    ----------
    cache
        A file that `featx.extract` or `featx.write_cache` wrote, or one that is open.
    pictures
        One or several of: the path of a picture, a PIL image, pixels (uint8, shape (height, width,
        3) or (height, width)), or a vector, shape (n_features,).
    k
        How many rows for each query.
    ids
        Rows of the cache as queries; a row is not its own neighbour.
    tap
        Whose features are compared; the first when None.
    metric
        ``cosine``, or ``euclidean``, whose similarity is the negative distance.
    label, split
        Only rows of this class, or of this split.
    index
        ``exact`` compares every row; ``approximate`` asks an index for candidates, which is built
        once and follows the cache, and ranks them exactly (extra ``search``; cosine, without
        filters); ``auto`` does so from a million rows on.
    html
        Contact sheet of what was found.
    device
        Where pictures are embedded.
    backbone, weights
        Confirm the custom network whose code will run; name a weights file that lies elsewhere now.
    force
        Replace an `html` that featx did not write.

    Returns
    -------
    found : one `Match` for each query, pictures first

    Raises
    ------
    CacheError
        If the cache has no such tap, id, label or split.
    FeatxError
        If nothing is asked for, or a picture cannot be read.

    Examples
    --------
    >>> found = featx.search("photos.h5", "new.jpg", k=5)  # doctest: +SKIP
    >>> found[0].matches[0].id, found[0].matches[0].similarity  # doctest: +SKIP
    ('cats/7.jpg', 0.93)
    """
    asked, names = _listed(pictures), several(ids)
    if not asked and not names:
        raise FeatxError("nothing to search for: name pictures, or rows of the cache with ids")
    if html is not None:
        require_writable(Path(html), "report", getattr(cache, "path", cache), force=force)
    how = {"device": device, "backbone": backbone, "weights": weights}
    with opened(cache) as file:
        name = tap or file.taps[0]
        require_vectors(file, name)
        X = file.tap(name)
        queries = [_vectors(file, name, asked, how)] if asked else []
        own = file.rows(names)
        queries += [np.asarray(X[own], np.float32)] if names else []
        exclude = np.concatenate([np.full(len(asked), -1), own]).astype(np.int64)
        allowed = _allowed(file, label, split)
        if _indexed(index, len(file), metric, allowed is not None):
            wanted = np.concatenate(queries)
            rows, similarity = open_index(file, name).nearest(file, name, wanted, k, exclude)
        else:
            rows, similarity = nearest_rows(
                X, np.concatenate(queries), k, metric=metric, exclude=exclude, allowed=allowed
            )
        shown = [_shown(query, i) for i, query in enumerate(asked)] + names
        labels = file.labels
        found = [
            Match(query, [_near(file, labels, r, s) for r, s in zip(*line, strict=True) if r >= 0])
            for query, *line in zip(shown, rows, similarity, strict=True)
        ]
        if html is not None:
            from featx.fitting.sheets import search_sheet

            search_sheet(Path(html), file, found)
    return found


def _indexed(index: str, n_rows: int, metric: str, filtered: bool) -> bool:
    """Tell whether an index is asked, and refuse one that cannot serve."""
    if index == "approximate" and (metric != "cosine" or filtered):
        raise FeatxError("an index serves cosine without filters; pass index='exact'")
    large = n_rows > MOST_EXACT and metric == "cosine" and not filtered
    return index == "approximate" or (
        index == "auto" and large and find_spec("usearch") is not None
    )


def _listed(pictures: object) -> list[Any]:
    if isinstance(pictures, np.ndarray) and pictures.dtype != object:
        return list(pictures) if pictures.ndim == 4 else [pictures]
    return several(pictures)


def _shown(query: Any, number: int) -> str:
    is_path = isinstance(query, str | os.PathLike)
    return os.fspath(query) if is_path else f"query {number}"


def _near(cache: Cache, labels: Any, row: np.int64, similarity: np.float32) -> NearRow:
    label = None if labels is None else labels[int(row)]
    if isinstance(label, float | np.floating):
        label = None if np.isnan(label) else float(label)
    return NearRow(cache.ids[int(row)], label, float(similarity))


def _allowed(cache: Cache, label: str | None, split: str | None) -> NDArray[np.bool_] | None:
    found = None
    for what, wanted, values in (("label", label, cache.labels), ("split", split, cache.split)):
        if wanted is None:
            continue
        if values is None:
            raise CacheError(f"{cache.path} has no {what}s to search among")
        there = np.array([_has(value, wanted) for value in values], bool)
        if not there.any():
            known = ", ".join(sorted({str(v) for v in values})[:10])
            raise CacheError(f"{cache.path} has no row with the {what} {wanted!r}; it has {known}")
        found = there if found is None else found & there
    return found


def _has(value: object, wanted: str) -> bool:
    return value is not None and (str(value) == wanted or wanted in str(value).split("|"))


def _vectors(cache: Cache, tap: str, asked: list[Any], how: dict[str, Any]) -> NDArray[np.float32]:
    """Vectors of the queries, in their order."""
    width = cache.tap(tap).shape[1]
    found = np.empty((len(asked), width), np.float32)
    pictures = []
    for i, query in enumerate(asked):
        if isinstance(query, np.ndarray) and query.ndim == 1:
            if len(query) != width:
                raise FeatxError(
                    f"query {i} is a vector of {len(query)} numbers; tap {tap} has {width}"
                )
            found[i] = query
        else:
            pictures.append(i)
    if pictures:
        names = [_shown(asked[i], i) for i in pictures]
        found[pictures] = _embedded(cache, tap, [asked[i] for i in pictures], names, how)
    return found


def _embedded(
    cache: Cache, tap: str, pictures: list[Any], names: list[str], how: dict[str, Any]
) -> NDArray[np.float32]:
    """Embed pictures as those of the cache were."""
    if cache.spec.is_external:
        raise FeatxError(
            f"{cache.path} holds vectors of {cache.spec.architecture.removeprefix('external:')}; "
            "search with a vector, or with ids of its rows"
        )
    with scratch_folder() as folder:
        try:
            place = embed_like(cache, pictures, folder, **how)
        except ExtractError as error:
            _require_none(error.failures, names)
            raise
        with open_cache(place) as made:
            _require_none(made.failed, names)
            rows = made.rows([str(k) for k in range(len(pictures))])
            return np.asarray(made.tap(tap)[rows], np.float32)


def _require_none(failed: dict[str, str] | None, names: list[str]) -> None:
    """Refuse pictures of which one failed; it is known by its place among `names`."""
    for place, reason in (failed or {}).items():
        raise FeatxError(f"{names[int(place)]} cannot be searched for: {reason}")


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
    from featx.extraction.extraction import extract

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


def _place(picture: object, number: int, folder: Path) -> str:
    """Where a picture is read from; pixels are written as the file that holds exactly them."""
    if isinstance(picture, str | os.PathLike):
        return str(Path(picture).absolute())
    place = folder / f"{number}.picture"
    place.write_bytes(file_of(picture))
    return str(place)
