"""Features and text of a cache, read by rows, and the summary that a notebook shows."""

from __future__ import annotations

import json
import reprlib
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, overload

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from featx.cache.format import BLOCK_ROWS, values_of
from featx.errors import CacheFormatError
from featx.files import size_text
from featx.typing import JsonObject, RowValues

if TYPE_CHECKING:
    from featx.cache.cache import Cache


class Stack:
    """Matrices of the same rows side by side, to be read like one."""

    def __init__(self, parts: Sequence[h5py.Dataset]) -> None:
        self._parts = list(parts)
        self.shape = (parts[0].shape[0], sum(part.shape[1] for part in parts))
        self.dtype = parts[0].dtype
        self.chunks = parts[0].chunks

    def __getitem__(self, key: object) -> NDArray[Any]:
        return np.concatenate([values_of(part, key) for part in self._parts], axis=-1)


class Features:
    """The matrix of one tap, read from the file by rows when it is indexed.

    Parameters
    ----------
    dataset
        Where the rows lie.
    owner
        The open cache, which must live as long as its features do.

    Raises
    ------
    CacheFormatError
        When rows are read that are damaged.

    Examples
    --------
    ``X[10:20]`` reads ten rows, ``np.asarray(X)`` reads all, ``X.batches(4096)`` iterates.
    """

    def __init__(self, dataset: h5py.Dataset | Stack, owner: object = None) -> None:
        self._dataset, self._owner = dataset, owner
        self.shape: tuple[int, int] = dataset.shape
        self.dtype = dataset.dtype
        self.ndim = 2

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: object) -> NDArray[Any]:
        rows, *rest = key if isinstance(key, tuple) else (key,)
        if np.ndim(rows) and any(map(np.ndim, rest)):
            # numpy would pair them, and h5py refuses them.
            raise IndexError("rows and columns cannot both be lists; write X[rows][:, columns]")
        found = self._rows(rows)
        return found[(slice(None) if found.ndim == 2 else Ellipsis, *rest)] if rest else found

    def _rows(self, rows: object) -> NDArray[Any]:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return np.asarray(values_of(self._dataset, slice(start, stop)))
            rows = np.arange(start, stop, step)
        if isinstance(rows, (int, np.integer)):
            if not -len(self) <= rows < len(self):
                raise IndexError(f"row {rows} of {len(self)}")
            return np.asarray(values_of(self._dataset, int(rows) % len(self)))
        if rows is Ellipsis:
            return np.asarray(self)
        wanted = np.asarray(rows)
        if wanted.dtype == bool:
            if wanted.shape != (len(self),):
                raise IndexError(f"a mask of shape {wanted.shape} for {len(self)} rows")
            wanted = np.flatnonzero(wanted)
        if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):
            raise IndexError(f"rows are whole numbers in one list, got {reprlib.repr(rows)}")
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
            found[at] = values_of(self._dataset, slice(start, start + step))[rows[at] - start]
        return found

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("features lie in a file; reading them makes a copy")
        return np.asarray(values_of(self._dataset), dtype)

    def batches(self, n: int = 4096) -> Iterator[NDArray[Any]]:
        """Iterate over consecutive blocks of `n` rows; the last may be shorter."""
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        for start in range(0, len(self), n):
            yield self[start : start + n]

    def __repr__(self) -> str:
        return f"<Features {self.shape[0]} x {self.shape[1]} {self.dtype}, read by rows>"


