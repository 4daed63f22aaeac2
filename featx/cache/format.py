"""The file format: which datasets there are, how they are stored, and what each must be."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.errors import CacheFormatError
from featx.spec import FORMAT_VERSION, ExtractSpec
from featx.typing import RowValues

ENCODING_TYPE = "featx-cache"
INDEX_TYPE = "featx-cache-index"
INDEX = "index.h5"
"""Name of the index in a folder of parts."""
ID_INDEX = "id_index"
"""The table in which rows are found by id."""
CONTENT_DTYPE = np.dtype("S64")
DIGEST_DTYPE = np.dtype("S32")
BLOCK_ROWS = 8192
"""Rows whose names are handled at once."""
_CHUNK_BYTES = 384 * 1024
_MAP_CHUNK_BYTES = 32 * 1024  # maps are read in random batches, a chunk for each row


def map_shapes(spec: ExtractSpec) -> dict[str, tuple[int, int, int]]:
    """Give (channels, height, width) of each tap, by its name, whose rows are maps."""
    found = {tap["name"]: tuple(tap["map"]) for tap in spec.taps if "map" in tap}
    names = tap_names(spec)
    return {name: found[own] for name in names if (own := _before_view(name, found)) in found}


def _before_view(name: str, known: Mapping[str, object]) -> str:
    return name if name in known else name.rpartition("@")[0]


def vector_datasets(spec: ExtractSpec) -> list[str]:
    """Names of the datasets that hold vectors: ``features``, then ``taps/<name>``."""
    names = [tap["name"] for tap in spec.taps]
    views = spec.preprocess.get("views", ["none"])
    if spec.view_merge == "apart" and len(views) > 1:
        names = [f"{name}@{view}" for name in names for view in views]
    return ["features", *(f"taps/{name}" for name in names[1:])]


def tap_names(spec: ExtractSpec) -> list[str]:
    """Names of the taps, in the order of `vector_datasets`."""
    first = spec.taps[0]["name"]
    return [
        name.removeprefix("taps/") if name != "features" else first
        for name in vector_datasets(spec)
    ]


def row_digest(item: str, content: bytes, vectors: Sequence[NDArray[Any]]) -> bytes:
    """Digest one row: its id, the digest of its file, and its vectors as stored."""
    digest = hashlib.blake2b(item.encode(), digest_size=16)
    digest.update(b"\0" + content)
    for vector in vectors:
        digest.update(np.ascontiguousarray(vector).view(np.uint8).data)
    return digest.hexdigest().encode()


def chunk_rows(n_rows: int, row_bytes: int, chunk_bytes: int = _CHUNK_BYTES) -> int:
    """Rows in a chunk: whole rows, about 384 KiB."""
    return max(1, min(n_rows, chunk_bytes // max(1, row_bytes)))


def create_header(file: h5py.File, spec: ExtractSpec, kind: str = ENCODING_TYPE) -> None:
    """Write what says which format and which spec a file has."""
    file.attrs["encoding-type"] = kind
    file.attrs["encoding-version"] = str(FORMAT_VERSION)
    file.attrs["fingerprint"] = spec.fingerprint
    file.create_dataset("spec", data=spec.to_json(), dtype=h5py.string_dtype())


def create_vectors(
    file: h5py.File, spec: ExtractSpec, n_rows: int, widths: Sequence[int]
) -> list[h5py.Dataset]:
    """Create the datasets of vectors, chunked by whole rows and checksummed."""
    dtype, there = np.dtype(spec.dtype), n_rows > 0  # HDF5 has no chunks of nothing
    most = _MAP_CHUNK_BYTES if map_shapes(spec) else _CHUNK_BYTES
    return [
        file.create_dataset(
            name,
            shape=(n_rows, width),
            dtype=dtype,
            chunks=(chunk_rows(n_rows, width * dtype.itemsize, most), width) if there else None,
            fletcher32=there,
        )
        for name, width in zip(vector_datasets(spec), widths, strict=True)
    ]


def column_dtype(values: RowValues | Sequence[str]) -> np.dtype[Any]:
    """Type that a column is stored as: numbers as they are, text as UTF-8 of fixed length."""
    if isinstance(values, np.ndarray) and values.dtype.kind not in "OU":
        return values.dtype
    longest = max((len(str(value).encode()) for value in values), default=1)
    dtype: np.dtype[Any] = h5py.string_dtype("utf-8", max(1, longest))
    return dtype


def fill(dataset: h5py.Dataset, rows: slice, values: RowValues | Sequence[str]) -> None:
    """Write a stretch of a column; text may be given as strings or as it is stored."""
    if isinstance(values, np.ndarray) and values.dtype.kind not in "OUS":
        dataset[rows] = values
        return
    text = np.empty(len(values), dataset.dtype)  # which says that its bytes are UTF-8
    there = isinstance(values, np.ndarray) and values.dtype.kind == "S"
    text[:] = values if there else [v if isinstance(v, bytes) else str(v).encode() for v in values]
    dataset[rows] = text


def create_rows(
    file: h5py.File, name: str, n_rows: int, dtype: np.dtype[Any], tail: tuple[int, ...] = ()
) -> h5py.Dataset:
    """Create an empty column, to be filled by blocks; text has a checksum and is deflated."""
    chunk = chunk_rows(n_rows, dtype.itemsize * math.prod(tail))
    text = n_rows > 0 and dtype.kind == "S"
    return file.create_dataset(
        name,
        shape=(n_rows, *tail),
        dtype=dtype,
        chunks=(chunk, *tail) if n_rows else None,
        fletcher32=n_rows > 0,
        # Names of files repeat themselves; numbers and digests hardly do.
        compression="gzip" if text else None,
        compression_opts=1 if text else None,
    )


def create_column(file: h5py.File, name: str, values: RowValues | Sequence[str]) -> None:
    """Write one column that is in memory."""
    tail = values.shape[1:] if isinstance(values, np.ndarray) else ()
    dataset = create_rows(file, name, len(values), column_dtype(values), tail)
    if len(values):
        fill(dataset, slice(None), values)


def values_of(dataset: Any, key: Any = ...) -> Any:
    """Read from a dataset of a file, or of a folder of parts.

    Raises
    ------
    CacheFormatError
        If the bytes are not those that were written.
    """
    try:
        return dataset[key]
    except (OSError, RuntimeError, SystemError) as error:
        if isinstance(error, CacheFormatError):
            raise
        path = dataset.file.filename
        raise CacheFormatError(
            f"{path} is damaged in {dataset.name}; `featx verify {path}` lists what, and `featx "
            "extract` computes it again"
        ) from None


def read_text(dataset: h5py.Dataset) -> list[str]:
    """Read a column of text.

    Raises
    ------
    CacheFormatError
        If it is damaged, or not UTF-8.
    """
    values = values_of(dataset)
    try:
        return [v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist()]
    except UnicodeDecodeError:
        raise CacheFormatError(f"{dataset.name} is not UTF-8 text") from None


def blocks(n_rows: int, row_bytes: int, block_bytes: int = 8 << 20) -> Iterator[slice]:
    """Cut rows into slices of about `block_bytes`, not too many, that start at chunk boundaries."""
    chunk = chunk_rows(n_rows, row_bytes)
    step = max(chunk, min(BLOCK_ROWS, block_bytes // max(1, row_bytes)) // chunk * chunk)
    for start in range(0, n_rows, step):
        yield slice(start, min(n_rows, start + step))


def row_blocks(n_rows: int) -> Iterator[slice]:
    """Cut rows into stretches whose names are handled at once."""
    for start in range(0, n_rows, BLOCK_ROWS):
        yield slice(start, min(n_rows, start + BLOCK_ROWS))


GROUPS = ("taps", "columns", "failed")


@dataclass(frozen=True)
class DatasetForm:
    """The form of one dataset.

    Parameters
    ----------
    types
        What it may hold: ``text``, ``json`` (one text), or types of numpy.
    length
        What its first axis counts, as ``rows``; those of one word have one length.
    widths
        Lengths that its second axis may have; it has none where this is empty.
    """

    types: tuple[str, ...]
    length: str = "rows"
    widths: tuple[int, ...] = ()


_NUMBERS = ("bool", "int", "uint", "float")

FORMS: Mapping[str, DatasetForm] = {
    "ids": DatasetForm(("text",)),
    "paths": DatasetForm(("text",)),
    "content": DatasetForm(("S64",)),
    "stamps": DatasetForm(("int64",), widths=(2, 3, 4)),
    "row_digest": DatasetForm(("S32",)),
    "split": DatasetForm(("text",)),
    "columns/*": DatasetForm((*_NUMBERS, "text")),
    "classes": DatasetForm(("text",), "classes"),
    "failed/ids": DatasetForm(("text",), "failed"),
    "failed/reasons": DatasetForm(("text",), "failed"),
    "id_index": DatasetForm(("uint64",), widths=(2,)),
    "parts": DatasetForm(("text",), "parts"),
    "part_rows": DatasetForm(("int64",), "parts", (2,)),
    "part_bytes": DatasetForm(("int64",), "parts"),
    "part_digest": DatasetForm(("S32",), "parts"),
    "spec": DatasetForm(("json",), ""),
    "provenance": DatasetForm(("json",), ""),
}
"""Form of each dataset but vectors and labels, whose forms depend on the spec and on others."""

_TOGETHER = (("failed/ids", "failed/reasons"),)


def require_forms(datasets: dict[str, Any], lengths: dict[str, int]) -> None:
    """Refuse a file in which a dataset has another type, rank or length than it must.

    Parameters
    ----------
    datasets
        Every dataset of the file by its name, as ``failed/ids``.
    lengths
        Known lengths, as of ``rows``; others are those of the first dataset that has them.

    Raises
    ------
    CacheFormatError
        With the dataset, what it is and what it should be.
    """
    for group in GROUPS:
        if group in datasets:
            raise CacheFormatError(f"/{group} is a dataset, and should be a group")
    for name, dataset in datasets.items():
        form = FORMS.get(name) or FORMS.get(f"{name.split('/')[0]}/*")
        if form is not None:
            _require_form(name, dataset, form, lengths)
    for one, other in _TOGETHER:
        if (one in datasets) != (other in datasets):
            raise CacheFormatError(f"/{one if other in datasets else other} is missing")
    if "labels" in datasets:
        _require_labels(datasets["labels"], lengths)


def _require_form(name: str, dataset: Any, form: DatasetForm, lengths: dict[str, int]) -> None:
    if form.types == ("json",):
        if dataset.shape != () or not is_text(dataset):
            raise CacheFormatError(f"/{name} is not one JSON text")
        return
    rank = 1 + bool(form.widths)
    if dataset.shape is None or dataset.ndim != rank:
        raise CacheFormatError(
            f"/{name} has the shape {dataset.shape}, and should have {rank} axes"
        )
    if form.widths and dataset.shape[1] not in form.widths:
        raise CacheFormatError(f"/{name} has {dataset.shape[1]} columns, not {form.widths[0]}")
    if not any(_is_of(dataset, kind) for kind in form.types):
        wanted = " or ".join(form.types)
        raise CacheFormatError(f"/{name} holds {dataset.dtype}, and should hold {wanted}")
    length = lengths.setdefault(form.length, dataset.shape[0])
    if dataset.shape[0] != length:
        raise CacheFormatError(f"/{name} has {dataset.shape[0]} values for {length} {form.length}")


def _require_labels(labels: Any, lengths: dict[str, int]) -> None:
    classes = lengths.get("classes")
    if labels.shape is None or labels.shape[:1] != (lengths["rows"],) or labels.ndim > 2:
        raise CacheFormatError(f"/labels has {labels.shape} values for {lengths['rows']} rows")
    if classes is None:
        if labels.ndim != 1 or labels.dtype.kind != "f":
            raise CacheFormatError(
                f"/labels holds {labels.dtype} without /classes; numbers for a regression are float"
            )
    elif labels.dtype.kind != "i":
        raise CacheFormatError(f"/labels holds {labels.dtype}, and should hold codes of classes")
    elif labels.ndim == 2 and labels.shape[1] != classes:
        raise CacheFormatError(f"/labels has {labels.shape[1]} columns for {classes} classes")


def is_text(dataset: Any) -> bool:
    """Tell whether a dataset holds text, of fixed length or not."""
    return h5py.check_string_dtype(dataset.dtype) is not None


def _is_of(dataset: Any, kind: str) -> bool:
    if kind == "text":
        return is_text(dataset)
    if kind in _NUMBERS:
        return bool(dataset.dtype.kind == kind[0])
    return bool(dataset.dtype == np.dtype(kind))
