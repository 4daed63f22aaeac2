"""The driver's side of work in chunks: parts come in, workers die."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from featx.cache.reuse import KnownRows
from featx.errors import CacheError, ExtractError
from featx.extraction.chunks import ChunkRows, NetworkState, proof_items
from featx.extraction.run import Run
from featx.extraction.threads import Outcome

_LATE_SECONDS = 30.0  # for which a shared folder may show an old listing
_LOOK_SECONDS = 0.5


class Gathering:
    """The driver's side: parts come in, in any order.

    Parameters
    ----------
    run
        Its clock is set so that the time in which no worker was ready yet counts as loading.
    outcome
        Filled with digests, failures and counts.

    Attributes
    ----------
    proof : tuple of int
        Items that had rows before, for the workers to compute again.
    """

    def __init__(self, run: Run, outcome: Outcome) -> None:
        self._run, self.outcome = run, outcome
        self.proof = proof_items(outcome)
        self._start: float | None = time.perf_counter()
        self._prepared_before: float = run.prepare_seconds
        self.ran: NetworkState | None = None

    @property
    def prepare_seconds(self) -> float:
        """Seconds in which the run could not embed because its network was being prepared."""
        return self._run.prepare_seconds

    def take(self, part: ChunkRows) -> None:
        """Take one part; raises ExtractError when too many images have failed."""
        run, outcome = self._run, self.outcome
        if self._start is not None:
            loading = max(0.0, time.perf_counter() - part.seconds - self._start)
            run.first_read += loading
            run.load_seconds += loading
            self._start = None
        run.prepare_seconds = max(run.prepare_seconds, self._prepared_before + part.prepare_seconds)
        self.ran = part.ran
        outcome.content[part.items] = part.content
        outcome.failed.update(part.failed)
        outcome.embedded += part.embedded
        outcome.reused += part.reused
        outcome.pages_left += part.pages_left
        for stage, spent in part.busy.items():
            outcome.busy[stage] += spent
        for item, reason in part.failed.items():
            run.check_failures(len(outcome.failed), f"{run.manifest.ids[item]}: {reason}")


def find_rows(
    known: KnownRows, content: NDArray[np.bytes_], *, elsewhere: bool
) -> NDArray[np.int32]:
    """Take the shards that have come, and find rows that are reported as written in them.

    Parameters
    ----------
    elsewhere
        Whether other machines write: their shards may show some seconds after the report.

    Returns
    -------
    places : int32, shape (n, 2)
        As `KnownRows.places` gives them.

    Raises
    ------
    CacheError
        If a row is still missing then.
    """
    end = time.monotonic() + (_LATE_SECONDS if elsewhere else 0)
    while True:
        known.refresh()
        try:
            return known.places(content)
        except CacheError:
            if not elsewhere:
                raise
            if time.monotonic() > end:
                raise CacheError(
                    f"rows that workers have written do not show in {known.shards} after "
                    f"{_LATE_SECONDS:g} s; put the cache on storage that all workers share, and "
                    "run the same command again"
                ) from None
        time.sleep(_LOOK_SECONDS)


class Deaths:
    """Count workers that died with no part finished in between; too many end the run."""

    MOST = 20

    def __init__(self) -> None:
        self.in_a_row = 0

    def add(self, n: int = 1) -> None:
        """Count `n` more.

        Raises
        ------
        ExtractError
            After `MOST`.
        """
        self.in_a_row += n
        if self.in_a_row >= self.MOST:
            raise ExtractError(
                f"workers died {self.in_a_row} times with nothing finished in between, perhaps for "
                "want of memory; what is done is kept: try a smaller --batch-size or fewer "
                "--workers, and run the same command again"
            )
