"""Workers in several processes of one machine: a GPU each, or a share of the cores each.

Each worker has a pipe of its own, so that one killed in the middle of a message harms no other. It
is started again, and its chunk is given out again.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from featx.cache.known import KnownRows
from featx.engines.gathering import Deaths
from featx.engines.presence import Room
from featx.engines.work import Assignment, Chunk, Part, RunOverError, Worker
from featx.errors import FeatxError

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
    take: Callable[[Part], None],
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


def _receive(desk: _Desk) -> Part | None:
    """A part, or None if the worker has died."""
    try:
        found = desk.pipe.recv()
    except (EOFError, OSError):
        return None
    if isinstance(found, FeatxError):
        raise found
    part: Part = found
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
