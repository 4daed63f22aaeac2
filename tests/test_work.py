"""Chunks of work: what a worker does with one, and what it refuses."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture

from featx.cache import open_cache
from featx.cache.ids import keys_of
from featx.cache.reuse import KnownRows
from featx.cache.staging import parts_folder
from featx.errors import CacheError, ExtractError, FeatxError, WeightsError
from featx.extraction import gathering
from featx.extraction.chunks import Assignment, Chunk, RunOverError, Worker, cut
from featx.extraction.extraction import extract
from featx.extraction.gathering import find_rows
from featx.extraction.options import ExtractOptions
from featx.extraction.presence import Room
from featx.extraction.run import Run


@pytest.fixture
def task(photos: Path, tmp_path: Path, tiny: dict[str, Any]) -> Assignment:
    """An assignment without a room yet."""
    cache, options = tmp_path / "c.h5", ExtractOptions(**tiny)  # type: ignore[arg-type]
    run = Run(photos, cache, options)
    run.prepare()
    return Assignment(photos, cache, options, run.spec("fp32"), Path.cwd(), tmp_path / "no")


def nothing_known(task: Assignment) -> KnownRows:
    assert task.spec is not None
    return KnownRows(task.spec, None, parts_folder(task.cache) / task.spec.fingerprint)


def chunk_of(source: Path, items: list[int]) -> Chunk:
    ids = sorted(str(p.relative_to(source)) for p in source.rglob("*.png"))
    return Chunk(np.array(items), [ids[item] for item in items])


def test_a_chunk_becomes_a_shard_and_a_few_bytes(task: Assignment, tiny: dict[str, Any]) -> None:
    (task.source / "cat" / "0000.png").write_bytes(b"no picture")  # type: ignore[operator]
    with Room(task.cache) as room:
        worker = Worker(replace(task, room=room.path), nothing_known(task))
        part = worker.embed(chunk_of(task.source, [0, 2, 9]))  # type: ignore[arg-type]
        assert room.started() == 1
        assert list(part.failed) == [0]
        assert (part.embedded, part.reused, part.content[0]) == (2, 0, b"")
        known = nothing_known(task)
        assert known.has(part.content[1:]).all()
        part = worker.embed(chunk_of(task.source, [4]))  # type: ignore[arg-type]
        assert (part.embedded, part.failed) == (1, {})
    result = extract(task.source, task.cache, **tiny)
    assert (result.embedded, result.reused, result.failed) == (8, 3, 1)


def written_rows(task: Assignment) -> tuple[KnownRows, Path, Any]:
    """A driver that knows nothing, the one shard of three rows, and their contents."""
    known = nothing_known(task)
    with Room(task.cache) as room:
        worker = Worker(replace(task, room=room.path), known)
        part = worker.embed(chunk_of(task.source, [0, 2, 9]))  # type: ignore[arg-type]
    (shard,) = known.shards.glob("[!.]*.h5")
    return known, shard, part.content


def test_a_shard_that_shows_late_is_waited_for(
    task: Assignment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a shared folder whose listing another machine holds for some seconds."""
    monkeypatch.setattr(gathering, "_LOOK_SECONDS", 0.05)
    known, shard, content = written_rows(task)
    shard.rename(tmp_path / "late.h5")
    with pytest.raises(CacheError, match="rows that were written are missing"):
        find_rows(known, content, elsewhere=False)
    looked = threading.Event()
    refresh = known.refresh
    monkeypatch.setattr(known, "refresh", lambda: (refresh(), looked.set()))

    def appear() -> None:
        looked.wait(20)
        (tmp_path / "late.h5").rename(shard)

    thread = threading.Thread(target=appear)
    thread.start()
    places = find_rows(known, content, elsewhere=True)
    thread.join()
    assert sorted(places.tolist()) == [[0, 0], [0, 1], [0, 2]]


def test_a_shard_that_never_shows_is_said_to_be_elsewhere(
    task: Assignment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "_LATE_SECONDS", 0.1)
    monkeypatch.setattr(gathering, "_LOOK_SECONDS", 0.02)
    known, shard, content = written_rows(task)
    shard.unlink()
    with pytest.raises(CacheError, match=r"after 0\.1 s; put the cache on storage"):
        find_rows(known, content, elsewhere=True)


def test_a_worker_finds_items_by_name_when_the_source_has_changed(
    task: Assignment, tiny: dict[str, Any]
) -> None:
    source: Path = task.source  # type: ignore[assignment]
    asked = chunk_of(source, [0, 3, 7])
    picture(99).save(source / "cat" / "0.png")  # comes first now
    (source / asked.ids[1]).unlink()
    with Room(task.cache) as room:
        part = Worker(replace(task, room=room.path), nothing_known(task)).embed(asked)
    assert part.failed == {3: "file not found"}
    assert part.items.tolist() == [0, 3, 7]
    there = [source / name for name in asked.ids if name != asked.ids[1]]
    clean = extract(there, task.cache, **tiny)
    with open_cache(clean.cache) as cache:
        assert (keys_of(cache.content_digests.tolist()) == part.content[[0, 2]]).all()


def test_a_worker_stops_when_the_room_is_closed(task: Assignment) -> None:
    with Room(task.cache) as room:
        worker = Worker(replace(task, room=room.path), nothing_known(task))
    assert not room.path.exists()
    with pytest.raises(RunOverError):
        worker.embed(chunk_of(task.source, list(range(12))))  # type: ignore[arg-type]


def test_what_a_worker_refuses(task: Assignment, tmp_path: Path) -> None:
    with pytest.raises(ExtractError, match="put the cache on storage that all workers share"):
        Worker(task, nothing_known(task))
    assert task.spec is not None
    with Room(task.cache) as room:
        here = replace(task, room=room.path)
        other = replace(task.spec, weights_digest="0" * 64)
        with pytest.raises(ExtractError, match=r"other features than the driver: .*same weights"):
            Worker(replace(here, spec=other), nothing_known(task))
        lost = replace(task.options, backbone="resnet18", weights=str(tmp_path / "gone.pth"))
        with pytest.raises(WeightsError, match=r"gone\.pth"):
            Worker(replace(here, options=lost), nothing_known(task))
    with pytest.raises(CacheError, match="cannot create"):
        Room(tmp_path / "photos" / "cat" / "0000.png" / "c.h5").__enter__()


def test_chunks_hold_every_item_once_in_whole_batches() -> None:
    ids = [str(k) for k in range(1000)]
    pending = np.arange(0, 1000, 3)
    chunks = list(cut(pending, ids, 2, 48))
    assert [len(c.items) for c in chunks] == [96, 96, 96, 46]
    assert np.concatenate([c.items for c in chunks]).tolist() == pending.tolist()
    assert [name for c in chunks for name in c.ids] == [ids[k] for k in pending]


def test_the_last_chunks_shrink_so_that_workers_end_together() -> None:
    sizes = [len(c.items) for c in cut(np.arange(10_000), range(10_000), 4, 32)]  # type: ignore[arg-type]
    assert sum(sizes) == 10_000
    assert all(size % 32 == 0 for size in sizes[:-1])
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 160
    assert max(sizes[-4:]) == 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "spark"}, "engine must be one of local, ray; got 'spark'"),
        ({"gpus_per_worker": -1.0}, "gpus_per_worker must be 0 or more"),
        ({"gpus_per_worker": float("nan")}, "gpus_per_worker must be 0 or more"),
    ],
)
def test_options_of_the_engine_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FeatxError, match=message):
        ExtractOptions(**options)
