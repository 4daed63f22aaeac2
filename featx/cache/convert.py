"""One file becomes a folder of parts, and a folder one file; nothing is computed again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featx.cache.distrust import json_text
from featx.cache.durable import TEMPORARY, require_writable, sync_folder
from featx.cache.fingerprint import ExtractSpec
from featx.cache.folder import Folder, open_trusted
from featx.cache.format import BLOCK_ROWS, INDEX, read_text, vector_datasets
from featx.cache.lock import WriterLock
from featx.cache.shards import remove_unfinished
from featx.cache.verify import same_digests
from featx.cache.writing import PART_ROWS, Whole, write_file, write_folder
from featx.errors import CacheError, CacheFormatError


@dataclass(frozen=True)
class Converted:
    """What `split` or `merge` wrote; 0 parts are one file."""

    source: str
    cache: str
    rows: int
    parts: int
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


def split(
    cache: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    rows: int = PART_ROWS,
    force: bool = False,
) -> Converted:
    """Copy a cache into a folder of parts, each a cache file of at most `rows` rows.

    A run that was stopped goes on from its complete parts. Until the index is there, the folder is
    no cache; with `force`, it stays the old one until then.

    Raises
    ------
    CacheError
        If `folder` exists and is not to be replaced, or holds other files.
    CacheFormatError
        If a row of `cache` is damaged.
    NoSpaceError
        If the disk has no room.

    Examples
    --------
    >>> from featx.cache import split
    >>> split("photos.h5", "photos", rows=100_000)  # doctest: +SKIP
    """
    source, target = Path(cache), Path(folder)
    if target.name in ("", ".."):  # a lock lies beside it, under its name
        target = target.resolve()
    if rows < 1:
        raise CacheError(f"a part has at least 1 row; got {rows}")
    _require_apart(source, target)
    with _rows_of(source) as (whole, stored):
        if not target.exists():
            require_writable(target, "folder of parts")
        with WriterLock(target):
            _require_folder(target, force)
            if not target.exists():
                _make_folder(target)
            remove_unfinished(target)
            parts = write_folder(target, whole, stored, rows)
        size = sum(part.n_bytes for part in parts) + (target / INDEX).stat().st_size
        return Converted(str(source), str(target), len(stored), len(parts), size)


def merge(
    folder: str | os.PathLike[str], cache: str | os.PathLike[str], *, force: bool = False
) -> Converted:
    """Copy a folder of parts into one cache file.

    Raises
    ------
    CacheError
        If `folder` is not one, or `cache` exists and is not to be replaced.
    CacheFormatError
        If a part is missing or damaged.
    NoSpaceError
        If the disk has no room.

    Examples
    --------
    >>> from featx.cache import merge
    >>> merge("photos", "photos.h5")  # doctest: +SKIP
    """
    source, target = Path(folder), Path(cache)
    if not source.is_dir():
        raise CacheError(f"{source} is no folder of parts; `featx split CACHE {source}` writes one")
    _require_apart(source, target)
    with _rows_of(source) as (whole, stored):
        require_writable(target, "merged cache")
        with WriterLock(target):
            if target.exists() and not force:
                raise CacheError(f"{target} exists; name another file, or pass --force")
            remove_unfinished(target)
            write_file(target, whole, stored)
        return Converted(str(source), str(target), len(stored), 0, target.stat().st_size)


@contextmanager
def _rows_of(path: Path) -> Iterator[tuple[Whole, _Stored]]:
    file, spec = open_trusted(path)
    with file:
        provenance = json_text(file["provenance"]) if "provenance" in file else None
        classes = read_text(file["classes"]) if "classes" in file else None
        failed = {}
        if "failed/ids" in file:
            names, reasons = read_text(file["failed/ids"]), read_text(file["failed/reasons"])
            failed = dict(zip(names, reasons, strict=True))
        yield Whole(spec, provenance, classes, failed), _Stored(path, file, spec)


class _Stored:
    """The rows of a cache, as they stand in it."""

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
                values = self._file[name][start : min(start + BLOCK_ROWS, rows.stop)]
                text = b"\0".join(values.tolist()) if values.dtype.kind == "O" else values.tobytes()
                digest.update(text)
        return digest.hexdigest()

    def _damaged(self, where: str) -> CacheFormatError:
        return CacheFormatError(
            f"{self._path} is damaged {where}; `featx verify {self._path}` lists what, and "
            "`featx extract` computes it again"
        )


def _require_folder(target: Path, force: bool) -> None:
    """Refuse a folder that is a cache already or that holds what is not of one."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise CacheError(f"{target} is no folder; name another one")
    names = [] if not target.exists() else sorted(path.name for path in target.iterdir())
    own = [n for n in names if n == INDEX or _is_part(n) or (n[0] == "." and n.endswith(TEMPORARY))]
    if others := set(names) - set(own):
        raise CacheError(f"{target} holds other files, as {min(others)}; name a new folder")
    if INDEX in own and not force:
        raise CacheError(f"{target} exists; name another folder, or pass --force to replace it")


def _is_part(name: str) -> bool:
    return name.startswith("part-") and name.endswith(".h5")


def _require_apart(source: Path, target: Path) -> None:
    """Refuse to write a cache into itself."""
    here, there = source.resolve(), target.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise CacheError(f"{target} and {source} overlap; name another target")


def _make_folder(target: Path) -> None:
    try:
        target.mkdir()
    except OSError as error:
        raise CacheError(f"cannot create {target}: {error.strerror}") from None
    sync_folder(target.parent)
