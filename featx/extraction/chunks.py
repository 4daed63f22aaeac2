"""Work in chunks: what every worker of a run is told, and what it does with one.

A worker is this same code in another process, of this machine or of a cluster. It lists the source
itself, embeds the items of a chunk, writes them into shards beside the cache, and gives back a few
bytes an item. The driver publishes.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featx.cache.ids import KEY_DTYPE, keys_of
from featx.cache.reuse import KnownRows
from featx.cache.staging import SHARD_ROWS, ShardWriter, parts_folder
from featx.errors import ExtractError, ImageError
from featx.extraction.options import ExtractOptions
from featx.extraction.presence import is_open, sign_in
from featx.extraction.run import Run
from featx.extraction.threads import Outcome, spread
from featx.images import decode, draw_pixels
from featx.images.pages import digest_bytes
from featx.items import Source
from featx.runtime import Runner
from featx.runtime.checking import MIN_COSINE, lowest_cosine, worst_row
from featx.spec import ExtractSpec, spec_difference

ROWS = 4  # rows that are computed again
_LOOKED_AT = 32  # items whose files are read where it is not known which of them have rows
_NEAR = 1e-3  # relative error of a row in fp32, which may have been stored as float16


def proof_items(outcome: Outcome) -> tuple[int, ...]:
    """Choose items that have rows already, from all over the source; the fewer there are, all."""
    with_rows = np.flatnonzero(outcome.content != b"")
    return tuple(with_rows[spread(len(with_rows), ROWS)].tolist()) if len(with_rows) else ()


def require_alike(run: Run, known: KnownRows, runner: Runner, items: Sequence[int]) -> None:
    """Compute a few rows that exist again, and refuse to add to rows that differ.

    Parameters
    ----------
    runner
        Prepared, as it will compute the new rows.
    items
        From `proof_items`; where it found none, some items are looked at.

    Raises
    ------
    ExtractError
        With the image, the tolerance and what to do.
    """
    if not len(known):
        return
    candidates = items or spread(len(run.manifest), _LOOKED_AT).tolist()
    for count, item in enumerate(_with_rows(run, known, candidates)):
        _require_row(run, known, runner, item)
        if count + 1 == ROWS:
            return


def _with_rows(
    run: Run, known: KnownRows, items: Iterable[int]
) -> Iterable[tuple[int, bytes, bytes]]:
    for item in items:
        try:
            data, _ = run.manifest.read(item)
        except ImageError:
            continue
        content = digest_bytes(data, run.manifest.page(item))
        if content in known:
            yield item, data, content


def _require_row(
    run: Run, known: KnownRows, runner: Runner, found: tuple[int, bytes, bytes]
) -> None:
    item, data, content = found
    drawn = np.zeros(run.preprocess.out_shape(), np.uint8)
    need, page = min(run.preprocess.resize_size), run.manifest.page(item)
    draw_pixels(decode(data, run.decode, need, page), run.preprocess, drawn, run.decode.mode)
    computed = [
        tap.astype(np.float32) for tap in run.merged(runner(drawn), len(run.preprocess.views))
    ]
    stored = known.vectors(keys_of([content]))
    exact = runner.precision == "fp32"
    error, cosine = worst_row(stored, computed), lowest_cosine(stored, computed)
    if error <= _NEAR if exact else cosine >= MIN_COSINE:
        return
    far = (
        f"relative error {error:.1e}, at most {_NEAR:.0e} expected"
        if exact
        else f"cosine {cosine:.4f}, at least {MIN_COSINE} expected"
    )
    raise ExtractError(
        f"{run.plan.device} computes another row for {run.manifest.ids[item]} than {run.cache} "
        f"holds ({runner.precision}, {far}): new rows would not fit the old ones; go on where the "
        "cache was made, or pass --force --precision fp32 to compute all rows again"
    )


_LEAST_ITEMS = 64  # of a chunk: fewer, and threads wait for each other at its end too often
_CHUNKS_EACH = 16  # for each worker, so that the last ones end at about the same time
_BATCHES = 8  # of a chunk at least, where there are enough items
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Assignment:
    """The message that a worker of a run gets once.

    Parameters
    ----------
    source, cache, options
        Those of the run; precision, decode mode and threads are decided in `options`.
    spec
        What the rows must be computed by; None for the worker that decides the precision.
    home
        The driver's working directory, from which relative paths are meant.
    room
        The folder beside the cache in which workers sign in; the run is over when it is gone.
    proof
        Items that have rows, which are computed again before others are added.
    sharers
        Workers that share the device.
    """

    source: Source
    cache: Path
    options: ExtractOptions
    spec: ExtractSpec | None
    home: Path
    room: Path
    proof: tuple[int, ...] = ()
    sharers: int = 1


@dataclass(frozen=True)
class Chunk:
    """Some items: their numbers in the driver's manifest, int64 of shape (n,), and their ids."""

    items: NDArray[np.int64]
    ids: list[str]


