"""The pictures of a cache, read once more: how they look, their pixels, and their atlas."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featx.auditing import (
    Sketch,
    blurred,
    confirm_copies,
    faults_of,
    nearest_rows,
    sharpness,
    sketch_of,
    unit_rows,
)
from featx.cache.cache import Cache
from featx.errors import CacheError, FeatxError, ImageError, MissingExtraError
from featx.fitting.columns import require_vectors
from featx.model.references import image_reader
from featx.progress import Progress
from featx.reporting import project, thumbnail
from featx.selection.sweep import Step
from featx.sources.builtin import BUILT_IN
from featx.sources.remote import is_url

if TYPE_CHECKING:
    import pandas as pd

    from featx.explaining import Explainer


CANDIDATE = 0.8
"""Least cosine of the features of two pictures whose pixels are compared."""
ALIKE_COARSELY = 0.96
"""Least correlation of the coarse grey levels of two such pictures: a small copy is blurred when it
is enlarged, and its features may be far from those of the original."""
_COARSE = 12  # pixels a side
_NEAREST = 8
SAME_FEATURES = 0.9995
"""Least cosine of two copies where no pictures can be read."""
_SIDE = 256  # large JPEGs may be decoded at a reduced scale that keeps twice as much
_BLOCK = 256

Near = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Nearest rows of each row, -1 for none, and their cosines."""
Copy = tuple[int, int, float]
"""Two rows, and how alike they are; 1 where their bytes are the same."""


@dataclass(frozen=True)
class PictureLooks:
    """Facts of each row's picture; None where it could not be read any more.

    Parameters
    ----------
    sketches
        Of each row.
    flaws
        Faults of each picture by itself.
    sharp
        Sharpness of each picture; NaN where it was not read.
    """

    sketches: list[Sketch | None]
    flaws: list[list[str]]
    sharp: NDArray[np.float64]

    def faults(self) -> Iterator[tuple[int, str]]:
        """Give rows and their faults, in the order of the rows."""
        there = np.flatnonzero(~np.isnan(self.sharp))
        soft = set(there[blurred(self.sharp[there])].tolist())
        for row, names in enumerate(self.flaws):
            every = [*names, *(["blurred"] if row in soft else [])]
            if every:
                yield row, ", ".join(every)

    @property
    def n_read(self) -> int:
        """How many pictures could be read."""
        return sum(sketch is not None for sketch in self.sketches)


def look_at(
    cache: Cache, rows: NDArray[np.int64] | None = None, *, progress: bool = True
) -> PictureLooks:
    """Read pictures again, where they are still what they were.

    A picture whose bytes have changed is another picture, and is passed over.

    Parameters
    ----------
    rows
        Whose pictures are read; all when None.
    """
    from featx.images import decode, policy_of
    from featx.images.pages import page_of_row

    policy = replace(policy_of(cache.spec.decode), mode="fast")
    read, digests = image_reader(cache), cache.content_digests

    def see(row: int) -> tuple[Sketch, list[str], float] | None:
        try:
            data = read(row)
            page = page_of_row(data, str(cache.ids[row]), bytes(digests[row]))
            if page is None:
                return None
            pixels = decode(data, policy, _SIDE, page)
        except (FeatxError, KeyError, OSError):
            return None
        return sketch_of(pixels), faults_of(pixels), sharpness(pixels)

    wanted = range(len(cache)) if rows is None else rows.tolist()
    show = Progress(len(wanted), "read", show=progress)
    sketches: list[Sketch | None] = [None] * len(cache)
    flaws: list[list[str]] = [[] for _ in range(len(cache))]
    sharp = np.full(len(cache), np.nan)
    try:
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for start in range(0, len(wanted), _BLOCK):
                some = wanted[start : start + _BLOCK]
                for row, found in zip(some, pool.map(see, some), strict=True):
                    if found is not None:
                        sketches[row], flaws[row], sharp[row] = found
                show.update(start + len(some))
    finally:
        show.close()
    return PictureLooks(sketches, flaws, sharp)


def likely_copies(cache: Cache, near: Near | None, most: int) -> NDArray[np.int64]:
    """Give the rows of the pairs with the closest features, whose pictures lie on this machine.

    Parameters
    ----------
    most
        Rows at most.
    """
    pairs, cosines = _candidates(cache.content_digests, near, CANDIDATE)
    chosen: set[int] = set()
    here: dict[int, bool] = {}
    for pair in pairs[np.argsort(-cosines, kind="stable")].tolist():
        if len(chosen.union(pair)) > most:
            break
        for row in pair:
            if row not in here:
                here[row] = _is_here(cache, row)
        if all(here[row] for row in pair):
            chosen.update(pair)
    return np.array(sorted(chosen), np.int64)


