"""What surrounds every request: headers that keep the page safe, the host, the count, the end."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from featx.serve.metrics import Metrics

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
    local_only
        Whether only a host that is this machine is served: without a token, another site could
        otherwise reach the server through the user's browser by a name that it controls.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, local_only: bool) -> None:
        self.app, self.metrics, self.local_only = app, metrics, local_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(receive, send, has_body=_has_body(scope))
        start = time.perf_counter()
        if self.local_only and not _is_local(_header(scope, b"host")):
            await _refuse_host(exchange)
        else:
            await self.app(scope, exchange.receive, exchange.send)
        path = scope["path"] if scope["path"] in _PATHS else "other"
        self.metrics.requests.labels(path, str(exchange.status)).inc()
        self.metrics.seconds.labels(path).observe(time.perf_counter() - start)


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
    values = [value for key, value in scope["headers"] if key == name]
    return values[0].decode("latin-1") if values else ""


def _is_local(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost" or name.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


async def _refuse_host(exchange: Any) -> None:
    line = "this server answers on this machine only; start it with --token to use another name"
    body = json.dumps({"error": line}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await exchange.send({"type": "http.response.start", "status": 421, "headers": headers})
    await exchange.send({"type": "http.response.body", "body": body})
