"""Pictures of all requests meet here: threads have them decoded, and run them in common batches."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from featx.errors import ImageError
from featx.images import Pixels
from featx.runtime import enter_worker_thread
from featx.serve.decoders import GivenUp, TooSlow
from featx.serve.guard import Refusal

log = logging.getLogger("featx")

GATHER_SECONDS = 0.004
_STOP_SECONDS = 2.0

Answer = Any


@dataclass(eq=False)
class Picture:
    """A picture of a request, and what becomes of it."""

    data: bytes = field(repr=False)
    answer: Future[Answer] = field(default_factory=Future)
    drawn: Pixels | None = None

    def given_up(self) -> bool:
        """True if nobody waits for the answer any more."""
        return self.answer.cancelled()

    def fail(self, error: Exception) -> None:
        """End it with an error, unless nobody waits."""
        if not isinstance(error, (ImageError, Refusal)):
            log.error("a picture could not be labelled: %r", error)
        if self.answer.running() or self.answer.set_running_or_notify_cancel():
            self.answer.set_exception(error)


Draw = Callable[[Picture], Pixels]


class Batcher:
    """Threads that have pictures drawn, and threads that label a batch at a time.

    A batch whose pictures are drawn goes on at once when no other is on its way, and waits a few
    milliseconds for it otherwise: a client that is alone never waits. A picture that one of `draw`
    finds too slow goes to one of `draw_slow`, so that it delays its like alone.

    Parameters
    ----------
    draw
        One function for each thread that makes pixels of pictures: it raises `ImageError`, or
        `TooSlow` for what `draw_slow` is to do.
    label
        Makes an answer for each of several pictures; an `ImageError` among them is raised to whom
        the picture belongs.
    draw_slow
        The same for pictures that take long.
    batch_size
        Pictures at which a batch is full.
    threads
        How many batches are worked on at a time.
    waiting
        Most pictures that wait.
    seen
        Called with the size of every batch.

    Examples
    --------
    >>> batcher = Batcher([draw], label, batch_size=8, threads=2, waiting=100)  # doctest: +SKIP
    >>> batcher.submit([data])[0].result()  # doctest: +SKIP
    """

    def __init__(
        self,
        draw: list[Draw],
        label: Callable[[list[Pixels]], list[Answer]],
        *,
        draw_slow: list[Draw] | None = None,
        batch_size: int,
        threads: int,
        waiting: int,
        seen: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._label, self._seen = label, seen
        self._batch_size, self._most = batch_size, waiting
        self._new: deque[Picture] = deque()
        self._slow: deque[Picture] = deque()
        self._drawn: deque[Picture] = deque()
        self._change = threading.Condition()
        self._coming = 0  # requests whose bodies are still read, and pictures that are being drawn
        self._closed = False
        works: list[Callable[[], None]] = [partial(self._draw_all, one, False) for one in draw]
        works += [partial(self._draw_all, one, True) for one in draw_slow or []]
        works += [self._label_all] * threads
        self._threads = [
            threading.Thread(target=work, name=f"featx-serve-{k}", daemon=True)
            for k, work in enumerate(works)
        ]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        return len(self._new) + len(self._slow) + len(self._drawn)

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Announce pictures that are still on their way: worth a short wait."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def submit(self, pictures: list[bytes]) -> list[Future[Answer]]:
        """Queue the pictures of one request, all or none.

        Raises
        ------
        Refusal
            503 if too many wait, or the server ends.
        """
        items = [Picture(data) for data in pictures]
        with self._change:
            if self._closed:
                raise Refusal(503, "the server is about to end", retry_after=5)
            for queue in (self._new, self._slow, self._drawn):
                # Pictures whose clients have given up hold memory that nothing counts.
                left = [item for item in queue if not item.given_up()]
                queue.clear()
                queue.extend(left)
            if len(self) + len(items) > self._most:
                raise Refusal(503, f"busy: {len(self)} pictures wait; try again", retry_after=1)
            self._new.extend(items)
            self._change.notify_all()
        return [item.answer for item in items]

    def close(self) -> None:
        """End the threads; what waits is answered with 503."""
        with self._change:
            self._closed = True
            left = [*self._new, *self._slow, *self._drawn]
            for queue in (self._new, self._slow, self._drawn):
                queue.clear()
            self._change.notify_all()
        for item in left:
            item.fail(Refusal(503, "the server is about to end", retry_after=5))
        for thread in self._threads:
            thread.join(_STOP_SECONDS)

    def _draw_all(self, draw: Draw, slow: bool) -> None:
        """Draw one picture after the other; a slow thread takes what the others found too slow."""
        enter_worker_thread()
        while (item := self._next(slow)) is not None:
            target: deque[Picture] | None = None
            try:
                item.drawn = draw(item)
                target = self._drawn
            except GivenUp:
                pass
            except TooSlow as error:
                target = None if slow else self._slow
                if slow:
                    item.fail(error)
            except Exception as error:
                item.fail(error)
            self._pass_on(item, target, slow)

    def _next(self, slow: bool) -> Picture | None:
        """Take the next picture to draw; None when the server ends."""
        queue = self._slow if slow else self._new
        with self._change:
            while not queue:
                if self._closed:
                    return None
                self._change.wait()
            self._coming += not slow  # a batch need not wait for those that are known to be slow
            return queue.popleft()

    def _pass_on(self, item: Picture, target: deque[Picture] | None, slow: bool) -> None:
        with self._change:
            closed = self._closed
            if target is not None and not closed:
                target.append(item)
            self._coming -= not slow
            self._change.notify_all()
        if target is not None and closed:
            item.fail(Refusal(503, "the server is about to end", retry_after=5))

    def _count(self, by: int) -> None:
        with self._change:
            self._coming += by
            self._change.notify_all()

    def _label_all(self) -> None:
        enter_worker_thread()
        while batch := self._gather():
            self._run([item for item in batch if item.answer.set_running_or_notify_cancel()])

    def _gather(self) -> list[Picture]:
        """Wait for a batch of drawn pictures; empty when the server ends."""
        batch: list[Picture] = []
        until = None
        with self._change:
            while len(batch) < self._batch_size:
                if self._drawn:
                    batch.append(self._drawn.popleft())
                    until = until or time.monotonic() + GATHER_SECONDS
                    continue
                left = None if until is None else until - time.monotonic()
                alone = not self._coming and not self._new
                if self._closed or (left is not None and (left <= 0 or alone)):
                    break
                self._change.wait(left)
        return batch

    def _run(self, batch: list[Picture]) -> None:
        if not batch:
            return
        self._seen(len(batch))
        try:
            answers = self._label([item.drawn for item in batch if item.drawn is not None])
        except Exception as error:  # one batch fails, the server stays up
            log.exception("a batch of %d pictures failed", len(batch))
            answers = [error] * len(batch)
        for item, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                item.fail(answer)
            else:
                item.answer.set_result(answer)
