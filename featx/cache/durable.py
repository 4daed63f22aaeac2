"""HDF5 files that appear under their names complete, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import h5py

from featx.cache.seal import BLOCK_BYTES, seal
from featx.errors import CacheError
from featx.files import replacing


class _Sink:
    """The file under an HDF5 writer: after a failed write it swallows the rest.

    HDF5 flushes again while it closes, and a second failure there leaves it broken for the whole
    process. So the first error is kept, the library is let go quietly, and the error is raised
    after it.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while self.error is None and done < len(view):
            try:
                done += self.file.write(view[done:])
            except OSError as error:
                self.error = error
        return len(view)

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        if self.error is None:
            return int(self.file.readinto(view))  # type: ignore[attr-defined]
        view[:] = bytes(len(view))
        return len(view)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def truncate(self, size: int | None = None) -> int:
        if self.error is None:
            try:
                return self.file.truncate(size)
            except OSError as error:
                self.error = error
        return size or 0

    def flush(self) -> None:
        """Nothing is buffered here."""


@contextmanager
def durable_h5(
    path: Path, *, needed: int = 0, check: Callable[[Path], None] | None = None
) -> Iterator[h5py.File]:
    """Write an HDF5 file that appears under its name complete, or not at all.

    Parameters
    ----------
    path, needed, check
        As `featx.files.replacing` takes them.

    Raises
    ------
    NoSpaceError, CacheError
        As `featx.files.replacing`.
    """
    with replacing(path, needed=needed, check=check) as file:
        sink = _Sink(file)
        try:
            # Each dataset that is open keeps so many bytes of chunks: they are filled one by one.
            with h5py.File(
                sink,
                "w",
                libver=("earliest", "v110"),
                rdcc_nbytes=2 << 20,
                userblock_size=BLOCK_BYTES,
            ) as made:
                yield made
        except OSError as error:
            if isinstance(error, CacheError):
                raise
            if sink.error is None:
                raise CacheError(f"cannot write {path}: {error.strerror or error}") from error
            raise sink.error from error
        if sink.error is not None:
            raise sink.error
        seal(file)
