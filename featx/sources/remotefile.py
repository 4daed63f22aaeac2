"""An object behind a URL as a file that is read in parts."""

from __future__ import annotations

import io
from typing import Any

from featx.errors import ImageError, SourceError
from featx.sources.remote import fetch

_BUFFER = 1 << 20


class RemoteFile(io.RawIOBase):
    """An object as a file that can be sought in; reads are those of `fetch`."""

    def __init__(self, url: str, size: int) -> None:
        self.url, self.size, self._at = url, size, 0

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
        try:
            data = fetch(self.url, self._at, stop)
        except ImageError as error:
            raise OSError(str(error)) from None
        buffer[: len(data)] = data
        self._at = stop
        return len(data)


def open_remote(url: str, size: int) -> io.BufferedReader:
    """Open an object of `size` bytes for reading in parts.

    Raises
    ------
    SourceError
        If the server hands out whole files only.
    """
    if not size:
        raise SourceError(f"{url} is empty, or its server does not tell its size")
    try:
        fetch(url, 0, min(size, 16))
    except ImageError as error:
        raise SourceError(
            f"{url}: {error}; a container is read in parts, so copy it here if its server gives "
            "whole files only"
        ) from None
    return io.BufferedReader(RemoteFile(url, size), _BUFFER)
