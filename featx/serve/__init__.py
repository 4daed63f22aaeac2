"""The model as a web page and an HTTP API; needs the extra ``serve``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from featx.errors import FeatxError, MissingExtraError

if TYPE_CHECKING:
    import os

    from featx.model import Model
    from featx.serve.app import Service
    from featx.serve.guard import Limits

_NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def serve(
    model: Model | str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str = "",
    names: Sequence[str] = (),
    cache: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
    ready: Callable[[str, Service], None] = lambda address, service: None,
    weights: str | os.PathLike[str] | None = None,
    backbone: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    compile: Literal["auto", "on", "off"] = "auto",
    unfamiliar_at: float = 0.01,
    watch: int = 500,
    fetch: bool = False,
) -> None:
    """Serve a model until the process is interrupted.

    Parameters
    ----------
    model
        From `featx.load_model`, or its file.
    host, port
        Where to listen; port 0 takes one that is free.
    token
        That every request to the API must carry; empty for none.
    names
        Host names under which the server may be reached, besides those of the machine.
    cache
        Holds the features of the training images; by default the one that the model names.
    limits
        What is accepted.
    ready
        Called with the address and the service when requests are answered.
    weights, backbone
        Where the file of the weights, or the code of the network, lies now.
    device, threads, compile
        As in `featx.extract`.
    unfamiliar_at
        Share of pictures like those of the training that may be called unfamiliar.
    watch
        How many of the last pictures are tested for drift; 0 for none. Their features are kept in
        memory.
    fetch
        Fetch the weights that the model names, where they are not on this machine.

    Raises
    ------
    MissingExtraError
        If the packages of the extra are not installed.
    FeatxError
        If the port is taken.
    WeightsError
        If the weights are not on this machine, and `fetch` is not set.
    ModelError, DriftError
        If the features would be others than those of the training.

    Examples
    --------
    >>> featx.serve.serve("cells.featx")  # doctest: +SKIP
    """
    from importlib.util import find_spec

    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"serving needs {', '.join(missing)}: pip install 'featx[serve]'")
    if not token.isprintable() or " " in token:
        raise FeatxError("--token must be printable and without spaces")
    from featx.serve.guard import Limits
    from featx.serve.server import run

    run(
        model,
        host=host,
        port=port,
        token=token,
        names=names,
        cache=cache,
        limits=limits or Limits(),
        ready=ready,
        unfamiliar_at=unfamiliar_at,
        watch=watch,
        fetch=fetch or weights is not None or backbone is not None,
        options={
            "weights": weights,
            "backbone": backbone,
            "device": device,
            "threads": threads,
            "compile": compile,
        },
    )
