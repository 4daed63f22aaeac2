"""The loop in one process: threads read, decode and fill batches; whoever fills one runs it.

On a CPU each thread is a stream of its own: it draws pictures until a batch is full, then runs the
forward pass alone on its core, so there is no barrier between threads and no idle core. On a GPU
the forward pass is a launch, and the other threads decode meanwhile. Items are taken, and places
reserved, by the block: a lock for every image would cost more than the image's own Python.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featx import images
from featx.cache.ids import keys_of
from featx.cache.reuse import trusted_stamp
from featx.cache.staging import Row
from featx.errors import ExtractError, ImageError
from featx.extraction.slots import Batch, Drawn, Lease, Slots, block_of, make_batches
from featx.images import DecodePolicy
from featx.images.pages import digest_bytes, page_count
from featx.items import Manifest
from featx.preprocess import Preprocess

if TYPE_CHECKING:
    from featx.runtime import Runner


STAGES = ("read", "decode", "forward", "write")


@dataclass
class Outcome:
    """The outcome for each item.

    ``content`` is S16, shape (n,): `keys_of` the digest of each item that has or will have a row,
    else empty. ``pages_left`` has, for each embedded file of several pages, how many were not read.
    """

    content: NDArray[np.bytes_]
    failed: dict[int, str] = field(default_factory=dict)
    embedded: int = 0
    reused: int = 0
    busy: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    pages_left: list[int] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Items that need nothing more."""
        return self.embedded + self.reused + len(self.failed)


@dataclass(frozen=True)
class Job:
    """The input of the threads.

    Parameters
    ----------
    known
        Tells whether the row of a content digest exists already.
    store
        Takes finished rows.
    merge
        Turns vectors of shape (n * n_views, d), one array a tap, into what is stored.
    check
        Called after each failure with the number of failures so far; raises to stop the run.
    prove
        Called once the runner is prepared, before its first row is stored; raises to stop the run.
    """

    manifest: Manifest
    preprocess: Preprocess
    decode: DecodePolicy
    runner: Runner
    known: Callable[[bytes], bool]
    store: Callable[[list[Row]], None]
    merge: Callable[[list[NDArray[np.float32]], int], list[NDArray[Any]]]
    check: Callable[[int, str], None]
    n_threads: int
    prove: Callable[[], None] = lambda: None


_STOP_SECONDS = 1.2  # how long an interrupted run waits for the batches in hand


