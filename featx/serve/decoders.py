"""The processes that decode for a server: some for prompt answers, fewer for what takes long."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

import featx
from featx.errors import ImageError
from featx.images import DecodePolicy, Pixels
from featx.serve.decoder import LARGE, PIXELS, REFUSED, REPLY, REQUEST
from featx.serve.guard import Limits

if TYPE_CHECKING:
    from featx.serve.batching import Picture
    from featx.serve.labelling import Embedder


_POLL_MILLISECONDS = 100
_GRACE = 10.0  # wall-clock seconds for each second of the processor, on a busy machine
_MEMORY_OF_PIXEL = 24  # bytes, of the largest picture while it is decoded and converted
_MEMORY_BESIDES = 1 << 30  # threads and heaps reserve addresses that they hardly use


class TooSlow(Exception):
    """A picture that needs more time or memory than a prompt answer allows."""


class GivenUp(Exception):
    """Nobody waits for the picture any more."""


@dataclass(frozen=True)
class Patience:
    """Limits of a process for one picture.

    Parameters
    ----------
    pixels
        Largest picture that it decodes at all.
    seconds
        Of the processor.
    most_pixels
        Largest picture that the server takes.
    final
        Whether the picture fails beyond it; else `TooSlow` is raised.
    niceness
        Added to the server's own; the larger, the fewer others it disturbs.
    """

    pixels: int
    seconds: float
    most_pixels: int
    final: bool = False
    niceness: int = 0


class Child:
    """A process that decodes one picture at a time.

    It starts with its first picture, and again after it was ended: by the kernel for its time, by
    a fault in a decoder, or by `decode` because nobody waits any more.

    Parameters
    ----------
    policy, need
        As for `featx.images.decode`.

    Examples
    --------
    >>> child = Child(Patience(25_000_000, 1.0, 25_000_000), DecodePolicy(), 256)
    >>> child.decode(b"no picture")
    Traceback (most recent call last):
    featx.errors.ImageError: not an image of a known format
    >>> child.close()
    """

    def __init__(self, patience: Patience, policy: DecodePolicy, need: int) -> None:
        self.patience = patience
        memory = patience.pixels * _MEMORY_OF_PIXEL + _MEMORY_BESIDES
        self._told = json.dumps({"policy": asdict(policy), "need": need, "memory": memory})
        self._process: subprocess.Popen[bytes] | None = None
        self._busy = threading.Lock()
        self._closed = False
        self.n_ended = 0

    def start(self) -> None:
        """Start the process, if none runs; the first picture would do it too."""
        with self._busy:
            self._start()

    def _start(self) -> None:
        if self._closed or (self._process is not None and self._process.poll() is None):
            return
        home = str(Path(featx.__file__).parent.parent)
        found = os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": found, "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "featx.serve.decoder", self._told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment, "MALLOC_ARENA_MAX": "2"},
            bufsize=0,
        )
        if self.patience.niceness:
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, self._process.pid, self.patience.niceness)

    def decode(self, data: bytes, given_up: Callable[[], bool] = lambda: False) -> Pixels:
        """Decode one picture: uint8, shape (height, width, 3).

        Parameters
        ----------
        given_up
            Asked now and then; when it says yes, the process is ended.

        Raises
        ------
        ImageError
            If it cannot be decoded, or not within a final patience.
        TooSlow
            If it needs more than a patience that is not final.
        GivenUp
            If nobody waits any more.
        """
        with self._busy:
            self._start()
            try:
                return self._exchange(data, lambda: self._closed or given_up())
            except _Ended as ended:
                code = self._end()
                self.n_ended += 1
                if self._closed or given_up():
                    raise GivenUp from None
                raise self._failure(code, ended.late) from None

    def close(self) -> None:
        """End the process for good, and what it does."""
        self._closed = True
        if (process := self._process) is not None:
            process.kill()
        with self._busy:
            self._end()

    def _failure(self, code: int, late: bool) -> Exception:
        if not late and code != -signal.SIGPROF:
            return ImageError(f"its decoder ended with status {code}")
        if not self.patience.final:
            return TooSlow()
        seconds = self.patience.seconds
        return ImageError(f"took longer than {seconds:g} s of the processor to decode")

    def _end(self) -> int:
        """End the process; gives its exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            return process.wait(0.2)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def _exchange(self, data: bytes, given_up: Callable[[], bool]) -> Pixels:
        patience, process = self.patience, self._process
        if process is None:  # closed
            raise _Ended
        head = REQUEST.pack(len(data), patience.most_pixels, patience.pixels, patience.seconds)
        try:
            _write(cast(FileIO, process.stdin), head, data)
        except BrokenPipeError:
            raise _Ended from None
        until = time.monotonic() + _GRACE * (1 + patience.seconds)
        reader = _Reader(cast(FileIO, process.stdout), until, given_up)
        kind, height, width = REPLY.unpack(reader.read(REPLY.size).data)
        if kind == REFUSED:
            raise ImageError(bytes(reader.read(height)).decode("utf-8", "replace"))
        if kind == LARGE:
            raise TooSlow
        assert kind == PIXELS
        return reader.read(height * width * 3).reshape(height, width, 3)


