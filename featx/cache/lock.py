"""One writer at a time: a lock file that names its holder."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from featx.errors import CacheError, CacheLockedError


class WriterLock:
    """Hold ``CACHE.lock`` while a cache is written.

    The kernel drops the lock when its holder dies, however it dies; the file only tells who holds
    it.

    Raises
    ------
    CacheLockedError
        On entering, if another process holds the lock; the message names its pid, host and start.
    """

    def __init__(self, cache: Path) -> None:
        self.path = cache.with_name(f"{cache.name}.lock")
        self._handle: int | None = None

    def __enter__(self) -> WriterLock:
        while self._handle is None:
            self._try()
        return self

    def _try(self) -> None:
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise CacheError(f"cannot write {self.path}: {error.strerror}") from None
        try:
            _lock(handle)
        except OSError:
            os.close(handle)
            raise CacheLockedError(
                f"{self.path.name.removesuffix('.lock')} is being written by {self._holder()}; "
                "wait for it or stop it"
            ) from None
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
            self.path.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = None


def _lock(handle: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
