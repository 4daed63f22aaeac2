"""Files behind a URL, by fsspec: retries, bounded time, stamps, whole or in parts."""

from __future__ import annotations

import errno
import hashlib
import io
import re
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from featx.errors import (
    FeatxError,
    ImageError,
    MissingExtraError,
    SourceError,
    UnreachableError,
    UnreadableError,
    words_of,
)
from featx.items import Stamp
from featx.sources.addresses import require_redirect

_TRIES = 4
_SECONDS = 60.0  # for one answer
_PAUSE = 0.2  # seconds before the second try; four times as long before each further one
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError)
_PASSING_STATUS = (408, 425, 429)
_GONE_STATUS = (404, 410)
_ONE_ANSWER = ("cat_file", "info")
NO_OPTIONS: Mapping[str, object] = MappingProxyType({})


def ask(files: object, name: str, path: str, options: Mapping[str, object] = NO_OPTIONS) -> Any:
    """Call a method of a file system; a failure that may pass is tried again.

    Parameters
    ----------
    files
        A file system of fsspec.
    name
        Of its method: one answer, as of ``info``, is waited for `_SECONDS`, if the file system can
        be interrupted.
    path
        The first argument of the method.
    options
        Its keyword arguments.
    """
    for turn in range(_TRIES - 1):
        try:
            return _once(files, name, path, options)
        except Exception as error:
            if not _may_pass(error):
                raise
            time.sleep(_PAUSE * 4**turn)
    return _once(files, name, path, options)


def _once(files: Any, name: str, path: str, options: Mapping[str, Any]) -> Any:
    from fsspec.asyn import sync

    bounded = name in _ONE_ANSWER or (name == "ls" and speaks_http(files))
    try:
        if bounded and getattr(files, "async_impl", False) and not files.asynchronous:
            method = getattr(files, f"_{name}")
            return sync(files.loop, method, path, timeout=_SECONDS, **options)
        return getattr(files, name)(path, **options)
    except FileNotFoundError as error:
        # Over HTTP fsspec says so of whatever went wrong when it looked at an object.
        if speaks_http(files) and isinstance(error.__cause__, Exception):
            raise error.__cause__ from None
        raise


def speaks_http(files: Any) -> bool:
    """True if a file system is that of HTTP, which fsspec itself implements."""
    return "http" in files.protocol


def _may_pass(error: Exception) -> bool:
    if isinstance(error, (*_FINAL, FeatxError)) or "Credential" in type(error).__name__:
        return False
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status in _PASSING_STATUS
    return not isinstance(error, (TypeError, ValueError, NotImplementedError))


def refusal(error: Exception, where: str) -> SourceError:
    """Make the error to raise for something at `where` that cannot be read.

    It is an `UnreachableError` unless the storage has answered that there is no such thing.
    """
    if isinstance(error, SourceError):
        return error
    kind = SourceError if _is_gone(error) else UnreachableError
    return kind(f"{where}: {reason(error)}")


def _is_gone(error: Exception) -> bool:
    return isinstance(error, FileNotFoundError) or getattr(error, "status", None) in _GONE_STATUS


def reason(error: Exception) -> str:
    """Say in one line why something behind a URL cannot be read."""
    if _is_gone(error):
        return "not found"
    if isinstance(error, TimeoutError):
        return f"no answer within {_SECONDS:g} s, {_TRIES} times"
    if text := _unconnected(error):
        return text
    status = getattr(error, "status", None)
    text = words_of(error)
    if isinstance(status, int) and status in list(HTTPStatus):
        text = f"{status} {HTTPStatus(status).phrase}"
    if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
        return f"no access ({text}); set the credentials of this store"
    if status in (401, 403):
        return f"no access ({text})"
    return text


def _unconnected(error: Exception) -> str:
    """The message for a host that cannot be reached; empty for any other error."""
    host, port = getattr(error, "host", "the host"), getattr(error, "port", None)
    cause = getattr(error, "os_error", error)
    if isinstance(cause, socket.gaierror):
        return f"the name {host} cannot be resolved ({cause.strerror})"
    if getattr(cause, "errno", None) == errno.ECONNREFUSED:
        return f"{host}{f':{port}' if port else ''} refuses the connection"
    return ""


_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "Digest", "sha256")
_TIMES = (
    "mtime", "LastModified", "last_modified", "Last-Modified", "updated", "modified", "created",
)  # fmt: skip
_LAST_TAG = 1 << 59  # in 1988 as a time; what a tag becomes is not above it


def stamp_from(info: Mapping[str, Any]) -> Stamp:
    """Make the stamp of what fsspec tells of an object.

    A tag of the content counts before a time: it becomes a number that lies in the distant past,
    so that it is trusted at once.
    """
    size = int(info.get("size") or 0)
    for name in _TAGS:
        if number := _of_tag(info.get(name)):
            return Stamp(size, number)
    for name in _TIMES:
        if changed := _nanoseconds(info.get(name)):
            return Stamp(size, changed)
    return Stamp(size)


def is_other(stamp: Stamp, headers: Mapping[str, str]) -> bool:
    """True if an HTTP answer shows that the object is no longer the one that has this stamp.

    What the answer is silent about counts as the same. `Content-MD5` and `Digest` are of the part
    that is sent, and say nothing.
    """
    total = headers.get("Content-Range", "").rpartition("/")[2]
    if stamp.size and total.isdecimal() and int(total) != stamp.size:
        return True
    tag, changed = _of_tag(headers.get("ETag")), _nanoseconds(headers.get("Last-Modified"))
    if not stamp.mtime_ns or stamp.mtime_ns in (tag, changed):
        return False
    return bool(tag if stamp.mtime_ns <= _LAST_TAG else changed)


