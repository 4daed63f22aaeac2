"""The engine of one machine: threads of this process, and other processes where asked for."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featx.cache.fingerprint import ExtractSpec
from featx.cache.known import KnownRows
from featx.cache.shards import ShardWriter, parts_folder
from featx.engines.gathering import Gathering
from featx.engines.job import Outcome
from featx.engines.presence import Room
from featx.engines.processes import run_workers
from featx.engines.work import Assignment, Ran, cut, probe
from featx.errors import CacheError, ExtractError
from featx.run.planning import LONG_SECONDS, PROBE_IMAGES
from featx.run.prepared import Run
from featx.run.progress import Progress
from featx.runtime import Runner

log = logging.getLogger("featx")


def embed(run: Run, known: KnownRows, outcome: Outcome, show: Progress) -> Ran:
    """Embed what is pending, so that the row of every item that can have one lies in a shard.

    With several processes this one decides precision and plan on a few images, no more.
    """
    pending = np.flatnonzero(outcome.content == b"")
    devices = run.devices() if len(pending) > PROBE_IMAGES else []
    here, beside = probe(pending, PROBE_IMAGES if len(devices) > 1 else len(pending))
    shape = (*run.preprocess.input_size, 3)
    with Runner(run.reader, run.plan, shape, run.package_key()) as runner:
        _embed_here(run, here, known, outcome, runner, show)
    ran = Ran.of(runner)
    if len(beside):
        _embed_beside(run, beside, devices, known, outcome, ran, show)
    return ran


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
        portion=run.options.portion,
    )
    loop = run.loop(items, outcome, known, runner, shards.add)

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
    run: Run,
    items: NDArray[np.int64],
    devices: list[str],
    known: KnownRows,
    outcome: Outcome,
    ran: Ran,
    show: Progress,
) -> None:
    """Have the rest embedded by worker processes, one for each entry of `devices`."""
    options = replace(
        run.options,
        precision=ran.precision,
        decode=run.decode.mode,
        threads=max(1, run.plan.threads // len(devices)),
        workers=1,
        progress=False,
    )
    gathering = Gathering(run, outcome)
    with Room(run.cache) as room:
        task = Assignment(
            run.source,
            run.cache.absolute(),
            options,
            run.spec(ran.precision),
            Path.cwd(),
            room.path,
        )
        tasks = [replace(task, options=replace(options, device=device)) for device in devices]
        chunks = cut(items, run.manifest.ids, len(devices), ran.batch_size)
        tick = lambda: show.update(outcome.done)  # noqa: E731
        run_workers(tasks, known, chunks, gathering.take, tick, room)
