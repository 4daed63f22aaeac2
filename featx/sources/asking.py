"""Ask fsspec for what lies behind a URL: retries, bounded time, and one line on what went wrong."""

from __future__ import annotations

import errno
import socket
import time
from http import HTTPStatus
from typing import Any

from featx.errors import FeatxError, SourceError, UnreachableError, words_of

_TRIES = 4
_SECONDS = 60.0  # for one answer
_PAUSE = 0.2  # seconds before the second try; four times as long before each further one
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError)
_PASSING_STATUS = (408, 425, 429)
_GONE_STATUS = (404, 410)
_ONE_ANSWER = ("cat_file", "info")


def ask(files: Any, name: str, *arguments: Any, **options: Any) -> Any:
    """Call a method of a file system; a failure that may pass is tried again.

    What is one answer is waited for `_SECONDS`, where the file system can be interrupted.
    """
    for turn in range(_TRIES - 1):
        try:
            return _once(files, name, *arguments, **options)
        except Exception as error:
            if not _may_pass(error):
                raise
            time.sleep(_PAUSE * 4**turn)
    return _once(files, name, *arguments, **options)


def _once(files: Any, name: str, *arguments: Any, **options: Any) -> Any:
    from fsspec.asyn import sync

    bounded = name in _ONE_ANSWER or (name == "ls" and speaks_http(files))
    try:
        if bounded and getattr(files, "async_impl", False) and not files.asynchronous:
            method = getattr(files, f"_{name}")
            return sync(files.loop, method, *arguments, timeout=_SECONDS, **options)
        return getattr(files, name)(*arguments, **options)
    except FileNotFoundError as error:
        # Over HTTP fsspec says so of whatever went wrong when it looked at an object.
        if speaks_http(files) and isinstance(error.__cause__, Exception):
            raise error.__cause__ from None
        raise


def speaks_http(files: Any) -> bool:
    """Whether a file system is that of HTTP, which fsspec itself implements."""
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
    """What is said of a host that cannot be reached; nothing of any other error."""
    host, port = getattr(error, "host", "the host"), getattr(error, "port", None)
    cause = getattr(error, "os_error", error)
    if isinstance(cause, socket.gaierror):
        return f"the name {host} cannot be resolved ({cause.strerror})"
    if getattr(cause, "errno", None) == errno.ECONNREFUSED:
        return f"{host}{f':{port}' if port else ''} refuses the connection"
    return ""
