"""Files on this machine or behind a URL, read whole or in parts, by many threads."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from featx.errors import GONE, ImageError, SourceError, UnreachableError, UnreadableError
from featx.manifest import Stamp, read_file
from featx.sources.otherwise import written_otherwise
from featx.sources.remote import fetch, is_url, remote_stamp
from featx.sources.remotefile import open_remote

V = TypeVar("V")

_CHANGED = "the file changed while it was read; run the same command again"
_ASK_SECONDS = 10.0


class Recent(Generic[V]):
    """The few values used last; each is made once, however many threads ask for it.

    A copy in another process starts empty.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._slots: OrderedDict[Hashable, tuple[threading.Lock, list[V]]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """Give the value of `key`, made now if it is not there."""
        with self._lock:
            lock, value = self._slots.setdefault(key, (threading.Lock(), []))
            self._slots.move_to_end(key)
            while len(self._slots) > self._limit:
                self._slots.popitem(last=False)
        with lock:
            if not value:
                value.append(make())
            return value[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return Recent, (self._limit,)


class _Open:
    """An open file; closed when nobody holds it, so that no thread loses it while reading."""

    def __init__(self, path: str) -> None:
        self.handle = -1
        self.handle = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)


@dataclass(frozen=True)
class Parts:
    """Read parts of files that must not have changed since they were stamped."""

    open: Recent[_Open] = field(default_factory=lambda: Recent(32), repr=False, compare=False)
    asked: Recent[None] = field(default_factory=lambda: Recent(1024), repr=False, compare=False)

    def read(self, place: str, offset: int, size: int, stamp: Stamp) -> bytes:
        """Read `size` bytes.

        Raises
        ------
        ImageError
            If they cannot be read, or the file is another one now.
        """
        if is_url(place):
            return self._read_remote(place, offset, size, stamp)
        try:
            file = self.open.get(place, lambda: _Open(place))
            found = os.fstat(file.handle)
            if Stamp.of(found) != stamp:
                raise ImageError(_CHANGED)
            data = os.pread(file.handle, size, offset)
        except OSError as error:
            kind = ImageError if error.errno in GONE else UnreadableError
            raise kind(f"cannot be read: {error.strerror or error}") from None
        if len(data) != size:
            raise ImageError(_CHANGED)
        return data

    def _read_remote(self, place: str, offset: int, size: int, stamp: Stamp) -> bytes:
        data = fetch(place, offset, offset + size, stamp)
        # Only HTTP says with every answer what it is of. Other stores are asked now and then, after
        # a read and for all threads; what slips through is of a file that the next run finds
        # changed, and reads anew.
        now = int(time.monotonic() // _ASK_SECONDS)
        self.asked.get((place, now), lambda: require_same(place, stamp))
        return data


@dataclass(frozen=True)
class ReadFiles:
    """Read items that are files of their own.

    Parameters
    ----------
    places
        Path or URL of each item.
    odd
        Where an item really is, if its name is not UTF-8.
    stamps
        What the listing said of each URL.
    """

    places: Sequence[str]
    odd: dict[int, str] = field(default_factory=dict)
    stamps: NDArray[np.int64] | None = None

    def __call__(self, item: int) -> tuple[bytes, Stamp]:
        """Give the bytes of an item and its stamp."""
        place = self.odd.get(item) or self.places[item]
        if not is_url(place):
            try:
                return read_file(place)
            except UnreadableError:
                raise
            except ImageError:
                if (other := written_otherwise(place)) is None:
                    raise
                return read_file(other)
        stamp = Stamp() if self.stamps is None else Stamp(*self.stamps[item].tolist())
        return fetch(place), stamp


def stamp_of(place: str) -> Stamp:
    """Size and time of change of a file.

    Raises
    ------
    SourceError
        If there is none.
    """
    if is_url(place):
        return remote_stamp(place)
    try:
        found = Path(place).stat()
    except FileNotFoundError:
        raise SourceError(f"{place}: file not found") from None
    except OSError as error:
        kind = SourceError if error.errno in GONE else UnreachableError
        raise kind(f"{place}: {error.strerror or error}") from None
    return Stamp.of(found)


def require_same(place: str, stamp: Stamp) -> None:
    """Refuse a file that has changed since `stamp`.

    Raises
    ------
    ImageError
        If it has, or is gone.
    """
    try:
        now = stamp_of(place)
    except SourceError as error:
        raise unread(error, f"cannot be read: {error}") from None
    if now != stamp:
        raise ImageError(_CHANGED)


def unread(error: SourceError, message: str) -> ImageError:
    """Make the error of an image whose container cannot be read, now or at all."""
    return (UnreadableError if isinstance(error, UnreachableError) else ImageError)(message)


def open_file(place: str, stamp: Stamp) -> BinaryIO:
    """Open a file for reading in parts.

    Raises
    ------
    SourceError
        If it cannot be read, or not in parts.
    """
    if is_url(place):
        return open_remote(place, stamp)
    try:
        return Path(place).open("rb")
    except OSError as error:
        kind = SourceError if error.errno in GONE else UnreachableError
        raise kind(f"{place}: {error.strerror or error}") from None


def join(folder: str, name: str) -> str:
    """Write a name below a folder; a name that is a URL, or absolute on this machine, stays.

    A table that lies behind a URL cannot name files of this machine.
    """
    if is_url(name):
        return name
    if is_url(folder):
        return f"{folder.rstrip('/')}/{name.lstrip('/')}"
    return os.fspath(Path(folder) / name)


def parent(place: str) -> str:
    """Name the folder that a file lies in."""
    return place.rsplit("/", 1)[0] if is_url(place) else os.fspath(Path(place).parent)
