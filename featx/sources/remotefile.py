"""An object behind a URL as a file that is read in parts."""

from __future__ import annotations

import io
from typing import Any

from featx.errors import SourceError
from featx.manifest import Stamp
from featx.sources.remote import read_remote

_BUFFER = 1 << 20


class RemoteFile(io.RawIOBase):
    """An object as a file that can be sought in; reads are those of `read_remote`."""

    def __init__(self, url: str, stamp: Stamp) -> None:
        self.url, self.stamp, self.size, self._at = url, stamp, stamp.size, 0

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a place, as every file does."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as the object goes."""
        stop = min(self.size, self._at + len(buffer))
        if stop <= self._at:
            return 0
        data = read_remote(self.url, self._at, stop, self.stamp)
        buffer[: len(data)] = data
        self._at = stop
        return len(data)


def open_remote(url: str, stamp: Stamp) -> io.BufferedReader:
    """Open an object for reading in parts; reads raise what `read_remote` raises.

    Raises
    ------
    SourceError
        If it is empty, or its server does not tell its size.
    """
    if not stamp.size:
        raise SourceError(f"{url} is empty, or its server does not tell its size")
    return io.BufferedReader(RemoteFile(url, stamp), _BUFFER)
