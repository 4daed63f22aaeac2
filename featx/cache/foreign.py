"""Read vectors out of files that other programs wrote: npz, npy with a table, Parquet, HDF5."""

from __future__ import annotations

import json
import logging
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.arguments import typed
from featx.cache.vectors import write_cache
from featx.errors import FeatxError, SourceError, nearest, words_of
from featx.slices import WHOLE, SliceCounter, listed
from featx.sources.arrow import (
    classes_of,
    features_of,
    is_binary,
    is_image_struct,
    to_frame,
    with_class_names,
)
from featx.sources.fields import SPLITS, require_spelled
from featx.sources.fields import missing as absent
from featx.sources.table import read_table
from featx.typing import JsonObject

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("featx")

VECTOR_NAMES = ("X", "vectors", "features", "embeddings", "embedding", "vector")
"""Where vectors are looked for when no name is given."""

_NPY = b"\x93NUMPY"
_SHOWN = 8  # arrays that a message names

_ROLES = {
    "id": "ids",
    "ids": "ids",
    "path": "paths",
    "paths": "paths",
    "label": "labels",
    "labels": "labels",
    "y": "labels",
    "group": "groups",
    "groups": "groups",
    "split": "split",
    "content": "content",
}


@typed
def import_vectors(
    file: str | os.PathLike[str],
    cache: str | os.PathLike[str],
    *,
    vectors: str | None = None,
    table: str | os.PathLike[str] | None = None,
    encoder: str | None = None,
    encoder_digest: str | None = None,
    force: bool = False,
) -> Path:
    """Write the vectors of a file as a cache.

    Arrays or columns called ``id``, ``path``, ``label``, ``group``, ``split`` and ``content``
    (or their plurals, or ``y``) take those parts; every other one with a value for each row becomes
    a column. What has another shape is left out, and said.

    Parameters
    ----------
    file
        ``.npz``, ``.npy`` (with `table`), ``.parquet`` or HDF5.
    cache
        The cache to write.
    vectors
        Name of the array or column that holds the vectors; needed where several could.
    table
        CSV or Parquet with a row for each vector of a ``.npy``, in the same order.
    encoder, encoder_digest, force
        See `write_cache`; the name of the file when `encoder` is None.

    Raises
    ------
    SourceError
        If the file cannot be read, or it is not clear where the vectors are.
    CacheError
        If a value does not fit.

    Examples
    --------
    >>> featx.cache.import_vectors("texts.npz", "texts.h5", encoder="minilm")  # doctest: +SKIP
    """
    path = Path(file)
    if not path.is_file():
        raise SourceError(f"{path} is a folder" if path.is_dir() else f"no such file: {path}")
    if Path(cache).exists() and path.samefile(cache):
        raise SourceError(f"{path} would be replaced by the cache; name another file for it")
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise SourceError(f"{path}: expected one of {', '.join(sorted(_READERS))}")
    if (table is not None) != (suffix == ".npy"):
        raise SourceError(
            f"{path}: pass table= (--table) with a .npy, and only there: a CSV or Parquet file "
            "with a row for each vector, in the same order"
        )
    try:
        arrays = _READERS[suffix](path)
    except FeatxError:
        raise
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        raise SourceError(f"{path} cannot be read: {words_of(error)}") from None
    X = arrays.pop(_vectors_name(path, arrays, vectors))
    if table is not None:
        arrays |= _table(Path(table))
    parts = _parts(path, arrays, len(X))
    return write_cache(
        cache,
        X,
        encoder=encoder or path.stem,
        encoder_digest=encoder_digest,
        force=force,
        **parts,
    )


def _read_npz(path: Path) -> dict[str, Any]:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is not a whole .npz file")
    with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def _read_npy(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        if file.read(len(_NPY)) != _NPY:
            raise ValueError("it is not a .npy file")
    return {"X": np.load(path, allow_pickle=False)}


def _read_hdf5(path: Path) -> dict[str, Any]:
    found: JsonObject = {}
    with h5py.File(path, "r", locking=False) as file:
        for name in file:
            if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"/{name} is a link, which is not followed")
            thing = file[name]
            if not isinstance(thing, h5py.Dataset):
                log.warning(
                    "%s: the group %r is left out; only data sets at the top are read", path, name
                )
                continue
            if not thing.ndim:
                continue
            if thing.is_virtual or thing.external:
                raise ValueError(f"/{name} lies in another file, which is not followed")
            text = h5py.check_string_dtype(thing.dtype) is not None
            found[name] = thing.asstr()[...] if text else thing[...]
    return found