def _is_here(cache: Cache, row: int) -> bool:
    return cache.provenance.get("source") in BUILT_IN or (
        not is_url(cache.paths[row]) and Path(cache.paths[row]).is_file()
    )


def copies_of(
    digests: NDArray[np.bytes_],
    near: Near | None,
    seen: PictureLooks | None,
) -> list[Copy]:
    """Find pairs of rows that show the same picture.

    Parameters
    ----------
    digests
        Content digest of each row.
    near
        Nearest rows and their cosines; None to find only the same bytes.
    seen
        Pictures, by which a pair is confirmed; where one of a pair could not be read, the features
        have to be all but the same.
    """
    same = _same_bytes(digests)
    pairs, cosines = _candidates(digests, near, CANDIDATE)
    if seen is not None:
        more, _ = _candidates(digests, _near_coarsely(seen), ALIKE_COARSELY)
        there = set(map(tuple, pairs.tolist()))
        more = more[[tuple(pair) not in there for pair in more.tolist()]].reshape(-1, 2)
        pairs, cosines = np.concatenate([pairs, more]), np.r_[cosines, np.zeros(len(more))]
    if not len(pairs):
        return same
    sketches = [None] * len(digests) if seen is None else seen.sketches
    read = np.array([sketch is not None for sketch in sketches], bool)
    both = read[pairs].all(axis=1)
    unseen = [
        (int(a), int(b), float(cosine))
        for (a, b), cosine in zip(pairs[~both], cosines[~both], strict=True)
        if cosine >= SAME_FEATURES
    ]
    rows, places = np.unique(pairs[both], return_inverse=True)
    known = [sketch for row in rows if (sketch := sketches[row]) is not None]
    alike = confirm_copies(known, places.reshape(-1, 2))
    confirmed = [
        (int(a), int(b), min(float(score), 0.9999))
        for (a, b), score in zip(pairs[both], alike, strict=True)
        if score > 0
    ]
    return same + confirmed + unseen


def _same_bytes(digests: NDArray[np.bytes_]) -> list[Copy]:
    first: dict[bytes, int] = {}
    found = []
    for row, digest in enumerate(digests.tolist()):
        if digest and (before := first.setdefault(digest, row)) != row:
            found.append((before, row, 1.0))
    return found


def _near_coarsely(seen: PictureLooks) -> Near | None:
    """Nearest pictures of each by coarse grey levels, and their correlations."""
    there = np.array([row for row, sketch in enumerate(seen.sketches) if sketch is not None])
    if len(there) < 2:
        return None
    coarse = unit_rows(np.stack([s.coarse(_COARSE) for s in seen.sketches if s is not None]))
    rows, alike = nearest_rows(coarse, coarse, _NEAREST, exclude=np.arange(len(there)), unit=True)
    found = np.full((len(seen.sketches), rows.shape[1]), -1, np.int64)
    score = np.full(found.shape, -np.inf, np.float32)
    found[there], score[there] = np.where(rows < 0, -1, there[rows]), alike
    return found, score


