"""The end of a run: its rows published as a cache, and the result that says so."""

from __future__ import annotations

import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featx.cache.cache import open_cache
from featx.cache.publish import describes, write_cache
from featx.cache.reuse import KnownRows
from featx.cache.staging import remove_parts, remove_unfinished
from featx.columns import pick
from featx.errors import ExtractError
from featx.extraction.changes import Changes, describe_rows, difference, kept_rows, kept_text
from featx.extraction.options import ExtractResult
from featx.extraction.run import Run
from featx.extraction.threads import Outcome
from featx.spec import ExtractSpec, library_versions
from featx.typing import JsonObject

if TYPE_CHECKING:
    from featx.extraction.chunks import NetworkState


def publish_run(
    run: Run, outcome: Outcome, known: KnownRows, network: NetworkState, in_place: Path | None
) -> ExtractResult:
    """Write the cache of all rows, unless the one in place is that cache already.

    Parameters
    ----------
    in_place
        The cache in place, where its rows count.

    Raises
    ------
    ExtractError
        If there is no row; ``failures`` holds the reasons.
    """
    from featx.extraction.gathering import find_rows
    from featx.runtime.machine import give_back

    _keep_unread(run, outcome, known, in_place)
    failed = run.failures(outcome)
    rows = np.flatnonzero(outcome.content != b"")
    # A slice of nothing is a cache of no rows: the others have theirs.
    if not len(rows) and (failed or run.manifest.dealt is None):
        name, reason = next(iter(failed.items()))
        error = ExtractError(
            f"no image could be embedded: {len(failed)} of {len(failed)} failed, "
            f"the first {name}: {reason}"
        )
        error.failures = failed
        raise error
    spec = run.spec(network.precision)
    description = describe_rows(run.manifest, rows, failed)
    run.check_labels(description, pick(outcome.content, rows))
    idle = in_place is not None and not outcome.embedded and not known.damaged
    idle = idle and describes(description, run.cache) and run.dealt_alike()
    damaged, places = known.damaged, None
    if not idle:
        if spec != known.spec:  # the fast path was abandoned: there were no rows before
            known = run.known(spec, in_place=False)
        content, elsewhere = pick(outcome.content, rows), run.crew is not None
        places = find_rows(known, content, elsewhere=elsewhere)
    known.forget_contents()
    give_back()
    changes = difference(run.manifest, outcome.content, in_place, damaged)
    if places is not None:
        provenance = _provenance(run, network, outcome)
        widths = None if len(rows) else _widths(run)
        write_cache(run.cache, spec, description, places, known.files, provenance, widths)
    remove_parts(run.cache)
    run.remember(outcome, spec)
    return _result(run, outcome, spec, changes, failed, network.compiled)


def result_as_it_is(run: Run, outcome: Outcome, spec: ExtractSpec) -> ExtractResult:
    """Leave the cache in place: it holds every row already."""
    remove_unfinished(run.cache)
    changes = difference(run.manifest, outcome.content, run.cache)
    return _result(run, outcome, spec, changes, run.failures(outcome), compiled=False)


def _keep_unread(run: Run, outcome: Outcome, known: KnownRows, in_place: Path | None) -> None:
    """Keep the rows of images that are there and cannot be read now."""
    kept = kept_rows(run.manifest, outcome.failed, in_place, known)
    run.warn("kept-rows", kept_text(kept, run.manifest, outcome.failed))
    for item, key in kept.items():
        outcome.content[item] = key
        del outcome.failed[item]
        outcome.reused += 1


def _widths(run: Run) -> list[int]:
    """Length of the vectors of each tap, as they are stored."""
    n_views = len(run.preprocess.views)
    views = [np.zeros((n_views, width), np.float32) for width in run.reader.n_features]
    return [vector.shape[1] for vector in run.merged(views, n_views)]


def _seconds(run: Run) -> dict[str, float]:
    now = time.perf_counter()
    return {
        "total": now - run.clock,
        "load": run.load_seconds,
        "compile": run.prepare_seconds,
        "run": now - run.first_read - run.prepare_seconds,
    }


def _provenance(run: Run, network: NetworkState, outcome: Outcome) -> JsonObject:
    weights = run.backbone.weights
    dealt = run.manifest.dealt
    return {
        "versions": library_versions(),
        "backbone": run.backbone.name,
        "weights": {
            "source": weights.source,
            "tag": weights.tag,
            "licence": weights.licence,
            **({"notes": list(weights.notes)} if weights.notes else {}),
            **({"seen": weights.seen} if weights.seen else {}),
        },
        "source": run.manifest.name,
        "options": run.options.values(),
        "missing": list(run.options.missing_texts),
        "plan": run.plan.describe(),
        "device": run.plan.device,
        "engine": run.options.engine,
        "batch_size": network.batch_size,
        "compiled": network.compiled,
        "host": platform.node(),
        "started": run.started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
        "embedded": outcome.embedded,
        "reused": outcome.reused,
        "seconds": _seconds(run),
        **({"labels": run.corrections} if run.corrections else {}),
        **({} if dealt is None else {"shard": dealt.to_dict()}),
    }


def _result(
    run: Run,
    outcome: Outcome,
    spec: ExtractSpec,
    changes: Changes,
    failed: dict[str, str],
    compiled: bool,
) -> ExtractResult:
    seconds = _seconds(run)
    busy = sum(outcome.busy.values())
    with open_cache(run.cache) as cache:
        taps = {name: cache.tap(name).shape[1] for name in cache.taps}
    return ExtractResult(
        cache=str(run.cache),
        fingerprint=spec.fingerprint,
        discovered=len(run.manifest) + len(run.manifest.refused),
        embedded=outcome.embedded,
        reused=outcome.reused,
        failed=len(failed),
        removed=changes.removed,
        ignored=run.manifest.ignored,
        ignored_by_extension=run.manifest.ignored_by_extension,
        pages_left=sum(outcome.pages_left),
        n_features=next(iter(taps.values())),
        taps=taps,
        device=run.device,
        precision=spec.precision,
        compiled=compiled,
        images_per_second=outcome.embedded / seconds["run"],
        seconds=seconds,
        shares={name: t / busy if busy else 0.0 for name, t in outcome.busy.items()},
        difference=changes,
        failures=failed,
        plan=run.expected,
        shard=run.options.slice_.shown,
        warnings=run.warnings,
    )
