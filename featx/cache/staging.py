"""Shards: small immutable files in which rows wait beside a cache until it is published.

A row is known by the digest of its image's bytes, so shards outlive any change of names, order or
labels, and any process may write them: one merges.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.cache.format import (
    CONTENT_DTYPE,
    DIGEST_DTYPE,
    create_column,
    create_header,
    create_vectors,
    row_digest,
)
from featx.cache.h5file import durable_h5
from featx.cache.verify import require_sound
from featx.errors import CacheError, CacheMismatchError, FeatxError
from featx.files import TEMPORARY, write_bytes
from featx.slices import WHOLE, Slice, SliceRecord, keeps
from featx.spec import ExtractSpec

SHARD_ROWS = 512
SHARD_BYTES = 64 << 20
SHARD_SECONDS = 30.0
_OWNER = "portion"  # as runs before named it, which may be continued
"""Name of the note that says of which slice of a source the shards beside it are."""


@dataclass(frozen=True)
class Row:
    """One finished row on its way to a shard."""

    item: str
    content: bytes
    stamp: tuple[int, int]
    vectors: tuple[NDArray[Any], ...]


def parts_folder(cache: Path) -> Path:
    """Where the shards of a cache lie, in a folder for each fingerprint."""
    return cache.with_name(f"{cache.name}.parts")


def require_own_shards(cache: Path, slice_: Slice) -> None:
    """Refuse shards that a stopped run of another slice left: publishing would remove them.

    Raises
    ------
    CacheMismatchError
        With what they are of.
    """
    parts = parts_folder(cache)
    owner = _owner(parts)
    held = None if owner.is_whole else SliceRecord((owner.number,), owner.total, 0, "")
    if not keeps(slice_, held) and any(parts.glob("*/[!.]*.h5")):
        raise CacheMismatchError(
            f"{parts} holds unfinished rows of {held or 'the whole source'}, and a run of shard "
            f"{slice_} would drop them; write to another file, or pass --force"
        )


def _owner(parts: Path) -> Slice:
    try:
        return Slice.of((parts / _OWNER).read_text())
    except (OSError, ValueError, FeatxError):
        return WHOLE


@dataclass
class ShardWriter:
    """Collect rows and close a shard after 512 of them, 64 MiB or 30 s.

    Safe to call from several threads. A shard that cannot be written keeps its rows, so the error
    may be raised again by the next call; nothing is dropped in silence.
    """

    parts: Path
    make_spec: Callable[[], ExtractSpec]
    rows: list[Row] = field(default_factory=list)
    written: int = 0
    seconds: float = 0.0
    slice_: Slice = WHOLE
    _since: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _writing: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def spec(self) -> ExtractSpec:
        """The spec of the rows; asked for when the first ones come, for it may hang on them."""
        return self.make_spec()

    @cached_property
    def folder(self) -> Path:
        """The folder of this fingerprint, created with notes of its spec and of the slice."""
        folder = self.parts / self.spec.fingerprint
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(f"cannot create {folder}: {error.strerror}") from None
        if not (folder / "spec.json").exists():
            write_bytes(folder / "spec.json", self.spec.to_json().encode())
        if _owner(self.parts) != self.slice_:
            write_bytes(self.parts / _OWNER, str(self.slice_).encode())
        return folder

    def add(self, rows: Sequence[Row]) -> None:
        """Take finished rows; writes a shard when enough have come together."""
        with self._lock:
            if not self.rows:
                self._since = time.monotonic()
            self.rows.extend(rows)
            full = len(self.rows) >= _most_rows(self.rows)
        if full:
            self.flush()

    def tick(self) -> None:
        """Close the shard in hand when its first row has waited for 30 s."""
        if self.rows and time.monotonic() - self._since > SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the rows in hand."""
        with self._writing:
            with self._lock:
                rows, self.rows = self.rows, []
            if not rows:
                return
            start = time.perf_counter()
            try:
                most = _most_rows(rows)
                for first in range(0, len(rows), most):
                    self._write(rows[first : first + most])
            except BaseException:
                with self._lock:
                    self.rows = rows + self.rows
                raise
            self.seconds += time.perf_counter() - start

    def _write(self, rows: list[Row]) -> None:
        name = f"{os.getpid():x}-{secrets.token_hex(6)}.h5"
        widths = [vector.shape[0] for vector in rows[0].vectors]
        row_bytes = sum(widths) * np.dtype(self.spec.dtype).itemsize + 256
        path = self.folder / name
        with durable_h5(path, needed=row_bytes * len(rows), check=require_sound) as file:
            create_header(file, self.spec)
            datasets = create_vectors(file, self.spec, len(rows), widths)
            for k, dataset in enumerate(datasets):
                dataset[...] = np.stack([row.vectors[k] for row in rows])
            create_column(file, "ids", [row.item for row in rows])
            create_column(file, "content", np.array([r.content for r in rows], CONTENT_DTYPE))
            create_column(file, "stamps", np.array([r.stamp for r in rows], np.int64))
            digests = [row_digest(r.item, r.content, r.vectors) for r in rows]
            create_column(file, "row_digest", np.array(digests, DIGEST_DTYPE))
        self.written += len(rows)


def _most_rows(rows: Sequence[Row]) -> int:
    """Rows of a shard: fewer where they are maps, so that memory stays bounded."""
    row_bytes = sum(vector.nbytes for vector in rows[0].vectors) if rows else 1
    return max(1, min(SHARD_ROWS, SHARD_BYTES // max(1, row_bytes)))


def remove_parts(cache: Path) -> None:
    """Remove every shard and leftover beside a cache that has just been published."""
    shutil.rmtree(parts_folder(cache), ignore_errors=True)


def remove_unfinished(cache: Path) -> None:
    """Remove what a killed writer left under a temporary name; needs the writer's lock."""
    beside = cache.parent.glob(f".{escape(cache.name)}.*{TEMPORARY}")
    inside = cache.glob(f".*{TEMPORARY}")  # of a cache that is a folder
    for path in [*beside, *inside, *parts_folder(cache).rglob(f".*{TEMPORARY}")]:
        with contextlib.suppress(OSError):
            path.unlink()


def complete_shards(folder: Path) -> list[Path]:
    """List the shards that have their final name, in a stable order."""
    return sorted(folder.glob("[!.]*.h5"))
