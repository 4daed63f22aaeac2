"""Heads on features that stay in the file: the rows of a cache, handed out in blocks."""

from __future__ import annotations

import logging
from typing import Any

from featx.fitting.measuring import Measurement, Rows
from featx.fitting.samples import Samples
from featx.heads import Head
from featx.selection import SearchResult, SplitPlan
from featx.streaming import Blocks, plan_memory, search_blocks

log = logging.getLogger("featx")


class StreamedMeasurement(Measurement):
    """Fit and measure as `Measurement` does, with X never whole in memory."""

    def _search(self, train: Rows, seed: int, folds: Any) -> SearchResult:
        samples, chosen = self.samples, train
        blocks = Blocks(lambda at: samples.take(chosen[at]), len(train), samples.n_features)
        return search_blocks(
            self.head,
            blocks,
            samples.y[train],
            folds=self.plan.folds if folds is None else folds,
            groups=None if samples.groups is None else samples.groups[train],
            seed=seed,
            sample_weight=None if samples.weights is None else samples.weights[train],
            one_standard_error=self.one_standard_error,
        )


def measurement(
    head: Head, samples: Samples, plan: SplitPlan, one_standard_error: bool, memory: str = "auto"
) -> Measurement:
    """Choose, and say, whether features are read into memory or in blocks.

    Parameters
    ----------
    memory
        ``auto`` (by size against free memory), ``stream`` or ``ram``.

    Raises
    ------
    FitError
        If the head cannot be fitted as asked.
    """
    chosen = plan_memory(head, samples.task, len(samples), samples.n_features, memory)
    if chosen.line:
        log.info("%s", chosen.line)
    kind = StreamedMeasurement if chosen.streamed else Measurement
    return kind(head, samples, plan, one_standard_error)
