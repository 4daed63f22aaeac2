"""Addresses: of a name that a table gives, and which may be followed that the user did not name.

A table, a listing or a redirect that came over the network may name only what lies on its own host,
by a scheme of the list below, and other hosts that the user has named. Nothing of it is ever read
from this machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from urllib.parse import urlsplit

from featx.errors import SourceError, UnreachableError

_SCHEMES = frozenset(
    ("http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hf", "memory")
)
_VARIABLE = "FEATX_ALLOW_HOSTS"
_PORTS = {"http": "80", "https": "443"}
_FETCH = ContextVar("fetch", default=False)
_ALIKE = ({"s3", "s3a"}, {"gs", "gcs"}, {"az", "abfs", "abfss", "adl"})
_WITH_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*):(//)?")
_NEVER = ("data", "file", "local")  # without slashes they look like names of files


@contextmanager
def allowing(hosts: Sequence[str]) -> Iterator[None]:
    """Allow other hosts while a run goes on, in its worker processes too.

    Parameters
    ----------
    hosts
        Names, with a port where it is not that of the scheme: ``images.example.org``,
        ``localhost:9000``. Those of the environment variable ``FEATX_ALLOW_HOSTS`` are allowed
        anyway.
    """
    before = os.environ.get(_VARIABLE)
    if hosts:
        os.environ[_VARIABLE] = ",".join([*_allowed(), *hosts])
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = before


@contextmanager
def fetching(allowed: bool) -> Iterator[None]:
    """Follow addresses that a cache names, or not; without this they are not followed."""
    token = _FETCH.set(allowed)
    try:
        yield
    finally:
        _FETCH.reset(token)


def may_fetch() -> bool:
    """Tell whether addresses that a cache names may be followed now."""
    return _FETCH.get()


def _allowed() -> list[str]:
    found = os.environ.get(_VARIABLE, "").split(",")
    return [host.strip().lower() for host in found if host.strip()]


def require_named(origin: str, names: Iterable[str]) -> None:
    """Refuse what lies at a URL if it names something else than its own host's resources.

    Parameters
    ----------
    origin
        The URL of a table or of a listing.
    names
        What it names: a URL, or a path relative to the folder of `origin`.

    Raises
    ------
    SourceError
        With the first such name and the host to allow, if that would help.
    """
    refused = [(name, why) for name in names if (why := _objection(origin, name))]
    if refused:
        name, why = refused[0]
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise SourceError(f"{origin} names {name!r}{more}: {why}")


def _objection(origin: str, name: str) -> str:
    """Why `name` is not followed; empty where it is."""
    if "::" in name:
        return "addresses that are chained are taken from the command line only"
    found = _WITH_SCHEME.match(name)
    if found is None or (found[2] is None and found[1].lower() not in _NEVER):
        return ""  # a path, which is looked for on the host of `origin`
    if found[1] not in _SCHEMES or name != name.lstrip():
        return f"a table or listing behind a URL may not name {found[1].lower()}: addresses"
    if _is_followed(origin, name):
        return ""
    host = _host(name)
    return f"{host} is another host; pass --allow-hosts {host} if it is to be trusted"


def require_redirect(here: str, there: str) -> None:
    """Refuse a redirect to another host, or to another scheme than HTTP.

    Raises
    ------
    UnreachableError
        With the host to allow.
    """
    scheme = urlsplit(there).scheme
    if scheme not in ("http", "https"):
        raise UnreachableError(f"{here} redirects to a {scheme}: address, which is not followed")
    if not _is_followed(here, there):
        host = _host(there)
        raise UnreachableError(
            f"{here} redirects to another host; pass --allow-hosts {host} if it is to be trusted"
        )


def _is_followed(origin: str, name: str) -> bool:
    here, there = _parts(origin), _parts(name)
    if here[0] == "http" and here[2] == "80" and there[0] == "https":
        here = ("https", here[1], "443")  # the secure form of the same address
    alike = here[0] == there[0] or any({here[0], there[0]} <= kind for kind in _ALIKE)
    if alike and here[1:] == there[1:]:
        return True
    return any(host in _allowed() for host in (_host(name), f"{there[1]}:{there[2]}"))


def _parts(url: str) -> tuple[str, str, str]:
    """Scheme, host and port of a URL; of a chain, those of its last link."""
    parts = urlsplit(url.rsplit("::", 1)[-1])
    try:
        port = parts.port
    except ValueError:
        port = None
    host = (parts.hostname or "").lower().rstrip(".")
    return parts.scheme, host, str(port or _PORTS.get(parts.scheme, ""))


def _host(url: str) -> str:
    """Host of a URL as `--allow-hosts` takes it."""
    scheme, host, port = _parts(url)
    return host if port == _PORTS.get(scheme, "") else f"{host}:{port}"


_CODES = {"%": "%25", "#": "%23", "?": "%3F"}  # the first before the others
_ENCODED = re.compile(r"%[0-9A-Fa-f]{2}|\?")


def is_http(text: str) -> bool:
    """Tell whether a name is an address of HTTP."""
    return text.startswith(("http://", "https://"))


def bare(place: str) -> str:
    """Give an address of HTTP without its query and fragment; any other name as it is.

    Examples
    --------
    >>> bare("https://x.org/t.csv?download=true"), bare("what?.csv")
    ('https://x.org/t.csv', 'what?.csv')
    """
    return re.split(r"[?#]", place, maxsplit=1)[0] if is_http(place) else place


def address_of(folder: str, name: str) -> str:
    """Write the address of a file below a folder behind a URL.

    Over HTTP the letters of its name that mean something else in an address are percent-encoded.

    Examples
    --------
    >>> address_of("http://x.org/t", "#1 50%.jpg"), address_of("s3://b/t", "#1 50%.jpg")
    ('http://x.org/t/%231 50%25.jpg', 's3://b/t/#1 50%.jpg')
    """
    name = name.lstrip("/")
    for letter, code in _CODES.items() if is_http(folder) else ():
        name = name.replace(letter, code)
    return f"{folder.rstrip('/')}/{name}"


def addresses_otherwise(folder: str, place: str) -> list[str]:
    """Give the other addresses that a name below a folder behind a URL may mean.

    Backslashes may be folders; and over HTTP a name may be percent-encoded already, or end in a
    query. None where `place` does not lie below `folder`.

    Examples
    --------
    >>> addresses_otherwise("http://x.org/t", address_of("http://x.org/t", "a%20b.jpg"))
    ['http://x.org/t/a%20b.jpg']
    """
    below = folder.rstrip("/") + "/"
    if not folder or not place.startswith(below):
        return []
    name = place[len(below) :]
    found = [below + name.replace("\\", "/")] if "\\" in name else []
    for letter, code in reversed(_CODES.items()):
        name = name.replace(code, letter)
    if is_http(folder) and "#" not in name and _ENCODED.search(name):
        found.append(below + name)
    return found
