"""The main job: a source of images becomes a cache of features, reusing every row that exists."""

from __future__ import annotations

import logging
import os
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from featx.arguments import typed
from featx.cache.cache import open_cache
from featx.cache.folder import require_target, target_path
from featx.cache.lock import WriterLock
from featx.cache.publish import describes, write_cache
from featx.cache.reuse import KnownRows
from featx.cache.staging import remove_parts, remove_unfinished
from featx.columns import pick
from featx.errors import ExtractError
from featx.extraction.changes import (
    Changes,
    describe_rows,
    difference,
    kept_rows,
    kept_text,
    unchanged,
    untouched_content,
)
from featx.extraction.dryrun import DryRun
from featx.extraction.job import Outcome
from featx.extraction.notices import say_of_pages, say_of_pictures
from featx.extraction.options import DEFAULT_BACKBONE, ExtractOptions, ExtractResult
from featx.extraction.run import Run
from featx.items import Source
from featx.preprocess import Interpolation
from featx.progress import Progress
from featx.slices import Slice
from featx.sources.addresses import allowing
from featx.spec import ExtractSpec, library_versions

if TYPE_CHECKING:
    from featx.extraction.chunks import NetworkState
    from featx.extraction.cluster import Crew
    from featx.runtime import RuntimePlan


log = logging.getLogger("featx")


@typed
def extract(
    source: Source,
    cache: str | os.PathLike[str],
    *,
    backbone: str = DEFAULT_BACKBONE,
    weights: str | os.PathLike[str] | None = None,
    layers: str | Sequence[str] = (),
    pool: str | None = None,
    input_size: int | None = None,
    crop_pct: float | None = None,
    resize: Literal["crop", "squash", "pad"] | None = None,
    interpolation: Interpolation | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    views: str | None = None,
    view_merge: Literal["mean", "concat", "apart"] = "mean",
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | Literal["auto"] = "auto",
    compile: Literal["auto", "on", "off"] = "auto",
    threads: int | None = None,
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
    address: str = "auto",
    gpus_per_worker: float | None = None,
    decode: Literal["exact", "fast", "reference"] | None = None,
    bits: int | None = None,
    bands: str | Sequence[int] | None = None,
    pages: Literal["first", "all"] = "first",
    dtype: Literal["float32", "float16"] | None = None,
    shard: str | Sequence[int] | Slice | None = None,
    missing: str | Sequence[str] = (),
    labels: str | os.PathLike[str] | None = None,
    allow_hosts: str | Sequence[str] = (),
    on_error: Literal["skip", "fail"] = "skip",
    max_failed: int | None = None,
    dry_run: bool = False,
    force: bool = False,
    progress: bool = True,
) -> ExtractResult:
    """Embed every image of `source` and publish the features as `cache`.

    What exists is reused: rows of the cache in place and of an interrupted run, found by the
    content of the images. The cache in place stays as it is until the new one is complete.

    With `shard`, a part of the source is listed and embedded alone. A cache keeps to its shard: a
    run of another one, or of one out of another number, is refused, for it would drop every row as
    if its image were gone; so is a shard over a cache of the whole source. A run of the whole over
    the cache of a shard keeps all its rows and adds the others.

    Parameters
    ----------
    source
        A folder of class folders, a CSV or Parquet table, a list of paths, or a built-in name.
    cache
        The HDF5 file to write.
    backbone, weights
        The network and its weights; see `featx.load_backbone`.
    layers, pool
        Layers to read, one name or several, globs allowed, and how each is pooled (``avg``,
        ``max``, ``avgmax``, ``cov``, ``gem``, ``flatten``, ``cls``; ``a+b`` gives two taps;
        ``none`` keeps the map, for `featx.tune`). By default the last pooling layer.
    input_size
        Pixels a side. This and the next five replace a part of the preprocessing that belongs to
        the weights.
    crop_pct
        Share of the resized side that the crop keeps, in (0, 1].
    resize, interpolation
        How a picture is brought to that size.
    mean, std
        Three numbers each, of pixel values in [0, 1]; one for a network of grey pictures.
    views, view_merge
        Several views of each image (`featx.preprocess.VIEW_SETS`), and what becomes of their
        vectors: ``mean``, ``concat`` or ``apart`` (a tap for each view).
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    precision
        ``auto``, ``fp32``, ``bf16`` or ``fp16``.
    batch_size
        Images in one forward pass.
    compile
        Compile the forward pass.
    threads
        Worker threads; by default the cores that this process may use.
    engine, workers, address, gpus_per_worker
        Processes of this machine or of a Ray cluster; see
        `featx.extraction.options.ExtractOptions`.
    decode
        ``exact``; ``fast``: large JPEGs at reduced scale; ``reference``: resized as the library's
        own transform does, bit for bit, more slowly. By default as in the cache in place, else
        ``exact``.
    bits
        Bits that pictures of more than 8 bits use, such as 12: 2 ** bits - 1 is white.
    bands
        Numbers of the bands to read, from 1: ``"3,2,1"`` or (3, 2, 1) for red, green and blue, one
        for grey.
    pages
        ``first``: the first page or frame of each file; ``all``: a row for each, with the id
        ``id#2`` and so on.
    dtype
        Type of the stored features: ``float32``, or ``float16`` where maps are kept, when None.
    shard
        ``"k/n"`` or ``(k, n)``: the kth of n parts of the source alone.
    labels
        Table with the columns ``id`` and ``label``, whose labels replace those of the source.
        Nothing is embedded again, the source stays as it is, and a run without it takes them back.
    missing
        Texts that mean that a field of a table is missing, beside the empty one: ``"NA"``, or a
        list of several.
    allow_hosts
        Hosts, beside its own, that a table or a redirect behind a URL may lead to.
    on_error, max_failed
        ``fail`` ends the run at the first image that cannot be read, `max_failed` after so many.
    dry_run
        Report what would be done, and do nothing.
    force
        Do not reuse the cache in place, and replace it whatever it is.
    progress
        Show progress on stderr.

    Raises
    ------
    OptionError
        If an option has a wrong type.
    SourceError, BackboneError, DeviceError
        If the run cannot start.
    CacheMismatchError
        If the cache in place has another fingerprint, or is not of the same shard, and `force` is
        not set.
    CacheLockedError
        If another process is writing the cache.
    ExtractError
        If no image could be embedded, or too many failed.

    Examples
    --------
    >>> import featx
    >>> result = featx.extract("photos/", "photos.h5", backbone="resnet50")  # doctest: +SKIP
    """
    given = {name: value for name, value in locals().items() if name not in ("source", "cache")}
    asked = ExtractOptions.of(**given)
    run = DryRun if asked.dry_run else _Extraction
    with allowing(asked.hosts):
        return run(source, target_path(cache, create=not asked.dry_run), asked).execute()


