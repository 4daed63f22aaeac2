"""The input of a run's threads, and the outcome for each item."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featx.cache.staging import Row
from featx.images import DecodePolicy
from featx.items import Manifest
from featx.preprocess import Preprocess

if TYPE_CHECKING:
    from featx.runtime import Runner


STAGES = ("read", "decode", "forward", "write")


@dataclass
class Outcome:
    """The outcome for each item.

    ``content`` is S16, shape (n,): `keys_of` the digest of each item that has or will have a row,
    else empty. ``pages_left`` has, for each embedded file of several pages, how many were not read.
    """

    content: NDArray[np.bytes_]
    failed: dict[int, str] = field(default_factory=dict)
    embedded: int = 0
    reused: int = 0
    busy: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    pages_left: list[int] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Items that need nothing more."""
        return self.embedded + self.reused + len(self.failed)


@dataclass(frozen=True)
class Job:
    """The input of the threads.

    Parameters
    ----------
    known
        Tells whether the row of a content digest exists already.
    store
        Takes finished rows.
    merge
        Turns vectors of shape (n * n_views, d), one array a tap, into what is stored.
    check
        Called after each failure with the number of failures so far; raises to stop the run.
    prove
        Called once the runner is prepared, before its first row is stored; raises to stop the run.
    """

    manifest: Manifest
    preprocess: Preprocess
    decode: DecodePolicy
    runner: Runner
    known: Callable[[bytes], bool]
    store: Callable[[list[Row]], None]
    merge: Callable[[list[NDArray[np.float32]], int], list[NDArray[Any]]]
    check: Callable[[int, str], None]
    n_threads: int
    prove: Callable[[], None] = lambda: None
