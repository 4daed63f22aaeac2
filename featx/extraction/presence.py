"""The room of a run: a folder beside the cache that every worker must see.

It tells three things without any other channel: that a worker writes where the driver reads, how
many workers have started, and, once it is gone, that the run is over.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import shutil
from pathlib import Path
from types import TracebackType

from featx.cache.staging import parts_folder
from featx.errors import CacheError, ExtractError


class Room:
    """Open a room for the workers of one run, and close it whatever happens.

    Raises
    ------
    CacheError
        If the folder cannot be created.
    """

    def __init__(self, cache: Path) -> None:
        self.path = parts_folder(cache.absolute()) / f"workers-{secrets.token_hex(8)}"

    def __enter__(self) -> Room:
        try:
            self.path.mkdir(parents=True)
        except OSError as error:
            raise CacheError(f"cannot create {self.path}: {error.strerror}") from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the run for the workers: each notices within a second and keeps what it has."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):  # shards that wait there keep the folder
            self.path.parent.rmdir()

    def started(self) -> int:
        """How many workers have signed in so far."""
        try:
            return len(os.listdir(self.path))  # noqa: PTH208 - only their number
        except OSError:
            return 0


def is_open(room: Path) -> bool:
    """True if the run of this room goes on."""
    return room.is_dir()


def sign_in(room: Path) -> None:
    """Note in the room that this process has started.

    Raises
    ------
    ExtractError
        If this machine does not see the room.
    """
    host = platform.node()
    try:
        (room / f"{host}-{os.getpid()}").touch()
    except OSError as error:
        raise ExtractError(
            f"a worker on {host} cannot write beside the cache ({room.parent}: "
            f"{error.strerror or error}); put the cache on storage that all workers share"
        ) from None
