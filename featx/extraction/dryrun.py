"""The dry run: what would be done, without doing it."""

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
    require_no_others,
    say_of_pictures,
    untouched_content,
)
from featx.extraction.options import ExtractResult
from featx.extraction.planning import PROBE_IMAGES
from featx.extraction.run import Run
from featx.extraction.threads import Outcome
from featx.images.pages import digest_bytes
from featx.progress import Progress
from featx.spec import ExtractSpec


def predict_run(run: Run) -> ExtractResult:
    """Say what `featx.extract` would do: read what is not known, embed a few, write nothing."""
    old = run.look()
    if run.recall(old):
        found = _predict(run, old)
        if found is not None:
            return found
        run.record = None
    run.load(old)
    found = _predict(run, old)
    assert found is not None
    return found


def _predict(run: Run, old: ExtractSpec | None) -> ExtractResult | None:
    """Read and digest what is not known; None where a record does not tell how fast it is."""
    spec = run.spec(run.planned_precision)
    in_place = old is not None and not run.options.force
    if in_place:
        run.require_match(old)
        require_no_others(run)
    known = run.known(spec, in_place=in_place)
    content = untouched_content(run.manifest, known)
    known.forget_names()
    run.say_of_maps(int((content == b"").sum()))
    unread: dict[int, str] = {}
    with Progress(len(run.manifest), "dry run", show=run.options.progress) as show:
        for item in map(int, np.flatnonzero(content == b"")):
            try:
                content[item] = keys_of([_digest(run, item)])[0]
            except ImageError as error:
                unread[item] = error.reason
            show.update(item + 1)
    kept = kept_rows(run.manifest, unread, run.cache if in_place else None, known)
    run.warn("kept-rows", kept_text(kept, run.manifest, unread))
    for item, key in kept.items():
        content[item] = key
    unread = {item: why for item, why in unread.items() if item not in kept}
    failed = run.manifest.refused | {run.manifest.ids[k]: why for k, why in unread.items()}
    there = np.flatnonzero(content != b"")
    new = there[~known.has(pick(content, there))]
    reused = len(there) - len(new)
    say_of_pictures(run.manifest, new, run.decode)
    run.check_labels(describe_rows(run.manifest, there, failed), pick(content, there))
    if run.record is None:
        _probe(run, new, known, spec)
    elif len(new):
        if run.record.pace is None:
            return None
        run.expected = run.extended(run.record.pace, len(new))
    known.forget_contents()
    changes = difference(run.manifest, content, run.cache if in_place else None, known.damaged)
    return ExtractResult(
        cache=str(run.cache),
        fingerprint=spec.fingerprint,
        discovered=len(run.manifest) + len(run.manifest.refused),
        embedded=len(new),
        reused=reused,
        failed=len(failed),
        removed=changes.removed,
        ignored=run.manifest.ignored,
        ignored_by_extension=run.manifest.ignored_by_extension,
        n_features=next(iter(run.widths.values())),
        taps=run.widths,
        device=run.device,
        precision=run.planned_precision,
        compiled=False,
        images_per_second=0.0,
        seconds={"total": time.perf_counter() - run.clock, "load": run.load_seconds},
        shares={},
        difference=changes,
        failures=failed,
        plan=run.expected,
        dry_run=True,
        shard=run.options.slice_.shown,
        warnings=run.warnings,
    )


def _digest(run: Run, item: int) -> bytes:
    return digest_bytes(run.manifest.read(item)[0], run.manifest.page(item))


def _probe(run: Run, new: NDArray[np.int64], known: KnownRows, spec: ExtractSpec) -> None:
    """Embed a few images for their time alone, so that the plan rests on something."""
    outcome = Outcome(np.zeros(len(run.manifest), KEY_DTYPE))
    if not len(new):
        run.remember(outcome, spec)
        return
    from featx.runtime import Runner

    step = max(1, len(new) // PROBE_IMAGES)
    shape = (*run.preprocess.input_size, 3)
    with Runner(run.reader, replace(run.plan, compile="off"), shape) as runner:
        run.first_read = time.perf_counter()
        loop = run.loop(new[::step][:PROBE_IMAGES], outcome, known, runner, lambda _: None)
        loop.run(lambda _: None)
    if outcome.embedded:
        run.expected = run.expect(outcome, loop, len(new))
        run.prepare_seconds = loop.prepare_seconds
        run.remember(outcome, spec)