class StoredText(Sequence[str]):
    """A column of text that reads like a list of strings.

    Parameters
    ----------
    data
        UTF-8 of all rows, one after the other.
    ends
        int64, shape (n,): where each row ends in `data`.

    Examples
    --------
    >>> import numpy as np
    >>> names = StoredText(b"catdog", np.array([3, 6]))
    >>> names[1], list(names), names == ["cat", "dog"]
    ('dog', ['cat', 'dog'], True)
    """

    def __init__(self, data: bytes | bytearray, ends: NDArray[np.int64]) -> None:
        self._data, self._ends = data, ends

    @classmethod
    def read(cls, dataset: h5py.Dataset) -> StoredText:
        """Read a column by blocks.

        Raises
        ------
        CacheFormatError
            If it is damaged, or not UTF-8.
        """
        data, ends = bytearray(), np.empty(dataset.shape[0], np.int64)
        for start in range(0, len(ends), BLOCK_ROWS):
            values = values_of(dataset, slice(start, start + BLOCK_ROWS)).tolist()
            lengths = np.fromiter(map(len, values), np.int64, len(values))
            stop = start + len(values)
            ends[start:stop] = len(data) + np.cumsum(lengths)
            joined = b"".join(values)
            _require_text(joined, ends[start:stop] - lengths - len(data), lengths, dataset)
            data += joined
        return cls(data, ends)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, key: int) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> list[str]: ...
    def __getitem__(self, key: int | slice) -> str | list[str]:
        if isinstance(key, slice):
            return [self[row] for row in range(*key.indices(len(self)))]
        row = int(key)
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        row %= len(self)
        start = int(self._ends[row - 1]) if row else 0
        return self._data[start : int(self._ends[row])].decode()

    def __iter__(self) -> Iterator[str]:
        start = 0
        for at in range(0, len(self), BLOCK_ROWS):
            for end in self._ends[at : at + BLOCK_ROWS].tolist():
                yield self._data[start:end].decode()
                start = end

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, (str, bytes)):
            return NotImplemented
        if len(self) != len(other):
            return False
        return all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Make what a list of the same strings would."""
        if copy is False:
            raise ValueError("text is held as bytes; an array of it is a copy")
        return np.array(list(self), dtype)

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"<Text of {len(self)} rows: {shown}{', ...' if len(self) > 3 else ''}>"


def _require_text(
    joined: bytes, starts: NDArray[np.int64], lengths: NDArray[np.int64], dataset: h5py.Dataset
) -> None:
    """All of it must be UTF-8, and no row may begin within a character."""
    try:
        joined.decode()
    except UnicodeDecodeError:
        raise CacheFormatError(f"{dataset.name} is not UTF-8 text") from None
    first = np.frombuffer(joined, np.uint8)[starts[lengths > 0]]
    if ((first & 0xC0) == 0x80).any():
        raise CacheFormatError(f"{dataset.name} is not UTF-8 text")


_NAMED = 10  # failed images, and groups of equal ones, that a summary names
_MOST_COMPARED = 5_000_000  # rows whose digests are compared: 64 bytes each


def stored_column(dataset: h5py.Dataset) -> RowValues:
    """Read a column of the source: text as objects, numbers as they are."""
    if dataset.dtype.kind in "SO":
        known: dict[str, str] = {}  # rows with the same text share it
        texts = (known.setdefault(text, text) for text in StoredText.read(dataset))
        return np.fromiter(texts, dtype=object, count=len(dataset))
    return np.asarray(values_of(dataset))


def summary(cache: Cache, file: h5py.File, everything: bool = False) -> JsonObject:
    """Summarise a cache, JSON-ready; `file` is what it reads from.

    Failed images and equal ones are counted, and the first are named; all with `everything`.
    """
    most = None if everything else _NAMED
    equal = _equal_images(cache, file)
    return {
        "cache": str(cache.path),
        "fingerprint": cache.fingerprint,
        "rows": len(cache),
        "failed": file["failed/ids"].shape[0] if "failed/ids" in file else 0,
        "bytes": cache.n_bytes,
        "parts": cache.n_parts,
        "taps": {name: cache.tap(name).shape[1] for name in cache.taps},
        "classes": _class_counts(cache.classes, file),
        "columns": sorted(file.get("columns", ())),
        "split": _split_counts(file),
        "failures": dict(list(cache.failed.items())[:most]),
        "duplicates": None if equal is None else len(equal),
        "duplicate_ids": [[cache.ids[row] for row in rows] for rows in (equal or [])[:most]],
        "spec": json.loads(cache.spec.to_json()),
        "provenance": _counted_seen(cache),
    }


def _counted_seen(cache: Cache) -> JsonObject:
    """Provenance with the number of rows that the network was trained on, not their digests."""
    found = cache.provenance
    if not found.get("weights", {}).get("seen"):
        return found
    return found | {"weights": found["weights"] | {"seen": int(cache.seen_by_backbone.sum())}}


def _equal_images(cache: Cache, file: h5py.File) -> list[list[int]] | None:
    """Rows of each content that several rows have; None where there are too many to compare."""
    if "content" not in file or not len(cache):
        return []
    if len(cache) > _MOST_COMPARED:
        return None
    digests = cache.content_digests
    order = np.argsort(digests, kind="stable")
    starts = np.flatnonzero(np.r_[True, digests[order][1:] != digests[order][:-1]])
    groups = np.split(order, starts[1:])
    known = [g for g in groups if len(g) > 1 and digests[g[0]]]
    return sorted((group.tolist() for group in known), key=lambda rows: rows[0])


def _class_counts(classes: list[str] | None, file: h5py.File) -> dict[str, int]:
    if classes is None or "labels" not in file:
        return {}
    labels, counts = file["labels"], np.zeros(len(classes), np.int64)
    for start in range(0, labels.shape[0], BLOCK_ROWS):
        block = values_of(labels, slice(start, start + BLOCK_ROWS))
        if block.ndim == 2:  # rows may have several
            counts += (block == 1).sum(axis=0)
        else:
            known = block[(block >= 0) & (block < len(classes))]
            counts += np.bincount(known, minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))


def _split_counts(file: h5py.File) -> dict[str, int]:
    counts: Counter[str] = Counter()
    if "split" in file:
        split = file["split"]
        for start in range(0, split.shape[0], BLOCK_ROWS):
            names, found = np.unique(
                values_of(split, slice(start, start + BLOCK_ROWS)), return_counts=True
            )
            counts.update(dict(zip((n.decode() for n in names), found.tolist(), strict=True)))
    return {name: counts[name] for name in sorted(counts)}


def as_html(cache: Cache) -> str:
    """Show a cache in a notebook."""
    info, spec = cache.info(), cache.spec
    shown = {
        "rows": f"{info['rows']} ({info['failed']} images failed)",
        "backbone": f"{spec.architecture}, {spec.precision}",
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
    return f"<table><caption>{escape(str(cache.path))}</caption>{rows}</table>"
