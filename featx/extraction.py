"""The main job: a source of images becomes a cache of features, reusing every row that exists."""

from __future__ import annotations

import logging
import os
import platform
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.backbones import load_backbone
from featx.cache.assemble import describes, write_cache
from featx.cache.durable import require_writable
from featx.cache.fingerprint import ExtractSpec, spec_difference
from featx.cache.known import KnownRows
from featx.cache.lock import WriterLock
from featx.cache.reader import open_cache
from featx.cache.shards import ShardWriter, parts_folder, remove_parts, remove_unfinished
from featx.engines.threads import Job, Outcome, ThreadLoop, digest_bytes
from featx.errors import CacheError, CacheFormatError, CacheMismatchError, ExtractError, ImageError
from featx.images import DecodeMode, decoder_spec
from featx.manifest import Source, load_manifest
from featx.options import ExtractOptions, ExtractResult
from featx.progress import Progress
from featx.provenance import library_versions
from featx.runtime import Runner, RuntimePlan, plan_runtime
from featx.sync import Difference, describe_rows, difference, untouched_content

log = logging.getLogger("featx")


def extract(source: Source, cache: str | os.PathLike[str], **options: Any) -> ExtractResult:
    """Embed every image of `source` and publish the features as `cache`.

    What exists is reused: rows of the cache in place and of an interrupted run, found by the
    content of the images. The cache in place stays as it is until the new one is complete.

    Parameters
    ----------
    source
        A folder of class folders, a CSV or Parquet table, a list of paths, or a built-in name.
    cache
        The HDF5 file to write.
    **options
        The fields of `ExtractOptions`.

    Raises
    ------
    SourceError, BackboneError, DeviceError
        If the run cannot start.
    CacheMismatchError
        If the cache in place has another fingerprint and `force` is not set.
    CacheLockedError
        If another process is writing the cache.
    ExtractError
        If no image could be embedded, or too many failed.

    Examples
    --------
    >>> import featx
    >>> result = featx.extract("photos/", "photos.h5", backbone="resnet50")  # doctest: +SKIP
    """
    return _Run(source, Path(cache), ExtractOptions.of(**options)).execute()


