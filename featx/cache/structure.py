"""The inner structure of an HDF5 file: what HDF5 would follow blindly is looked at first.

A cache is sealed by a digest, which `featx verify` compares; opening does not read every byte. The
checksums of HDF5 are those of chunks. Damage elsewhere makes it give zeros, or go round for ever.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featx.cache.format import GROUPS
from featx.errors import CacheFormatError

_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
_MAX_DEFLATE = 1100  # no deflate stream grows by more
_CHECKSUM = 4  # bytes that a checksum adds to a chunk


def checked_datasets(group: h5py.Group, prefix: str) -> dict[str, h5py.Dataset]:
    """Give every dataset by its name; refuse links, strange objects and damaged datasets.

    Raises
    ------
    CacheFormatError
        With the object and what is wrong.
    """
    found: dict[str, h5py.Dataset] = {}
    for name in group:
        full = f"{prefix}{name}"
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise CacheFormatError(f"/{full} is a link; a cache holds no links")
        child = group[name]
        if isinstance(child, h5py.Dataset):
            _check_dataset(child, f"/{full}")
            found[full] = child
        elif isinstance(child, h5py.Group) and full in GROUPS:
            found |= checked_datasets(child, f"{full}/")
        else:
            raise CacheFormatError(f"/{full} does not belong in a cache")
    return found


def _check_dataset(dataset: h5py.Dataset, name: str) -> None:
    properties = dataset.id.get_create_plist()
    if properties.get_external_count():
        raise CacheFormatError(f"{name} lies in another file (external storage)")
    if dataset.is_virtual:
        raise CacheFormatError(f"{name} is a virtual dataset of other files")
    filters = set(_filters(dataset))
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
    if dataset.chunks is not None:
        _check_chunks(dataset, name)


def _check_chunks(dataset: h5py.Dataset, name: str) -> None:
    """Refuse an index that does not lead to every chunk: HDF5 would give zeros in its place."""
    filters = _filters(dataset)
    plain = math.prod(dataset.chunks) * dataset.dtype.itemsize
    plain += _CHECKSUM * (h5py.h5z.FILTER_FLETCHER32 in filters)

    def wrong(chunk: Any) -> bool | None:
        # A filter that did not pay is left out of a chunk; a checksum never is.
        used = [kind for k, kind in enumerate(filters) if not chunk.filter_mask >> k & 1]
        packed = h5py.h5z.FILTER_DEFLATE in used
        unchecked = h5py.h5z.FILTER_FLETCHER32 in filters and h5py.h5z.FILTER_FLETCHER32 not in used
        return True if unchecked or not (packed or chunk.size == plain) else None

    places = _places(dataset.shape, dataset.chunks)
    if dataset.id.chunk_iter(wrong) or not all(_is_found(dataset.id, place) for place in places):
        raise CacheFormatError(f"{name} is damaged: its index does not lead to every chunk")


def _is_found(dataset: h5py.h5d.DatasetID, place: tuple[int, ...]) -> bool:
    """Look a chunk up as reading would; its bytes are not read, for they do not fit."""
    try:
        dataset.read_direct_chunk(place, out=bytearray(1))
    except ValueError:
        pass
    except (OSError, RuntimeError):
        return False
    return True


def _places(shape: tuple[int, ...], chunks: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Give where each chunk begins."""
    if not shape:
        yield ()
        return
    for first in range(0, shape[0], chunks[0]):
        for rest in _places(shape[1:], chunks[1:]):
            yield (first, *rest)


def _filters(dataset: h5py.Dataset) -> list[int]:
    properties = dataset.id.get_create_plist()
    return [int(properties.get_filter(i)[0]) for i in range(properties.get_nfilters())]


_HEAP = b"GCOL"
_MOST_OBJECTS = 10_000  # of a heap; those of a cache have a handful
_HEAD = 1 << 16  # bytes in which the texts of attributes lie
_REFERENCE = struct.Struct("<IQI")  # of a text: its length, the address of its heap, its number
_SIZE, _OBJECT = struct.Struct("<8xQ"), struct.Struct("<HHIQ")


def check_heaps(path: Path) -> None:
    """Refuse damaged heaps of texts at the beginning of a file, where its attributes have theirs.

    Raises
    ------
    CacheFormatError
        If HDF5 would never come to the end of one.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
        at = head.find(_HEAP)
        while at >= 0:
            at = head.find(_HEAP, at + max(1, _check_heap(file, at)))


def check_heap(dataset: h5py.Dataset) -> None:
    """Refuse a text whose heap is damaged.

    Raises
    ------
    CacheFormatError
        If HDF5 would never come to the end of it.
    """
    at = dataset.id.get_offset()
    if at is None or dataset.id.get_storage_size() < _REFERENCE.size:
        return
    with Path(dataset.file.filename).open("rb") as file:
        file.seek(at)
        _, heap, _ = _REFERENCE.unpack(file.read(_REFERENCE.size).ljust(_REFERENCE.size, b"\0"))
        if heap < 1 << 62:
            _check_heap(file, heap + dataset.file.userblock_size)


def _check_heap(file: Any, at: int) -> int:
    """Walk through a heap and give its size; free space without room would be met for ever."""
    file.seek(at)
    head = file.read(_SIZE.size)
    if head[: len(_HEAP)] != _HEAP or len(head) < _SIZE.size:
        return 0  # HDF5 says so
    (size,), inner = _SIZE.unpack(head), _SIZE.size
    for _ in range(_MOST_OBJECTS):
        file.seek(at + inner)
        head = file.read(_OBJECT.size)
        if inner + _OBJECT.size > size or len(head) < _OBJECT.size:
            return int(size)
        number, _, _, length = _OBJECT.unpack(head)
        if not number and not length:
            break
        inner += length if not number else _OBJECT.size + -(-length // 8) * 8
    raise CacheFormatError("the texts that describe it are overwritten")
