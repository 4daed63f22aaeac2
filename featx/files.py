"""The only writer of files: complete under their names, or not there at all.

A file is written under a temporary name in the folder of its final name, flushed to the disk, read
back, and renamed; then the folder is flushed. A name that exists is therefore complete. A temporary
file is locked while its writer lives, so that the next run can tell and remove what a killed run
left.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import IO, Any, NoReturn

from featx.errors import CacheError, FeatxError, NoSpaceError

TEMPORARY = ".tmp"
"""Suffix of a file that is being written."""

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TOKEN_BYTES = 4
_SCRATCH = "featx-"
_ALIVE = ".alive"  # in a scratch folder: locked by the process that uses it


class Sequential:
    """A file that is written from its beginning to its end, with a digest of what was written.

    It has what `csv`, `json` and `pyarrow` ask of a binary file.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.blake2b(digest_size=16)
        self.closed = False

    def write(self, data: Any) -> int:
        """Write bytes; returns their number."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):  # a raw file may take fewer bytes than it is given
            done += self._file.write(view[done:])
        self.digest.update(view)
        return len(view)

    def flush(self) -> None:
        """Do nothing; `replacing` flushes."""

    def tell(self) -> int:
        """Give the number of bytes written."""
        return self._file.tell()

    def readable(self) -> bool:
        """Say no."""
        return False

    def writable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say no."""
        return False

    def close(self) -> None:
        """Do nothing; `replacing` closes the file."""


@contextmanager
def replacing(
    path: Path,
    *,
    needed: int = 0,
    check: Callable[[Path], None] | None = None,
    mode: int = 0o666,
) -> Iterator[IO[bytes]]:
    """Write a file that appears under its name complete, or not at all.

    Parameters
    ----------
    path
        The final name, or a link to it; replaced when the block ends well.
    needed
        Expected size in bytes, for the message when the disk is full.
    check
        Called with the temporary name after the flush; raises when what was written reads wrong.
    mode
        Permissions, less the umask of the process.

    Yields
    ------
    file : binary, readable, writable and without a buffer

    Raises
    ------
    NoSpaceError
        If the disk is full or a limit on the size of files is met.
    CacheError
        If it cannot be written for another reason.
    """
    path = behind(path)
    remove_dead(path)
    temporary, file = _temporary(path, needed, mode)
    size = needed
    try:
        with file:
            yield file
            size = max(size, os.fstat(file.fileno()).st_size)
            os.fsync(file.fileno())
            if check is not None:
                check(temporary)
            publish(temporary, path)
    except OSError as error:
        # What the block reads, from the network say, fails for reasons of its own.
        if isinstance(error, FeatxError | ConnectionError | TimeoutError) or error.errno is None:
            raise
        raise_write_error(error, path, max(size, _size(temporary)))
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, *, needed: int = 0, mode: int = 0o666) -> Iterator[Sequential]:
    """Write a file from its beginning to its end, and read it back before it gets its name.

    Raises
    ------
    NoSpaceError, CacheError
        As `replacing`; also if it reads back other than it was written.
    """
    sink: Sequential | None = None

    def check(temporary: Path) -> None:
        with temporary.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
        assert sink is not None
        if found.digest() != sink.digest.digest():
            raise CacheError(f"{path} reads back other than it was written; check the disk")

    with replacing(path, needed=needed, check=check, mode=mode) as file:
        sink = Sequential(file)
        yield sink


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file that is in memory.

    Raises
    ------
    NoSpaceError, CacheError
        As `writing`.
    """
    with writing(path, needed=len(data)) as file:
        file.write(data)


def publish(temporary: Path, path: Path) -> None:
    """Rename a complete file to its name, and make the rename last."""
    require_plain(path, "target")
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


def _temporary(path: Path, needed: int, mode: int) -> tuple[Path, IO[bytes]]:
    """Create a locked file beside `path`."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    flags |= getattr(os, "O_BINARY", 0)
    while True:
        name = temporary_name(path)
        try:
            file = open(os.open(name, flags, mode), "r+b", buffering=0)  # noqa: PTH123
        except OSError as error:
            raise_write_error(error, path, needed)
        _lock(file.fileno())
        if _same_file(file.fileno(), name):
            return name, file
        file.close()  # another run took it for a dead one before it was locked


