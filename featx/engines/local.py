"""The engine of one machine: threads of this process, and other processes where asked for."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featx.cache.fingerprint import ExtractSpec
from featx.cache.known import KnownRows
from featx.cache.shards import ShardWriter, parts_folder
from featx.engines.continuing import proof_items, require_alike
from featx.engines.gathering import Gathering
from featx.engines.job import Outcome
from featx.engines.presence import Room
from featx.engines.processes import run_workers
from featx.engines.work import Assignment, Chunk, Ran, chunk_of, cut, probe
from featx.errors import CacheError, ExtractError
from featx.run.options import ExtractOptions
from featx.run.planning import LONG_SECONDS, PROBE_IMAGES
from featx.run.prepared import Run
from featx.run.progress import Progress
from featx.runtime import Runner, cpu_cores

log = logging.getLogger("featx")


def embed(run: Run, known: KnownRows, outcome: Outcome, show: Progress) -> Ran:
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
    ran = Ran.of(runner)
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
        """What each worker is asked for."""
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
) -> Ran:
    """Have everything embedded by workers; one of them decides where the precision is open."""
    plan, gathering = run.plan, Gathering(run, outcome)
    ran = Ran(plan.precision, compiled=False, batch_size=plan.batch_size)
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
        portion=run.options.portion,
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


def _embed_beside(team: _Team, items: NDArray[np.int64], gathering: Gathering, ran: Ran) -> None:
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