class ThreadLoop:
    """Run one job over pending items; `run` returns when every one is accounted for."""

    def __init__(self, job: Job, pending: NDArray[np.int64], outcome: Outcome) -> None:
        self.job = job
        self.outcome = outcome
        self.error: BaseException | None = None
        self.prepare_seconds = 0.0
        self._n_views = len(job.preprocess.views)
        self._need = min(job.preprocess.resize_size)
        n_places = max(1, job.runner.batch_size // self._n_views)
        n_batches = min(job.n_threads + 1, job.runner.most_batches or job.n_threads + 1)
        shape, block = job.preprocess.out_shape(), block_of(len(pending), job.n_threads, n_places)
        batches = make_batches(n_batches, n_places, shape, job.runner.allocate)
        self._slots = Slots(pending, batches, block)
        self._lock = threading.Lock()
        self._prepare = threading.Lock()
        self._prepared = False

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
        self._slots.stop()

    def _work(self) -> None:
        from featx.runtime import enter_worker_thread  # loads torch

        enter_worker_thread()
        try:
            while items := self._slots.take():
                self._process(items)
                for batch in self._slots.finish():
                    self._run(batch)
        except BaseException as error:
            with self._lock:
                self.error = self.error or error
            self.stop()

    def _process(self, items: list[int]) -> None:
        """Read, decode and draw a block of items, and run the batches that it completes."""
        lease: Lease | None = None
        spent = {"read": 0.0, "decode": 0.0}
        for k, item in enumerate(items):
            if self._slots.is_stopped:
                break
            if lease is not None and lease.is_used_up:
                self._give_back(lease)
                lease = None
            try:
                if (found := self._decoded(item, spent)) is None:
                    continue
                row, pixels = found
                lease = lease or self._slots.lease(len(items) - k)
                start = time.perf_counter()
                images.draw_pixels(pixels, self.job.preprocess, lease.place(), self.job.decode.mode)
                lease.keep(row)
                spent["decode"] += time.perf_counter() - start
            except ImageError as error:
                self._fail(item, error.reason)
        if lease is not None:
            self._give_back(lease)
        self._spend(spent)

    def _decoded(self, item: int, spent: dict[str, float]) -> tuple[Drawn, Any] | None:
        """Read and decode one item; None if its row exists already."""
        job, start = self.job, time.perf_counter()
        data, stamp = job.manifest.read(item)
        page = job.manifest.page(item)
        content = digest_bytes(data, page)
        read = time.perf_counter()
        spent["read"] += read - start
        self.outcome.content[item] = keys_of([content])[0]
        if job.known(content):
            with self._lock:
                self.outcome.reused += 1
            return None
        pixels = images.decode(data, job.decode, self._need, page)
        if job.manifest.pages is None and (left := page_count(data) - 1):
            with self._lock:
                self.outcome.pages_left.append(left)
        spent["decode"] += time.perf_counter() - read
        kept = trusted_stamp(stamp, time.time_ns())
        return (item, content, kept), pixels

    def _give_back(self, lease: Lease) -> None:
        if (batch := self._slots.give_back(lease)) is not None:
            self._run(batch)

    def _run(self, batch: Batch) -> None:
        pixels, drawn = batch.filled()
        with self._prepare:
            if not self._prepared:
                self._prepare_runner(pixels)
                self._prepared = True
        start = time.perf_counter()
        vectors = self.job.merge(self.job.runner(pixels), self._n_views)
        ran = time.perf_counter()
        rows = self._finite_rows(drawn, vectors)
        self._slots.release(batch)
        self.job.store(rows)
        self._spend({"forward": ran - start, "write": time.perf_counter() - ran})
        with self._lock:
            self.outcome.embedded += len(rows)

    def _prepare_runner(self, first: NDArray[np.uint8]) -> None:
        """Let the runner decide: on pictures from all over the run where it wants to see more.

        Which ones they are depends on the source alone, not on what the threads drew first.
        """
        runner, start = self.job.runner, time.perf_counter()
        waiting = (len(self.job.manifest) - self.outcome.done) * self._n_views
        wanted = -(-runner.n_to_check(waiting) // self._n_views)
        items = self._slots.items
        drawn = [self._pixels_of(int(items[k])) for k in spread(len(items), wanted)]
        sample = [pixels for pixels in drawn if pixels is not None]
        runner.prepare(np.concatenate(sample) if sample else first, waiting)
        self.job.prove()
        self.prepare_seconds = time.perf_counter() - start

    def _pixels_of(self, item: int) -> NDArray[np.uint8] | None:
        """Draw an item beside the loop; what is wrong with it is found again in its turn."""
        drawn = np.zeros(self.job.preprocess.out_shape(), np.uint8)
        try:
            data, _ = self.job.manifest.read(item)
            page = self.job.manifest.page(item)
            pixels = images.decode(data, self.job.decode, self._need, page)
            images.draw_pixels(pixels, self.job.preprocess, drawn, self.job.decode.mode)
        except ImageError:
            return None
        return drawn

    def _finite_rows(self, drawn: list[Drawn], vectors: list[NDArray[Any]]) -> list[Row]:
        finite = np.logical_and.reduce([np.isfinite(v).all(axis=1) for v in vectors]).tolist()
        if not any(finite) and (len(drawn) > 1 or not self.outcome.embedded):
            name = self.job.manifest.ids[drawn[0][0]]
            raise ExtractError(
                f"the network gave NaN or infinite vectors for a whole batch ({len(drawn)} "
                f"images, the first {name}); try --precision fp32 or check the weights"
            )
        rows = []
        for k, (item, content, stamp) in enumerate(drawn):
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

    def _spend(self, seconds: dict[str, float]) -> None:
        with self._lock:
            for stage, spent in seconds.items():
                self.outcome.busy[stage] += spent


def spread(n_items: int, size: int) -> NDArray[np.int64]:
    """Places of up to `size` of `n_items`, evenly from the first to the last.

    Examples
    --------
    >>> spread(10, 3).tolist(), spread(2, 3).tolist()
    ([0, 4, 9], [0, 1])
    """
    return np.linspace(0, n_items - 1, min(size, n_items)).astype(np.int64)
