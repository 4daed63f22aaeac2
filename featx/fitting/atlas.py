"""A cache in a notebook: a map to look through, of the package embedding-atlas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featx.auditing import nearest_rows
from featx.cache.cache import Cache
from featx.errors import CacheError, MissingExtraError
from featx.fitting.columns import require_vectors
from featx.fitting.looks import small_pictures
from featx.progress import Progress
from featx.reporting import project

if TYPE_CHECKING:
    import pandas as pd

_SIDE = 96


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
        found = small_pictures(cache, at, dict.fromkeys(range(len(at)), _SIDE), show.step)
    names = (found.get(str(cache.ids[int(row)])) for row in at)
    return [None if text is None else f"data:image/jpeg;base64,{text}" for text in names]
