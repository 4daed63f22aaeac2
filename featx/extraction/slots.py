"""Batches that several threads fill together: each reserves places for a block of items at once.

Of the places that a thread reserved, those that it did not need (a picture failed, or its row was
there already) go back, and another item takes them; so only the last batches of a run are short.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from featx.errors import ExtractError

Drawn = tuple[int, bytes, tuple[int, int]]
"""An item that has been drawn: its number, the digest of its file, and its stamp."""


class Batch:
    """Pixels of some items, in places that are reserved, then drawn; run once all are.

    Attributes
    ----------
    pixels : uint8, shape (places * n_views, height, width, 3)
    rows : for each place the item drawn there, None where there is none yet
    """

    def __init__(self, pixels: NDArray[np.uint8], n_places: int) -> None:
        self.pixels = pixels
        self.n_views = len(pixels) // n_places
        self.rows: list[Drawn | None] = [None] * n_places
        self.empty = list(range(n_places - 1, -1, -1))  # places that nobody has reserved
        self.n_drawn = 0

    def clear(self) -> None:
        """Make it ready to be filled again."""
        n_places = len(self.rows)
        self.rows = [None] * n_places
        self.empty = list(range(n_places - 1, -1, -1))
        self.n_drawn = 0

    def views(self, place: int) -> NDArray[np.uint8]:
        """Pixels of one place, shape (n_views, height, width, 3)."""
        return self.pixels[place * self.n_views : (place + 1) * self.n_views]

    def filled(self) -> tuple[NDArray[np.uint8], list[Drawn]]:
        """Pixels and items of the places that were drawn, in one piece."""
        places = [k for k, row in enumerate(self.rows) if row is not None]
        rows = [row for row in self.rows if row is not None]
        for to, place in enumerate(places):
            if to != place:
                self.views(to)[...] = self.views(place)
        return self.pixels[: len(places) * self.n_views], rows


@dataclass
class Lease:
    """Places of one batch that belong to one thread until it gives them back."""

    batch: Batch
    places: list[int]
    used: int = 0

    @property
    def is_used_up(self) -> bool:
        """True if every place has been drawn."""
        return not self.places

    def place(self) -> NDArray[np.uint8]:
        """Pixels of the next place, to be drawn into; `keep` makes them count."""
        return self.batch.views(self.places[-1])

    def keep(self, row: Drawn) -> None:
        """Say that an item has been drawn into the next place."""
        self.batch.rows[self.places.pop()] = row
        self.used += 1


@dataclass
class Slots:
    """Hands out items by the block and places by the lease, under one lock for each.

    Parameters
    ----------
    items
        Numbers of the items to embed, int64 of shape (n,).
    batches
        At least one; one more than there are threads, and nobody ever waits for a place.
    block
        Items that a thread takes at a time.
    """

    items: NDArray[np.int64]
    batches: Sequence[Batch]
    block: int
    _next: int = 0
    _deciding: int = 0  # blocks taken and not finished
    _stopped: bool = False
    _open: list[Batch] = field(default_factory=list)  # with places that nobody has reserved

    def __post_init__(self) -> None:
        self._free = list(self.batches)
        self._room = threading.Condition(threading.Lock())

    def take(self) -> list[int]:
        """Take the next items; none when all are taken or the run is to stop.

        Whoever takes some has to call `finish` after them.
        """
        with self._room:
            if self._stopped:
                return []
            taken: list[int] = self.items[self._next : self._next + self.block].tolist()
            self._next += len(taken)
            self._deciding += bool(taken)
            return taken

    def lease(self, wanted: int) -> Lease:
        """Reserve up to `wanted` places of one batch, at least one.

        A thread holds one lease at a time. It waits where every batch is full or running.

        Raises
        ------
        ExtractError
            If the run is stopped while it waits.
        """
        with self._room:
            while not self._open:
                if self._stopped:
                    raise ExtractError("stopped")
                if self._free:
                    self._open.append(self._free.pop())
                else:
                    self._room.wait(1)
            batch = self._open[-1]
            taken = [batch.empty.pop() for _ in range(min(wanted, len(batch.empty)))]
            if not batch.empty:
                self._open.pop()
            return Lease(batch, taken[::-1])

    def give_back(self, lease: Lease) -> Batch | None:
        """End a lease; gives the batch if this has completed it, for the caller to run."""
        batch = lease.batch
        with self._room:
            batch.n_drawn += lease.used
            if lease.places:
                if not batch.empty:
                    self._open.append(batch)
                batch.empty.extend(lease.places)
                self._room.notify_all()
            return batch if batch.n_drawn == len(batch.rows) else None

    def finish(self) -> list[Batch]:
        """End a block; gives the short batches if no item is left, for the caller to run."""
        with self._room:
            self._deciding -= 1
            if self._deciding or self._next < len(self.items) or self._stopped:
                return []
            last, self._open = self._open, []
            return [batch for batch in last if batch.n_drawn]

    def release(self, batch: Batch) -> None:
        """Let a batch that has run be filled again."""
        batch.clear()
        with self._room:
            self._free.append(batch)
            self._room.notify()

    def stop(self) -> None:
        """Hand out nothing more, and wake whoever waits."""
        with self._room:
            self._stopped = True
            self._room.notify_all()

    @property
    def is_stopped(self) -> bool:
        """True if `stop` was called."""
        return self._stopped


def block_of(n_items: int, n_threads: int, batch_items: int) -> int:
    """Items that a thread takes at a time: few locks, and an even end of the run.

    Examples
    --------
    >>> block_of(100_000, 16, 256), block_of(64, 2, 8), block_of(5, 4, 8)
    (16, 8, 1)
    """
    return max(1, min(_MOST_ITEMS, batch_items, n_items // (4 * n_threads)))


_MOST_ITEMS = 16


def make_batches(
    n: int,
    n_places: int,
    shape: tuple[int, ...],
    allocate: Callable[[tuple[int, ...]], NDArray[np.uint8]],
) -> list[Batch]:
    """Make `n` batches of `n_places` items, each of uint8 `shape`: (n_views, height, width, 3)."""
    views, *picture = shape
    return [Batch(allocate((n_places * views, *picture)), n_places) for _ in range(n)]
