"""Heads on features that stay in the file: the rows of a cache, handed out in blocks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from featx.errors import FitError
from featx.fitting.measuring import Measurement, Rows
from featx.fitting.options import FitOptions
from featx.fitting.samples import Samples
from featx.heads import Head, for_many
from featx.progress import waiting
from featx.selection import SearchResult
from featx.selection.choice import option_entry
from featx.selection.fold import Device
from featx.selection.trials import stand_in_notes
from featx.streaming import Blocks, plan_memory, search_blocks
from featx.streaming.choosing import streams

log = logging.getLogger("featx")


class StreamedMeasurement(Measurement):
    """Fit and measure as `Measurement` does, with X never whole in memory."""

    def search(self, train: Rows, seed: int, folds: object = None) -> SearchResult:
        """Search and fit on some rows, read in blocks."""
        how = self._how(train, seed, folds)
        step = how.pop("step")
        best: SearchResult | None = None
        options: list[dict[str, Any]] = []
        for place, samples in enumerate(self.fields):
            for head in self._streaming():
                blocks = blocks_of(samples, train)
                with waiting(f"{head.name} on features read in blocks"):
                    found = search_blocks(
                        head, blocks, samples.y[train], compete=self.scales, **how
                    )
                if step is not None:
                    step(1)
                options.append(option_entry(head.name, place, found))
                if best is None or round(found.best_score, 12) > round(best.best_score, 12):
                    best = replace(found, place=place)
        assert best is not None
        return replace(best, options=options) if len(options) > 1 else best

    @property
    def fits_of_search(self) -> int:
        """Number of heads that one search fits: how often each reads the features is not known."""
        return len(self.fields) * len(self._streaming())

    def _streaming(self) -> list[Head]:
        task = self.samples.task
        return [one for one in self.head.options if streams(one, task)] or [self.head]


def blocks_of(samples: Samples, at: Rows) -> Blocks:
    """Hand out the features of some samples, in the order of the positions `at`."""
    return Blocks(lambda some: samples.take(at[some]), len(at), samples.n_features)


def measurement(
    head: Head, fields: Samples | Sequence[Samples], options: FitOptions, *, few: bool = False
) -> Measurement:
    """Choose, and say, whether features are read into memory or in blocks.

    Parameters
    ----------
    fields
        The rows, once for each of the features that compete.
    few
        Whether every class has few rows, so that there are as many folds as these allow.

    Raises
    ------
    FitError
        If the head cannot be fitted as asked.
    """
    fields = [fields] if isinstance(fields, Samples) else list(fields)
    samples = fields[0]
    widest = max(one.n_features for one in fields)
    memory = plan_memory(head, samples.task, len(samples), widest, options.memory)
    if memory.line:
        log.info("%s", memory.line)
    device = _device(options.device)
    if memory.streamed and device is not None:
        raise FitError(
            "features that are read in blocks are searched on the processor, not on "
            f"{device.name}; leave out --device, or pass --memory ram where they fit"
        )
    kind = StreamedMeasurement if memory.streamed else Measurement
    fitted = for_many(head) if memory.streamed else head
    plan = replace(options.plan, few=few)
    made = kind(fitted, fields, plan, options.one_standard_error, device)
    made.memory = memory.to_dict()
    for asked, one in zip(head.options or (head,), fitted.options or (fitted,), strict=True):
        made.notes += stand_in_notes(asked, one, "features are read in blocks")
    return made


def _device(asked: str) -> Device | None:
    if asked == "cpu":
        return None
    from featx.runtime.devices import array_device  # torch, which nothing else here needs

    return array_device(asked)
