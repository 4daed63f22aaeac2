"""A card without a card: streams are threads that run late, events happen when they have run.

It holds `featx.runtime.card.Card`'s place. Its memory is that of this machine, so that rows can be
compared with the CPU's; what it adds is time: whatever is queued runs some time after the call that
queued it has returned, so that memory which is used again too early shows as wrong rows.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from featx.runtime.card import Card


class StubStream:
    """Runs what is queued in its order, each piece some time later."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.errors: list[BaseException] = []
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        while (piece := self.queue.get()) is not None:
            time.sleep(self.delay)
            try:
                piece()
            except BaseException as error:
                self.errors.append(error)


class StubEvent:
    """Happens when what was queued before its last recording has run."""

    def __init__(self) -> None:
        self.last: threading.Event | None = None


class StubCard(Card):
    """Streams, events and memory of a card, on threads and memory of this machine.

    Parameters
    ----------
    delay
        Seconds by which each queued piece runs late.
    room
        Images that fit; a larger batch is out of memory, in the step named by `full_at`:
        ``empty``, ``beside``, ``enqueue`` or ``capture``.
    """

    def __init__(self, delay: float = 0.0, room: int = 10**9, full_at: str = "enqueue") -> None:
        self.device = torch.device("cpu")
        self.delay, self.room, self.full_at = delay, room, full_at
        self.streams: list[StubStream] = []
        self.launchers: set[str] = set()
        self.captures = self.replays = self.released = 0
        self.largest = 0
        self.free, self.total = 1 << 40, 1 << 40
        self.fault: BaseException | None = None

    def _require_room(self, step: str) -> None:
        if step == self.full_at and self.largest > self.room:
            kind = torch.OutOfMemoryError if step in ("empty", "enqueue") else RuntimeError
            raise kind("CUDA error: out of memory")

    def stream(self) -> StubStream:
        self.streams.append(StubStream(self.delay))
        return self.streams[-1]

    def event(self) -> StubEvent:
        return StubEvent()

    def enqueue(self, stream: StubStream, work: Callable[[], None]) -> None:
        self.launchers.add(threading.current_thread().name)
        self._require_room("enqueue")
        if self.fault is not None:
            raise self.fault
        stream.queue.put(lambda: self._run(work))

    @staticmethod
    def _run(work: Callable[[], None]) -> None:
        with torch.inference_mode():
            work()

    def record(self, event: StubEvent, stream: StubStream) -> None:
        happened = event.last = threading.Event()
        stream.queue.put(happened.set)

    def follow(self, stream: StubStream, event: StubEvent) -> None:
        if (last := event.last) is not None:
            stream.queue.put(lambda: self._wait(last))

    @staticmethod
    def _wait(happened: threading.Event) -> None:
        if not happened.wait(30):
            raise TimeoutError("an event did not happen within 30 s")

    def wait(self, event: StubEvent) -> None:
        assert event.last is not None
        self._wait(event.last)
        self.raise_errors()

    def settle(self) -> None:
        for stream in self.streams:
            done = threading.Event()
            stream.queue.put(done.set)
            self._wait(done)
        self.raise_errors()

    def raise_errors(self) -> None:
        for stream in self.streams:
            if stream.errors:
                raise stream.errors[0]

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        self.largest = shape[0]
        self._require_room("empty")
        return torch.zeros(shape, dtype=dtype)

    def beside(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        self._require_room("beside")
        return torch.full(shape, 77).to(dtype)

    def capture(self, work: Callable[[], None], stream: StubStream) -> Callable[[], None]:
        self._require_room("capture")
        self.captures += 1

        def replay() -> None:
            self.replays += 1
            work()

        return replay

    def share(self, sharers: int) -> int:
        from featx.runtime.machine import share_of_memory

        return share_of_memory(self.free, self.total, sharers)

    def pictures(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(shape, np.uint8)

    def release(self) -> None:
        self.released += 1

    def close(self) -> None:
        for stream in self.streams:
            stream.queue.put(None)