class _Ended(Exception):
    """The process is gone, or is to go."""

    def __init__(self, late: bool = False) -> None:
        self.late = late


@dataclass(frozen=True)
class _Reader:
    """Reads from a process until a moment, or until nobody waits any more."""

    pipe: FileIO
    until: float
    given_up: Callable[[], bool]

    def read(self, size: int) -> Pixels:
        found = np.empty(size, np.uint8)
        view, poll = found.data, select.poll()  # select() knows only 1024 descriptors
        poll.register(self.pipe, select.POLLIN | select.POLLHUP)
        while view:
            if poll.poll(_POLL_MILLISECONDS):
                n_read = self.pipe.readinto(view)
                if not n_read:
                    raise _Ended
                view = view[n_read:]
            elif time.monotonic() > self.until or self.given_up():
                raise _Ended(late=True)
        return found


def _write(pipe: FileIO, *parts: bytes) -> None:
    for part in parts:
        view = memoryview(part)
        while view:
            view = view[pipe.write(view) :]


PROMPT_SECONDS = 0.5
"""Of the processor; photographs of 24 million pixels take a quarter of a second."""

PROMPT_PIXELS = 25_000_000
_SLOW_NICENESS = 10


class Decoders:
    """Processes that decode, and functions that have them do it.

    A picture that takes longer than `PROMPT_SECONDS`, or has more than `PROMPT_PIXELS`, starts anew
    in one of a few processes of low priority, where it waits for others of its kind alone. There it
    ends after ``decode_seconds``, and the process is replaced. So pictures that are made to be slow
    cost the rest half a second each, and not the server.

    Parameters
    ----------
    embedder
        Says how pictures are decoded and drawn, and in how many threads.
    limits
        What is accepted.

    Attributes
    ----------
    prompt, slow
        One function for each process, as `featx.serve.batching.Batcher` takes them.
    """

    def __init__(self, embedder: Embedder, limits: Limits) -> None:
        threads, most = embedder.plan.threads, limits.pixels
        self._draw = embedder.draw
        brief = min(PROMPT_SECONDS, limits.decode_seconds)
        prompt = Patience(min(PROMPT_PIXELS, most), brief, most)
        slow = Patience(most, limits.decode_seconds, most, final=True, niceness=_SLOW_NICENESS)
        kinds = [prompt] * threads + [slow] * max(1, threads // 2)
        self._children = [Child(kind, embedder.decode, embedder.need) for kind in kinds]
        drawers = [partial(self._decode, child) for child in self._children]
        self.prompt: list[Callable[[Picture], Pixels]] = [*drawers[:threads]]
        self.slow: list[Callable[[Picture], Pixels]] = [*drawers[threads:]]
        for child in self._children[:threads]:
            child.start()

    @property
    def n_ended(self) -> int:
        """Processes that were ended for a picture so far."""
        return sum(child.n_ended for child in self._children)

    def close(self) -> None:
        """End the processes."""
        for child in self._children:
            child.close()

    def _decode(self, child: Child, picture: Picture) -> Pixels:
        try:
            return self._draw(child.decode(picture.data, picture.given_up))
        finally:
            child.start()  # if it was ended: the next picture is not to wait for it