def _of_tag(tag: object) -> int:
    """A number for a tag, 0 for none; stores quote it in some answers and not in others."""
    text = str(tag or "").removeprefix("W/").strip('"')
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return 1 + (int.from_bytes(digest, "big") >> 5) if text else 0


def _nanoseconds(value: Any) -> int:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            try:
                value = parsedate_to_datetime(value)
            except ValueError:
                return 0
    if isinstance(value, datetime):
        value = (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    # Stores tell microseconds; a float holds no more.
    return round(value * 1e6) * 1000 if isinstance(value, (int, float)) else 0


UNKNOWN = Stamp()
_HTTP = ("http", "https")

_CHANGED = "changed while it was read; run the same command again"

_PACKAGES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp",
    "https": "aiohttp", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs", "adl": "adlfs",
    "sftp": "paramiko", "ssh": "paramiko", "smb": "smbprotocol", "hf": "huggingface_hub",
}  # fmt: skip


def is_url(text: str) -> bool:
    """True if a name is a URL (``s3://...``, also chained: ``simplecache::s3://...``)."""
    return re.match(r"^([a-z][a-z0-9+.-]*::)*[a-z][a-z0-9+.-]*://", text) is not None


def filesystem(url: str) -> tuple[Any, str]:
    """Give fsspec's file system of a URL, and the path within it.

    Raises
    ------
    MissingExtraError
        If its package is not installed.
    SourceError
        If there is no such protocol, or it cannot be reached.
    """
    from fsspec.core import url_to_fs

    protocol = url.split("://", 1)[0].rsplit("::", 1)[-1]
    own: dict[str, Any] = {"get_client": _checked_client} if protocol in _HTTP else {}
    own = {protocol: own} if own and "::" in url else own
    try:
        found, path = url_to_fs(url, **own)
    except ImportError:
        package = _PACKAGES.get(protocol, f"fsspec package for {protocol}")
        raise MissingExtraError(
            f"{url} needs the package {package}: pip install {package}"
        ) from None
    except ValueError as error:
        if "rotocol not known" in str(error):
            raise SourceError(f"{url}: fsspec knows no protocol {protocol!r}") from None
        raise SourceError(f"{url}: {reason(error)}") from None
    except Exception as error:  # what a store raises without credentials
        raise refusal(error, url) from None
    return found, path


async def _checked_client(**options: Any) -> Any:
    """Make a client of HTTP that follows a redirect only where it may lead."""
    import aiohttp

    async def check(_session: Any, _context: Any, asked: Any) -> None:
        there = asked.response.headers.get("Location") or asked.response.headers.get("URI", "")
        require_redirect(str(asked.url), str(asked.url.join(URL(there))))

    from yarl import URL

    redirects = aiohttp.TraceConfig()
    redirects.on_request_redirect.append(check)
    return aiohttp.ClientSession(trace_configs=[redirects], **options)


def fetch(
    url: str, start: int | None = None, stop: int | None = None, stamp: Stamp = UNKNOWN
) -> bytes:
    """Read an image, as `read_remote` reads.

    Raises
    ------
    ImageError
        With the reason.
    """
    try:
        return read_remote(url, start, stop, stamp)
    except UnreachableError as error:
        raise UnreadableError(str(error)) from None
    except FeatxError as error:
        raise ImageError(str(error)) from None


def read_remote(
    url: str, start: int | None = None, stop: int | None = None, stamp: Stamp = UNKNOWN
) -> bytes:
    """Read an object, or bytes `start` to `stop` of it; a failure that may pass is tried again.

    Parameters
    ----------
    stamp
        What the object was listed with: an HTTP answer that is of another one is refused.

    Raises
    ------
    UnreachableError
        If there is no answer, a refusal, or one of another object.
    SourceError
        If there is no such object.
    """
    files, path = filesystem(url)
    options: dict[str, Any] = {"start": start, "end": stop}
    if start is not None and stop is not None and speaks_http(files):
        options |= _held(url, files, stamp)
    try:
        data = ask(files, "cat_file", path, options)
    except Exception as error:
        raise refusal(error, f"{url} cannot be read") from None
    if start is not None and stop is not None and len(data) != stop - start:
        if stop <= stamp.size:
            raise UnreachableError(f"{url} {_CHANGED}")
        raise UnreachableError(f"{url}: {stop - start} bytes were asked for and {len(data)} came")
    return bytes(data)


def _held(url: str, files: Any, stamp: Stamp) -> dict[str, Any]:
    """Options of a request over HTTP whose answer is looked at before its body is read."""

    async def look(answer: Any) -> None:
        shorter = answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        if shorter or (answer.ok and is_other(stamp, answer.headers)):
            raise UnreachableError(f"{url} {_CHANGED}")
        if answer.status == HTTPStatus.OK:
            raise UnreachableError(
                f"{url} cannot be read in parts: its server gives whole files only; copy it here"
            )

    # A part of what was compressed on the way would be no part of the file.
    headers = {**files.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
    return {"raise_for_status": look, "headers": headers}


def remote_stamp(url: str) -> Stamp:
    """Size and time, or tag, of an object as it is now.

    Raises
    ------
    UnreachableError
        If there is no answer, or a refusal.
    SourceError
        If there is no such object.
    """
    files, path = filesystem(url)
    try:
        files.invalidate_cache(path)  # else some stores repeat what they said when it was listed
        return stamp_from(ask(files, "info", path))
    except Exception as error:
        raise refusal(error, url) from None


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
