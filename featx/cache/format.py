"""The file format: which datasets there are, how they are stored, and how a row is digested.

`docs/cache-format.md` is the specification that this module implements. A shard is the same file
without labels, split and columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.cache.fingerprint import FORMAT_VERSION, ExtractSpec
from featx.errors import CacheFormatError

ENCODING_TYPE = "featx-cache"
CONTENT_DTYPE = np.dtype("S64")
DIGEST_DTYPE = np.dtype("S32")
_CHUNK_BYTES = 384 * 1024


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


def chunk_rows(n_rows: int, row_bytes: int) -> int:
    """Rows in a chunk: whole rows, about 384 KiB."""
    return max(1, min(n_rows, _CHUNK_BYTES // max(1, row_bytes)))


def create_header(file: h5py.File, spec: ExtractSpec) -> None:
    """Write what says which format and which spec a file has."""
    file.attrs["encoding-type"] = ENCODING_TYPE
    file.attrs["encoding-version"] = str(FORMAT_VERSION)
    file.attrs["fingerprint"] = spec.fingerprint
    file.create_dataset("spec", data=spec.to_json(), dtype=h5py.string_dtype())


def create_vectors(
    file: h5py.File, spec: ExtractSpec, n_rows: int, widths: Sequence[int]
) -> list[h5py.Dataset]:
    """Create the datasets of vectors, chunked by whole rows and checksummed."""
    dtype = np.dtype(spec.dtype)
    return [
        file.create_dataset(
            name,
            shape=(n_rows, width),
            dtype=dtype,
            chunks=(chunk_rows(n_rows, width * dtype.itemsize), width),
            fletcher32=True,
        )
        for name, width in zip(vector_datasets(spec), widths, strict=True)
    ]


def create_column(file: h5py.File, name: str, values: NDArray[Any] | Sequence[str]) -> None:
    """Write one column; text is stored as UTF-8 of fixed length, so that it is checksummed too."""
    array = np.asarray(values, dtype=object) if not isinstance(values, np.ndarray) else values
    if array.dtype.kind in "OU":
        encoded = [str(v).encode() for v in array]
        length = max([1, *map(len, encoded)])
        array = np.array(encoded, h5py.string_dtype("utf-8", length))
    chunks = (chunk_rows(len(array), array.dtype.itemsize * int(np.prod(array.shape[1:]))),)
    file.create_dataset(
        name,
        data=array,
        chunks=(*chunks, *array.shape[1:]) if len(array) else None,
        fletcher32=len(array) > 0,
        # Names of files repeat themselves; numbers and digests hardly do.
        compression="gzip" if len(array) and array.dtype.kind == "S" else None,
        compression_opts=1 if len(array) and array.dtype.kind == "S" else None,
    )


def read_text(dataset: h5py.Dataset) -> list[str]:
    """Read a column of text.

    Raises
    ------
    CacheFormatError
        If it is not UTF-8.
    """
    values = dataset[...]
    try:
        return [v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist()]
    except UnicodeDecodeError:
        raise CacheFormatError(f"{dataset.name} is not UTF-8 text") from None


def blocks(n_rows: int, row_bytes: int, block_bytes: int = 16 << 20) -> Iterator[slice]:
    """Cut rows into slices of about `block_bytes` that start at chunk boundaries."""
    chunk = chunk_rows(n_rows, row_bytes)
    step = max(chunk, block_bytes // max(1, row_bytes) // chunk * chunk)
    for start in range(0, n_rows, step):
        yield slice(start, min(n_rows, start + step))
