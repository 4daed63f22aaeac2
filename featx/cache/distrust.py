"""Open a file that may be damaged or hostile: a cache is data, never code."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featx.cache.fingerprint import FORMAT_VERSION, ExtractSpec
from featx.cache.format import ENCODING_TYPE, INDEX_TYPE, vector_datasets
from featx.cache.registry import require_forms
from featx.errors import CacheError, CacheFormatError, words_of

_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
_MAX_JSON = 64 << 20  # bytes
_MAX_DEFLATE = 1100  # no deflate stream grows by more
_ELSEWHERE = ("already open", "flag values", "close degree")
"""How HDF5 says that the file is open in this process with other settings."""


def open_file(path: Path) -> tuple[h5py.File, ExtractSpec]:
    """Open a cache file or a shard for reading, after checking every object in it.

    Raises
    ------
    CacheFormatError
        If it is no such file, is damaged, or holds a link, external storage, a virtual dataset, an
        unknown filter, or a shape that does not fit.
    CacheError
        If there is no such file.
    """
    if not path.exists():
        raise CacheError(f"no such cache: {path}; `featx extract SOURCE {path}` writes one")
    return _open(path, _check_cache)


def open_index(path: Path) -> tuple[h5py.File, ExtractSpec]:
    """Open the index of a folder of parts in the same way.

    Raises
    ------
    CacheFormatError
        As `open_file`.
    """
    return _open(path, _check_index)


def _open(path: Path, check: Callable[[h5py.File], ExtractSpec]) -> tuple[h5py.File, ExtractSpec]:
    file = _open_file(path)
    try:
        return file, check(file)
    except CacheFormatError as error:
        file.close()
        raise CacheFormatError(f"{path}: {error}") from None
    except Exception as error:  # damaged bytes make HDF5 and h5py raise a dozen types
        file.close()
        reason = words_of(error, 400)
        raise CacheFormatError(f"{path} is damaged: {reason[:160]}") from None


def _open_file(path: Path) -> h5py.File:
    # Nothing ever writes to a published file, so no lock is needed to read it. HDF5 opens a file
    # again in one process only as it is open already: with locks, where h5py itself has opened it.
    reason = ""
    for locking in (False, None, True):
        try:
            # Each dataset that is open keeps so many bytes of chunks; HDF5 itself says 8 MiB.
            file = h5py.File(path, "r", locking=locking, rdcc_nbytes=2 << 20)
        except OSError as error:
            reason = words_of(error, 400)
            if "flag values" not in reason:
                break
        else:
            if locking is False or not _is_written(path):
                return file
            file.close()
            reason = "already open for write"
            break
    if any(words in reason for words in _ELSEWHERE):
        raise CacheError(
            f"{path} is open elsewhere in this process ({reason[:80]}); close it first"
        )
    raise CacheFormatError(f"{path} is not a featx cache, or is cut off: {reason[:160]}")


def _is_written(path: Path) -> bool:
    """Tell whether a file is open for writing in this process."""
    there = h5py.h5f.get_obj_ids(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)
    names = {one.name for one in there if one.get_intent() & h5py.h5f.ACC_RDWR}
    return any(Path(name.decode("utf-8", "surrogateescape")).samefile(path) for name in names)


def _check_cache(file: h5py.File) -> ExtractSpec:
    spec = _check_header(file, ENCODING_TYPE, ("ids", "content", "row_digest", "features"))
    _check_shapes(file, spec)
    return spec


def _check_index(file: h5py.File) -> ExtractSpec:
    names = ("parts", "part_rows", "part_bytes", "part_digest")
    spec = _check_header(file, INDEX_TYPE, names)
    lengths: dict[str, int] = {}
    n_parts = file["parts"].shape
    if len(n_parts) == 1 and n_parts[0]:
        lengths["rows"] = int(file["part_rows"][-1, 1])
    require_forms(file, lengths)
    if not lengths["parts"]:
        raise CacheFormatError("/parts is empty")
    return spec


def _check_header(file: h5py.File, kind: str, names: Sequence[str]) -> ExtractSpec:
    found = _text_attribute(file, "encoding-type")
    if found != kind:
        what = "a featx cache" if kind == ENCODING_TYPE else "the index of a featx cache"
        raise CacheFormatError(f"not {what} (encoding-type {found!r})")
    version = _text_attribute(file, "encoding-version")
    if version != str(FORMAT_VERSION):
        raise CacheFormatError(
            f"format version {version}, and this featx reads {FORMAT_VERSION}; upgrade featx"
        )
    _check_group(file, "")
    for name in ("spec", *names):
        if name not in file:
            raise CacheFormatError(f"/{name} is missing")
    spec = ExtractSpec.from_json(json_text(file["spec"]))
    if spec.fingerprint != _text_attribute(file, "fingerprint"):
        raise CacheFormatError("the fingerprint is not that of the spec inside")
    return spec


def _text_attribute(file: h5py.File, name: str) -> str:
    if name not in file.attrs:
        return ""
    value = file.attrs[name]
    return value if isinstance(value, str) else ""


def json_text(dataset: h5py.Dataset) -> str:
    """Read ``spec`` or ``provenance``.

    Raises
    ------
    CacheFormatError
        If it is not one text of bearable length, or cannot be read.
    """
    if dataset.shape != ():
        raise CacheFormatError(f"{dataset.name} is not one JSON text")
    try:
        value = dataset[()]
    except (OSError, ValueError, RuntimeError) as error:
        raise CacheFormatError(f"{dataset.name} cannot be read: {words_of(error)}") from None
    if not isinstance(value, bytes) or len(value) > _MAX_JSON:
        raise CacheFormatError(f"{dataset.name} is not one JSON text")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise CacheFormatError(f"{dataset.name} is not UTF-8 text") from None


def json_object(text: str) -> dict[str, Any]:
    """Read what ``provenance`` says.

    Raises
    ------
    CacheFormatError
        If it is no JSON object.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise CacheFormatError("/provenance is no JSON object")
    return found