def behind(path: Path) -> Path:
    """Follow links: a file that is named through one is the file behind it.

    Raises
    ------
    CacheError
        If the links lead in a circle.
    """
    if not path.is_symlink():
        return path
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        raise CacheError(f"{path} is a link that leads back to itself; remove it") from None


def temporary_name(path: Path) -> Path:
    """Make a name for a file that will become `path`; hidden, and different each time."""
    return path.with_name(f".{path.name}.{secrets.token_hex(_TOKEN_BYTES)}{TEMPORARY}")


def remove_dead(path: Path) -> None:
    """Remove what killed runs left of `path` under temporary names.

    A file whose writer lives is locked, and stays; so does a file that has another owner.
    """
    own = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{{2 * _TOKEN_BYTES}}}{TEMPORARY}")
    for found in path.parent.glob(f".{escape(path.name)}.*{TEMPORARY}"):
        if own.fullmatch(found.name):
            _unlink_dead(found)


def _unlink_dead(path: Path) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        try:
            if stat.S_ISREG(os.fstat(handle).st_mode) and _lock(handle):
                path.unlink()
        finally:
            os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open file; the kernel drops the lock when this process ends, however it ends."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by another process, or a file system without locks
        return False
    return True


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder for files of this process alone; what killed runs left there is removed."""
    _remove_dead_scratch()
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with (folder / _ALIVE).open("xb") as file:
            _lock(file.fileno())
            yield folder


def _remove_dead_scratch() -> None:
    """Remove scratch folders of this user whose process is gone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        with contextlib.suppress(OSError):
            found = folder.lstat()
            mine = hasattr(os, "getuid") and found.st_uid == os.getuid()
            if not (stat.S_ISDIR(found.st_mode) and mine):
                continue
            handle = os.open(folder / _ALIVE, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
            try:
                if _lock(handle):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def require_plain(path: Path, what: str) -> None:
    """Refuse /dev/null and its like: the rename that publishes would put a file in their place."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise CacheError(f"{what} {path} is a device or a pipe, not a file; name a file")


def raise_write_error(error: OSError, path: Path, needed: int) -> NoReturn:
    """Raise `error` as one line that names the space needed and free, in bytes."""
    if is_full(error):
        limit = "" if error.errno != errno.EFBIG else " (a limit on the size of files is set)"
        raise no_space(path, needed, limit) from error
    raise CacheError(f"cannot write {path}: {error.strerror or error}") from error


def is_full(error: OSError) -> bool:
    """Tell whether a disk, a quota or a limit on the size of files is the reason."""
    return error.errno in _NO_SPACE


def no_space(path: Path, needed: int, limit: str = "") -> NoSpaceError:
    """Make the error that says how much space `path` needs and how much is free."""
    free = size_text(shutil.disk_usage(path.parent).free)
    return NoSpaceError(
        f"no space to write {path}: {size_text(needed)} needed, {free} free{limit}; "
        "make room and run the same command again, what is done is kept"
    )


def full_text(error: OSError) -> str:
    """Say of a full disk, where nothing says what was being written, how much is free.

    Parameters
    ----------
    error
        One that `is_full` is true of; with the name of a file, its disk is meant, else those of
        the current folder and of temporary files.
    """
    if error.filename:
        path = Path(os.fsdecode(error.filename))
        return str(no_space(path, _size(path) + 1)).replace(" needed", " needed at the least", 1)
    folders = dict.fromkeys((Path.cwd(), Path(tempfile.gettempdir())))
    free = ", ".join(f"{size_text(shutil.disk_usage(f).free)} free in {f}" for f in folders)
    return (
        f"{error.strerror or error}: what was to be written needs more than is free ({free}); make "
        "room and run the same command again, or set TMPDIR to a folder on a larger disk"
    )


def require_space(path: Path, folder: Path, needed: int) -> None:
    """Refuse to begin a file that `folder` has no room for.

    Raises
    ------
    NoSpaceError
        With the bytes needed and free.
    """
    if shutil.disk_usage(folder).free < needed:
        raise no_space(path, needed)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


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


def cache_home() -> Path:
    """Name the user's cache folder; it may not exist yet.

    ``FEATX_CACHE_HOME``, else ``XDG_CACHE_HOME/featx``, else ``~/.cache/featx``.
    """
    if own := os.environ.get("FEATX_CACHE_HOME"):
        return Path(own).expanduser()
    common = os.environ.get("XDG_CACHE_HOME")
    return (Path(common) if common else Path.home() / ".cache") / "featx"
