"""Writing that survives a kill, a crash or a full disk.

A file is written under a temporary name in the folder of its final name, closed, flushed to the
disk, read back, and renamed; then the folder is flushed. A name that exists is therefore complete.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from featx.cache.format import INDEX
from featx.errors import CacheError, NoSpaceError

TEMPORARY = ".tmp"
"""Suffix of a file that is being written."""

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_BEGINNINGS = {
    "model": rb"PK.{28}meta\.json",
    "report": rb"<!doctype html>",
    "plot": rb"\x89PNG",
    "ONNX file": rb"\x08",
    "predictions": rb'id,|\{"id"|PAR1',
    "table": rb"cache,",
}
"""How the files begin that a command replaces without being told to."""


class _Sink:
    """The file under an HDF5 writer: after a failed write it swallows the rest.

    HDF5 flushes again while it closes, and a second failure there leaves it broken for the whole
    process. So the first error is kept, the library is let go quietly, and the error is raised
    after it.
    """

    def __init__(self, path: Path) -> None:
        self.file = path.open("x+b", buffering=0)
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
            return self.file.readinto(view)
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


def raise_write_error(error: OSError, path: Path, needed: int) -> None:
    """Raise `error` as one line that names the space needed and free, in bytes."""
    if error.errno in _NO_SPACE:
        free = shutil.disk_usage(path.parent).free
        limit = "" if error.errno != errno.EFBIG else " (a limit on the size of files is set)"
        raise NoSpaceError(
            f"no space to write {path}: {size_text(needed)} needed, {size_text(free)} free{limit}; "
            "make room and run the same command again, what is done is kept"
        ) from error
    raise CacheError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def durable_h5(
    path: Path, *, needed: int = 0, check: Callable[[Path], None] | None = None
) -> Iterator[h5py.File]:
    """Write an HDF5 file that appears under its name complete, or not at all.

    Parameters
    ----------
    path
        The final name; replaced when the block ends well.
    needed
        Expected size in bytes, for the message when the disk is full.
    check
        Called with the temporary name after closing; raises when what was written reads wrong.

    Raises
    ------
    NoSpaceError
        If the disk is full or a limit on the size of files is met.
    CacheError
        If it cannot be written for another reason.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        sink = _Sink(temporary)
    except OSError as error:
        raise_write_error(error, path, needed)
        raise
    try:
        # Each dataset that is open keeps so many bytes of chunks: they are filled one by one.
        with h5py.File(sink, "w", libver=("earliest", "v110"), rdcc_nbytes=2 << 20) as file:
            yield file
        if sink.error is not None:
            raise sink.error
        os.fsync(sink.file.fileno())
        sink.file.close()
        if check is not None:
            check(temporary)
        publish(temporary, path)
    except OSError as error:
        if isinstance(error, CacheError):
            raise
        raise_write_error(sink.error or error, path, needed)
    finally:
        sink.file.close()
        temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path) -> None:
    """Rename a complete file to its name, and make the rename last."""
    _require_plain(path, "target")
    os.replace(temporary, path)  # noqa: PTH105 - the call that tests interrupt
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk; nothing to do where a folder cannot be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file durably.

    Raises
    ------
    NoSpaceError, CacheError
        As `durable_h5`.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if temporary.read_bytes() != data:
            raise CacheError(f"{path} reads back other than it was written; check the disk")
        publish(temporary, path)
    except OSError as error:
        if isinstance(error, CacheError):
            raise
        raise_write_error(error, path, len(data))
    finally:
        temporary.unlink(missing_ok=True)


def require_writable(path: Path, what: str, *read: object) -> None:
    """Refuse a target that cannot be written, before any work is done for it.

    Parameters
    ----------
    path
        The target.
    what
        What it is to hold, for the message.
    *read
        What the work reads or writes besides; the names among it are not to be overwritten.

    Raises
    ------
    CacheError
        If `path` is a folder, unless of a cache in parts, or a device or pipe, or one of `read`,
        or a file that featx did not write, or its folder is missing or read-only.
    """
    if path.is_dir() and what != "cache":
        raise CacheError(f"{what} {path} is a folder; give the name of a file")
    if path.is_dir() and not _takes_parts(path):
        raise CacheError(
            f"cache {path} is a folder with other things in it; name a file, or a folder that is "
            "new or empty"
        )
    _require_plain(path, what)
    names = [Path(name) for name in read if isinstance(name, str | os.PathLike)]
    if any(_same(path, name) for name in names):
        raise CacheError(f"{what} {path} would replace a file of this same command; name another")
    _require_ours(path, what)
    folder = path.parent
    if not folder.is_dir():
        raise CacheError(f"{what} {path}: the folder {folder} does not exist; create it first")
    probe = folder / f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}"
    try:
        probe.touch(exist_ok=False)
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise CacheError(f"{what} {path} cannot be written: {error.strerror or error}") from None


def _same(path: Path, name: Path) -> bool:
    try:
        # Two targets of one command need not exist.
        return path.samefile(name) if path.exists() else path.resolve() == name.resolve()
    except (OSError, ValueError):  # nothing is there, or the name is no path, as a long URL
        return False


def _require_ours(path: Path, what: str) -> None:
    """Refuse to replace a picture, or a table written by hand; a cache has --force for that."""
    if what not in _BEGINNINGS or not path.is_file():
        return
    try:
        with path.open("rb") as file:
            first = file.read(64)
    except OSError as error:
        raise CacheError(f"{what} {path} cannot be read: {error.strerror or error}") from None
    if first and not re.match(_BEGINNINGS[what], first, re.DOTALL):
        raise CacheError(
            f"{what} {path} would replace a file that featx did not write; move it away, or name "
            "another"
        )


def _require_plain(path: Path, what: str) -> None:
    """Refuse /dev/null and its like: the rename that publishes would put a file in their place."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise CacheError(f"{what} {path} is a device or a pipe, no file; name a file")


def _takes_parts(folder: Path) -> bool:
    """Whether a folder is a cache in parts, or is empty and may become one."""
    return (folder / INDEX).is_file() or not any(folder.glob("[!.]*"))


def size_text(n_bytes: float) -> str:
    """Write a number of bytes for a person.

    Examples
    --------
    >>> size_text(1_500_000)
    '1.5 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"