def _check_group(group: h5py.Group, prefix: str) -> None:
    for name in group:
        full = f"{prefix}/{name}"
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise CacheFormatError(f"{full} is a link; a cache holds no links")
        child = group[name]
        if isinstance(child, h5py.Dataset):
            _check_dataset(child, full)
        elif isinstance(child, h5py.Group) and full in ("/taps", "/columns", "/failed"):
            _check_group(child, full)
        else:
            raise CacheFormatError(f"{full} does not belong in a cache")


def _check_dataset(dataset: h5py.Dataset, name: str) -> None:
    properties = dataset.id.get_create_plist()
    if properties.get_external_count():
        raise CacheFormatError(f"{name} lies in another file (external storage)")
    if dataset.is_virtual:
        raise CacheFormatError(f"{name} is a virtual dataset of other files")
    filters = {properties.get_filter(i)[0] for i in range(properties.get_nfilters())}
    if unknown := filters - _FILTERS:
        raise CacheFormatError(f"{name} uses filter {min(unknown)}, which is not built in")
    kind = h5py.check_string_dtype(dataset.dtype)
    if kind is None and dataset.dtype.kind not in "fiubS":
        raise CacheFormatError(f"{name} has the type {dataset.dtype}, not numbers or text")
    if dataset.ndim == 0:
        return
    if dataset.ndim > 2:
        raise CacheFormatError(f"{name} has the shape {dataset.shape}")
    nominal = int(np.prod([int(s) for s in dataset.shape], dtype=object)) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    growth = _MAX_DEFLATE if h5py.h5z.FILTER_DEFLATE in filters else 1
    if nominal > stored * growth:
        raise CacheFormatError(
            f"{name} claims {dataset.shape} values, {nominal} bytes, and {stored} are stored"
        )


def _check_shapes(file: h5py.File, spec: ExtractSpec) -> None:
    shape = file["features"].shape
    if not shape:
        raise CacheFormatError("/features is one value, and should have rows of vectors")
    n_rows = shape[0]
    for name in vector_datasets(spec):
        dataset: Any = file.get(name)
        if dataset is None or dataset.ndim != 2 or dataset.shape[0] != n_rows:
            raise CacheFormatError(f"/{name} should have {n_rows} rows of vectors")
        if dataset.dtype != np.dtype(spec.dtype):
            raise CacheFormatError(f"/{name} holds {dataset.dtype}, and its spec says {spec.dtype}")
    require_forms(file, {"rows": n_rows})
