"""The loop in one process: threads read, decode and fill batches; whoever fills one runs it.

On a CPU each thread is a stream of its own: it draws pictures until a batch is full, then runs the
forward pass alone on its core, so there is no barrier between threads and no idle core. On a GPU
the forward pass is a launch, and the other threads decode meanwhile.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.cache.keys import keys_of
from featx.cache.known import trusted_stamp
from featx.cache.shards import Row
from featx.engines.job import Job, Outcome
from featx.errors import ExtractError, ImageError
from featx.images import decode, draw, draw_pixels
from featx.runtime import enter_worker_thread

_STOP_SECONDS = 1.2  # how long an interrupted run waits for the batches in hand


@dataclass
class _Batch:
    """Pixels of some items: filled slot by slot, run once all reserved slots are drawn."""

    pixels: NDArray[np.uint8]
    rows: list[tuple[int, bytes, tuple[int, int]]] = field(default_factory=list)
    drawn: int = 0
    closed: bool = False

    def complete(self) -> bool:
        return self.closed and self.drawn == len(self.rows)


class ThreadLoop:
    """Run one job over pending items; `run` returns when every one is accounted for."""

    def __init__(self, job: Job, pending: NDArray[np.int64], outcome: Outcome) -> None:
        self.job = job
        self.outcome = outcome
        self.error: BaseException | None = None
        self.prepare_seconds = 0.0
        self._items = pending
        self._pending: Iterator[int] = map(int, pending)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._n_views = len(job.preprocess.views)
        self._batch_items = max(1, job.runner.batch_size // self._n_views)
        self._free = [self._new_batch() for _ in range(job.n_threads + 1)]
        self._current: _Batch | None = None
        self._deciding = 0  # items taken whose slot, reuse or failure is not known yet
        self._exhausted = False
        self._prepare = threading.Lock()
        self._prepared = False

    def _new_batch(self) -> _Batch:
        shape = (self._batch_items * self._n_views, *self.job.preprocess.input_size, 3)
        return _Batch(np.zeros(shape, np.uint8))

    def run(self, tick: Callable[[Outcome], None], interval: float = 0.1) -> Outcome:
        """Process everything, calling `tick` from this thread about ten times a second.

        Raises
        ------
        BaseException
            What a thread or `tick` raised, or KeyboardInterrupt; finished rows are stored by then.
        """
        threads = [
            threading.Thread(target=self._work, name=f"featx-{k}", daemon=True)
            for k in range(self.job.n_threads)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(interval)
                    tick(self.outcome)
        except BaseException:
            self.stop()
            deadline = time.monotonic() + _STOP_SECONDS
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            raise
        if self.error is not None:
            raise self.error
        return self.outcome

    def stop(self) -> None:
        """Ask the threads to end after the item in hand."""
        self._stop.set()
        with self._room:
            self._room.notify_all()

    def _work(self) -> None:
        enter_worker_thread()
        try:
            while not self._stop.is_set():
                item = self._take()
                if item is None:
                    break
                self._process(item)
            if not self._stop.is_set():
                self._run_last()
        except BaseException as error:
            with self._lock:
                self.error = self.error or error
            self.stop()

    def _take(self) -> int | None:
        with self._lock:
            item = next(self._pending, None)
            if item is None:
                self._exhausted = True
            else:
                self._deciding += 1
            return item

    def _process(self, item: int) -> None:
        try:
            slot = self._prepare_item(item)
        except ImageError as error:
            self._fail(item, str(error))
            slot = None
        finally:
            with self._lock:
                self._deciding -= 1
        if slot is None:
            self._run_last()
        else:
            self._draw(*slot)

    def _prepare_item(self, item: int) -> tuple[_Batch, int, Any] | None:
        """Read and decode one item and reserve its slot; None if its row exists already."""
        job, start = self.job, time.perf_counter()
        data, stamp = job.manifest.read(item)
        content = digest_bytes(data)
        read = time.perf_counter()
        self._spend("read", read - start)
        self.outcome.content[item] = keys_of([content])[0]
        if job.known(content):
            with self._lock:
                self.outcome.reused += 1
            return None
        pixels = decode(data, job.decode, min(job.preprocess.resize_size))
        self._spend("decode", time.perf_counter() - read)
        kept = trusted_stamp(stamp.size, stamp.mtime_ns, time.time_ns())
        batch, slot = self._reserve((item, content, kept))
        return batch, slot, pixels

    def _draw(self, batch: _Batch, slot: int, pixels: Any) -> None:
        start = time.perf_counter()
        views = self._n_views
        draw_pixels(pixels, self.job.preprocess, batch.pixels[slot * views : (slot + 1) * views])
        self._spend("decode", time.perf_counter() - start)
        with self._lock:
            batch.drawn += 1
            complete = batch.complete()
        if complete:
            self._run(batch)
        else:
            self._run_last()

    def _reserve(self, row: tuple[int, bytes, tuple[int, int]]) -> tuple[_Batch, int]:
        with self._room:
            while self._current is None:
                if self._free:
                    self._current = self._free.pop()
                    self._current.rows, self._current.drawn = [], 0
                    self._current.closed = False
                elif self._stop.is_set():
                    raise ExtractError("stopped")
                else:
                    self._room.wait(1)
            batch = self._current
            batch.rows.append(row)
            if len(batch.rows) == self._batch_items:
                batch.closed, self._current = True, None
            return batch, len(batch.rows) - 1

    def _run_last(self) -> None:
        """Run the batch that stays short, once nothing more can come to it."""
        with self._lock:
            batch = self._current
            if batch is None or not self._exhausted or self._deciding:
                return
            batch.closed, self._current = True, None
            if not batch.complete():
                return  # who draws its last slot runs it
        self._run(batch)

    def _run(self, batch: _Batch) -> None:
        pixels = batch.pixels[: len(batch.rows) * self._n_views]
        with self._prepare:
            if not self._prepared:
                self._prepare_runner(pixels)
                self._prepared = True
        start = time.perf_counter()
        vectors = self.job.merge(self.job.runner(pixels), self._n_views)
        ran = time.perf_counter()
        self._spend("forward", ran - start)
        rows = self._finite_rows(batch, vectors)
        with self._room:
            self._free.append(batch)
            self._room.notify()
        self.job.store(rows)
        self._spend("write", time.perf_counter() - ran)
        with self._lock:
            self.outcome.embedded += len(rows)

    def _prepare_runner(self, first: NDArray[np.uint8]) -> None:
        """Let the runner decide: on pictures from all over the run where it wants to see more.

        Which ones they are hangs on the source alone, not on what the threads drew first.
        """
        runner, start = self.job.runner, time.perf_counter()
        waiting = (len(self.job.manifest) - self.outcome.done) * self._n_views
        wanted = -(-runner.n_to_check(waiting) // self._n_views)
        drawn = [self._pixels_of(int(self._items[k])) for k in spread(len(self._items), wanted)]
        sample = [pixels for pixels in drawn if pixels is not None]
        runner.prepare(np.concatenate(sample) if sample else first, waiting)
        self.prepare_seconds = time.perf_counter() - start

    def _pixels_of(self, item: int) -> NDArray[np.uint8] | None:
        """Draw an item beside the loop; what is wrong with it is found again in its turn."""
        drawn = np.zeros(self.job.preprocess.out_shape(), np.uint8)
        try:
            data, _ = self.job.manifest.read(item)
            draw(data, self.job.preprocess, drawn, self.job.decode)
        except ImageError:
            return None
        return drawn

    def _finite_rows(self, batch: _Batch, vectors: list[NDArray[Any]]) -> list[Row]:
        finite = np.logical_and.reduce([np.isfinite(v).all(axis=1) for v in vectors])
        if not finite.any() and (len(batch.rows) > 1 or not self.outcome.embedded):
            name = self.job.manifest.ids[batch.rows[0][0]]
            raise ExtractError(
                f"the network gave NaN or infinite vectors for a whole batch ({len(batch.rows)} "
                f"images, the first {name}); try --precision fp32 or check the weights"
            )
        rows = []
        for k, (item, content, stamp) in enumerate(batch.rows):
            if not finite[k]:
                self._fail(item, "the network gave NaN or infinite values for it")
                continue
            vector = tuple(v[k] for v in vectors)
            rows.append(Row(self.job.manifest.ids[item], content, stamp, vector))
        return rows

    def _fail(self, item: int, reason: str) -> None:
        with self._lock:
            self.outcome.failed[item] = reason
            self.outcome.content[item] = b""
            count = len(self.outcome.failed)
        self.job.check(count, f"{self.job.manifest.ids[item]}: {reason}")

    def _spend(self, stage: str, seconds: float) -> None:
        with self._lock:
            self.outcome.busy[stage] += seconds


def spread(n_items: int, size: int) -> NDArray[np.int64]:
    """Places of up to `size` of `n_items`, evenly from the first to the last.

    Examples
    --------
    >>> spread(10, 3).tolist(), spread(2, 3).tolist()
    ([0, 4, 9], [0, 1])
    """
    return np.linspace(0, n_items - 1, min(size, n_items)).astype(np.int64)


def digest_bytes(data: bytes) -> bytes:
    """SHA-256 of the bytes of an image file, in hexadecimal: its row's key."""
    return hashlib.sha256(data).hexdigest().encode()