class _Run:
    """One run of `extract`, step by step."""

    def __init__(self, source: Source, cache: Path, options: ExtractOptions) -> None:
        self.source, self.cache, self.options = source, cache, options
        self.started = datetime.now(UTC)
        self.clock = time.perf_counter()

    def execute(self) -> ExtractResult:
        require_writable(self.cache, "cache")
        self.manifest = load_manifest(self.source)
        old = self._spec_in_place()
        self.plan, self.decode = self._plan(old)
        self._load()
        if self.options.dry_run:
            return self._predict(old)
        with WriterLock(self.cache):
            remove_unfinished(self.cache)
            self._require_match(old)
            return self._extract(old)

    def _spec_in_place(self) -> ExtractSpec | None:
        if not self.cache.exists():
            return None
        try:
            with open_cache(self.cache) as found:
                return found.spec
        except CacheFormatError as error:
            if self.options.force:
                return None
            raise CacheFormatError(
                f"{error}; pass --force to write a new cache in its place, or name another file"
            ) from None

    def _plan(self, old: ExtractSpec | None) -> tuple[RuntimePlan, DecodeMode]:
        options = self.options
        old = None if options.force else old or self._spec_of_parts()
        precision, decode = options.precision, options.decode
        if old is not None:
            precision = old.precision if precision == "auto" else precision
            decode = decode or old.decode["mode"]
        plan = plan_runtime(
            device=options.device,
            precision=precision,
            batch_size=options.batch_size,
            compile=options.compile,
            threads=options.threads,
        )
        return plan, decode or "exact"

    def _spec_of_parts(self) -> ExtractSpec | None:
        """Spec of the only unfinished run beside the cache."""
        found = list(parts_folder(self.cache).glob("*/spec.json"))
        try:
            return ExtractSpec.from_json(found[0].read_text()) if len(found) == 1 else None
        except (OSError, ValueError, TypeError):
            return None

    def _load(self) -> None:
        options, start = self.options, time.perf_counter()
        self.backbone = load_backbone(options.backbone, weights=options.weights)
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
        self.load_seconds = time.perf_counter() - start

    def _spec(self, precision: str) -> ExtractSpec:
        return ExtractSpec(
            architecture=self.backbone.architecture,
            weights_digest=self.backbone.weights.digest,
            taps=tuple(tap.to_dict() for tap in self.taps),
            preprocess=self.preprocess.to_dict(),
            decode=decoder_spec(self.decode),
            precision=precision,
            dtype=self.options.dtype,
            view_merge=self.options.view_merge if len(self.preprocess.views) > 1 else "mean",
        )

    def _require_match(self, old: ExtractSpec | None) -> None:
        if old is None or self.options.force:
            return
        if changed := spec_difference(old, self._spec(self.plan.precision)):
            raise CacheMismatchError(
                f"cache {self.cache} was computed otherwise: {'; '.join(changed)}; "
                "write to another file, or pass --force to replace it"
            )

    def _known(self, spec: ExtractSpec, *, in_place: bool) -> KnownRows:
        shards = parts_folder(self.cache) / spec.fingerprint
        try:
            return KnownRows(spec, self.cache if in_place else None, shards)
        except CacheFormatError as error:
            raise CacheFormatError(f"{error}; pass --force to write a new cache") from None

    def _extract(self, old: ExtractSpec | None) -> ExtractResult:
        spec = self._spec(self.plan.precision)
        in_place = old is not None and not self.options.force
        known = self._known(spec, in_place=in_place)
        content = untouched_content(self.manifest, known)
        known.forget_names()
        outcome = Outcome(content=content, reused=int((content != b"").sum()))
        key = replace(spec, dtype="", decode={}, view_merge="", precision="").to_json()
        with Runner(self.reader, self.plan, (*self.preprocess.input_size, 3), key) as runner:
            self._run_loop(outcome, known, runner)
        return self._publish(outcome, known, runner, self.cache if in_place else None)

    def _run_loop(self, outcome: Outcome, known: KnownRows, runner: Runner) -> None:
        pending = np.flatnonzero(outcome.content == b"").tolist()
        shards = ShardWriter(parts_folder(self.cache), lambda: self._spec_of_run(runner, known))
        job = Job(
            manifest=self.manifest,
            preprocess=self.preprocess,
            decode=self.decode,
            runner=runner,
            known=known.__contains__,
            store=shards.add,
            merge=self._merge,
            check=self._check_failures,
            n_threads=max(1, min(self.plan.threads, len(pending))),
        )
        loop = ThreadLoop(job, pending, outcome)
        show = Progress(len(self.manifest), "extract", show=self.options.progress)

        def tick(found: Outcome) -> None:
            show.update(found.done)
            shards.tick()

        self.first_read = time.perf_counter()
        try:
            loop.run(tick)
            show.update(outcome.done)
            shards.flush()
        except CacheError:
            raise  # rows cannot be written, and trying again would only hide the cause
        except BaseException as error:
            shards.flush()
            if isinstance(error, KeyboardInterrupt):
                done, n = outcome.embedded + outcome.reused, len(self.manifest)
                log.warning("stopped: %d of %d images are done and kept", done, n)
                log.warning("the same command goes on from there")
            raise
        finally:
            show.close()
            self.prepare_seconds = loop.prepare_seconds

    def _spec_of_run(self, runner: Runner, known: KnownRows) -> ExtractSpec:
        if len(known) and runner.precision != self.plan.precision:
            raise ExtractError(
                f"{self.plan.precision} on this machine no longer agrees with fp32, and the rows "
                f"that exist are {self.plan.precision}; pass --force --precision {runner.precision}"
            )
        return self._spec(runner.precision)

    def _merge(self, taps: list[NDArray[np.float32]], n_views: int) -> list[NDArray[Any]]:
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
            return [vectors.astype(self.options.dtype, copy=False) for vectors in merged]

    def _check_failures(self, count: int, what: str) -> None:
        if self.options.on_error == "fail":
            raise ExtractError(f"{what} (--on-error fail)")
        if self.options.max_failed is not None and count > self.options.max_failed:
            limit = self.options.max_failed
            raise ExtractError(f"more than {limit} images failed, the last {what}")

    def _publish(
        self, outcome: Outcome, known: KnownRows, runner: Runner, in_place: Path | None
    ) -> ExtractResult:
        failed = self._failures(outcome)
        rows = np.flatnonzero(outcome.content != b"")
        if not len(rows):
            name, reason = next(iter(failed.items()))
            raise ExtractError(
                f"no image could be embedded: {len(failed)} of {len(failed)} failed, "
                f"the first {name}: {reason}"
            )
        spec = self._spec(runner.precision)
        changes = difference(self.manifest, outcome.content, in_place, known.damaged)
        description = describe_rows(self.manifest, rows, failed)
        idle = in_place is not None and not outcome.embedded and not known.damaged
        if not (idle and describes(description, self.cache)):
            if spec != known.spec:  # the fast path was abandoned: there were no rows before
                known = self._known(spec, in_place=False)
            known.refresh()
            places = known.places(outcome.content[rows])
            provenance = self._provenance(runner, outcome)
            write_cache(self.cache, spec, description, places, known.files, provenance)
        remove_parts(self.cache)
        return self._result(outcome, spec, changes, failed, runner.compiled)

    def _failures(self, outcome: Outcome) -> dict[str, str]:
        ids = self.manifest.ids
        found = {ids[item]: outcome.failed[item] for item in sorted(outcome.failed)}
        return {**self.manifest.refused, **found}

    def _seconds(self) -> dict[str, float]:
        now = time.perf_counter()
        run = now - self.first_read - self.prepare_seconds
        return {
            "total": now - self.clock,
            "load": self.load_seconds,
            "compile": self.prepare_seconds,
            "run": run,
        }

    def _provenance(self, runner: Runner, outcome: Outcome) -> dict[str, Any]:
        weights = self.backbone.weights
        return {
            "versions": library_versions(),
            "backbone": self.backbone.name,
            "weights": {"source": weights.source, "tag": weights.tag, "licence": weights.licence},
            "source": self.manifest.name,
            "options": self.options.values(),
            "plan": self.plan.describe(),
            "device": self.plan.device,
            "batch_size": runner.batch_size,
            "compiled": runner.compiled,
            "host": platform.node(),
            "started": self.started.isoformat(timespec="seconds"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": " ".join(sys.argv),
            "embedded": outcome.embedded,
            "reused": outcome.reused,
            "seconds": self._seconds(),
        }

    def _result(
        self,
        outcome: Outcome,
        spec: ExtractSpec,
        changes: Difference,
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
            n_features=next(iter(taps.values())),
            taps=taps,
            device=self.plan.device,
            precision=spec.precision,
            compiled=compiled,
            images_per_second=outcome.embedded / seconds["run"],
            seconds=seconds,
            shares={name: t / busy if busy else 0.0 for name, t in outcome.busy.items()},
            difference=changes,
            failures=failed,
        )

    def _predict(self, old: ExtractSpec | None) -> ExtractResult:
        """Say what a run would do: read and digest what is not known, and embed nothing."""
        spec = self._spec(self.plan.precision)
        in_place = old is not None and not self.options.force
        if in_place:
            self._require_match(old)
        known = self._known(spec, in_place=in_place)
        content = untouched_content(self.manifest, known)
        failed = dict(self.manifest.refused)
        show = Progress(len(self.manifest), "dry run", show=self.options.progress)
        for item in np.flatnonzero(content == b"").tolist():
            try:
                content[item] = digest_bytes(self.manifest.read(item)[0])
            except ImageError as error:
                failed[self.manifest.ids[item]] = str(error)
            show.update(item + 1)
        show.close()
        reused = sum(digest in known for digest in content[content != b""].tolist())
        changes = difference(
            self.manifest, content, self.cache if in_place else None, known.damaged
        )
        widths = dict(zip((tap.name for tap in self.taps), self.reader.n_features, strict=True))
        return ExtractResult(
            cache=str(self.cache),
            fingerprint=spec.fingerprint,
            discovered=len(self.manifest) + len(self.manifest.refused),
            embedded=int((content != b"").sum()) - reused,
            reused=reused,
            failed=len(failed),
            removed=changes.removed,
            ignored=self.manifest.ignored,
            n_features=next(iter(widths.values())),
            taps=widths,
            device=self.plan.device,
            precision=self.plan.precision,
            compiled=False,
            images_per_second=0.0,
            seconds={"total": time.perf_counter() - self.clock, "load": self.load_seconds},
            shares={},
            difference=changes,
            failures=failed,
            dry_run=True,
        )
