"""Shared fixtures: small real pictures and a small real network."""

from __future__ import annotations

import contextlib
import http.server
import io
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from featx.serve.app import Service

# Tests run side by side; one thread each keeps them out of each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A job that a script left to the background ignores Ctrl-C, and so would what it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

Shell = Callable[..., subprocess.CompletedProcess[str]]

TINY = '''
"""A network whose vector is a plain function of the pixels, so a misplaced row shows exactly."""

import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.grid = nn.AdaptiveAvgPool2d(4)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(48, 2)

    def forward(self, x):
        return self.classifier(self.flatten(self.grid(x * self.scale)))


def build():
    return Tiny()
'''


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Options that make `extract` use a tiny network, in fp32, on pictures of 32 pixels."""
    module = tmp_path_factory.mktemp("network") / "tiny.py"
    module.write_text(TINY)
    return {
        "backbone": f"file:{module}:build",
        "weights": "random",
        "layers": ("flatten",),
        "input_size": 32,
        "precision": "fp32",
        "progress": False,
    }


@pytest.fixture(scope="session")
def tiny_flags(tiny: dict[str, object]) -> list[str]:
    """The same as flags of the shell."""
    return [
        *("--backbone", str(tiny["backbone"]), "--weights", "random", "--layer", "flatten"),
        *("--input-size", "32", "--precision", "fp32"),
    ]


def slow_network(
    folder: Path, seconds: float, then: str = "pass", shard_rows: int = 512
) -> list[str]:
    """Flags for the tiny network, which waits in each forward pass and does `then`.

    A shard is closed after `shard_rows` rows: few pictures then make several.
    """
    module, call = folder / "slow.py", "        return self.classifier("
    waiting = f"        time.sleep({seconds})\n        {then}\n{call}"
    staging = f"from featx.cache import staging\nstaging.SHARD_ROWS = {shard_rows}\n"
    module.write_text(
        TINY.replace("import torch\n", f"import time\n\nimport torch\n{staging}", 1).replace(
            call, waiting
        )
    )
    network = ("--backbone", f"file:{module}:build", "--weights", "random", "--layer", "flatten")
    return [*network, "--input-size", "32", "--precision", "fp32", "--compile", "off"]


@contextlib.contextmanager
def running_server(handler: Callable[..., object]) -> Iterator[http.server.ThreadingHTTPServer]:
    """A local server, ended without the half second that it would sleep for otherwise."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:  # type: ignore[arg-type]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def picture(seed: int, size: tuple[int, int] = (40, 36)) -> Image.Image:
    """A picture that differs for each seed: blurred noise, so that no two rows are alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def save_pictures(folder: Path, n: int, first: int = 0, suffix: str = ".png") -> list[Path]:
    """Write n pictures into two class folders, cat and dog in turn."""
    paths = []
    for k in range(first, first + n):
        path = folder / ("cat", "dog")[k % 2] / f"{k:04d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(k).save(path)
        paths.append(path)
    return paths


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 12 pictures in two classes."""
    folder = tmp_path / "photos"
    save_pictures(folder, 12)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `serving.make_model` makes, once for every test of the server."""
    from serving import make_model

    return make_model(tmp_path_factory.mktemp("serve")).parent


@pytest.fixture(scope="module")
def service(model_folder: Path) -> Iterator[Service]:
    """An open service for that model."""
    from featx import load_model
    from featx.serve.server import open_service

    found = open_service(load_model(model_folder / "m.featx"), options={"threads": 2})
    yield found
    found.close()


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Run `featx` as a user does, but inside this process, which has torch already.

    `process` is for what only a process of its own can show: imports, signals, an environment.
    """
    from featx.cli import main

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        root, featx = logging.getLogger(), logging.getLogger("featx")
        handlers, level, on_end = root.handlers[:], featx.level, signal.getsignal(signal.SIGTERM)
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        status: object = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            monkeypatch.setattr(sys, "argv", ["featx", *map(str, arguments)])
            root.handlers.clear()  # pytest's own: main sets up the one that a user has
            try:
                main()
            except SystemExit as end:
                status = end.code
            finally:
                root.handlers[:] = handlers
                featx.setLevel(level)
                signal.signal(signal.SIGTERM, on_end)
        texts = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
        return subprocess.CompletedProcess(sys.argv, int(status or 0), *texts)  # type: ignore[call-overload]

    return run


@pytest.fixture
def process() -> Shell:
    """Run `featx` in a process of its own."""

    def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "featx", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            **options,  # type: ignore[call-overload]
        )

    return run


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of this test's own for what is kept between runs."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("FEATX_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real browser, where one is installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no Chromium is installed (apt install chromium)")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A tab in which nothing may fail, and which asks this machine only."""
    context = browser.new_context(
        accept_downloads=True, viewport={"width": 1100, "height": 900}, reduced_motion="reduce"
    )
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    odd: list[str] = []
    opened.on("console", lambda m: odd.append(m.text) if m.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: odd.append(str(error)))
    opened.on(
        "request",
        lambda r: None if "127.0.0.1" in r.url or r.url[:4] == "blob" else odd.append(r.url),
    )
    yield opened
    context.close()
    assert not [text for text in odd if "401" not in text]
