"""Read a cache: `open_cache(path)` gives features by rows, and everything known of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from html import escape
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from featx.cache.distrust import open_trusted
from featx.cache.durable import size_text
from featx.cache.format import read_text, tap_names, vector_datasets
from featx.cache.verify import Verification, verify_file
from featx.errors import CacheError, nearest
from featx.labels import joined_labels

if TYPE_CHECKING:
    import os

    import pandas as pd


class Features:
    """The matrix of one tap, read from the file by rows when it is indexed.

    Examples
    --------
    ``X[10:20]`` reads ten rows, ``np.asarray(X)`` reads all, ``X.batches(4096)`` iterates.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset = dataset
        self.shape: tuple[int, int] = dataset.shape
        self.dtype = dataset.dtype
        self.ndim = 2

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        rows, *rest = key if isinstance(key, tuple) else (key,)
        found = self._rows(rows)
        return found[(slice(None) if found.ndim == 2 else Ellipsis, *rest)] if rest else found

    def _rows(self, rows: Any) -> NDArray[Any]:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return np.asarray(self._dataset[start:stop])
            rows = np.arange(start, stop, step)
        if isinstance(rows, (int, np.integer)):
            if not -len(self) <= rows < len(self):
                raise IndexError(f"row {rows} of {len(self)}")
            return np.asarray(self._dataset[int(rows) % len(self)])
        if rows is Ellipsis:
            return np.asarray(self)
        wanted = np.asarray(rows)
        if wanted.dtype == bool:
            if wanted.shape != (len(self),):
                raise IndexError(f"a mask of shape {wanted.shape} for {len(self)} rows")
            wanted = np.flatnonzero(wanted)
        wanted = wanted.astype(np.int64)
        if wanted.size and (wanted.min() < -len(self) or wanted.max() >= len(self)):
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of {len(self)}")
        return self._gather(wanted % max(1, len(self)))

    def _gather(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Rows in any order: each stretch of chunks that holds some is read once."""
        found = np.empty((len(rows), self.shape[1]), self.dtype)
        order = np.argsort(rows, kind="stable")
        step = (self._dataset.chunks or (4096,))[0]
        chunks = rows[order] // step
        for at in np.split(order, np.flatnonzero(np.diff(chunks)) + 1) if len(rows) else []:
            start = int(rows[at[0]]) // step * step
            found[at] = self._dataset[start : start + step][rows[at] - start]
        return found

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("features lie in a file; reading them makes a copy")
        return np.asarray(self._dataset[...], dtype)

    def batches(self, n: int = 4096) -> Iterator[NDArray[Any]]:
        """Iterate over consecutive blocks of `n` rows; the last may be shorter."""
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        for start in range(0, len(self), n):
            yield self[start : start + n]

    def __repr__(self) -> str:
        return f"<Features {self.shape[0]} x {self.shape[1]} {self.dtype}, read by rows>"


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
        if file is not None:
            file.close()

    def __len__(self) -> int:
        return int(self._file["features"].shape[0])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the spec."""
        return self.spec.fingerprint

    @property
    def X(self) -> Features:
        """Features of the first tap, shape (n_samples, n_features)."""
        return Features(self._file["features"])

    def tap(self, name: str) -> Features:
        """Features of the tap called `name`.

        Raises
        ------
        CacheError
            If the cache has no such tap.
        """
        if name not in self.taps:
            raise CacheError(
                f"{self.path} has no tap {name!r}{nearest(name, self.taps)}; "
                f"it has {', '.join(self.taps)}"
            )
        return Features(self._file[vector_datasets(self.spec)[self.taps.index(name)]])

    @cached_property
    def ids(self) -> list[str]:
        """Unique name of each row."""
        return read_text(self._file["ids"])

    @cached_property
    def paths(self) -> list[str]:
        """Where the image of each row was."""
        return read_text(self._file["paths"])

    @cached_property
    def content_digests(self) -> NDArray[np.bytes_]:
        """SHA-256 of the bytes of each image, in hexadecimal: S64, shape (n_samples,)."""
        return np.asarray(self._file["content"][...])

    @cached_property
    def classes(self) -> list[str] | None:
        """Names of the classes, or None where labels are absent or numbers."""
        return read_text(self._file["classes"]) if "classes" in self._file else None

    @cached_property
    def y(self) -> NDArray[Any] | None:
        """Labels: codes into `classes` (int32, -1 where missing), or float64, or None.

        Where rows have several: int8, one column a class, 0 and 1, and -1 in rows without labels.
        """
        return self._file["labels"][...] if "labels" in self._file else None

    @cached_property
    def split(self) -> list[str] | None:
        """``train``, ``validation`` or ``test`` for each row, or empty; None without a split."""
        return read_text(self._file["split"]) if "split" in self._file else None

    @cached_property
    def columns(self) -> dict[str, NDArray[Any]]:
        """Every other column of the source."""
        found = self._file.get("columns", {})
        return {name: _column(found[name]) for name in found}

    @cached_property
    def failed(self) -> dict[str, str]:
        """``id -> reason`` of each image that gave no row."""
        found = self._file.get("failed")
        if found is None or "ids" not in found:
            return {}
        return dict(zip(read_text(found["ids"]), read_text(found["reasons"]), strict=True))

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What is only recorded: versions, device, batch size, host, times, command."""
        if "provenance" not in self._file:
            return {}
        found: dict[str, Any] = json.loads(self._file["provenance"][()])
        return found

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

    def verify(self) -> Verification:
        """Re-read every byte and check every row against its digest."""
        return verify_file(self.path)

    def info(self) -> dict[str, Any]:
        """Summary that `featx info` prints, JSON-ready."""
        counts = {}
        if self.classes is not None and self.y is not None:
            several = self.y.ndim == 2
            has = (self.y[:, k] == 1 if several else self.y == k for k in range(len(self.classes)))
            counts = {name: int(rows.sum()) for name, rows in zip(self.classes, has, strict=True)}
        return {
            "cache": str(self.path),
            "fingerprint": self.fingerprint,
            "rows": len(self),
            "failed": len(self.failed),
            "bytes": self.path.stat().st_size,
            "taps": {name: self.tap(name).shape[1] for name in self.taps},
            "classes": counts,
            "columns": sorted(self.columns),
            "split": {
                name: self.split.count(name) for name in sorted(set(self.split)) if self.split
            }
            if self.split is not None
            else {},
            "spec": json.loads(self.spec.to_json()),
            "provenance": self.provenance,
        }

    def __repr__(self) -> str:
        return (
            f"<Cache {self.path.name}: {len(self)} rows x {self.X.shape[1]} of "
            f"{self.spec.architecture}, taps {', '.join(self.taps)}>"
        )

    def _repr_html_(self) -> str:
        info = self.info()
        shown = {
            "rows": f"{info['rows']} ({info['failed']} images failed)",
            "backbone": f"{self.spec.architecture}, {self.spec.precision}",
            "taps": ", ".join(f"{name} ({width})" for name, width in info["taps"].items()),
            "classes": ", ".join(f"{k} ({v})" for k, v in info["classes"].items()) or "no labels",
            "columns": ", ".join(info["columns"]) or "none",
            "size": size_text(info["bytes"]),
            "fingerprint": info["fingerprint"][:16],
        }
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(k)}</th>"
            f"<td style='text-align:left'>{escape(v)}</td></tr>"
            for k, v in shown.items()
        )
        return f"<table><caption>{escape(str(self.path))}</caption>{rows}</table>"


def _column(dataset: h5py.Dataset) -> NDArray[Any]:
    if dataset.dtype.kind in "SO":
        return np.array(read_text(dataset), dtype=object)
    return np.asarray(dataset[...])


def open_cache(path: str | os.PathLike[str]) -> Cache:
    """Open a cache for reading; nothing is loaded but what is asked for.

    Parameters
    ----------
    path
        A file that `featx.extract` wrote.

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
