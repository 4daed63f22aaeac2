"""One run, prepared: its images, network, taps and plan, and what exists already."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featx.cache.cache import open_cache
from featx.cache.folder import holds_cache
from featx.cache.publish import Description, require_target
from featx.cache.reuse import KnownRows
from featx.cache.staging import Row, parts_folder, require_own_shards
from featx.errors import CacheFormatError, CacheMismatchError, ExtractError
from featx.extraction import records
from featx.extraction.options import ExtractOptions
from featx.extraction.planning import Plan, make_plan, resident_bytes, workers_of_card
from featx.extraction.records import Pace, Record
from featx.extraction.threads import Job, Outcome, ThreadLoop
from featx.files import require_space, size_text
from featx.images import DecodePolicy, decoder_spec
from featx.items import Note, Source, note
from featx.labels import conflicting_rows, conflicts_text, lookalikes_text
from featx.progress import waiting
from featx.slices import SliceRecord, keeps
from featx.sources.fields import corrected, read_corrections
from featx.sources.load import load_manifest
from featx.sources.paths import with_pages
from featx.spec import ExtractSpec, spec_difference
from featx.typing import JsonObject

if TYPE_CHECKING:
    from featx.extraction.cluster import Crew
    from featx.runtime import Runner, RuntimePlan


log = logging.getLogger("featx")


class Preparation(Protocol):
    """Whatever knows how long the network took to be prepared."""

    @property
    def prepare_seconds(self) -> float:
        """Seconds of the run in which nothing could be embedded."""


class Run:
    """The state of a run, real or dry; `look` and `load` fill it step by step.

    Neither torch nor the network is loaded before `load`, or never, where a record of an earlier
    run knows what it would find (`recall`).
    """

    record: Record | None = None
    crew: Crew | None = None  # the cluster that embeds, where it is not this machine
    planner: Callable[..., RuntimePlan] | None = None  # which then decides how it embeds

    def __init__(self, source: Source, cache: Path, options: ExtractOptions) -> None:
        self.source, self.cache, self.options = source, cache, options
        self.started = datetime.now(UTC)
        self.clock = time.perf_counter()
        self.expected: Plan | None = None
        self.warnings: list[Note] = []
        self.first_read = self.clock
        self.prepare_seconds = 0.0

    def prepare(self) -> ExtractSpec | None:
        """Look and load; the spec of the cache in place."""
        old = self.look()
        self.load(old)
        return old

    def look(self) -> ExtractSpec | None:
        """Look at the cache in place and list the images; the spec of the cache in place."""
        require_target(self.cache, self.source)
        old = self._spec_in_place()
        if not self.options.force:
            require_own_shards(self.cache, self.options.slice_)
        self.list_images()
        return old

    def list_images(self) -> None:
        """List the images of the source, and correct their labels."""
        self.manifest = load_manifest(
            self.source, self.options.slice_, missing=self.options.missing_texts
        )
        for said in self.manifest.notes:
            self.warn(**said)
        if self.options.pages == "all":
            self.manifest = with_pages(self.manifest)
        self._correct_labels()

    def _correct_labels(self) -> None:
        """Put the labels of a file of their own over those of the source."""
        self.corrections: JsonObject = {}
        if self.options.labels is None:
            return
        fixes = read_corrections(Path(self.options.labels), self.options.missing_texts)
        for said in fixes.notes:
            self.warn(**said)
        self.manifest, changed = corrected(self.manifest, fixes)
        self.corrections = {"file": fixes.file, "sha256": fixes.sha256, "changed": changed}
        log.info("%d labels are those of %s instead of the source's", changed, fixes.file)

    def warn(self, code: str, message: str) -> None:
        """Say what the one who runs this should know, now and in the result."""
        if message:
            log.warning("%s", message)
            self.warnings.append(note(code, message))

    def check_labels(self, found: Description, content: NDArray[np.bytes_]) -> None:
        """Warn of classes that hardly differ, and of one content under several labels."""
        self.warn("similar-classes", lookalikes_text(found.classes or ()))
        if found.labels is not None:
            groups = conflicting_rows(content, found.labels)
            self.warn("conflicting-labels", conflicts_text(groups, found.ids))

    def recall(self, old: ExtractSpec | None) -> bool:
        """Take from a record what loading the network would find; False where there is none."""
        precision, self.decode = self._asked(old)
        self.record = records.recall(self.options, precision)
        if self.record is None:
            return False
        self.planned_precision, self.device = self.record.spec.precision, self.record.device
        self.widths, self.load_seconds = self.record.widths, 0.0
        return True

    def remember(self, outcome: Outcome, spec: ExtractSpec) -> None:
        """Record what loading the network found, once the run has gone well."""
        if self.record is not None:
            return
        files, pace = self.backbone.weights.files, None
        if outcome.embedded:
            elapsed = time.perf_counter() - self.first_read - self.prepare_seconds
            pace = Pace(outcome.busy, outcome.embedded, elapsed, resident_bytes())
        if files is not None:
            for precision, found in (
                (self._precision_asked, self.planned_precision),
                2 * (spec.precision,),
            ):
                record = Record(self.spec(found), self.device, self.widths, self.row_bytes, pace)
                records.remember(self.options, precision, record, files)

    def load(self, old: ExtractSpec | None) -> None:
        """Decide the plan and load the network."""
        from featx.runtime.machine import give_back

        give_back()
        self._precision_asked, _ = self._asked(old)
        self.plan, self.decode = self._plan(old)
        self.planned_precision, self.device = self.plan.precision, self.plan.device
        self._load()

    def _spec_in_place(self) -> ExtractSpec | None:
        if not holds_cache(self.cache):
            return None
        try:
            with open_cache(self.cache) as found:
                if not len(found):  # nothing of it is to be kept, its precision was never checked
                    return None
                if not self.options.force:
                    self._require_kept(SliceRecord.from_dict(found.provenance.get("shard")))
                return found.spec
        except CacheFormatError as error:
            if self.options.force:
                return None
            raise CacheFormatError(
                f"{error}; pass --force to write a new cache in its place, or name another file"
            ) from None

    def _require_kept(self, held: SliceRecord | None) -> None:
        """Refuse a run that would drop the rows of another shard."""
        if not keeps(self.options.slice_, held):
            raise CacheMismatchError(
                f"cache {self.cache} holds {held or 'the whole source'}, and a run of shard "
                f"{self.options.slice_} would drop rows of it; write to another file, or pass "
                "--force to replace it"
            )

    def _asked(self, old: ExtractSpec | None) -> tuple[str, DecodePolicy]:
        """Precision and decoding: those that are named, else those of the rows that exist."""
        options = self.options
        old = None if options.force else old or self._spec_of_parts()
        precision, decode = options.precision, options.decode
        if old is not None:
            precision = old.precision if precision == "auto" else precision
            decode = decode or old.decode["mode"]
        return precision, DecodePolicy(decode or "exact", options.bits, options.band_numbers)

    def _plan(self, old: ExtractSpec | None) -> tuple[RuntimePlan, DecodePolicy]:
        from featx.runtime import plan_runtime

        options, (precision, decode) = self.options, self._asked(old)
        plan = (self.planner or plan_runtime)(
            device=options.device,
            precision=precision,
            batch_size=options.batch_size,
            compile=options.compile,
            threads=options.threads,
        )
        return plan, decode

    def _spec_of_parts(self) -> ExtractSpec | None:
        """Spec of the only unfinished run beside the cache."""
        found = list(parts_folder(self.cache).glob("*/spec.json"))
        try:
            return ExtractSpec.from_json(found[0].read_text()) if len(found) == 1 else None
        except (OSError, ValueError, TypeError):
            return None

    def _load(self) -> None:
        from featx.backbones import load_backbone

        options, start = self.options, time.perf_counter()
        with waiting(f"loading {options.backbone}", show=options.progress):
            self.backbone = load_backbone(options.backbone, weights=options.weights)
        for line in self.backbone.notes_for(options.backbone):
            log.info("%s", line)
        self.preprocess = self.backbone.preprocess.override(
            input_size=options.input_size,
            crop_pct=options.crop_pct,
            resize=options.resize,
            interpolation=options.interpolation,
            mean=options.mean,
            std=options.std,
            views=options.views,
        )
        self.taps = self.backbone.select(options.layers, options.pool)
        self.reader = self.backbone.reader(self.taps, self.preprocess)
        self.taps = self.reader.measured_taps
        names = (tap.name for tap in self.taps)
        self.widths = dict(zip(names, self.reader.n_features, strict=True))
        self.load_seconds = time.perf_counter() - start

    def spec(self, precision: str) -> ExtractSpec:
        """The spec of the features at a precision."""
        if self.record is not None:
            decode = decoder_spec(self.decode)
            return replace(self.record.spec, precision=precision, decode=decode)
        return ExtractSpec(
            architecture=self.backbone.architecture,
            weights_digest=self.backbone.weights.digest,
            taps=tuple(tap.to_dict() for tap in self.taps),
            preprocess=self.preprocess.to_dict(),
            decode=decoder_spec(self.decode),
            precision=precision,
            dtype=self.options.stored,
            view_merge=self.options.view_merge if len(self.preprocess.views) > 1 else "mean",
        )

    @property
    def decides_here(self) -> bool:
        """True if this process decides what workers do: on a card it would keep memory there."""
        return self.plan.kind != "cuda"

    def devices(self, n_images: int) -> list[str]:
        """The device of each worker process; one entry means this process alone."""
        from featx.runtime.devices import usable_cards
        from featx.runtime.machine import cpu_cores

        several = usable_cards() if self.plan.device == "cuda" else [self.plan.device]
        each = 1
        if self.plan.kind == "cuda":
            each = workers_of_card(cpu_cores() // len(several), n_images // len(several))
        n = self.options.workers or len(several) * each
        return [several[k % len(several)] for k in range(n)]

    def package_key(self) -> str:
        """The key of a compiled forward pass, beside precision and batch."""
        spec = self.spec("")
        return replace(spec, dtype="", decode={}, view_merge="").to_json()

    def require_match(self, old: ExtractSpec | None) -> None:
        """Refuse a cache in place that was computed otherwise."""
        if old is None or self.options.force:
            return
        if changed := spec_difference(old, self.spec(self.planned_precision)):
            raise CacheMismatchError(
                f"cache {self.cache} was computed otherwise: {'; '.join(changed)}; "
                "write to another file, or pass --force to replace it"
            )

    def failures(self, outcome: Outcome) -> dict[str, str]:
        """``id -> reason`` of each image that gives no row."""
        ids = self.manifest.ids
        found = {ids[item]: outcome.failed[item] for item in sorted(outcome.failed)}
        return {**self.manifest.refused, **found}

    def dealt_alike(self) -> bool:
        """True if the cache in place says of its slice what is to be said of it now."""
        with open_cache(self.cache) as found:
            return SliceRecord.from_dict(found.provenance.get("shard")) == self.manifest.dealt

    def known(self, spec: ExtractSpec, *, in_place: bool) -> KnownRows:
        """Rows of this spec that exist: those of the shards, and of the cache if it counts."""
        shards = parts_folder(self.cache) / spec.fingerprint
        try:
            return KnownRows(spec, self.cache if in_place else None, shards)
        except CacheFormatError as error:
            raise CacheFormatError(f"{error}; pass --force to write a new cache") from None

    def loop(
        self,
        pending: NDArray[np.int64],
        outcome: Outcome,
        known: KnownRows | None,
        runner: Runner,
        store: Callable[[list[Row]], None],
        prove: Callable[[], None] = lambda: None,
    ) -> ThreadLoop:
        """Threads for the pending items, which hand their rows to `store`.

        `prove` is called once the runner is prepared, and raises where its rows would not do.
        """
        job = Job(
            manifest=self.manifest,
            preprocess=self.preprocess,
            decode=self.decode,
            runner=runner,
            known=(lambda content: False) if known is None else known.__contains__,
            store=store,
            merge=self.merged,
            check=self.check_failures,
            prove=prove,
            n_threads=max(1, min(self.plan.threads, len(pending))),
        )
        return ThreadLoop(job, pending, outcome)

    def merged(self, taps: list[NDArray[np.float32]], n_views: int) -> list[NDArray[Any]]:
        """Turn the vectors of all views into what is stored, one array a tap."""
        merged: list[NDArray[Any]] = []
        for vectors in taps:
            views = vectors.reshape(-1, n_views, vectors.shape[1])
            if n_views == 1 or self.options.view_merge == "concat":
                merged.append(views.reshape(len(views), -1))
            elif self.options.view_merge == "mean":
                merged.append(views.mean(axis=1))
            else:
                merged.extend(views[:, k] for k in range(n_views))
        with np.errstate(over="ignore"):  # what overflows becomes infinite, and is refused as that
            return [vectors.astype(self.options.stored, copy=False) for vectors in merged]

    def check_failures(self, count: int, what: str) -> None:
        """Raise ExtractError if so many failures, the last of them `what`, end the run."""
        if self.options.on_error == "fail":
            raise ExtractError(f"{what} (--on-error fail)")
        if self.options.max_failed is not None and count > self.options.max_failed:
            limit = self.options.max_failed
            raise ExtractError(f"more than {limit} images failed, the last {what}")

    def expect(self, outcome: Outcome, loop: Preparation, waiting: int) -> Plan:
        """Extend what the first batches took to what is waiting."""
        elapsed = time.perf_counter() - self.first_read - loop.prepare_seconds
        pace = Pace(outcome.busy, outcome.embedded, elapsed, resident_bytes())
        return self.extended(pace, waiting)

    def extended(self, pace: Pace, waiting: int) -> Plan:
        """Extend a pace to what is waiting."""
        rows = len(self.manifest)
        done, seconds, width = pace.done, pace.seconds, self.row_bytes
        return make_plan(pace.busy, done, seconds, waiting, rows, width, pace.resident)

    def say_of_maps(self, waiting: int) -> None:
        """Say how large maps will be, before any is computed.

        Raises
        ------
        NoSpaceError
            If the disk has no room for them: unfinished rows and the cache lie there together.
        """
        if not self.options.keeps_maps or not waiting:
            return
        total = len(self.manifest) * self.row_bytes
        log.info(
            "maps of %d images, %s each: the cache will have %s",
            len(self.manifest),
            size_text(self.row_bytes),
            size_text(total),
        )
        require_space(self.cache, self.cache.absolute().parent, total + waiting * self.row_bytes)

    @property
    def row_bytes(self) -> int:
        """Bytes of the vectors of one row."""
        if self.record is not None:
            return self.record.row_bytes
        width = sum(self.reader.n_features)
        if self.options.view_merge != "mean":
            width *= len(self.preprocess.views)
        return width * np.dtype(self.options.stored).itemsize