def _read_parquet(path: Path) -> dict[str, Any]:
    """Lists of numbers become matrices; the other columns are read as those of any table."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            table = file.read()
    except pa.ArrowException as error:
        raise ValueError(words_of(error)) from None
    lists = [field.name for field in table.schema if _may_be_vectors(field.type)]
    named = [name for name in lists if name in VECTOR_NAMES] or lists[:1]
    found: dict[str, Any] = {}
    for name in lists:
        try:
            found[name] = _stacked(table.column(name).to_pylist())
        except ValueError as error:
            if name in named:
                raise ValueError(f"column {name!r}: {error}") from None
            rows = table.column(name).to_pylist()
            found[name] = rows if name.lower() in _ROLES else [*map(_json, rows)]
    return found | _described(path, table.drop_columns(lists))


def _described(path: Path, table: pa.Table) -> dict[str, list[Any]]:
    """Read columns as those of any table; bytes that are not text are left out, which is said."""
    pictures = [field.name for field in table.schema if is_image_struct(field.type)]
    classes = classes_of(features_of(table.schema))
    given = with_class_names(str(path), table.drop_columns(pictures), classes)
    frame = to_frame(str(path), given, classes)
    for name in table.column_names:
        if name not in frame.columns and (name in pictures or is_binary(table[name].type)):
            log.warning("%s: %r is left out: bytes that are not text", path, name)
    return {str(name): [None if absent(v) else v for v in frame[name]] for name in frame.columns}


def _json(value: object) -> str | None:
    return None if value is None else json.dumps(value)


def _may_be_vectors(kind: pa.DataType) -> bool:
    import pyarrow as pa

    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (lists or pa.types.is_fixed_size_list(kind)):
        return False
    return bool(pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


def _stacked(rows: list[Any]) -> NDArray[Any]:
    """Make a matrix of lists of numbers; the message names the first row that does not fit."""
    for k, row in enumerate(rows):
        if row is None or len(row) != len(rows[0] or ()):
            has = ["no vector" if one is None else f"{len(one)} numbers" for one in (row, rows[0])]
            raise ValueError(f"row {k} has {has[0]}, and row 0 has {has[1]}")
    return np.array(rows)


_READERS: dict[str, Callable[[Path], JsonObject]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".parquet": _read_parquet,
    ".pq": _read_parquet,
    ".h5": _read_hdf5,
    ".hdf5": _read_hdf5,
}


def _vectors_name(path: Path, arrays: dict[str, Any], asked: str | None) -> str:
    """Find what holds the vectors: the one that is named, or the only matrix of numbers."""
    if asked is not None:
        if asked not in arrays:
            raise SourceError(
                f"{path} has nothing called {asked!r}{nearest(asked, arrays)}; it has "
                f"{', '.join(arrays) or 'nothing'}"
            )
        return asked
    matrices = [name for name, values in arrays.items() if _is_matrix(values)]
    named = [name for name in VECTOR_NAMES if name in matrices]
    if len(matrices) == 1 or named:
        return (named or matrices)[0]
    if matrices:
        raise SourceError(
            f"{path}: several matrices of numbers ({', '.join(matrices)}); name the vectors with "
            "--vectors NAME"
        )
    known = listed([f"{name} {_shape(values)}" for name, values in arrays.items()], _SHOWN)
    raise SourceError(
        f"{path} has no matrix of numbers, shape (n_samples, n_features); it has "
        f"{known or 'nothing'}"
    )


def _shape(values: Any) -> str:
    return (
        f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else f"({len(values)},)"
    )


def _is_matrix(values: object) -> bool:
    return isinstance(values, np.ndarray) and values.ndim == 2 and values.dtype.kind in "fiu"


def _table(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise SourceError(f"no such table: {path}")
    if path.suffix.lower() in (".parquet", ".pq"):
        try:
            return _read_parquet(path)
        except FeatxError:
            raise
        except (OSError, ValueError) as error:
            raise SourceError(f"{path} cannot be read: {words_of(error)}") from None
    found = read_table(str(path), SliceCounter(WHOLE))
    for note in found.notes:
        log.warning("%s", note["message"])
    return {str(name): found.frame[name].fillna("").tolist() for name in found.frame.columns}


def _parts(path: Path, arrays: dict[str, Any], n_rows: int) -> dict[str, Any]:
    """Sort arrays into the arguments of `write_cache`."""
    parts: dict[str, Any] = {}
    columns: dict[str, Any] = {}
    require_spelled(str(path), arrays, _ROLES)
    for name, values in arrays.items():
        role = _ROLES.get(name.lower())
        if role in parts:
            raise SourceError(f"{path}: {name!r} names the {role} a second time; rename one")
        values = values[:, 0] if _is_deep(values) and values.shape[1:] == (1,) else values
        if role is not None and _is_deep(values):
            raise SourceError(
                f"{path}: {name!r} has the shape {values.shape}; the {role} are one value a row"
            )
        if role is not None:
            parts[role] = _flat(path, name, values)
        elif len(values) == n_rows and not _is_deep(values):
            columns[name] = _flat(path, name, values)
        else:
            log.warning("%s: %r is left out: not one value a row", path, name)
    if "split" in parts:
        parts["split"] = [SPLITS.get(str(v).strip().lower(), v) for v in parts["split"]]
    return parts | {"columns": columns}


def _is_deep(values: object) -> bool:
    return isinstance(values, np.ndarray) and values.ndim > 1


def _flat(path: Path, name: str, values: Any) -> list[Any]:
    """Plain Python values; bytes become text."""
    plain = values.tolist() if isinstance(values, np.ndarray) else values
    try:
        return [value.decode() if isinstance(value, bytes) else value for value in plain]
    except UnicodeDecodeError:
        raise SourceError(
            f"{path}: {name!r} holds bytes that are not UTF-8 text; write it as text"
        ) from None
