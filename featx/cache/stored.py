"""The rows of one cache, as they stand in it, on their way into another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.cache.distrust import json_text
from featx.cache.fingerprint import ExtractSpec
from featx.cache.folder import Folder, open_trusted
from featx.cache.format import BLOCK_ROWS, read_text, values_of, vector_datasets
from featx.cache.verify import same_digests
from featx.cache.writing import Whole
from featx.errors import CacheError, CacheFormatError


@contextmanager
def rows_of(path: Path) -> Iterator[tuple[Whole, Stored]]:
    """Open a cache, a file or a folder, as what is to be written again.

    Raises
    ------
    CacheError
        If there is no such cache, or it is not to be trusted.
    """
    file, spec = open_trusted(path)
    with file:
        provenance = json_text(file["provenance"]) if "provenance" in file else None
        classes = read_text(file["classes"]) if "classes" in file else None
        failed = {}
        if "failed/ids" in file:
            names, reasons = read_text(file["failed/ids"]), read_text(file["failed/reasons"])
            failed = dict(zip(names, reasons, strict=True))
        yield Whole(spec, provenance, classes, failed), Stored(path, file, spec)


class Stored:
    """The rows of an open cache; `featx.cache.writing.Rows` says what is asked of it."""

    def __init__(self, path: Path, file: h5py.File | Folder, spec: ExtractSpec) -> None:
        self._path, self._file = path, file
        self._vectors = vector_datasets(spec)
        self._spec = spec
        self.widths = [int(file[name].shape[1]) for name in self._vectors]
        names = ["ids", "paths", "content", "stamps", "row_digest", "labels", "split"]
        names += [f"columns/{name}" for name in file.get("columns", ())]
        self.columns: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            name: (file[name].dtype, file[name].shape[1:]) for name in names if name in file
        }

    def __len__(self) -> int:
        return int(self._file["features"].shape[0])

    def column(self, name: str) -> Any:
        """Give one of `columns`, to be read by slices."""
        return self._file[name]

    def read(self, rows: slice) -> tuple[list[NDArray[Any]], dict[str, Any]]:
        """Read a stretch of rows, and check it."""
        try:
            vectors = [self._file[name][rows] for name in self._vectors]
            values = {name: self._file[name][rows] for name in self.columns}
        except OSError as error:
            if isinstance(error, CacheError):
                raise
            raise self._damaged(f"between row {rows.start} and row {rows.stop}") from None
        keys = (values["ids"], values["content"], vectors, values["row_digest"])
        if not (good := same_digests(*keys)).all():
            raise self._damaged(f"in row {rows.start + int(good.argmin())}")
        return vectors, values

    def tag(self, rows: slice) -> str:
        """Digest what makes the part of these rows; its vectors are in the digests of the rows."""
        kind = repr((self._spec.fingerprint, self.widths))
        digest = hashlib.blake2b(kind.encode(), digest_size=8)
        if "classes" in self._file:
            digest.update("\0".join(read_text(self._file["classes"])).encode())
        for name, (dtype, tail) in self.columns.items():
            digest.update(repr((name, dtype.str, tail)).encode())
            for start in range(rows.start, rows.stop, BLOCK_ROWS):
                here = slice(start, min(start + BLOCK_ROWS, rows.stop))
                values = values_of(self._file[name], here)
                text = b"\0".join(values.tolist()) if values.dtype.kind == "O" else values.tobytes()
                digest.update(text)
        return digest.hexdigest()

    def _damaged(self, where: str) -> CacheFormatError:
        return CacheFormatError(
            f"{self._path} is damaged {where}; `featx verify {self._path}` lists what, and "
            "`featx extract` computes it again"
        )
