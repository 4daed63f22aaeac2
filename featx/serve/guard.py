"""The guard around every request: limits, headers, hosts, the count, and the end of a server."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import socket
import time
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from featx.errors import FeatxError
from featx.images import MAX_PIXELS
from featx.serve.metrics import Metrics

MB = 1_000_000


@dataclass(frozen=True)
class Limits:
    """Bounds that keep a server up and its memory flat.

    Parameters
    ----------
    file_bytes, request_bytes
        Of one picture, and of the body of one request.
    held_bytes
        Of all requests together that wait for their answer; beyond it the answer is 503.
    pixels
        Of one picture.
    files
        Pictures in one request.
    waiting
        Pictures that wait for the network; beyond it the answer is 503.
    seconds
        In which the body of a request must have come, and in which it is answered.
    decode_seconds
        Of the processor that decoding one picture may take; it is ended after them.

    Raises
    ------
    FeatxError
        If one of them is not a positive number, or more pixels than featx decodes.

    Examples
    --------
    >>> Limits(files=8).files
    8
    """

    file_bytes: int = 32 * MB
    request_bytes: int = 128 * MB
    held_bytes: int = 512 * MB
    pixels: int = 64 * MB
    files: int = 64
    waiting: int = 1024
    seconds: float = 30.0
    decode_seconds: float = 10.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise FeatxError(f"limit {field.name} must be above 0, got {value}")
        if self.pixels > MAX_PIXELS:
            raise FeatxError(f"limit pixels is {self.pixels}; featx decodes at most {MAX_PIXELS}")
        if self.held_bytes < self.request_bytes:
            raise FeatxError(
                f"limit held_bytes is {self.held_bytes}, less than one request may have "
                f"({self.request_bytes})"
            )


class Refusal(Exception):
    """Ends a request; the handler of the app turns it into ``{"error": line}``.

    Parameters
    ----------
    status
        Of HTTP.
    line
        What is wrong and what would be right.
    retry_after
        Seconds after which the same request may succeed.
    """

    def __init__(self, status: int, line: str, retry_after: int | None = None) -> None:
        super().__init__(line)
        self.status = status
        self.line = " ".join(line.split())
        self.retry_after = retry_after


_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::\d{1,5})?")


@dataclass(frozen=True)
class Names:
    """Names and addresses that a request may be sent to.

    The names of this machine for itself are always known. Where other machines reach the server,
    so are its addresses and its own name. A name on the network belongs to whoever asked for it, so
    any other must be given.

    Parameters
    ----------
    local_only
        Whether the server listens for this machine only.
    given
        Further names, as of a reverse proxy.

    Raises
    ------
    FeatxError
        If one of them is not a name.

    Examples
    --------
    >>> names = Names(local_only=True, given=("cells.example.org",))
    >>> [names.know(n) for n in ("localhost:80", "[::1]", "cells.example.org", "evillocalhost")]
    [True, True, True, False]
    """

    local_only: bool = True
    given: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.given:
            if not _HOST.fullmatch(name):
                raise FeatxError(
                    f"--name takes a host name such as cells.example.org; got {name!r}"
                )
        object.__setattr__(self, "given", tuple(_bare(name) for name in self.given))

    def know(self, host: str) -> bool:
        """Tell whether the value of a header ``Host`` names this server."""
        name = _bare(host)
        if not name:
            return False
        if name == "localhost" or name.endswith(".localhost") or name in self.given:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return not self.local_only and name in _own_names()
        return address.is_loopback or not self.local_only


def _bare(host: str) -> str:
    """Give a name in lower case without its port; empty where it is not a name."""
    found = _HOST.fullmatch(host)
    return (found[1] or found[2]).lower().removesuffix(".") if found else ""


def _own_names() -> set[str]:
    name = socket.gethostname().lower()
    return {name, name.partition(".")[0], f"{name.partition('.')[0]}.local"}


_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_LINGER_SECONDS = 2.0
_PATHS = ("/", "/v1/predict", "/v1/model", "/healthz", "/metrics")


class Guard:
    """Wraps the app.

    Parameters
    ----------
    metrics
        Where requests are counted; None where nobody counts.
    names
        Under which the server may be reached: another site could otherwise reach it through the
        user's browser, by a name that it controls.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics | None, names: Names) -> None:
        self.app, self.metrics, self.names = app, metrics, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(receive, send, has_body=_has_body(scope))
        start = time.perf_counter()
        if refusal := self._refusal(scope):
            await _refuse(exchange, refusal)
        else:
            # HEAD is GET whose body the server leaves out; the app has no routes for it.
            asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
            await self.app(asked, exchange.receive, exchange.send)
        path = scope["path"] if scope["path"] in _PATHS else "other"
        if self.metrics is not None:
            self.metrics.requests.labels(path, str(exchange.status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - start)

    def _refusal(self, scope: Scope) -> Refusal | None:
        hosts = _headers(scope, b"host")
        if len(hosts) != 1 or not self.names.know(hosts[0]):
            shown = hosts[0][:80] if hosts else "nothing"
            return Refusal(
                421, f"this server does not answer to {shown!r}; start it with --name for that name"
            )
        if _is_cross_site(scope, hosts[0]):
            return Refusal(403, "another site asks through a browser; open the server's own page")
        return None


def _is_cross_site(scope: Scope, host: str) -> bool:
    """True if a browser sends this for a page of another origin; only a link to a page may."""
    origins, sites = _headers(scope, b"origin"), _headers(scope, b"sec-fetch-site")
    if any(urlsplit(origin).netloc.lower() != host.lower() for origin in origins):
        return True
    if all(site in ("same-origin", "none") for site in sites):
        return False
    is_link = _headers(scope, b"sec-fetch-mode") == ["navigate"] and scope["method"] == "GET"
    return not (is_link and scope["path"] == "/")


class _Exchange:
    """One request and its response."""

    def __init__(self, receive: Receive, send: Send, has_body: bool) -> None:
        self._receive, self._send = receive, send
        self.status = 0
        self._read = not has_body  # whether all of the body was read

    async def receive(self) -> Message:
        message = await self._receive()
        self._read = self._read or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", []), *HEADERS]
            if self.status >= 400 and not self._read:
                headers.append((b"connection", b"close"))
            await self._send({**message, "headers": headers})
        elif self.status >= 400 and not self._read and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            await self._send({"type": "http.response.body", "body": b""})
        else:
            await self._send(message)

    async def _linger(self) -> None:
        """Drop for a while what still comes, or the client would lose the answer to a reset."""
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                while not self._read:
                    await self.receive()
        except TimeoutError:
            pass


def _has_body(scope: Scope) -> bool:
    length = _header(scope, b"content-length")
    return bool(length and length != "0") or bool(_header(scope, b"transfer-encoding"))


def _header(scope: Scope, name: bytes) -> str:
    return next(iter(_headers(scope, name)), "")


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


async def _refuse(exchange: Any, refusal: Refusal) -> None:
    body = json.dumps({"error": refusal.line}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await exchange.send(
        {"type": "http.response.start", "status": refusal.status, "headers": headers}
    )
    await exchange.send({"type": "http.response.body", "body": body})
