"""Files behind a URL, by fsspec: what they are, and their bytes."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from featx.errors import (
    FeatxError,
    ImageError,
    MissingExtraError,
    SourceError,
    UnreachableError,
    UnreadableError,
)
from featx.manifest import Stamp
from featx.sources.addresses import require_redirect
from featx.sources.asking import ask, reason, refusal, speaks_http
from featx.sources.stamps import is_other, stamp_from

UNKNOWN = Stamp()
_HTTP = ("http", "https")

_CHANGED = "changed while it was read; run the same command again"

_PACKAGES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp",
    "https": "aiohttp", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs", "adl": "adlfs",
    "sftp": "paramiko", "ssh": "paramiko", "smb": "smbprotocol", "hf": "huggingface_hub",
}  # fmt: skip


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
    options: dict[str, Any] = {}
    if start is not None and stop is not None and speaks_http(files):
        options = _held(url, files, stamp)
    try:
        data = ask(files, "cat_file", path, start=start, end=stop, **options)
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
