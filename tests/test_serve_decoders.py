"""Decoding in processes that can be ended: one picture fails, the next is answered."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import picture
from PIL import Image
from serving import serving

from benchmarks.hostile_pictures import encoded, jpeg_scans
from featx import load_model
from featx.errors import ImageError
from featx.images import DecodePolicy, decode
from featx.serve import decoders as child_module
from featx.serve.decoders import Child, GivenUp, Patience, TooSlow
from featx.serve.guard import Limits
from featx.serve.server import open_service

SLOW = jpeg_scans(95, 4900)  # 24 million pixels, seconds of the processor, 150 kB


def patience(seconds: float = 5.0, pixels: int = 64_000_000, *, final: bool = True) -> Patience:
    return Patience(pixels, seconds, 64_000_000, final=final)


@pytest.fixture
def child() -> Iterator[Child]:
    found = Child(patience(), DecodePolicy(), 256)
    yield found
    found.close()


def pid_of(child: Child) -> int:
    assert child._process is not None
    return child._process.pid


def test_pixels_are_those_of_decode(child: Child) -> None:
    for k, fmt in enumerate(("JPEG", "PNG", "TIFF", "GIF")):
        data = encoded(picture(k, (123, 77)), fmt)
        np.testing.assert_array_equal(child.decode(data), decode(data))
    with pytest.raises(ImageError, match="not an image"):
        child.decode(b"hello")
    with pytest.raises(ImageError, match="empty"):
        child.decode(b"")


def test_a_policy_reaches_the_process() -> None:
    policy = DecodePolicy(bands=(3, 2, 1))
    child = Child(patience(), policy, 256)
    data = encoded(picture(3), "PNG")
    np.testing.assert_array_equal(child.decode(data), decode(data, policy))
    child.close()


def test_a_picture_that_takes_too_long_is_ended_and_the_next_is_decoded() -> None:
    child = Child(patience(0.3, 64_000_000), DecodePolicy(), 256)
    with pytest.raises(ImageError, match=r"took longer than 0.3 s of the processor"):
        child.decode(SLOW)
    assert child.n_ended == 1
    assert child.decode(encoded(picture(1), "PNG")).shape == (36, 40, 3)
    child.close()


def test_what_is_not_final_says_that_more_patience_is_needed() -> None:
    child = Child(patience(0.3, 64_000_000, final=False), DecodePolicy(), 256)
    with pytest.raises(TooSlow):
        child.decode(SLOW)
    child.close()
    small = Child(patience(5, 1000, final=False), DecodePolicy(), 256)
    with pytest.raises(TooSlow):  # by its header, so the process lives on
        small.decode(encoded(picture(1), "PNG"))
    assert small.n_ended == 0
    small.close()


def test_a_decoder_that_crashes_fails_one_picture() -> None:
    child = Child(patience(60), DecodePolicy(), 256)
    child.start()
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(child.decode, SLOW)
        while not child._busy.locked():
            time.sleep(0.01)
        os.kill(pid_of(child), signal.SIGSEGV)
        with pytest.raises(ImageError, match="its decoder ended with status -11"):
            found.result(60)
    assert child.decode(encoded(picture(1), "PNG")).shape == (36, 40, 3)
    child.close()


def test_a_picture_that_nobody_waits_for_is_ended() -> None:
    child = Child(patience(60), DecodePolicy(), 256)
    with pytest.raises(GivenUp):
        child.decode(SLOW, lambda: True)
    assert child.n_ended == 1
    child.close()


def test_closing_ends_the_picture_at_hand() -> None:
    child = Child(patience(60), DecodePolicy(), 256)
    child.start()
    process = child._process
    assert process is not None
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(child.decode, SLOW)
        while not child._busy.locked():
            time.sleep(0.01)
        child.close()
        with pytest.raises(GivenUp):
            found.result(60)
    assert process.poll() is not None
    child.start()
    assert child._process is None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "_MEMORY_OF_PIXEL", 0)
    monkeypatch.setattr(child_module, "_MEMORY_BESIDES", 64 << 20)
    child = Child(patience(60), DecodePolicy(), 256)
    with pytest.raises(ImageError, match=r"too large for the memory|cannot be decoded"):
        child.decode(encoded(Image.new("RGB", (7000, 7000)), "PNG"))
    assert child.n_ended == 0
    assert child.decode(encoded(picture(1), "PNG")).shape == (36, 40, 3)
    child.close()


def test_the_process_starts_without_torch_and_ends_with_its_server() -> None:
    code = "import sys, featx.serve.decoder; print('torch' in sys.modules, 'h5py' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    told = '{"policy": {"mode": "exact"}, "need": 8, "memory": 1000000000}'
    command = [sys.executable, "-m", "featx.serve.decoder", told]
    done = subprocess.run(command, input="", capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def attack(model: Path, n_bombs: int, n_clients: int) -> tuple[list[int], list[int], float]:
    """Send bombs, then honest pictures; gives both kinds of status, and the processes ended."""
    limits = Limits(seconds=200, decode_seconds=1)
    service = open_service(load_model(model), limits=limits, options={"threads": 2})
    honest = encoded(picture(1), "PNG")

    def post(url: str, name: str, data: bytes) -> int:
        return httpx.post(f"{url}/v1/predict", files={"f": (name, data)}, timeout=280).status_code

    try:
        with serving(service) as url, ThreadPoolExecutor(n_bombs + n_clients) as pool:
            bombs = [pool.submit(post, url, "bomb.jpg", SLOW) for _ in range(n_bombs)]
            while len(service.batcher) < n_bombs // 2:
                time.sleep(0.01)  # until they wait, or are being decoded
            clients = [pool.submit(post, url, "a.png", honest) for _ in range(n_clients)]
            answered = [client.result() for client in clients]
            return answered, [bomb.result() for bomb in bombs], service.decoders.n_ended
    finally:
        service.close()


@pytest.mark.slow
def test_clients_are_answered_while_bombs_arrive(model_folder: Path) -> None:
    answered, refused, n_ended = attack(model_folder / "m.featx", 4, 8)
    assert answered == [200] * 8
    assert refused == [422] * 4
    assert n_ended >= 4  # each once in a prompt process at least


@pytest.mark.slow
def test_64_clients_are_answered_while_20_bombs_arrive(model_folder: Path) -> None:
    answered, refused, n_ended = attack(model_folder / "m.featx", 20, 64)
    assert answered == [200] * 64
    assert refused == [422] * 20
    assert n_ended >= 20
