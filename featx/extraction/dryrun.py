"""What a run would do, without doing it."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from featx.cache.ids import KEY_DTYPE, keys_of
from featx.cache.reuse import KnownRows
from featx.columns import pick
from featx.errors import ImageError
from featx.extraction.changes import (
    describe_rows,
    difference,
    kept_rows,
    kept_text,
    untouched_content,
)
from featx.extraction.job import Outcome
from featx.extraction.notices import say_of_pictures
from featx.extraction.options import ExtractResult
from featx.extraction.planning import PROBE_IMAGES
from featx.extraction.run import Run
from featx.images.pages import digest_bytes
from featx.progress import Progress
from featx.spec import ExtractSpec


class DryRun(Run):
    """Read and digest what is not known, embed a few images for their time, write nothing."""

    def execute(self) -> ExtractResult:
        """Say what `featx.extract` would do."""
        old = self.look()
        if self.recall(old):
            found = self._predict(old)
            if found is not None:
                return found
            self.record = None
        self.load(old)
        found = self._predict(old)
        assert found is not None
        return found

    def _predict(self, old: ExtractSpec | None) -> ExtractResult | None:
        """Read and digest what is not known; None where a record does not tell how fast it is."""
        spec = self.spec(self.planned_precision)
        in_place = old is not None and not self.options.force
        if in_place:
            self.require_match(old)
        known = self.known(spec, in_place=in_place)
        content = untouched_content(self.manifest, known)
        known.forget_names()
        self.say_of_maps(int((content == b"").sum()))
        unread: dict[int, str] = {}
        with Progress(len(self.manifest), "dry run", show=self.options.progress) as show:
            for item in map(int, np.flatnonzero(content == b"")):
                try:
                    content[item] = keys_of([self._digest(item)])[0]
                except ImageError as error:
                    unread[item] = error.reason
                show.update(item + 1)
        kept = kept_rows(self.manifest, unread, self.cache if in_place else None, known)
        self.warn("kept-rows", kept_text(kept, self.manifest, unread))
        for item, key in kept.items():
            content[item] = key
        unread = {item: why for item, why in unread.items() if item not in kept}
        failed = self.manifest.refused | {self.manifest.ids[k]: why for k, why in unread.items()}
        there = np.flatnonzero(content != b"")
        new = there[~known.has(pick(content, there))]
        reused = len(there) - len(new)
        say_of_pictures(self.manifest, new, self.decode)
        self.check_labels(describe_rows(self.manifest, there, failed), pick(content, there))
        if self.record is None:
            self._probe(new, known, spec)
        elif len(new):
            if self.record.pace is None:
                return None
            self.expected = self.extended(self.record.pace, len(new))
        known.forget_contents()
        changes = difference(
            self.manifest, content, self.cache if in_place else None, known.damaged
        )
        return ExtractResult(
            cache=str(self.cache),
            fingerprint=spec.fingerprint,
            discovered=len(self.manifest) + len(self.manifest.refused),
            embedded=len(new),
            reused=reused,
            failed=len(failed),
            removed=changes.removed,
            ignored=self.manifest.ignored,
            ignored_by_extension=self.manifest.ignored_by_extension,
            n_features=next(iter(self.widths.values())),
            taps=self.widths,
            device=self.device,
            precision=self.planned_precision,
            compiled=False,
            images_per_second=0.0,
            seconds={"total": time.perf_counter() - self.clock, "load": self.load_seconds},
            shares={},
            difference=changes,
            failures=failed,
            plan=self.expected,
            dry_run=True,
            shard=self.options.portion.shown,
            warnings=self.warnings,
        )

    def _digest(self, item: int) -> bytes:
        return digest_bytes(self.manifest.read(item)[0], self.manifest.page(item))

    def _probe(self, new: NDArray[np.int64], known: KnownRows, spec: ExtractSpec) -> None:
        """Embed a few images for their time alone, so that the plan rests on something."""
        outcome = Outcome(np.zeros(len(self.manifest), KEY_DTYPE))
        if not len(new):
            self.remember(outcome, spec)
            return
        from featx.runtime import Runner

        step = max(1, len(new) // PROBE_IMAGES)
        shape = (*self.preprocess.input_size, 3)
        with Runner(self.reader, replace(self.plan, compile="off"), shape) as runner:
            self.first_read = time.perf_counter()
            loop = self.loop(new[::step][:PROBE_IMAGES], outcome, known, runner, lambda _: None)
            loop.run(lambda _: None)
        if outcome.embedded:
            self.expected = self.expect(outcome, loop, len(new))
            self.prepare_seconds = loop.prepare_seconds
            self.remember(outcome, spec)
