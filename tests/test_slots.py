"""Batches that threads fill together: every item in one place, holes filled again, short ends."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from featx.errors import ExtractError
from featx.extraction.slots import Lease, Slots, block_of, make_batches

NO_STAMP = (0, 0)


def slots(n_items: int, *, places: int = 4, batches: int = 2, block: int = 3) -> Slots:
    made = make_batches(batches, places, (1, 1, 1, 3), lambda shape: np.zeros(shape, np.uint8))
    return Slots(np.arange(n_items), made, block)


def draw(lease: Lease, item: int) -> None:
    lease.place()[...] = item % 256
    lease.keep((item, b"%d" % item, NO_STAMP))


def test_threads_put_every_item_into_one_batch_beside_its_own_pixels() -> None:
    work = slots(1000, places=16, batches=3, block=5)
    failing = set(range(0, 1000, 7))
    found: list[int] = []
    wrong: list[int] = []
    sizes: list[int] = []

    def run(batch) -> None:
        pixels, rows = batch.filled()
        for pixel, (item, digest, _) in zip(pixels, rows, strict=True):
            if digest != b"%d" % item or (pixel != item % 256).any():
                wrong.append(item)
            found.append(item)
        sizes.append(len(rows))
        work.release(batch)

    def loop() -> None:
        while items := work.take():
            lease = None
            for k, item in enumerate(items):
                if lease is not None and lease.is_used_up:
                    if batch := work.give_back(lease):
                        run(batch)
                    lease = None
                if item in failing:
                    continue
                lease = lease or work.lease(len(items) - k)
                draw(lease, item)
            if lease is not None and (batch := work.give_back(lease)):
                run(batch)
            for batch in work.finish():
                run(batch)

    threads = [threading.Thread(target=loop) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert sorted(found) == sorted(set(range(1000)) - failing)
    assert sum(size < 16 for size in sizes) <= 3  # the last ones alone are short


def test_a_place_that_was_not_needed_is_filled_by_another_item() -> None:
    work = slots(6)
    first = work.lease(3)
    draw(first, 0)
    assert work.give_back(first) is None  # two of its places are free again
    second = work.lease(4)
    assert second.batch is first.batch
    for item in (1, 2, 3):
        draw(second, item)
    full = work.give_back(second)
    assert full is first.batch
    assert sorted(item for item, _, _ in full.filled()[1]) == [0, 1, 2, 3]


def test_the_short_batch_is_run_by_whoever_ends_the_last_block_and_has_no_gaps() -> None:
    work = slots(4, block=2)
    assert work.take() == [0, 1]
    assert work.take() == [2, 3]
    one, two = work.lease(2), work.lease(2)
    draw(one, 0)
    for item in (2, 3):
        draw(two, item)
    assert work.give_back(one) is None
    assert work.finish() == []  # the other block is still in hand
    assert work.give_back(two) is None
    (last,) = work.finish()
    pixels, rows = last.filled()
    assert [item for item, _, _ in rows] == [0, 2, 3]
    assert pixels[:, 0, 0, 0].tolist() == [0, 2, 3]


def test_a_batch_that_ran_is_filled_anew() -> None:
    work = slots(8, batches=1)
    for first in (0, 4):
        lease = work.lease(4)
        for item in range(first, first + 4):
            draw(lease, item)
        batch = work.give_back(lease)
        assert batch is not None
        assert [item for item, _, _ in batch.filled()[1]] == list(range(first, first + 4))
        work.release(batch)


def test_who_waits_for_a_place_is_woken_by_a_stop() -> None:
    work = slots(8, batches=1)
    work.lease(4)
    refused: list[str] = []

    def wait() -> None:
        with pytest.raises(ExtractError) as stopped:
            work.lease(1)
        refused.append(str(stopped.value))

    thread = threading.Thread(target=wait)
    thread.start()
    work.stop()
    thread.join(30)
    assert refused == ["stopped"]
    assert work.take() == []


@pytest.mark.parametrize(("n_items", "threads", "places"), [(1, 16, 256), (10**6, 1, 1)])
def test_a_block_is_never_larger_than_a_batch_nor_empty(
    n_items: int, threads: int, places: int
) -> None:
    assert 1 <= block_of(n_items, threads, places) <= places