@dataclass(frozen=True)
class NetworkState:
    """How the network really ran."""

    precision: str
    compiled: bool
    batch_size: int

    @classmethod
    def of(cls, runner: Runner) -> NetworkState:
        """Read it from a runner that has run."""
        return cls(runner.precision, runner.compiled, runner.batch_size)


@dataclass(frozen=True)
class ChunkRows:
    """The result of a chunk: an `Outcome` of its items alone, by the driver's numbers.

    ``seconds`` is what it took, and of that ``prepare_seconds`` went into the network's fast path.
    """

    items: NDArray[np.int64]
    content: NDArray[np.bytes_]
    failed: dict[int, str]
    embedded: int
    reused: int
    busy: dict[str, float]
    seconds: float
    prepare_seconds: float
    ran: NetworkState
    pages_left: tuple[int, ...] = ()


class RunOverError(Exception):
    """The driver has ended the run; what is done is kept."""


class Worker:
    """One worker: the network loaded, ready for chunks.

    Raises
    ------
    FeatxError
        If it does not see what the driver sees: folder, source, weights or versions.
    """

    def __init__(self, assignment: Assignment, known: KnownRows) -> None:
        self._known, self._room = known, assignment.room
        if assignment.home.is_dir():
            os.chdir(assignment.home)
        sign_in(assignment.room)
        self._run = run = Run(assignment.source, assignment.cache, assignment.options)
        run.prepare()
        run.plan = replace(run.plan, sharers=assignment.sharers)
        self._proof: tuple[int, ...] | None = assignment.proof
        if assignment.spec is not None:
            _require_same(assignment.spec, run.spec(assignment.spec.precision))
        shape = (*run.preprocess.input_size, 3)
        self._runner = Runner(run.reader, run.plan, shape, run.package_key())
        parts = parts_folder(assignment.cache)
        self._shards = ShardWriter(
            parts, lambda: run.spec(self._runner.precision), slice_=run.options.slice_
        )
        self._outcome = Outcome(np.zeros(len(run.manifest), KEY_DTYPE))
        self._item_of: dict[str, int] | None = None
        self._looked = 0.0

    def embed(self, chunk: Chunk) -> ChunkRows:
        """Embed a chunk; its rows lie in shards when this returns.

        Raises
        ------
        FeatxError
            If the run cannot go on.
        RunOverError
            If the driver has ended the run meanwhile.
        """
        mine, start = self._find(chunk), time.perf_counter()
        all_mine = self._outcome
        before = (all_mine.embedded, all_mine.reused, dict(all_mine.busy))
        paged = len(all_mine.pages_left)
        here = mine[mine >= 0]
        loop = self._run.loop(
            here, all_mine, self._known, self._runner, self._shards.add, self._prove
        )
        try:
            if len(here):
                loop.run(self._tick)
        finally:
            self._shards.flush()
        content, failed = self._found(chunk, mine)
        return ChunkRows(
            items=chunk.items,
            content=content,
            failed=failed,
            embedded=all_mine.embedded - before[0],
            reused=all_mine.reused - before[1],
            busy={stage: all_mine.busy[stage] - spent for stage, spent in before[2].items()},
            seconds=time.perf_counter() - start,
            prepare_seconds=loop.prepare_seconds,
            ran=NetworkState.of(self._runner),
            pages_left=tuple(all_mine.pages_left[paged:]),
        )

    def _prove(self) -> None:
        if self._proof is not None:
            require_alike(self._run, self._known, self._runner, self._proof)
            self._proof = None

    def _tick(self, _: Outcome) -> None:
        self._shards.tick()
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._looked = time.monotonic()
            if not is_open(self._room):
                raise RunOverError

    def _find(self, chunk: Chunk) -> NDArray[np.int64]:
        """Number of each item here, -1 if there is none; the source may have changed meanwhile."""
        ids = self._run.manifest.ids
        places = zip(chunk.items.tolist(), chunk.ids, strict=True)
        if all(item < len(ids) and ids[item] == name for item, name in places):
            return chunk.items
        if self._item_of is None:
            self._item_of = {name: item for item, name in enumerate(ids)}
        return np.array([self._item_of.get(name, -1) for name in chunk.ids], np.int64)

    def _found(
        self, chunk: Chunk, mine: NDArray[np.int64]
    ) -> tuple[NDArray[np.bytes_], dict[int, str]]:
        content, failed = np.zeros(len(mine), KEY_DTYPE), {}
        for place, item in enumerate(mine.tolist()):
            if item < 0:
                failed[int(chunk.items[place])] = "file not found"
            elif item in self._outcome.failed:
                failed[int(chunk.items[place])] = self._outcome.failed[item]
            else:
                content[place] = self._outcome.content[item]
        return content, failed


