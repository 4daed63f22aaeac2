"""The engine of a cluster: Ray Data streams chunks of item names through workers.

``map_batches`` runs a callable class that holds the network. What goes in are the numbers and ids
of items, what comes out is their digests and failures; pictures are read and features written by
the workers, so neither passes through Ray's object store or the driver.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import queue
import threading
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from featx.cache.reuse import KnownRows
from featx.errors import ExtractError, FeatxError, brief
from featx.extraction.chunks import (
    Assignment,
    Chunk,
    ChunkRows,
    NetworkState,
    RunOverError,
    Worker,
    chunk_of,
    cut,
    probe,
)
from featx.extraction.cluster import FEEDER, Crew, as_one_line, data_context, load_ray, result
from featx.extraction.gathering import Deaths, Gathering
from featx.extraction.planning import LONG_SECONDS, PROBE_IMAGES
from featx.extraction.presence import Room
from featx.extraction.run import Run
from featx.extraction.threads import Outcome
from featx.progress import Progress
from featx.typing import JsonObject

log = logging.getLogger("featx")

_TICK_SECONDS = 0.5
_STOP_SECONDS = 2.5  # for what interrupted workers have in hand
_END = object()


def embed(run: Run, crew: Crew, known: KnownRows, outcome: Outcome, show: Progress) -> NetworkState:
    """Embed what is pending on a cluster, so that every row lies in a shard.

    Where the precision depends on a check, one worker decides it on a few images before the others
    start.
    """
    pending = np.flatnonzero(outcome.content == b"")
    ran = NetworkState(run.plan.precision, compiled=False, batch_size=run.plan.batch_size)
    if not len(pending):
        return ran
    with Room(run.cache) as room:
        task = _assignment(run, room)
        if not (run.plan.precision == "fp32" or run.plan.precision_asked or len(known)):
            first, pending = probe(pending, PROBE_IMAGES)
            chunk = chunk_of(first, run.manifest.ids)
            ran = _decide(crew, task, known, chunk, Gathering(run, outcome))
        if not len(pending):
            return ran
        options = replace(task.options, precision=ran.precision)
        task = replace(task, options=options, spec=run.spec(ran.precision))
        stream = _Stream(crew, room, show)
        gathering = Gathering(run, outcome)
        chunks = cut(pending, run.manifest.ids, crew.workers, ran.batch_size)
        with contextlib.closing(stream.run(task, known, chunks)) as parts:
            for part in parts:
                gathering.take(part)
                _foresee(run, outcome, gathering)
                stream.done = outcome.done
    return gathering.ran or ran


def _assignment(run: Run, room: Room) -> Assignment:
    options = replace(
        run.options,
        engine="local",
        workers=1,
        device=run.plan.device,
        decode=run.decode.mode,
        threads=run.plan.threads,
        progress=False,
    )
    return Assignment(run.source, run.cache.absolute(), options, None, Path.cwd(), room.path)


def _decide(
    crew: Crew, task: Assignment, known: KnownRows, first: Chunk, gathering: Gathering
) -> NetworkState:
    """Have the first images embedded by one worker, whose check decides the precision."""
    part: ChunkRows = result(crew.remote(_embed_first).remote(task, known, first), crew, None)
    gathering.take(part)
    return part.ran


def _embed_first(task: Assignment, known: KnownRows, first: Chunk) -> ChunkRows:
    return _hire(task, known).embed(first)


def _hire(task: Assignment, known: KnownRows) -> Worker:
    try:
        return Worker(task, known)
    except FeatxError as error:
        raise type(error)(f"worker on {platform.node()}: {error}") from None


def _foresee(run: Run, outcome: Outcome, gathering: Gathering) -> None:
    """Say once what a long run will take."""
    if run.expected is None and outcome.embedded >= PROBE_IMAGES:
        waiting = len(run.manifest) - outcome.done
        run.expected = run.expect(outcome, gathering, outcome.embedded + waiting)
        if run.expected.seconds > LONG_SECONDS:
            log.info(run.expected.describe())


class RayWorker:
    """The actor that Ray Data calls with one chunk after the other, as a table of items and ids.

    Every error comes back as a row, so that Ray neither tries it again nor prints its trace.
    """

    def __init__(self, task: list[Any]) -> None:
        self._task = task  # in a list, for Ray would resolve a bare reference only once
        self._worker: Worker | None = None

    def __call__(self, table: Any) -> JsonObject:
        """Embed one chunk; gives a row with a `ChunkRows`, an error, or None after the end."""
        chunk = Chunk(table["item"].to_numpy(), table["id"].to_pylist())
        answer = np.empty(1, dtype=object)
        try:
            if self._worker is None:
                self._worker = _hire(*load_ray().get(self._task[0]))
            answer[0] = self._worker.embed(chunk)
        except FeatxError as error:
            answer[0] = error
        except RunOverError:
            answer[0] = None
        except Exception as error:  # whatever it is, the driver says it in one line
            answer[0] = ExtractError(f"worker on {platform.node()}: {brief(error, 300)}")
        return {"part": answer}


class _Stream:
    """Parts as they come from the workers of a cluster, with progress shown while they do not."""

    def __init__(self, crew: Crew, room: Room, show: Progress) -> None:
        self.crew, self.room, self.show = crew, room, show
        self.done = show.done
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._deaths = Deaths()
        self._expected = room.started() + crew.workers

    def run(
        self, task: Assignment, known: KnownRows, chunks: Iterator[Chunk]
    ) -> Generator[ChunkRows, None, None]:
        """Yield one part a chunk, in any order.

        Raises
        ------
        FeatxError
            What a worker refused, or that workers died again and again.
        """
        answers = self._answers
        arguments = (task, known, chunks)
        feeder = threading.Thread(target=self._feed, args=arguments, name=FEEDER, daemon=True)
        feeder.start()
        try:
            while True:
                try:
                    answer = answers.get(timeout=_TICK_SECONDS)
                except queue.Empty:
                    self._look()
                    continue
                if answer is _END:
                    return
                if isinstance(answer, BaseException):
                    raise answer
                self._deaths.in_a_row = 0
                yield answer
                self._look()
        finally:
            self.room.close()
            feeder.join(_STOP_SECONDS)

    def _look(self) -> None:
        self.show.update(self.done)
        more = self.room.started() - self._expected
        if more > 0:
            log.warning("%d workers died and were started again", more)
            self._expected += more
            self._deaths.add(more)

    def _feed(self, task: Assignment, known: KnownRows, chunks: Iterator[Chunk]) -> None:
        """Run the data set; in a thread of its own, for Ray's iterator cannot be waited on."""
        try:
            with data_context():
                for batch in self._dataset(task, known, chunks).iter_batches(
                    batch_size=None, batch_format="numpy", prefetch_batches=0
                ):
                    for answer in batch["part"]:
                        self._answers.put(answer)
            self._answers.put(_END)
        except Exception as error:  # Ray raises many kinds
            self._answers.put(as_one_line(error))

    def _dataset(self, task: Assignment, known: KnownRows, chunks: Iterator[Chunk]) -> Any:
        import pyarrow as pa

        ray = load_ray()
        tables = [ray.put(pa.table({"item": c.items, "id": c.ids})) for c in chunks]
        return ray.data.from_arrow_refs(tables).map_batches(
            RayWorker,
            fn_constructor_args=([ray.put((task, known))],),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=self.crew.workers),
            num_cpus=self.crew.cpus,
            num_gpus=self.crew.gpus,
        )
