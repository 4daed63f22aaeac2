"""Read a cache: `open_cache(path)` gives features by rows, and everything known of them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from featx.arguments import typed
from featx.cache.features import Features, Stack, StoredText, as_html, stored_column, summary
from featx.cache.folder import Folder, open_trusted
from featx.cache.format import (
    ID_INDEX,
    INDEX,
    map_shapes,
    read_text,
    tap_names,
    values_of,
    vector_datasets,
)
from featx.cache.h5file import json_object, json_text
from featx.cache.ids import find_rows
from featx.cache.verify import Verification, verify_file
from featx.errors import CacheError, CacheFormatError, nearest
from featx.labels import joined_labels
from featx.seen import were_seen
from featx.typing import JsonObject, RowValues

if TYPE_CHECKING:
    import pandas as pd


class Cache:
    """An open cache; see `open_cache`.

    Attributes
    ----------
    path
        Where it lies.
    spec
        What its features were computed by.
    taps
        Names of the taps; the first is `X`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file, self.spec = open_trusted(path)
        self.taps = tap_names(self.spec)

    def close(self) -> None:
        """Close the file; harmless when it is closed already."""
        self._file.close()

    def __enter__(self) -> Cache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        file = self.__dict__.get("_file")
        if file is None or sys.is_finalizing():
            return  # at the end of the process HDF5 closes what is open, and h5py is half gone
        # An error here would be printed and could not be caught.
        with contextlib.suppress(Exception):
            file.close()

    def __len__(self) -> int:
        return int(self._file["features"].shape[0])

    @property
    def n_parts(self) -> int:
        """Number of parts of a folder; 0 for one file."""
        return len(self._file.parts) if isinstance(self._file, Folder) else 0

    @property
    def n_bytes(self) -> int:
        """Size on disk."""
        if not isinstance(self._file, Folder):
            return self.path.stat().st_size
        parts = sum(part.n_bytes for part in self._file.parts)
        return parts + (self.path / INDEX).stat().st_size

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the spec."""
        return self.spec.fingerprint

    @property
    def X(self) -> Features:
        """Features of the first tap, shape (n_samples, n_features)."""
        return Features(self._file["features"], self)

    def tap(self, name: str) -> Features:
        """Features of the tap called `name`; of several side by side for names with commas.

        Raises
        ------
        CacheError
            If the cache has no such tap.
        """
        found = []
        for one in [name] if name in self.taps else name.split(","):
            if one not in self.taps:
                raise CacheError(
                    f"{self.path} has no tap {one!r}{nearest(one, self.taps)}; "
                    f"it has {', '.join(self.taps)}"
                )
            found.append(self._file[vector_datasets(self.spec)[self.taps.index(one)]])
        return Features(found[0] if len(found) == 1 else Stack(found), self)

    @cached_property
    def maps(self) -> dict[str, tuple[int, int, int]]:
        """(channels, height, width) of each tap that holds maps, row by row as ``X`` has them."""
        return map_shapes(self.spec)

    @cached_property
    def ids(self) -> StoredText:
        """Unique name of each row."""
        return StoredText.read(self._file["ids"])

    @cached_property
    def paths(self) -> StoredText:
        """Where the image of each row was."""
        return StoredText.read(self._file["paths"])

    @property
    def has_own_ids(self) -> bool:
        """True if ids name samples; they are row numbers where vectors came without names."""
        return self.provenance.get("ids") != "row numbers"

    def row(self, item: str) -> int:
        """Find the row of an id, without reading the other ids where the file has an index.

        Raises
        ------
        CacheError
            If there is no such id.
        """
        return int(self.rows([item])[0])

    def rows(self, items: Sequence[str]) -> NDArray[np.int64]:
        """Find the rows of several ids at once.

        Returns
        -------
        rows : int64, shape (len(items),)

        Raises
        ------
        CacheError
            If there is no such id.
        """
        found = find_rows(self._file.get(ID_INDEX), self._file["ids"], items)
        if len(found) and found.min() < 0:
            missing = np.flatnonzero(found < 0)
            more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
            raise CacheError(f"{self.path} has no row with the id {items[missing[0]]!r}{more}")
        return found

    def neighbours(
        self,
        rows: Sequence[int] | NDArray[np.integer[Any]],
        k: int = 10,
        *,
        tap: str | None = None,
        metric: Literal["cosine", "euclidean"] = "cosine",
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Find the rows that are nearest to some rows: exact, read by blocks.

        Parameters
        ----------
        rows
            Row numbers, shape (n,).
        k
            How many neighbours; a row is not its own.
        tap
            Whose features are compared; the first when None.
        metric
            ``cosine``, or ``euclidean``, whose similarity is the negative distance.

        Returns
        -------
        rows : int64, shape (n, k), nearest first
        similarities : float32, shape (n, k)
        """
        from featx.auditing.neighbours import nearest_rows

        X, at = self.tap(tap or self.taps[0]), np.asarray(rows, np.int64) % max(1, len(self))
        return nearest_rows(X, X[at], k, metric=metric, exclude=at)

    @cached_property
    def content_digests(self) -> NDArray[np.bytes_]:
        """SHA-256 of the bytes of each image, in hexadecimal: S64, shape (n_samples,)."""
        return np.asarray(values_of(self._file["content"]))

    @cached_property
    def classes(self) -> list[str] | None:
        """Names of the classes, or None where labels are absent or numbers."""
        return read_text(self._file["classes"]) if "classes" in self._file else None

    @cached_property
    def y(self) -> RowValues | None:
        """Labels: codes into `classes` (int32, -1 where missing), or float64, or None.

        Where rows have several: int8, one column a class, 0 and 1, and -1 in rows without labels.
        """
        if "labels" not in self._file:
            return None
        y, classes = values_of(self._file["labels"]), self.classes
        if classes is not None and y.ndim == 1 and len(y) and not y.max() < len(classes):
            raise CacheFormatError(f"{self.path}: /labels go beyond the {len(classes)} classes")
        return np.asarray(y)

    @cached_property
    def split(self) -> StoredText | None:
        """``train``, ``validation`` or ``test`` for each row, or empty; None without a split."""
        return StoredText.read(self._file["split"]) if "split" in self._file else None

    @cached_property
    def columns(self) -> dict[str, RowValues]:
        """Every other column of the source."""
        found = self._file.get("columns", {})
        return {name: stored_column(found[name]) for name in found}

    @cached_property
    def failed(self) -> dict[str, str]:
        """``id -> reason`` of each image that gave no row."""
        found = self._file.get("failed")
        if found is None or "ids" not in found:
            return {}
        return dict(zip(read_text(found["ids"]), read_text(found["reasons"]), strict=True))

    @cached_property
    def provenance(self) -> JsonObject:
        """The record of the run: versions, device, batch size, host, times, command."""
        if "provenance" not in self._file:
            return {}
        return json_object(json_text(self._file["provenance"]))

    @cached_property
    def seen_by_backbone(self) -> NDArray[np.bool_]:
        """True if the network was trained on the picture of each row (`featx.tune`)."""
        text = self.provenance.get("weights", {}).get("seen", "")
        if not isinstance(text, str) or not text:
            return np.zeros(len(self), bool)
        try:
            return were_seen(self.content_digests, text)
        except ValueError as error:
            raise CacheFormatError(f"{self.path}: provenance is damaged: {error}") from None

    @property
    def labels(self) -> list[str | None] | NDArray[np.float64] | None:
        """Labels by name, or as numbers for regression, or None."""
        if self.y is None or self.classes is None:
            return self.y
        if self.y.ndim == 2:
            return joined_labels(self.y, self.classes)
        return [self.classes[code] if code >= 0 else None for code in self.y]

    def to_frame(self, *, features: bool = False) -> pd.DataFrame:
        """Return a table with one row for each sample.

        Parameters
        ----------
        features
            Whether to add the columns ``x0``, ``x1``, ... of the first tap.
        """
        import pandas as pd

        table = pd.DataFrame({"id": self.ids, "path": self.paths})
        if self.y is not None:
            table["label"] = self.labels
        if self.split is not None:
            table["split"] = self.split
        for name, values in self.columns.items():
            table[name] = values
        if features:
            names = [f"x{k}" for k in range(self.X.shape[1])]
            table = pd.concat([table, pd.DataFrame(np.asarray(self.X), columns=names)], axis=1)
        return table

    def atlas(
        self,
        *,
        tap: str | None = None,
        rows: int = 5_000,
        k: int = 10,
        pictures: bool = True,
    ) -> Any:
        """Show the rows in a notebook: a map, pictures, neighbours, filters by label and column.

        The widget is that of the package embedding-atlas (extra ``atlas``); its ``selected()``
        gives the ids of the rows that are selected.

        Parameters
        ----------
        tap
            Whose features are mapped and compared; the first when None.
        rows
            How many are shown at most; of more, an even part.
        k
            Neighbours of each row, among those shown.
        pictures
            Whether small pictures are read; a cache of vectors has none.

        Raises
        ------
        MissingExtraError
            If embedding-atlas is not installed.
        CacheError
            If fewer than two rows are to be shown.

        Examples
        --------
        >>> view = cache.atlas()  # doctest: +SKIP
        >>> view.selected()  # doctest: +SKIP
        ['cats/7.jpg', 'cats/9.jpg']
        """
        from featx.fitting.looks import atlas_of

        return atlas_of(self, tap=tap, rows=rows, k=k, pictures=pictures)

    def verify(self) -> Verification:
        """Re-read every byte and check every row against its digest."""
        return verify_file(self.path)

    def info(self, *, everything: bool = False) -> JsonObject:
        """Summary that `featx info` prints, JSON-ready.

        Parameters
        ----------
        everything
            Name every failed image and every group of equal ones, not the first ten of each.
        """
        return summary(self, self._file, everything)

    def __repr__(self) -> str:
        return (
            f"<Cache {self.path.name}: {len(self)} rows x {self.X.shape[1]} of "
            f"{self.spec.architecture}, taps {', '.join(self.taps)}>"
        )

    def _repr_html_(self) -> str:
        return as_html(self)


@typed
def open_cache(path: str | os.PathLike[str]) -> Cache:
    """Open a cache for reading; nothing is loaded but what is asked for.

    Parameters
    ----------
    path
        A file that `featx.extract` wrote, or a folder of parts (`featx split`).

    Raises
    ------
    CacheError
        If there is no such file.
    CacheFormatError
        If it is not a cache, is damaged, or holds what a cache must not hold.

    Examples
    --------
    >>> import featx
    >>> cache = featx.open_cache("birds.h5")  # doctest: +SKIP
    >>> X, y = np.asarray(cache.X), cache.y  # doctest: +SKIP
    """
    return Cache(Path(path))


@contextlib.contextmanager
def opened(cache: str | os.PathLike[str] | Cache) -> Iterator[Cache]:
    """Open a cache and close it again, unless it was open already."""
    if isinstance(cache, Cache):
        yield cache
        return
    with open_cache(cache) as file:
        yield file
