"""The cost of a long run, from its first batches: time, space, memory, and what bounds it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from featx.files import size_text
from featx.progress import duration

PROBE_IMAGES = 64
LONG_SECONDS = 20.0
_SHARED_IMAGES = 20_000  # which repay the start of further processes
_SHARED_CORES = 4
_ROW_BYTES = 400  # id, path, digests, label and columns of one row
_MEMORY_PER_ROW = 500  # what the lists of a run hold for each item


@dataclass(frozen=True)
class Plan:
    """The rest of a run, as its first batches let expect.

    Parameters
    ----------
    images
        How many are to be embedded.
    seconds
        Expected time for them, at `images_per_second`.
    file_bytes
        Expected size of the cache.
    memory_bytes
        Expected peak of the process.
    bound
        The stage that the threads spend most time in: read, decode, forward or write.
    shares
        Share of the threads' time of each stage.
    """

    images: int
    images_per_second: float
    seconds: float
    file_bytes: int
    memory_bytes: int
    bound: str
    shares: dict[str, float]

    def describe(self) -> str:
        """One line for the log."""
        shares = ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items())
        return (
            f"plan: {self.images:,} images in about {duration(self.seconds)} "
            f"({self.images_per_second:.0f} img/s), file {size_text(self.file_bytes)}, memory "
            f"{size_text(self.memory_bytes)}; bound by {self.bound} ({shares})"
        )


def make_plan(
    busy: Mapping[str, float],
    done: int,
    elapsed: float,
    waiting: int,
    rows: int,
    row_bytes: int,
    resident: int | None = None,
) -> Plan:
    """Extend what was measured to what is waiting.

    Parameters
    ----------
    busy
        Seconds that the threads spent in each stage.
    done, elapsed
        Images embedded so far, and the seconds that they took.
    waiting, rows
        Images to embed, and rows of the finished cache.
    row_bytes
        Bytes of one row's vectors.
    resident
        Memory of a process with the network, in bytes; by default that of this one.

    Examples
    --------
    >>> busy = {"read": 0.1, "decode": 0.3, "forward": 1.6, "write": 0.0}
    >>> plan = make_plan(busy, 100, 1.0, 5000, 5000, 5120)
    >>> plan.bound, plan.seconds
    ('forward', 50.0)
    """
    total = sum(busy.values()) or 1.0
    rate = done / elapsed if elapsed > 0 else 0.0
    return Plan(
        images=waiting,
        images_per_second=rate,
        seconds=waiting / rate if rate else float("inf"),
        file_bytes=rows * (row_bytes + _ROW_BYTES),
        memory_bytes=(resident or resident_bytes()) + rows * _MEMORY_PER_ROW,
        bound=max(busy, key=lambda name: busy[name]),
        shares={name: spent / total for name, spent in busy.items()},
    )


def workers_of_card(cores: int, n_images: int) -> int:
    """How many processes feed one card.

    One interpreter hands over a few thousand images a second, which a fast card exceeds with a
    small network. Another process costs its start and memory of the card, so that a short run and
    a machine that cannot decode more than one interpreter hands over have one.

    Examples
    --------
    >>> [workers_of_card(cores, 10**6) for cores in (2, 4, 16, 24, 64)]
    [1, 2, 2, 3, 4]
    >>> workers_of_card(16, 1000)
    1
    """
    if n_images < _SHARED_IMAGES or cores < _SHARED_CORES:
        return 1
    return min(4, max(2, cores // 8))


def resident_bytes() -> int:
    """Memory that this process holds now, in bytes."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
