"""The program of a process that decodes pictures for a server: it can be ended at any moment.

    python -m featx.serve.decoder '{"policy": {"mode": "exact"}, "need": 256, "memory": 2000000000}'

It reads requests from standard input and writes pixels to standard output;
see `featx.serve.decoders`.
It starts without torch. The kernel ends it when one picture takes more processor time than asked,
and its address space is bounded, so neither a picture nor a fault of a decoder harms the server.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from featx.errors import ImageError
from featx.images.decoding import decode
from featx.images.formats import open_image
from featx.images.policy import DecodePolicy
from featx.images.tags import tiff_pixels

REQUEST = struct.Struct("<QQQd")
"""Bytes of the picture, most pixels, pixels above which it is for patient processes, seconds."""

REPLY = struct.Struct("<BQQ")
"""Kind of the reply, then height and width, or the length of a text and 0."""

PIXELS, REFUSED, LARGE = range(3)


def main() -> None:
    """Answer requests until standard input ends."""
    given = json.loads(sys.argv[1])
    policy, need = DecodePolicy(**given["policy"]), given["need"]
    # Only replies reach the pipe, whatever a library prints.
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server ends it, by closing its input
    _bound_memory(given["memory"])
    requests = sys.stdin.buffer
    while head := requests.read(REQUEST.size):
        size, most, prompt, seconds = REQUEST.unpack(head)
        with _ended_after(seconds):
            reply = _reply(requests.read(size), policy, need, (most, prompt))
        _write(replies, *reply)


def _bound_memory(n_bytes: int) -> None:
    """Bound the address space to what is used now and `n_bytes` more."""
    with contextlib.suppress(OSError, ValueError):  # not every system has it
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        used = pages * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + n_bytes, used + n_bytes))


@contextlib.contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """Have the kernel end this process after so many seconds of the processor, in C code too."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _reply(
    data: bytes, policy: DecodePolicy, need: int | None, bounds: tuple[int, int]
) -> tuple[bytes, bytes | memoryview]:
    most, prompt = bounds
    try:
        n_pixels = _count_pixels(data)
        if n_pixels > most:
            raise ImageError(f"{n_pixels} pixels; at most {most} are taken")
        if n_pixels > prompt:
            return REPLY.pack(LARGE, 0, 0), b""
        pixels = np.ascontiguousarray(decode(data, policy, need))
    except ImageError as error:
        text = str(error).encode("utf-8", "replace")
        return REPLY.pack(REFUSED, len(text), 0), text
    return REPLY.pack(PIXELS, *pixels.shape[:2]), pixels.data.cast("B")


def _count_pixels(data: bytes) -> int:
    """Read the header; 0 where there is none, for decoding words the reason."""
    if n_pixels := tiff_pixels(data):  # Pillow does not open all of them
        return n_pixels
    try:
        with open_image(data) as image:
            return image.width * image.height
    except Exception:  # nothing is lost: decoding meets the same bytes and gives the reason
        return 0


def _write(replies: BinaryIO, *parts: bytes | memoryview) -> None:
    for part in parts:
        view = memoryview(part)
        while view:
            view = view[replies.write(view) :]


if __name__ == "__main__":
    main()
