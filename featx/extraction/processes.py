"""The engine of one machine: threads of this process, and other processes where asked for."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featx.cache.reuse import KnownRows
from featx.cache.staging import ShardWriter, parts_folder
from featx.errors import CacheError, ExtractError, FeatxError
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
    proof_items,
    require_alike,
)
from featx.extraction.gathering import Deaths, Gathering
from featx.extraction.options import ExtractOptions
from featx.extraction.planning import LONG_SECONDS, PROBE_IMAGES
from featx.extraction.presence import Room
from featx.extraction.run import Run
from featx.extraction.threads import Outcome
from featx.progress import Progress
from featx.runtime import Runner, cpu_cores
from featx.spec import ExtractSpec

log = logging.getLogger("featx")

_TICK_SECONDS = 0.2
_STOP_SECONDS = 2.5  # for what an interrupted worker has in hand


@dataclass
class _Desk:
    """A worker as the driver sees it: its process, its pipe, and the chunk that it has."""

    assignment: Assignment
    process: BaseProcess
    pipe: Connection
    chunk: Chunk | None = None

    def give(self, chunk: Chunk | None) -> None:
        """Hand out a chunk; None sends the worker home."""
        self.chunk = chunk
        try:
            self.pipe.send(chunk)
        except OSError:
            pass  # it has died, which the other direction tells


def run_workers(
    assignments: Sequence[Assignment],
    known: KnownRows,
    chunks: Iterator[Chunk],
    take: Callable[[ChunkRows], None],
    tick: Callable[[], None],
    room: Room,
) -> None:
    """Have every chunk embedded by one of several processes.

    Parameters
    ----------
    assignments
        One for each worker; they differ in their device.
    take
        Called with each part, in any order.
    tick
        Called about five times a second.
    room
        Open; closed when this returns.

    Raises
    ------
    FeatxError
        What a worker refused, or that workers died again and again.
    """
    desks = [_start(assignment, known) for assignment in assignments]
    deaths = Deaths()
    try:
        for desk in desks:
            desk.give(next(chunks, None))
        while busy := {desk.pipe: desk for desk in desks if desk.chunk is not None}:
            for pipe in wait(list(busy), _TICK_SECONDS):
                desk = busy[pipe]  # type: ignore[index]
                part = _receive(desk)
                if part is None:
                    deaths.add()
                    _restart(desk, known)
                else:
                    deaths.in_a_row = 0
                    take(part)
                    desk.give(next(chunks, None))
            tick()
    finally:
        room.close()
        _send_home(desks)


def _start(assignment: Assignment, known: KnownRows) -> _Desk:
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(assignment, known, there), daemon=True)
    process.start()
    there.close()  # so that the pipe ends when the worker does
    return _Desk(assignment, process, here)


def _receive(desk: _Desk) -> ChunkRows | None:
    """A part, or None if the worker has died."""
    try:
        found = desk.pipe.recv()
    except (EOFError, OSError):
        return None
    if isinstance(found, FeatxError):
        raise found
    part: ChunkRows = found
    return part


def _restart(desk: _Desk, known: KnownRows) -> None:
    desk.process.join()
    code, pid = desk.process.exitcode, desk.process.pid
    log.warning("worker %d died (exit code %s) and is started again", pid, code)
    desk.pipe.close()
    fresh = _start(desk.assignment, known)
    desk.process, desk.pipe = fresh.process, fresh.pipe
    desk.give(desk.chunk)


def _send_home(desks: Sequence[_Desk]) -> None:
    """End the workers: idle ones at once; busy ones see that their room is closed."""
    deadline = time.monotonic() + _STOP_SECONDS
    for desk in desks:
        if desk.chunk is None:
            desk.process.terminate()  # a second of clearing up, for what the system clears up
        desk.pipe.close()
    for desk in desks:
        desk.process.join(max(0.0, deadline - time.monotonic()))
        desk.process.terminate()


def _work(assignment: Assignment, known: KnownRows, pipe: Connection) -> None:
    """Embed chunk after chunk; runs in a process of its own."""
    try:
        worker = None
        while (chunk := pipe.recv()) is not None:
            worker = worker or Worker(assignment, known)
            pipe.send(worker.embed(chunk))
    except FeatxError as error:
        pipe.send(error)
    except (EOFError, OSError, RunOverError, KeyboardInterrupt):
        return


def embed(run: Run, known: KnownRows, outcome: Outcome, show: Progress) -> NetworkState:
    """Embed what is pending, so that the row of every item that can have one lies in a shard.

    With several processes one decides precision and plan on a few images, no more: this one, or on
    a card the first worker, so that this process has nothing there while workers run.
    """
    pending = np.flatnonzero(outcome.content == b"")
    devices = run.devices(len(pending)) if len(pending) > PROBE_IMAGES else []
    if len(devices) > 1 and not run.decides_here:
        return _embed_on_cards(run, pending, devices, known, outcome, show)
    here, beside = probe(pending, PROBE_IMAGES if len(devices) > 1 else len(pending))
    shape = (*run.preprocess.input_size, 3)
    with Runner(run.reader, run.plan, shape, run.package_key()) as runner:
        _embed_here(run, here, known, outcome, runner, show)
    ran = NetworkState.of(runner)
    if len(beside):
        gathering = Gathering(run, outcome)
        _embed_beside(_Team(run, known, devices, show), beside, gathering, ran)
    return ran


@dataclass(frozen=True)
class _Team:
    """Worker processes of one run: what they are told, one for each entry of `devices`."""

    run: Run
    known: KnownRows
    devices: list[str]
    show: Progress

    def options(self, precision: str) -> ExtractOptions:
        """The task of each worker."""
        run = self.run
        waiting = run.plan.threads - cpu_cores() if run.plan.kind == "cuda" else 0
        threads = (run.plan.threads - max(0, waiting)) // len(self.devices) + max(0, waiting)
        return replace(
            run.options,
            precision=precision,
            decode=run.decode.mode,
            threads=max(1, threads),
            workers=1,
            progress=False,
        )


def _embed_on_cards(
    run: Run,
    pending: NDArray[np.int64],
    devices: list[str],
    known: KnownRows,
    outcome: Outcome,
    show: Progress,
) -> NetworkState:
    """Have everything embedded by workers; one of them decides where the precision is open."""
    plan, gathering = run.plan, Gathering(run, outcome)
    ran = NetworkState(plan.precision, compiled=False, batch_size=plan.batch_size)
    if not (plan.precision == "fp32" or plan.precision_asked or len(known)):
        first, pending = probe(pending, PROBE_IMAGES)
        team = _Team(run, known, devices[:1], show)
        _run_team(team, [chunk_of(first, run.manifest.ids)], gathering, None)
        ran = gathering.ran or ran
    if len(pending):
        _embed_beside(_Team(run, known, devices, show), pending, gathering, ran)
    return gathering.ran or ran


def _embed_here(
    run: Run,
    items: NDArray[np.int64],
    known: KnownRows,
    outcome: Outcome,
    runner: Runner,
    show: Progress,
) -> None:
    shards = ShardWriter(
        parts_folder(run.cache),
        lambda: spec_of_run(run, runner, known),
        slice_=run.options.slice_,
    )
    proof = proof_items(outcome)
    prove = lambda: require_alike(run, known, runner, proof)  # noqa: E731
    loop = run.loop(items, outcome, known, runner, shards.add, prove)

    def tick(found: Outcome) -> None:
        show.update(found.done)
        shards.tick()
        if run.expected is None and found.embedded >= PROBE_IMAGES:
            waiting = len(run.manifest) - found.done
            run.expected = run.expect(found, loop, found.embedded + waiting)
            if run.expected.seconds > LONG_SECONDS:
                log.info(run.expected.describe())

    run.first_read = time.perf_counter()
    try:
        loop.run(tick)
    except CacheError:
        raise  # rows cannot be written, and trying again would only hide the cause
    except BaseException:
        shards.flush()
        raise
    finally:
        run.prepare_seconds = loop.prepare_seconds
    shards.flush()
    show.update(outcome.done)


def spec_of_run(run: Run, runner: Runner, known: KnownRows) -> ExtractSpec:
    """The spec of the rows that a runner gives, which must be that of the rows that exist."""
    if len(known) and runner.precision != run.plan.precision:
        raise ExtractError(
            f"{run.plan.precision} on this machine no longer agrees with fp32, and the rows "
            f"that exist are {run.plan.precision}; pass --force --precision {runner.precision}"
        )
    return run.spec(runner.precision)


def _embed_beside(
    team: _Team, items: NDArray[np.int64], gathering: Gathering, ran: NetworkState
) -> None:
    """Have the rest embedded by worker processes."""
    chunks = cut(items, team.run.manifest.ids, len(team.devices), ran.batch_size)
    _run_team(team, chunks, gathering, team.run.spec(ran.precision))


def _run_team(
    team: _Team,
    chunks: Iterable[Chunk],
    gathering: Gathering,
    spec: ExtractSpec | None,
) -> None:
    """Start the workers, and give out the chunks until all are done."""
    run, outcome = team.run, gathering.outcome
    # Without a spec the worker decides: it is asked for what the run was asked for.
    options = team.options(run.options.precision if spec is None else spec.precision)
    with Room(run.cache) as room:
        task = Assignment(
            run.source,
            run.cache.absolute(),
            options,
            spec,
            Path.cwd(),
            room.path,
            gathering.proof,
        )
        tasks = [
            replace(
                task,
                options=replace(options, device=device),
                sharers=team.devices.count(device),
            )
            for device in team.devices
        ]
        tick = lambda: team.show.update(outcome.done)  # noqa: E731
        run_workers(tasks, team.known, iter(chunks), gathering.take, tick, room)
