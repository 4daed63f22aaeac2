"""The loop in several processes of one machine: a GPU each, or a share of the cores each.

Every worker lists the source itself, embeds its share of the items and writes shards, by the same
code as a single process; the parent publishes. A worker that dies is started again, and finds what
it had finished in its shards.
"""

from __future__ import annotations

import logging
import multiprocessing
import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from featx.cache.format import CONTENT_DTYPE
from featx.cache.shards import ShardWriter, parts_folder
from featx.engines.threads import Outcome
from featx.errors import ExtractError, FeatxError
from featx.manifest import Source
from featx.options import ExtractOptions
from featx.runtime import Runner

log = logging.getLogger("featx")

_RESTARTS = 10  # of one worker, before the run gives up
_TICK_SECONDS = 0.2
_STOP_SECONDS = 1.5


@dataclass(frozen=True)
class Share:
    """What one worker does: which items, by id, on which device and with how many threads."""

    source: Source
    cache: Path
    options: ExtractOptions
    reuse_cache: bool
    ids: tuple[str, ...]


@dataclass
class Worker:
    """A worker as the parent sees it."""

    share: Share
    items: list[int]
    process: BaseProcess
    done: int = 0
    finished: bool = False
    starts: int = 1


def run_workers(
    shares: Sequence[tuple[Share, list[int]]], outcome: Outcome, tick: Callable[[int], None]
) -> None:
    """Run every share to its end and gather what became of the items.

    Parameters
    ----------
    shares
        For each worker its share, and the numbers of its items in the parent's manifest.
    outcome
        Filled with digests, failures and counts.
    tick
        Called about five times a second with the number of items done.

    Raises
    ------
    FeatxError
        What a worker refused, or that one died again and again.
    """
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    messages: Any = context.Queue()

    def start(number: int, share: Share) -> BaseProcess:
        process = context.Process(target=work, args=(number, share, messages), daemon=True)
        process.start()
        return process

    workers = [Worker(s, items, start(k, s)) for k, (s, items) in enumerate(shares)]
    try:
        while not all(worker.finished for worker in workers):
            _take(messages, workers, outcome)
            for number, worker in enumerate(workers):
                if not worker.finished and not worker.process.is_alive() and messages.empty():
                    _restart(number, worker, start)
            tick(sum(worker.done for worker in workers))
    finally:
        deadline = time.monotonic() + _STOP_SECONDS  # for what an interrupted worker has in hand
        for worker in workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            worker.process.terminate()


def _take(messages: Any, workers: list[Worker], outcome: Outcome) -> None:
    try:
        number, kind, content = messages.get(timeout=_TICK_SECONDS)
    except queue.Empty:
        return
    worker = workers[number]
    if kind == "progress":
        worker.done = content
    elif kind == "error":
        raise content
    else:
        worker.finished, worker.done = True, len(worker.items)
        _gather(worker.items, content, outcome)


def _gather(items: list[int], part: Outcome, outcome: Outcome) -> None:
    outcome.content[items] = part.content
    outcome.failed.update({items[k]: reason for k, reason in part.failed.items()})
    outcome.embedded += part.embedded
    outcome.reused += part.reused
    for stage, spent in part.busy.items():
        outcome.busy[stage] += spent


def _restart(number: int, worker: Worker, start: Callable[[int, Share], BaseProcess]) -> None:
    code = worker.process.exitcode
    if worker.starts > _RESTARTS:
        raise ExtractError(
            f"worker {number} died {worker.starts} times, the last with exit code {code}; what is "
            "done is kept: try a smaller --batch-size or fewer --workers"
        )
    log.warning("worker %d died (exit code %s) and is started again", number, code)
    worker.starts += 1
    worker.process = start(number, worker.share)


def work(number: int, share: Share, messages: Any) -> None:
    """Do one share; runs in a process of its own."""
    from featx.runs import Run

    try:
        run = Run(share.source, share.cache, share.options)
        run.prepare()
        part = _embed(run, share, lambda done: messages.put((number, "progress", done)))
        messages.put((number, "done", part))
    except FeatxError as error:
        messages.put((number, "error", error))
    except KeyboardInterrupt:
        return


def _embed(run: Any, share: Share, report: Callable[[int], None]) -> Outcome:
    item_of = {name: item for item, name in enumerate(run.manifest.ids)}
    items = [item_of[name] for name in share.ids if name in item_of]
    spec = run.spec(run.plan.precision)
    known = run.known(spec, in_place=share.reuse_cache)
    whole = Outcome(np.zeros(len(run.manifest), CONTENT_DTYPE))
    shards = ShardWriter(parts_folder(share.cache), lambda: spec)
    said = time.monotonic()

    def tick(found: Outcome) -> None:
        nonlocal said
        shards.tick()
        if time.monotonic() - said > _TICK_SECONDS:
            said = time.monotonic()
            report(found.done)

    shape = (*run.preprocess.input_size, 3)
    with Runner(run.reader, run.plan, shape, run.package_key()) as runner:
        try:
            run.loop(items, whole, known, runner, shards.add).run(tick)
        finally:
            shards.flush()
    return _own(share, whole, item_of)


def _own(share: Share, whole: Outcome, item_of: dict[str, int]) -> Outcome:
    """The outcome by place in the share, not in this process's manifest."""
    part = replace(whole, content=np.zeros(len(share.ids), CONTENT_DTYPE), failed={})
    for place, name in enumerate(share.ids):
        item = item_of.get(name)
        if item is None:
            part.failed[place] = "file not found"
        elif item in whole.failed:
            part.failed[place] = whole.failed[item]
        else:
            part.content[place] = whole.content[item]
    return part
