"""Pictures of all requests meet here: threads decode them and run them in common batches."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from featx.errors import ImageError
from featx.images import Pixels
from featx.runtime import enter_worker_thread
from featx.serve.refusals import Refusal

log = logging.getLogger("featx")

GATHER_SECONDS = 0.004
_STOP_SECONDS = 2.0

Answer = Any


@dataclass(frozen=True)
class _Item:
    data: bytes
    answer: Future[Answer] = field(default_factory=Future)


class Batcher:
    """Threads that take pictures, decode them, and label a batch at a time.

    A thread that has decoded what waits goes on at once when no other request is on its way, and
    waits a few milliseconds for it otherwise: a client that is alone never waits.

    Parameters
    ----------
    draw
        Makes pixels of the bytes of a picture, or raises `ImageError`.
    label
        Makes an answer for each of several pictures; an `ImageError` among them is raised to whom
        the picture belongs.
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
    >>> batcher = Batcher(draw, label, batch_size=8, threads=2, waiting=100)  # doctest: +SKIP
    >>> batcher.submit([data])[0].result()  # doctest: +SKIP
    """

    def __init__(
        self,
        draw: Callable[[bytes], Pixels],
        label: Callable[[list[Pixels]], list[Answer]],
        *,
        batch_size: int,
        threads: int,
        waiting: int,
        seen: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._draw, self._label, self._seen = draw, label, seen
        self._batch_size, self._most = batch_size, waiting
        self._queue: deque[_Item] = deque()
        self._change = threading.Condition()
        self._coming = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"featx-serve-{k}", daemon=True)
            for k in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        return len(self._queue)

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Announce pictures that are still on their way: worth a short wait."""
        with self._change:
            self._coming += 1
        try:
            yield
        finally:
            with self._change:
                self._coming -= 1
                self._change.notify_all()

    def submit(self, pictures: list[bytes]) -> list[Future[Answer]]:
        """Queue the pictures of one request, all or none.

        Raises
        ------
        Refusal
            503 if too many wait, or the server ends.
        """
        items = [_Item(data) for data in pictures]
        with self._change:
            if self._closed:
                raise Refusal(503, "the server is about to end", retry_after=5)
            # Pictures whose clients have given up hold memory that nothing counts.
            self._queue = deque(item for item in self._queue if not item.answer.cancelled())
            if len(self._queue) + len(items) > self._most:
                raise Refusal(
                    503, f"busy: {len(self._queue)} pictures wait; try again", retry_after=1
                )
            self._queue.extend(items)
            self._change.notify_all()
        return [item.answer for item in items]

    def close(self) -> None:
        """End the threads; what waits is answered with 503."""
        with self._change:
            self._closed = True
            left = [*self._queue]
            self._queue.clear()
            self._change.notify_all()
        for item in left:
            if item.answer.set_running_or_notify_cancel():
                _fail(item, Refusal(503, "the server is about to end", retry_after=5))
        for thread in self._threads:
            thread.join(_STOP_SECONDS)

    def _work(self) -> None:
        enter_worker_thread()
        while (item := self._take(None)) is not None:
            batch = self._gather(item)
            if batch:
                self._run(batch)

    def _take(self, until: float | None) -> _Item | None:
        """Take the next picture; None when the batch shall go without, or the server ends."""
        with self._change:
            while not self._queue:
                left = None if until is None else until - time.monotonic()
                if self._closed or (left is not None and (left <= 0 or not self._coming)):
                    return None
                self._change.wait(left)
            return self._queue.popleft()

    def _gather(self, item: _Item | None) -> list[tuple[_Item, Pixels]]:
        batch: list[tuple[_Item, Pixels]] = []
        until = None
        while item is not None:
            # False for one whose client has given up.
            if item.answer.set_running_or_notify_cancel():
                try:
                    batch.append((item, self._draw(item.data)))
                except Exception as error:
                    _fail(item, error)
            if len(batch) == self._batch_size:
                break
            until = until or time.monotonic() + GATHER_SECONDS
            item = self._take(until)
        return batch

    def _run(self, batch: list[tuple[_Item, Pixels]]) -> None:
        self._seen(len(batch))
        try:
            answers = self._label([pixels for _, pixels in batch])
        except Exception as error:  # one batch fails, the server stays up
            log.exception("a batch of %d pictures failed", len(batch))
            answers = [error] * len(batch)
        for (item, _), answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                _fail(item, answer)
            else:
                item.answer.set_result(answer)


def _fail(item: _Item, error: Exception) -> None:
    if not isinstance(error, (ImageError, Refusal)):
        log.error("a picture could not be labelled: %r", error)
    item.answer.set_exception(error)
