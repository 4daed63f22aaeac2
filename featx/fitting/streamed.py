"""Heads on features that stay in the file: the rows of a cache, handed out in blocks."""

from __future__ import annotations

import logging
from typing import Any

from featx.errors import FitError
from featx.fitting.measuring import Measurement, Rows
from featx.fitting.options import FitOptions
from featx.fitting.samples import Samples
from featx.heads import Head
from featx.selection import SearchResult
from featx.selection.ondevice import Device
from featx.streaming import Blocks, plan_memory, search_blocks

log = logging.getLogger("featx")


class StreamedMeasurement(Measurement):
    """Fit and measure as `Measurement` does, with X never whole in memory."""

    def search(self, train: Rows, seed: int, folds: Any = None) -> SearchResult:
        """Search and fit on some rows, read in blocks."""
        how = self._how(train, seed, folds)
        return search_blocks(
            self.head, blocks_of(self.samples, train), self.samples.y[train], **how
        )


def blocks_of(samples: Samples, at: Rows) -> Blocks:
    """Hand out the features of some samples, in the order of the positions `at`."""
    return Blocks(lambda some: samples.take(at[some]), len(at), samples.n_features)


def measurement(head: Head, samples: Samples, options: FitOptions) -> Measurement:
    """Choose, and say, whether features are read into memory or in blocks.

    Raises
    ------
    FitError
        If the head cannot be fitted as asked.
    """
    memory = plan_memory(head, samples.task, len(samples), samples.n_features, options.memory)
    if memory.line:
        log.info("%s", memory.line)
    device = _device(options.device)
    if memory.streamed and device is not None:
        raise FitError(
            "features that are read in blocks are searched on the processor, not on "
            f"{device.name}; leave out --device, or pass --memory ram where they fit"
        )
    kind = StreamedMeasurement if memory.streamed else Measurement
    return kind(head, samples, options.plan, options.one_standard_error, device)


def _device(asked: str) -> Device | None:
    if asked == "cpu":
        return None
    from featx.runtime.arrays import array_device  # torch, which nothing else here needs

    return array_device(asked)
