"""One writer at a time: a lock file that names its holder."""

from __future__ import annotations

import errno
import json
import os
import platform
import shlex
import stat
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from featx.errors import CacheError, CacheLockedError
from featx.files import behind

_CLOEXEC, _NOFOLLOW = getattr(os, "O_CLOEXEC", 0), getattr(os, "O_NOFOLLOW", 0)
_MOST_BYTES = 4096


_NOT_OURS = "move it away, or name another file"


class WriterLock:
    """Hold ``CACHE.lock`` while a cache is written.

    The kernel drops the lock when its holder dies, however it dies; the file only tells who holds
    it. A cache that is named through a link has the lock of the file behind it.

    Raises
    ------
    CacheLockedError
        On entering, if another process holds the lock; the message names its pid, host and start.
    CacheError
        If a file that is not a lock has this name, or the lock of another user is in the way.
    """

    def __init__(self, cache: Path) -> None:
        cache = behind(cache)
        self.path = cache.with_name(f"{cache.name}.lock")
        self._handle: int | None = None

    def __enter__(self) -> WriterLock:
        while self._handle is None:
            self._try()
        return self

    def _try(self) -> None:
        handle = self._open()
        try:
            self._require_lock_file(handle)
            _lock(handle)
        except OSError as error:
            os.close(handle)
            if isinstance(error, CacheError):
                raise
            raise self._locked() from None
        if not self._still_there(handle):  # its last holder removed it meanwhile
            os.close(handle)
            return
        since = datetime.now(UTC).isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": platform.node(), "since": since}
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(holder).encode(), 0)
        except OSError:
            pass  # a full disk: the lock holds all the same, it only cannot tell by whom
        self._handle = handle

    def _open(self) -> int:
        # Through a link, another file would be emptied.
        flags = os.O_RDWR | os.O_CREAT | _CLOEXEC | _NOFOLLOW
        try:
            return os.open(self.path, flags, 0o644)
        except PermissionError:
            raise self._of_another_user() from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise CacheError(f"{self.path} is a link, not a lock; {_NOT_OURS}") from None
            raise CacheError(f"cannot write {self.path}: {error.strerror}") from None

    def _require_lock_file(self, handle: int) -> None:
        """Refuse a file that featx did not write; its bytes are not to be lost."""
        found = os.fstat(handle)
        odd = not stat.S_ISREG(found.st_mode) or found.st_nlink > 1
        if odd or not _is_holder(os.pread(handle, _MOST_BYTES, 0)):
            raise CacheError(f"{self.path} is not a lock that featx wrote; {_NOT_OURS}")

    def _locked(self) -> CacheLockedError:
        return CacheLockedError(
            f"{self.path.name.removesuffix('.lock')} is being written by {self._holder()}; "
            "wait for it or stop it"
        )

    def _of_another_user(self) -> CacheError:
        """Say whether the holder of a lock that cannot be written to is still there."""
        try:
            handle = os.open(self.path, os.O_RDONLY | _CLOEXEC | _NOFOLLOW)
        except OSError as error:
            return CacheError(f"cannot write {self.path}: {error.strerror}")
        try:
            _lock(handle)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return self._locked()
            state = "cannot be asked whether it still runs"
        else:
            state = "is dead"
        finally:
            os.close(handle)
        return CacheError(
            f"{self.path} belongs to another user; its holder, {self._holder()}, {state}: to go "
            f"on, remove the file (rm {shlex.quote(str(self.path))}) or ask its owner to"
        )

    def _still_there(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), self.path.stat())
        except FileNotFoundError:
            return False

    def _holder(self) -> str:
        try:
            found = json.loads(self.path.read_text())
            return f"process {found['pid']} on {found['host']} since {found['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._handle is not None:
            if self._still_there(self._handle):  # another's, if this one was removed by hand
                self.path.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = None


def _is_holder(data: bytes) -> bool:
    """Tell whether these are the bytes of a lock, whole or as a crash left them."""
    start = b'{"pid": '
    return not data.strip(b"\0") or data[: len(start)] == start[: len(data)]


def _lock(handle: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
