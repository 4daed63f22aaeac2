"""A cache of vectors that something else computed: text, speech, another network."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.arguments import typed
from featx.cache.folder import holds_cache, open_trusted
from featx.cache.format import CONTENT_DTYPE, DIGEST_DTYPE, column_dtype, row_digest
from featx.cache.lock import WriterLock
from featx.cache.publish import Description, require_target, target_path
from featx.cache.writing import FileFacts, write_file
from featx.errors import CacheError, CacheMismatchError
from featx.items import printable
from featx.labels import SEPARATOR, Labels, Names, encode_labels, split_labels
from featx.spec import EXTERNAL, ExtractSpec, library_versions, spec_difference
from featx.typing import JsonObject, RowValues

TAP = "vectors"
"""Name of the only tap of such a cache."""

ROW_NUMBERS = "row numbers"
"""The mark in provenance of ids that were not given: they tell nothing across caches."""

Column: TypeAlias = Sequence[Any] | NDArray[Any]


@typed
def write_cache(
    cache: str | os.PathLike[str],
    X: ArrayLike,
    *,
    ids: Column | None = None,
    labels: Column | None = None,
    groups: Column | None = None,
    split: Column | None = None,
    content: Column | None = None,
    columns: Mapping[str, Column] | None = None,
    paths: Column | None = None,
    encoder: str = "unnamed",
    encoder_digest: str | None = None,
    force: bool = False,
) -> Path:
    """Write vectors that something else computed as a cache.

    Everything but extraction works on it: `featx.fit`, `featx.evaluate`, `featx.compare`, and
    ``predict`` on such caches and on arrays.

    Parameters
    ----------
    cache
        The HDF5 file to write.
    X
        float16 is kept; any other type becomes float32; shape (n_samples, n_features), finite.
    ids
        Unique text, shape (n_samples,); ``"0"``, ``"1"``, ... when None.
    labels
        Text or whole numbers for classes (None, NaN or ``""`` where missing), floats for a
        regression. A row with several has a tuple of names, or ``"a|b"``; ``"|"`` has none.
    groups
        Samples of one group stay on one side of every split.
    split
        ``train``, ``validation`` or ``test`` for each row; empty where a row has none.
    content
        Bytes or text that each vector was computed from, or its SHA-256 in hexadecimal: rows with
        the same content are duplicates. The vector itself when None.
    columns
        Further columns by name, each of shape (n_samples,).
    paths
        Where each sample came from; the ids when None.
    encoder, encoder_digest
        Name of what computed the vectors, and a digest of it: caches of another encoder or digest
        are not mixed with this one.
    force
        Replace a cache of other features.

    Returns
    -------
    path : the cache

    Raises
    ------
    CacheError
        If a value does not fit: the message names what, and the first row.
    CacheMismatchError
        If `cache` holds features of another encoder, and `force` is not set.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> X = np.eye(4, dtype=np.float32)
    >>> path = write_cache(f"{folder.name}/texts.h5", X, labels=["a", "b", "a", "b"], encoder="me")
    >>> import featx
    >>> with featx.open_cache(path) as found:
    ...     found.classes, found.X.shape
    (['a', 'b'], (4, 4))
    >>> folder.cleanup()
    """
    path = target_path(cache, create=False)
    vectors = _vectors(X)
    names = [str(k) for k in range(len(vectors))] if ids is None else _text(ids, "ids", vectors)
    _require_unique(names)
    known, classes = encode_labels(None if labels is None else as_labels(labels, len(vectors)))
    described = Description(
        ids=names,
        paths=names if paths is None else _text(paths, "paths", vectors),
        labels=known,
        classes=classes,
        split=None if split is None else _split(split, vectors),
        columns=_columns(dict(columns or {}), groups, vectors),
    )
    spec = external_spec(encoder, encoder_digest, vectors.dtype)
    require_target(path, None)
    with WriterLock(path):
        if not force:
            _require_match(path, spec)
        whole = FileFacts(spec, _provenance(encoder, named=ids is not None), classes, {})
        write_file(path, whole, _RowsInMemory(described, vectors, _contents(content, vectors)))
    return path


def external_spec(encoder: str, digest: str | None, dtype: np.dtype[Any]) -> ExtractSpec:
    """Make the spec of vectors that featx did not compute."""
    tap = {"name": TAP, "layer": TAP, "side": "output", "pool": "none"}
    return ExtractSpec(
        architecture=f"{EXTERNAL}{encoder}",
        weights_digest=digest or "external",
        taps=(tap,),
        preprocess={},
        decode={},
        precision="external",
        dtype=dtype.name,
    )


class _RowsInMemory:
    """Rows that are in memory, in the order of a description."""

    def __init__(
        self, description: Description, vectors: NDArray[Any], content: NDArray[np.bytes_]
    ) -> None:
        self._given = {**description.by_row(), "content": content}
        self._vectors = vectors
        self.widths = [int(vectors.shape[1])]
        self.columns: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            name: (column_dtype(v), v.shape[1:] if isinstance(v, np.ndarray) else ())
            for name, v in self._given.items()
        } | {
            "content": (CONTENT_DTYPE, ()),
            "stamps": (np.dtype(np.int64), (2,)),
            "row_digest": (DIGEST_DTYPE, ()),
        }

    def __len__(self) -> int:
        return len(self._vectors)

    def read(self, rows: slice) -> tuple[list[NDArray[Any]], JsonObject]:
        """Give a stretch of rows."""
        vectors = self._vectors[rows]
        values: dict[str, Any] = {name: given[rows] for name, given in self._given.items()}
        digests = [
            row_digest(item, bytes(digest), [vector])
            for item, digest, vector in zip(values["ids"], values["content"], vectors, strict=True)
        ]
        values["stamps"] = np.zeros((len(vectors), 2), np.int64)  # nothing is known of a file
        return [vectors], values | {"row_digest": np.array(digests, DIGEST_DTYPE)}

    def tag(self, rows: slice) -> str:
        """Name these rows by their digests."""
        return hashlib.sha256(b"".join(self.read(rows)[1]["row_digest"].tolist())).hexdigest()[:16]


def _vectors(X: ArrayLike) -> NDArray[Any]:
    try:
        given = np.asarray(X)
        if given.dtype.kind == "c":
            raise TypeError("it holds complex numbers")
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity
            half = given.dtype == np.float16
            vectors = given if half else given.astype(np.float32, copy=False)
    except (TypeError, ValueError) as error:
        raise CacheError(f"X is not a matrix of numbers: {error}") from None
    if vectors.ndim != 2 or not vectors.size:
        raise CacheError(
            f"X has the shape {vectors.shape}; expected (n_samples, n_features), both at least 1"
        )
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise CacheError(
            f"X holds NaN or infinity in {int(bad.sum())} of {len(vectors)} rows (as "
            f"{vectors.dtype}), first in row {int(bad.argmax())}; leave these rows out"
        )
    return vectors


def _text(values: Column, what: str, vectors: NDArray[Any]) -> list[str]:
    found = list(values)
    if len(found) != len(vectors):
        raise CacheError(f"{what} has {len(found)} values for {len(vectors)} rows of X")
    for row, value in enumerate(found):
        if not isinstance(value, str | int | np.integer) or isinstance(value, bool):
            raise CacheError(f"{what} holds {value!r} in row {row}; expected text or a number")
    return [printable(str(value)) for value in found]


def _require_unique(ids: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for row, name in enumerate(ids):
        if not name or "\0" in name:
            raise CacheError(f"the id of row {row} is empty or holds a zero byte")
        if (before := first.setdefault(name, row)) != row:
            raise CacheError(f"id {name!r} stands in rows {before} and {row}; ids must be unique")


def as_labels(values: Column, n_rows: int) -> Labels:
    """Take labels as they are given in Python: names, whole numbers, floats, or tuples of names.

    Returns
    -------
    labels
        Text for classes, None where missing; float64 where all are numbers and one is not whole
        number type; tuples of names where a row has several (also as text, ``a|b``).

    Raises
    ------
    CacheError
        If the length is another, or a value is none of these.
    """
    found: list[Any] = values.tolist() if isinstance(values, np.ndarray) else list(values)
    if len(found) != n_rows:
        raise CacheError(f"labels has {len(found)} values for {n_rows} rows of X")
    if any(isinstance(v, tuple | list | set | frozenset) for v in found):
        return [None if _missing(v) else _names(v, row) for row, v in enumerate(found)]
    there = [v for v in found if not _missing(v)]
    if there and all(isinstance(v, float | np.floating) for v in there):
        return np.array([np.nan if _missing(v) else v for v in found], np.float64)
    for row, value in enumerate(found):
        if not _missing(value) and not isinstance(value, str | int | np.integer | np.bool_):
            raise CacheError(
                f"labels hold {value!r} in row {row}; expected names, whole numbers or, for a "
                "regression, floats in every row"
            )
    names = [None if _missing(value) else printable(str(value)) for value in found]
    # As `Cache.labels` gives them, and as every table is read: a copy stays the same task.
    return split_labels(names) or names


def _missing(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and value != value)


def _names(value: Any, row: int) -> Names:
    several = [value] if isinstance(value, str) else list(value)
    if not all(isinstance(name, str) and name and SEPARATOR not in name for name in several):
        raise CacheError(
            f"labels hold {value!r} in row {row}; expected names without {SEPARATOR!r}"
        )
    return tuple(sorted(set(map(printable, several))))


def _split(values: Column, vectors: NDArray[Any]) -> list[str]:
    found = ["" if value is None else value for value in _listed(values)]
    for row, value in enumerate(found):
        if value not in ("train", "validation", "test", ""):
            raise CacheError(
                f"split holds {value!r} in row {row}; expected train, validation, test or nothing"
            )
    return _text(found, "split", vectors)


def _listed(values: Column) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _columns(
    given: dict[str, Column], groups: Column | None, vectors: NDArray[Any]
) -> dict[str, RowValues]:
    if groups is not None:
        if "group" in given:
            raise CacheError("groups and columns['group'] are both given; pass one of them")
        given["group"] = groups
    found = {}
    for name, values in given.items():
        if not name or "/" in name or name == "." or "\0" in name:
            raise CacheError(f"{name!r} cannot name a column; use letters, digits and _")
        listed = _listed(values)
        if len(listed) != len(vectors):
            raise CacheError(f"column {name!r} has {len(listed)} values for {len(vectors)} rows")
        try:
            array = np.asarray(listed)
        except ValueError:  # lists of several lengths
            array = np.empty(0, object)
        numbers = array.dtype.kind in "iufb" and array.ndim == 1
        if not numbers:
            array = np.empty(len(listed), object)
            array[:] = ["" if value is None else printable(str(value)) for value in listed]
        found[name] = array
    return found


def _contents(content: Column | None, vectors: NDArray[Any]) -> NDArray[np.bytes_]:
    """SHA-256 in hexadecimal of what each vector was computed from."""
    given = [v.tobytes() for v in vectors] if content is None else _listed(content)
    if len(given) != len(vectors):
        raise CacheError(f"content has {len(given)} values for {len(vectors)} rows of X")
    return np.array([_digest(value, row) for row, value in enumerate(given)], CONTENT_DTYPE)


def _digest(value: object, row: int) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    if not isinstance(data, bytes):
        raise CacheError(f"content holds {value!r} in row {row}; expected bytes or text")
    if len(data) == CONTENT_DTYPE.itemsize and set(data) <= set(b"0123456789abcdef"):
        return data
    return hashlib.sha256(data).hexdigest().encode()


def _require_match(path: Path, spec: ExtractSpec) -> None:
    if not holds_cache(path):
        return
    file, old = open_trusted(path)
    file.close()
    if changed := spec_difference(old, spec):
        raise CacheMismatchError(
            f"cache {path} was computed otherwise: {'; '.join(changed)}; write to another file, "
            "or pass force=True to replace it"
        )


def _provenance(encoder: str, *, named: bool) -> str:
    import json
    import platform

    found = {
        "versions": library_versions(),
        "backbone": f"{EXTERNAL}{encoder}",
        "source": f"vectors of {encoder}",
        "ids": "given" if named else ROW_NUMBERS,
        "host": platform.node(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
    }
    return json.dumps(found)