def _require_same(wanted: ExtractSpec, here: ExtractSpec) -> None:
    if changed := spec_difference(wanted, here):
        raise ExtractError(
            f"a worker on {platform.node()} would compute other features than the driver: "
            f"{'; '.join(changed)}; give it the same weights and the same versions"
        )


def chunk_of(items: NDArray[np.int64], ids: Sequence[str]) -> Chunk:
    """Make a chunk of some items, by their numbers in `ids`."""
    return Chunk(items, [ids[item] for item in items.tolist()])


def cut(
    pending: NDArray[np.int64], ids: Sequence[str], n_workers: int, batch_size: int
) -> Iterator[Chunk]:
    """Cut the pending items, int64 of shape (n,), into chunks of whole batches.

    The last ones are smaller and smaller, so that workers end at about the same time (guided
    self-scheduling: Polychronopoulos and Kuck 1987).
    """
    first, size = 0, chunk_size(len(pending), n_workers, batch_size)
    while (left := len(pending) - first) > 0:
        least = max(_LEAST_ITEMS, -(-left // (2 * n_workers)))
        step = min(size, -(-least // batch_size) * batch_size)
        yield chunk_of(pending[first : first + step], ids)
        first += step


def probe(pending: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Take up to `size` of the pending items from all over them, to decide on; the rest is second.

    Examples
    --------
    >>> first, rest = probe(np.arange(10), 3)
    >>> first.tolist(), len(rest)
    ([0, 4, 9], 7)
    """
    places = spread(len(pending), size)
    return pending[places], np.delete(pending, places)


def chunk_size(n_items: int, n_workers: int, batch_size: int) -> int:
    """Items of a chunk: whole batches, at most a shard or a few batches.

    Examples
    --------
    >>> chunk_size(100, 2, 8), chunk_size(10_000, 2, 8), chunk_size(1_000_000, 2, 256)
    (64, 320, 2048)
    """
    most = max(SHARD_ROWS, _BATCHES * batch_size)
    size = min(most, max(_LEAST_ITEMS, -(-n_items // (n_workers * _CHUNKS_EACH))))
    return -(-size // batch_size) * batch_size
