"""Files on this machine or behind a URL, read whole or in parts, by many threads."""

from __future__ import annotations

import os
import re
import stat as stat_module
import threading
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from featx.errors import GONE, ImageError, SourceError, UnreachableError, UnreadableError
from featx.items import Stamp
from featx.sources.addresses import address_of, addresses_otherwise, bare, is_http
from featx.sources.remote import fetch, is_url, open_remote, remote_stamp

_DRIVE = re.compile(r"(?:^|[/\\])([A-Za-z]:)(?:[/\\]|$)")
_SHARE = re.compile(r"(?:^|/)(\\\\[^\\/]+)")
_MOST = 64  # ways that are followed at a time


def settled(place: str) -> str:
    """Write a path with backslashes as the one file that it stands for, if there is one."""
    if "\\" not in place or "://" in place:
        return place
    try:
        return written_otherwise(place) or place
    except ImageError:
        return place


def written_otherwise(place: str) -> str | None:
    """Find the file that a path means which does not exist as it is written.

    Backslashes are folders; a name may be there in another Unicode form, else in another case.

    Returns
    -------
    path : None where there is something at `place`, so that the reason lies elsewhere

    Raises
    ------
    ImageError
        If no file fits, or several do.
    """
    if "\0" in place or os.path.lexists(place):
        return None
    if found := _DRIVE.search(place) or _SHARE.search(place):
        raise ImageError(
            f"file not found: a Windows path ({found.group(1)}) that is not on this machine; write "
            "paths relative to the table"
        )
    ways = _ways(place)
    best = min((rank for _, rank in ways), default=0)
    fitting = sorted({path for path, rank in ways if rank == best})
    if len(fitting) > 1:
        shown = ", ".join(os.path.basename(path) for path in fitting[:3])  # noqa: PTH119
        raise ImageError(f"file not found: {len(fitting)} others fit ({shown}); write one of them")
    if not fitting:
        why = "; with backslashes as folders neither" if "\\" in place else ""
        raise ImageError(f"file not found{why}")
    return fitting[0]


def _ways(place: str) -> list[tuple[str, int]]:
    """Files that fit, each with 1 where the Unicode form of a name differs, 2 where case does."""
    names = [name for name in re.split(r"[/\\]+", place) if name not in ("", ".")]
    ways = [("/" if place.startswith("/") else "", 0)]
    for name in names:
        ways = [
            (os.path.join(folder, other), max(rank, more))  # noqa: PTH118 - fast
            for folder, rank in ways[:_MOST]
            for other, more in _fitting(folder, name)
        ]
    return [(path, rank) for path, rank in ways if os.path.isfile(path)]  # noqa: PTH113 - fast


def _fitting(folder: str, name: str) -> list[tuple[str, int]]:
    if name == "..":
        return [(name, 0)]
    try:
        names = _names(folder or ".", os.stat(folder or ".").st_mtime_ns)  # noqa: PTH116
    except OSError:  # a folder may be passed through that cannot be listed
        return [(name, 0)] if os.path.lexists(os.path.join(folder, name)) else []  # noqa: PTH118
    form = _form(name)
    return [
        (other, 0 if other == name else 1 if _form(other) == form else 2)
        for other in names.get(form.casefold(), ())
    ]


@lru_cache(256)
def _names(folder: str, _changed: int) -> dict[str, list[str]]:
    """Names in a folder, by what they have in common with others that a path may mean."""
    found: dict[str, list[str]] = {}
    for name in os.listdir(folder):  # noqa: PTH208 - fast
        found.setdefault(_form(name).casefold(), []).append(name)
    return found


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)


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
    named_below
        The folder behind a URL below which a table names files (`join`): one that is not there
        letter by letter may be there in another writing.
    """

    places: Sequence[str]
    odd: dict[int, str] = field(default_factory=dict)
    stamps: NDArray[np.int64] | None = None
    named_below: str = ""

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
        return _fetch_named(place, addresses_otherwise(self.named_below, place)), stamp


def _fetch_named(place: str, others: Sequence[str]) -> bytes:
    """Read what lies at an address, else at the first of the others that is there."""
    failed: list[ImageError] = []
    for address in (place, *others):
        try:
            return fetch(address)
        except ImageError as error:
            failed.append(error)
    reason = next((one for one in failed if isinstance(one, UnreadableError)), failed[0])
    if "#" in place and is_http(place) and not isinstance(reason, UnreadableError):
        raise ImageError(f"{reason}; a # in the name of a file is written %23 in an address")
    raise reason


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
    return address_of(folder, name) if is_url(folder) else os.fspath(Path(folder) / name)


def parent(place: str) -> str:
    """Name the folder that a file lies in."""
    return bare(place).rsplit("/", 1)[0] if is_url(place) else os.fspath(Path(place).parent)


_MAX_FILE = 1 << 30  # bytes; more than any picture that the decode policy takes


def read_file(path: str) -> tuple[bytes, Stamp]:
    """Read a whole regular file, and the stamp that it had then."""
    try:
        # Non-blocking, so that a pipe called x.jpg cannot stop the run.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            found = os.fstat(handle)
            if not stat_module.S_ISREG(found.st_mode):
                raise ImageError("not a regular file")
            if found.st_size > _MAX_FILE:
                raise ImageError(f"a file of {found.st_size} bytes; at most {_MAX_FILE} are read")
            return _read_all(handle, found.st_size), Stamp.of(found)
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise ImageError("file not found") from None
    except OSError as error:
        kind = ImageError if error.errno in GONE else UnreadableError
        raise kind(f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # a zero byte, which no name of a file can hold
        raise ImageError(f"cannot be read: {error}") from None


def _read_all(handle: int, size: int) -> bytes:
    """Read to the end with as few calls as can be; each lets go of the interpreter once."""
    data = os.read(handle, size + 1)
    if len(data) == size and size:
        return data  # the end, since more was asked for
    pieces = [data]
    while pieces[-1] and sum(map(len, pieces)) <= _MAX_FILE:
        pieces.append(os.read(handle, 1 << 20))
    return b"".join(pieces)
