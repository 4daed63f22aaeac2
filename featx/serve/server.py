"""Start a server, and end it cleanly."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import resource
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from featx.auditing.shift import LEAST_ROWS
from featx.backbones.fetch import named_by
from featx.errors import FeatxError, OptionError
from featx.model import Model
from featx.model.likeness import RATE, require_rate
from featx.model.modelfile import load_model
from featx.serve.app import Service, make_app
from featx.serve.batching import Batcher
from featx.serve.decoders import Decoders
from featx.serve.guard import Limits, Names
from featx.serve.labelling import Embedder, Labeller, Maps
from featx.serve.metrics import Metrics
from featx.serve.neighbours import find_training
from featx.serve.recent import SIZE, RecentPictures
from featx.serve.replies import facts
from featx.serve.uploads import ByteCount

log = logging.getLogger("featx")

_HEADER_SECONDS = 10.0
_END_SECONDS = 5
_MOST_CONNECTIONS = 1000
_SPARE = 50  # below the most, connections that say nothing are closed for new ones
_OTHER_FILES = 200


def run(
    model: Model | str | os.PathLike[str],
    *,
    host: str,
    port: int,
    token: str,
    names: Sequence[str],
    cache: str | os.PathLike[str] | None,
    limits: Limits,
    unfamiliar_at: float,
    watch: int,
    ready: Callable[[str, Service], None],
    fetch: bool,
    options: dict[str, Any],
) -> None:
    """Serve until a signal comes; see `featx.serve.serve`."""
    listener = bind(host, port)
    with listener:
        known = Names(_is_loopback(listener), (*names, *_name_of(host)))
        if not token and not known.local_only:
            log.warning(
                "anybody who reaches %s can use this server: start it with --token to ask for a "
                "secret",
                address_of(host, listener),
            )
        chosen = model if isinstance(model, Model) else load_model(model)
        with named_by("" if fetch else chosen.name):
            service = open_service(
                chosen,
                cache=cache,
                limits=limits,
                token=token,
                names=known,
                unfamiliar_at=unfamiliar_at,
                watch=watch,
                options=options,
            )
        try:
            answer(listener, make_app(service), lambda: ready(address_of(host, listener), service))
        finally:
            service.close()


def answer(listener: socket.socket, app: ASGIApp, ready: Callable[[], None]) -> None:
    """Answer requests until a signal comes."""
    listener.listen(2048)
    # The signal that ended it is raised again once everything is closed; it may also come between
    # the address and the first moment that the server listens to signals.
    with suppress(KeyboardInterrupt):
        ready()
        make_server(app).run(sockets=[listener])


def open_service(
    model: Model,
    *,
    cache: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
    token: str = "",
    names: Names | None = None,
    unfamiliar_at: float = RATE,
    watch: int = SIZE,
    options: dict[str, Any] | None = None,
) -> Service:
    """Load and check all that a server needs; close it at the end.

    Raises
    ------
    ModelError, DriftError
        If the features would be others than those of the training.
    CacheError
        If a cache is named and cannot be read.
    """
    require_rate(unfamiliar_at)
    if watch and watch < LEAST_ROWS:
        raise OptionError(f"watch must be 0, or {LEAST_ROWS} pictures or more; got {watch}")
    chosen = limits or Limits()
    embedder = Embedder(model, options or {})
    training, reason = find_training(model, cache, unfamiliar_at)
    held = ByteCount(chosen.held_bytes)
    recent = RecentPictures(model, training, watch) if training is not None and watch else None
    metrics = Metrics(lambda: len(batcher), lambda: held.total, lambda: decoders.n_ended, recent)
    decoders = Decoders(embedder, chosen)
    batcher = Batcher(
        decoders.prompt,
        Labeller(model, embedder, training, recent),
        draw_slow=decoders.slow,
        batch_size=embedder.batch_size,
        threads=embedder.plan.threads,
        waiting=chosen.waiting,
        seen=metrics.batches.observe,
    )
    kept = 0 if recent is None else recent.size
    about = facts(model, embedder, training, reason, chosen, kept)
    return Service(
        about,
        embedder,
        decoders,
        batcher,
        training,
        Maps(model, options or {}),
        recent,
        chosen,
        held,
        metrics,
        token,
        names or Names(),
    )


def make_server(app: ASGIApp) -> uvicorn.Server:
    """Make a server that says nothing, and drops clients that never finish their headers."""
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    config = uvicorn.Config(
        app,
        http=_PatientProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        log_level="error",
        server_header=False,
        limit_concurrency=_most_connections(),
        timeout_graceful_shutdown=_END_SECONDS,
    )
    return uvicorn.Server(config)


def _most_connections() -> int:
    """Count the connections that fit into the files that a process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(_SPARE + 1, min(_MOST_CONNECTIONS, soft - _OTHER_FILES))


class _PatientProtocol(H11Protocol):
    """Closes a connection on which no whole request head comes in time."""

    _patience: asyncio.TimerHandle | None = None
    _since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = self.loop.time()
        if len(self.connections) >= _most_connections() - _SPARE:
            self._drop_longest_idle()
        self._wait()

    def _drop_longest_idle(self) -> None:
        """Make room: connections that say nothing are not to keep others out."""
        idle = [c for c in self.connections if c is not self and c._is_idle()]  # type: ignore[union-attr]
        if idle:
            min(idle, key=lambda c: c._since).transport.close()  # type: ignore[union-attr]

    def _is_idle(self) -> bool:
        return self.conn.their_state is h11.IDLE and not self.transport.is_closing()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._patience is not None:
            self._patience.cancel()

    def _wait(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self.loop.call_later(_HEADER_SECONDS, self._end_idle)

    def _end_idle(self) -> None:
        if self._is_idle():
            self.transport.close()


def bind(host: str, port: int) -> socket.socket:
    """Take the port before anything is loaded, so that one in use is said at once."""
    try:
        if not 0 <= port <= 65535:
            # The resolver would take the port modulo 65,536.
            raise OverflowError("a port is 0 to 65535")
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
        return listener
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FeatxError(
            f"cannot listen on {host} port {port}: {reason}; name another with --port, or --port 0 "
            "for any that is free"
        ) from None


def _name_of(host: str) -> list[str]:
    """Give the host that was asked for, if it is a name: it is one of the server's then."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return [host] if host else []
    return []


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def address_of(host: str, listener: socket.socket) -> str:
    """Give the address that a browser takes."""
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
