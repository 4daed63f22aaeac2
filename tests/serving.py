"""A small fitted model and a real server for it, on a port of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from coloured import save_coloured
from starlette.types import ASGIApp

from featx import fit
from featx.extraction.extraction import extract
from featx.serve.app import Service, make_app
from featx.serve.server import make_server

NETWORK = {"backbone": "timm:test_resnet", "weights": "random", "precision": "fp32"}
FEW = {"batch_size": 8, "threads": 1, "progress": False}


def make_model(folder: Path, **options: Any) -> Path:
    """Pictures in folder/old, their cache, six new pictures in folder/new, and a model."""
    save_coloured(folder / "old", 40)
    for path in save_coloured(folder / "new", 46)[:40]:
        path.unlink()
    extract(folder / "old", folder / "old.h5", input_size=64, **NETWORK, **FEW)
    fit(folder / "old.h5", "svm", out=folder / "m.featx", fit_on="train", **options)
    return folder / "m.featx"


def serving(service: Service) -> AbstractContextManager[str]:
    """Run a server in a thread; gives its address."""
    return serving_app(make_app(service))


@contextmanager
def serving_app(app: ASGIApp) -> Iterator[str]:
    """Run any app in a thread; gives its address."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    server = make_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
