"""Files behind a URL, by fsspec: what they are, and their bytes, with retries and bounded time."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from featx.errors import ImageError, MissingExtraError, SourceError
from featx.manifest import Stamp

T = TypeVar("T")

_TRIES = 4
_SECONDS = 60.0  # for one answer
_PAUSE = 0.2  # seconds before the second try; four times as long before each further one
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError)
_PASSING_STATUS = (408, 425, 429)
_PACKAGES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp",
    "https": "aiohttp", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs", "adl": "adlfs",
    "sftp": "paramiko", "ssh": "paramiko", "smb": "smbprotocol", "hf": "huggingface_hub",
}  # fmt: skip
_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "Digest", "sha256")
_TIMES = (
    "mtime", "LastModified", "last_modified", "Last-Modified", "updated", "modified", "created",
)  # fmt: skip


def is_url(text: str) -> bool:
    """Whether a name is a URL (``s3://...``, also chained: ``simplecache::s3://...``)."""
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
    try:
        found, path = url_to_fs(url)
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
        raise SourceError(f"{url}: {reason(error)}") from None
    return found, path


def fetch(url: str, start: int | None = None, stop: int | None = None) -> bytes:
    """Read an object, or bytes `start` to `stop` of it.

    Raises
    ------
    ImageError
        With the reason, after several tries where a failure may pass.
    """
    try:
        files, path = filesystem(url)
        data = _try(lambda: _bounded(files, "cat_file", path, start=start, end=stop))
    except Exception as error:
        raise ImageError(f"cannot be read: {reason(error)}") from None
    if start is not None and stop is not None and len(data) != stop - start:
        raise ImageError(f"{stop - start} bytes were asked for and {len(data)} came")
    return bytes(data)


def remote_stamp(url: str) -> Stamp:
    """Size and time, or tag, of an object.

    Raises
    ------
    SourceError
        If it is not there, or may not be read.
    """
    files, path = filesystem(url)
    try:
        return stamp_from(_try(lambda: _bounded(files, "info", path)))
    except Exception as error:
        raise SourceError(f"{url}: {reason(error)}") from None


def stamp_from(info: dict[str, Any]) -> Stamp:
    """Make the stamp of what fsspec tells of an object.

    A tag of the content counts before a time: it becomes a number that lies in the distant past,
    so that it is trusted at once.
    """
    size = int(info.get("size") or 0)
    for name in _TAGS:
        if tag := info.get(name):
            digest = hashlib.blake2b(str(tag).encode(), digest_size=8).digest()
            return Stamp(size, 1 + (int.from_bytes(digest, "big") >> 5))
    for name in _TIMES:
        if changed := _nanoseconds(info.get(name)):
            return Stamp(size, changed)
    return Stamp(size)


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


def list_remote(url: str) -> Iterator[tuple[str, Stamp]]:
    """List what lies below a URL, by name relative to it, a first-level folder at a time.

    Raises
    ------
    SourceError
        If it cannot be listed.
    """
    files, root = filesystem(url)
    cut = len(root.rstrip("/")) + 1
    try:
        for entry in sorted(_try(lambda: files.ls(root, detail=True)), key=lambda e: e["name"]):
            if entry["type"] != "directory":
                yield entry["name"][cut:], stamp_from(entry)
                continue
            # One folder's names at a time are Python objects, and not all of a bucket's.
            name = entry["name"]
            found = _try(lambda name=name: files.find(name, detail=True))  # type: ignore[misc]
            for path in sorted(found):
                yield path[cut:], stamp_from(found[path])
            files.invalidate_cache()
    except Exception as error:
        raise SourceError(f"{url} cannot be listed: {reason(error)}") from None


def glob_remote(url: str) -> list[str]:
    """Give the URLs that a pattern stands for, sorted.

    Raises
    ------
    SourceError
        If it cannot be listed.
    """
    files, path = filesystem(url)
    try:
        found = sorted(_try(lambda: files.glob(path)))
    except Exception as error:
        raise SourceError(f"{url} cannot be listed: {reason(error)}") from None
    return [name if is_url(name) else files.unstrip_protocol(name) for name in found]


def _bounded(files: Any, name: str, *arguments: Any, **options: Any) -> Any:
    """Call a method of a file system, ended after a time where the system can be interrupted."""
    from fsspec.asyn import sync

    if getattr(files, "async_impl", False) and not getattr(files, "asynchronous", False):
        method = getattr(files, f"_{name}")
        return sync(files.loop, method, *arguments, timeout=_SECONDS, **options)
    return getattr(files, name)(*arguments, **options)


def _try(call: Callable[[], T]) -> T:
    for turn in range(_TRIES - 1):
        try:
            return call()
        except Exception as error:
            if not _may_pass(error):
                raise
            time.sleep(_PAUSE * 4**turn)
    return call()


def _may_pass(error: Exception) -> bool:
    if isinstance(error, (*_FINAL, SourceError, MissingExtraError)):
        return False
    if "Credential" in type(error).__name__:
        return False
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status in _PASSING_STATUS
    return not isinstance(error, (TypeError, ValueError, NotImplementedError))


def reason(error: BaseException) -> str:
    """Say in one line why something behind a URL cannot be read."""
    if isinstance(error, FileNotFoundError):
        return "not found"
    if isinstance(error, TimeoutError):
        return f"no answer within {_SECONDS:g} s, {_TRIES} times"
    text = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
        return f"no access ({text}); set the credentials of this store"
    return text