def _candidates(
    digests: NDArray[np.bytes_], near: Near | None, least: float
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Pairs of rows of different bytes that are as alike as `least`, each pair once."""
    if near is None:
        return np.empty((0, 2), np.int64), np.empty(0, np.float32)
    rows, cosines = near
    mine = np.repeat(np.arange(len(rows)), rows.shape[1])
    its, cosine = rows.ravel(), cosines.ravel()
    kept = (its >= 0) & (cosine >= least)
    kept &= digests[mine] != digests[np.maximum(its, 0)]
    pairs = np.sort(np.stack([mine[kept], its[kept]], axis=1), axis=1)
    pairs, at = np.unique(pairs, axis=0, return_index=True)
    return pairs.astype(np.int64), cosine[kept][at]


def small_pictures(
    cache: Cache, rows: NDArray[np.intp], sides: dict[int, int], step: Step
) -> dict[str, str]:
    """Give small pictures by id, as base64; those that cannot be read any more are left out.

    Parameters
    ----------
    rows
        Row of the cache of each test row.
    sides
        Test row -> longest side of its picture.
    """
    read = image_reader(cache)
    found = {}
    for k, side in sides.items():
        data = small_picture(cache, int(rows[k]), read, side)
        if data is not None:
            found[str(cache.ids[int(rows[k])])] = base64.b64encode(data).decode()
        step(1)
    return found


def small_picture(cache: Cache, row: int, read: Callable[[int], bytes], side: int) -> bytes | None:
    """Make a small JPEG of a row's image; None where it cannot be read any more, or is another."""
    from featx.images import decode, policy_of
    from featx.images.pages import page_of_row

    try:
        data = read(row)
        page = page_of_row(data, str(cache.ids[row]), bytes(cache.content_digests[row]))
        if page is None:
            return None  # another picture lies there now
        policy = replace(policy_of(cache.spec.decode), mode="fast")
        return thumbnail(decode(data, policy, side, page), side)
    except (FeatxError, KeyError, OSError):
        return None


def maps_of(
    cache: Cache, explain: Explainer, labels: dict[str, str | None], side: int
) -> dict[str, bytes]:
    """Draw where answers come from, as small JPEG pictures by id.

    Parameters
    ----------
    cache
        Holds the rows; a picture that cannot be read any more is left out.
    explain
        Of the model.
    labels
        Row's id -> the class that its map speaks for; None for a number.
    side
        Longest side of a picture.
    """
    from featx.images import decode
    from featx.images.pages import page_of_row

    found, read = {}, image_reader(cache)
    for row in np.flatnonzero(np.isin(np.asarray(cache.ids), list(labels))).tolist():
        name = str(cache.ids[row])
        try:
            data = read(row)
            page = page_of_row(data, name, bytes(cache.content_digests[row]))
            if page is not None:
                pixels = decode(data, explain.policy, min(explain.preprocess.resize_size), page)
                found[name] = thumbnail(explain(pixels, labels[name], None, 0).overlay(), side)
        except (ImageError, KeyError, OSError):
            continue
    return found


_ATLAS_SIDE = 96


def atlas_of(cache: Cache, *, tap: str | None, rows: int, k: int, pictures: bool) -> Any:
    """Make the widget of `Cache.atlas`."""
    try:
        from embedding_atlas.widget import EmbeddingAtlasWidget
    except ImportError as error:
        raise MissingExtraError(
            f"an atlas needs embedding-atlas and anywidget ({error.name} is missing): "
            "pip install 'featx[atlas]'"
        ) from None

    class Atlas(EmbeddingAtlasWidget):  # type: ignore[misc]
        """The widget, whose selection is given as ids of the cache."""

        def selected(self) -> list[str]:
            """Ids of the rows that are selected; none where nothing is."""
            if self._predicate is None:
                return []
            return [str(name) for name in self.selection("arrow").read_all()["id"].to_pylist()]

    table = atlas_table(cache, tap=tap, rows=rows, k=k, pictures=pictures)
    image = {"image": "picture"} if "picture" in table else {}
    return Atlas(table, row_id="id", x="x", y="y", neighbors="neighbours", **image)


def atlas_table(
    cache: Cache, *, tap: str | None, rows: int, k: int, pictures: bool
) -> pd.DataFrame:
    """Make the table of an atlas: place on the map, neighbours, picture, and what the cache knows.

    Raises
    ------
    CacheError
        If there are fewer than two rows to show.
    """
    name = tap or cache.taps[0]
    require_vectors(cache, name)
    at = np.unique(np.linspace(0, len(cache) - 1, min(len(cache), max(0, rows))).astype(int))
    if len(at) < 2:
        raise CacheError(f"an atlas of {cache.path} needs two rows or more; {len(at)} to show")
    X = np.asarray(cache.tap(name)[at], np.float32)
    xy, _, _ = project(X)
    near, similarity = nearest_rows(X, X, k, exclude=np.arange(len(X)))
    table = cache.to_frame().iloc[at].reset_index(drop=True)
    ids = table["id"].to_numpy(dtype=object)
    table["x"], table["y"] = xy[:, 0], xy[:, 1]
    table["neighbours"] = [
        {"ids": ids[r[r >= 0]].tolist(), "distances": (1 - s[r >= 0]).tolist()}
        for r, s in zip(near, similarity, strict=True)
    ]
    if pictures and not cache.spec.is_external:
        table["picture"] = _data_urls(cache, at)
    return table


def _data_urls(cache: Cache, at: NDArray[np.int64]) -> list[str | None]:
    """Small pictures as text that a browser shows; None where one cannot be read any more."""
    with Progress(len(at), "pictures") as show:
        found = small_pictures(cache, at, dict.fromkeys(range(len(at)), _ATLAS_SIDE), show.step)
    names = (found.get(str(cache.ids[int(row)])) for row in at)
    return [None if text is None else f"data:image/jpeg;base64,{text}" for text in names]