class _Extraction(Run):
    """A run that embeds and publishes."""

    crew: Crew | None = None

    def execute(self) -> ExtractResult:
        require_target(self.cache, self.source)
        with ExitStack() as stack:
            # Locked from before the cache in place is looked at.
            stack.enter_context(WriterLock(self.cache))
            if self.options.engine == "ray":
                from featx.extraction.cluster import connected

                self.crew = stack.enter_context(connected(self.options))
            old = self.look()
            if old is not None and (done := unchanged(self, old)) is not None:
                return self._as_it_is(done, old)
            self.load(old)
            self._say_of_shard(old)
            remove_unfinished(self.cache)
            self.require_match(old)
            return self._extract(old)

    def _say_of_shard(self, old: ExtractSpec | None) -> None:
        portion, precision = self.options.portion, self.plan.precision
        if portion.is_whole:
            return
        if self.options.precision == "auto" and old is None and precision != "fp32":
            log.warning(
                "shard %s decides about %s on its own pictures; pass --precision, so that all "
                "shards have the same and can be merged",
                portion,
                precision,
            )
        if not len(self.manifest) and self.manifest.dealt is not None:
            log.warning(
                "shard %s holds nothing: %s has %d to deal out",
                portion,
                self.manifest.name,
                self.manifest.dealt.names,
            )

    def plan_runtime(self, **asked: Any) -> RuntimePlan:
        """On a cluster its machines decide."""
        if self.crew is None:
            return super().plan_runtime(**asked)
        from featx.extraction.cluster import plan_on

        return plan_on(self.crew, **asked)

    def _extract(self, old: ExtractSpec | None) -> ExtractResult:
        spec = self.spec(self.plan.precision)
        in_place = old is not None and not self.options.force
        known = self.known(spec, in_place=in_place)
        content = untouched_content(self.manifest, known)
        known.forget_names()
        self.say_of_maps(int((content == b"").sum()))
        outcome = Outcome(content=content, reused=int((content != b"").sum()))
        say_of_pictures(self.manifest, np.flatnonzero(content == b""), self.decode)
        ran = self._embed(known, outcome)
        say_of_pages(outcome.pages_left)
        return self._publish(outcome, known, ran, self.cache if in_place else None)

    def _embed(self, known: KnownRows, outcome: Outcome) -> NetworkState:
        from featx.extraction import processes, ray_data

        show = Progress(len(self.manifest), "extract", show=self.options.progress)
        self.first_read = time.perf_counter()
        try:
            if self.crew is None:
                ran = processes.embed(self, known, outcome, show)
            else:
                ran = ray_data.embed(self, self.crew, known, outcome, show)
            show.update(outcome.done)
            return ran
        except KeyboardInterrupt:
            log.warning("stopped: %d of %d images are done and kept", show.done, show.total)
            log.warning("the same command goes on from there")
            raise
        finally:
            show.close()

    def _publish(
        self, outcome: Outcome, known: KnownRows, ran: NetworkState, in_place: Path | None
    ) -> ExtractResult:
        from featx.extraction.gathering import find_rows
        from featx.runtime.machine import give_back

        self._keep_unread(outcome, known, in_place)
        failed = self.failures(outcome)
        rows = np.flatnonzero(outcome.content != b"")
        # A portion of nothing is a cache of no rows: the others have theirs.
        if not len(rows) and (failed or self.manifest.dealt is None):
            name, reason = next(iter(failed.items()))
            error = ExtractError(
                f"no image could be embedded: {len(failed)} of {len(failed)} failed, "
                f"the first {name}: {reason}"
            )
            error.failures = failed
            raise error
        spec = self.spec(ran.precision)
        description = describe_rows(self.manifest, rows, failed)
        self.check_labels(description, pick(outcome.content, rows))
        idle = in_place is not None and not outcome.embedded and not known.damaged
        idle = idle and describes(description, self.cache) and self.dealt_alike()
        damaged, places = known.damaged, None
        if not idle:
            if spec != known.spec:  # the fast path was abandoned: there were no rows before
                known = self.known(spec, in_place=False)
            content, elsewhere = pick(outcome.content, rows), self.crew is not None
            places = find_rows(known, content, elsewhere=elsewhere)
        known.forget_contents()
        give_back()
        changes = difference(self.manifest, outcome.content, in_place, damaged)
        if places is not None:
            provenance = self._provenance(ran, outcome)
            widths = None if len(rows) else self._widths()
            write_cache(self.cache, spec, description, places, known.files, provenance, widths)
        remove_parts(self.cache)
        self.remember(outcome, spec)
        return self._result(outcome, spec, changes, failed, ran.compiled)

    def _as_it_is(self, outcome: Outcome, spec: ExtractSpec) -> ExtractResult:
        """Leave the cache in place: it holds every row already."""
        remove_unfinished(self.cache)
        changes = difference(self.manifest, outcome.content, self.cache)
        return self._result(outcome, spec, changes, self.failures(outcome), compiled=False)

    def _keep_unread(self, outcome: Outcome, known: KnownRows, in_place: Path | None) -> None:
        """Keep the rows of images that are there and cannot be read now."""
        kept = kept_rows(self.manifest, outcome.failed, in_place, known)
        self.warn("kept-rows", kept_text(kept, self.manifest, outcome.failed))
        for item, key in kept.items():
            outcome.content[item] = key
            del outcome.failed[item]
            outcome.reused += 1

    def _widths(self) -> list[int]:
        """Length of the vectors of each tap, as they are stored."""
        n_views = len(self.preprocess.views)
        views = [np.zeros((n_views, width), np.float32) for width in self.reader.n_features]
        return [vector.shape[1] for vector in self.merged(views, n_views)]

    def _seconds(self) -> dict[str, float]:
        now = time.perf_counter()
        run = now - self.first_read - self.prepare_seconds
        return {
            "total": now - self.clock,
            "load": self.load_seconds,
            "compile": self.prepare_seconds,
            "run": run,
        }

    def _provenance(self, ran: NetworkState, outcome: Outcome) -> dict[str, Any]:
        weights = self.backbone.weights
        dealt = self.manifest.dealt
        return {
            "versions": library_versions(),
            "backbone": self.backbone.name,
            "weights": {
                "source": weights.source,
                "tag": weights.tag,
                "licence": weights.licence,
                **({"notes": list(weights.notes)} if weights.notes else {}),
                **({"seen": weights.seen} if weights.seen else {}),
            },
            "source": self.manifest.name,
            "options": self.options.values(),
            "missing": list(self.options.missing_texts),
            "plan": self.plan.describe(),
            "device": self.plan.device,
            "engine": self.options.engine,
            "batch_size": ran.batch_size,
            "compiled": ran.compiled,
            "host": platform.node(),
            "started": self.started.isoformat(timespec="seconds"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": " ".join(sys.argv),
            "embedded": outcome.embedded,
            "reused": outcome.reused,
            "seconds": self._seconds(),
            **({"labels": self.corrections} if self.corrections else {}),
            **({} if dealt is None else {"shard": dealt.to_dict()}),
        }

    def _result(
        self,
        outcome: Outcome,
        spec: ExtractSpec,
        changes: Changes,
        failed: dict[str, str],
        compiled: bool,
    ) -> ExtractResult:
        seconds = self._seconds()
        busy = sum(outcome.busy.values())
        with open_cache(self.cache) as cache:
            taps = {name: cache.tap(name).shape[1] for name in cache.taps}
        return ExtractResult(
            cache=str(self.cache),
            fingerprint=spec.fingerprint,
            discovered=len(self.manifest) + len(self.manifest.refused),
            embedded=outcome.embedded,
            reused=outcome.reused,
            failed=len(failed),
            removed=changes.removed,
            ignored=self.manifest.ignored,
            ignored_by_extension=self.manifest.ignored_by_extension,
            pages_left=sum(outcome.pages_left),
            n_features=next(iter(taps.values())),
            taps=taps,
            device=self.device,
            precision=spec.precision,
            compiled=compiled,
            images_per_second=outcome.embedded / seconds["run"],
            seconds=seconds,
            shares={name: t / busy if busy else 0.0 for name, t in outcome.busy.items()},
            difference=changes,
            failures=failed,
            plan=self.expected,
            shard=self.options.portion.shown,
            warnings=self.warnings,
        )
