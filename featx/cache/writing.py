"""Write finished rows as one file, or as a folder of parts with an index."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.cache.folder import Part, file_digest
from featx.cache.format import (
    INDEX,
    INDEX_TYPE,
    blocks,
    create_column,
    create_header,
    create_rows,
    create_vectors,
    fill,
)
from featx.cache.h5file import durable_h5, open_file, open_index
from featx.cache.ids import write_id_index
from featx.cache.verify import require_sound
from featx.errors import CacheError
from featx.files import TEMPORARY, require_space
from featx.spec import ExtractSpec
from featx.typing import JsonObject

PART_ROWS = 65_536
_RESERVE = 1 << 20  # bytes kept free for metadata
_ROW_BYTES = 400  # id, path, digests, label and columns of one row


@dataclass(frozen=True)
class FileFacts:
    """The facts that a cache states once and not by rows.

    Parameters
    ----------
    provenance
        As JSON text.
    classes
        Names of the classes, or None.
    failed
        ``id -> reason`` of each image that gave no row.
    """

    spec: ExtractSpec
    provenance: str | None = None
    classes: list[str] | None = None
    failed: dict[str, str] = field(default_factory=dict)


class RowSource(Protocol):
    """Finished rows in the order that they are written in.

    `columns` gives the stored type and the further axes of each column beside the vectors, digests
    and ids among them.
    """

    widths: list[int]
    columns: dict[str, tuple[np.dtype[Any], tuple[int, ...]]]

    def __len__(self) -> int: ...

    def read(self, rows: slice) -> tuple[list[NDArray[Any]], JsonObject]:
        """Give the vectors of each tap, and the values of `columns`."""

    def tag(self, rows: slice) -> str:
        """Name a part of these rows; the same name only ever means the same part."""


def write_file(path: Path, whole: FileFacts, rows: RowSource) -> None:
    """Write all rows into one file, which takes the place of the old one when it is complete.

    Raises
    ------
    NoSpaceError
        Before anything is written, if the disk has no room; the old cache stays.
    """
    needed = _require_space(path, path.parent, whole.spec, rows, len(rows))
    with durable_h5(path, needed=needed, check=require_sound) as file:
        create_header(file, whole.spec)
        _say(file, whole)
        _copy(file, whole.spec, rows, slice(0, len(rows)))
        write_id_index(file, len(rows), [file["ids"]])


def write_folder(
    path: Path, whole: FileFacts, rows: RowSource, part_rows: int = PART_ROWS
) -> list[Part]:
    """Write rows into parts, and then the index that makes them the cache.

    Until the index has its name, the folder is what it was before. Parts that a stopped run left
    complete are kept where `RowSource.tag` says that they are the same.

    Raises
    ------
    NoSpaceError
        Before anything is written, if the disk has no room; the old cache stays.
    CacheError
        If there are no rows.
    """
    if not len(rows):
        raise CacheError(f"{path}: a cache without rows is a file, and no folder; name a file")
    starts = range(0, len(rows), part_rows)
    spans = [slice(start, min(start + part_rows, len(rows))) for start in starts]
    names = [f"part-{k:05d}-{rows.tag(span)}.h5" for k, span in enumerate(spans)]
    there = [_sound(path / name) for name in names]
    missing = [span for span, done in zip(spans, there, strict=True) if not done]
    _require_space(path, path, whole.spec, rows, sum(s.stop - s.start for s in missing))
    parts = []
    for name, span, done in zip(names, spans, there, strict=True):
        if not done:
            _write_part(path / name, whole, rows, span)
        size = (path / name).stat().st_size
        parts.append(Part(name, span.start, span.stop, size, file_digest(path / name)))
    _write_index(path / INDEX, whole, parts)
    remove_other_parts(path, names)
    return parts


def remove_other_parts(path: Path, names: Sequence[str] = ()) -> None:
    """Remove from a folder what no reader of its index needs."""
    named = set(names)
    unnamed = [part for part in path.glob("part-*.h5") if part.name not in named]
    for file in [*unnamed, *path.glob(f".*{TEMPORARY}")]:
        with contextlib.suppress(OSError):
            file.unlink()


def _write_part(path: Path, whole: FileFacts, rows: RowSource, span: slice) -> None:
    n_rows = span.stop - span.start
    needed = n_rows * _row_bytes(whole.spec, rows)
    with durable_h5(path, needed=needed, check=require_sound) as file:
        create_header(file, whole.spec)
        if whole.classes is not None:
            create_column(file, "classes", whole.classes)
        _copy(file, whole.spec, rows, span)


def _write_index(path: Path, whole: FileFacts, parts: Sequence[Part]) -> None:
    def check(temporary: Path) -> None:
        open_index(temporary)[0].close()

    with durable_h5(path, needed=16 * parts[-1].stop + _RESERVE, check=check) as file:
        create_header(file, whole.spec, INDEX_TYPE)
        _say(file, whole)
        create_column(file, "parts", [part.name for part in parts])
        spans = np.array([(part.start, part.stop) for part in parts], np.int64)
        create_column(file, "part_rows", spans)
        create_column(file, "part_bytes", np.array([part.n_bytes for part in parts], np.int64))
        create_column(file, "part_digest", np.array([part.digest for part in parts], "S32"))
        write_id_index(file, parts[-1].stop, _id_columns(path.parent, parts))


def _id_columns(path: Path, parts: Sequence[Part]) -> Iterator[h5py.Dataset]:
    for part in parts:
        file, _ = open_file(path / part.name)
        with file:
            yield file["ids"]


def _say(file: h5py.File, whole: FileFacts) -> None:
    if whole.provenance is not None:
        file.create_dataset("provenance", data=whole.provenance, dtype=h5py.string_dtype())
    if whole.classes is not None:
        create_column(file, "classes", whole.classes)
    create_column(file, "failed/ids", list(whole.failed))
    create_column(file, "failed/reasons", list(whole.failed.values()))


def _copy(file: h5py.File, spec: ExtractSpec, rows: RowSource, span: slice) -> None:
    """Copy a stretch of the rows, block by block."""
    n_rows = span.stop - span.start
    vectors = create_vectors(file, spec, n_rows, rows.widths)
    columns = {
        name: create_rows(file, name, n_rows, dtype, tail)
        for name, (dtype, tail) in rows.columns.items()
    }
    for block in blocks(n_rows, sum(rows.widths) * np.dtype(spec.dtype).itemsize):
        found, values = rows.read(slice(span.start + block.start, span.start + block.stop))
        for dataset, vector in zip(vectors, found, strict=True):
            dataset[block] = vector
        for name, dataset in columns.items():
            fill(dataset, block, values[name])


def _sound(path: Path) -> bool:
    """True if a part is there already; one that is damaged is removed."""
    if not path.is_file():
        return False
    try:
        if path.is_symlink():
            raise CacheError(f"{path} is a link")
        require_sound(path)
    except CacheError:
        path.unlink()
        return False
    return True


def _row_bytes(spec: ExtractSpec, rows: RowSource) -> int:
    return int(sum(rows.widths) * np.dtype(spec.dtype).itemsize + _ROW_BYTES)


def _require_space(
    path: Path, folder: Path, spec: ExtractSpec, rows: RowSource, n_rows: int
) -> int:
    needed = n_rows * _row_bytes(spec, rows) + _RESERVE
    require_space(path, folder, needed)
    return needed
