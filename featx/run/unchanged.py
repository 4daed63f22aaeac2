"""A run with nothing to do, found by a record: neither torch nor the network is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featx.cache.assemble import describes
from featx.cache.keys import keys_of
from featx.cache.shards import parts_folder
from featx.engines.job import Outcome
from featx.errors import ImageError
from featx.images import decode
from featx.images.pages import digest_bytes
from featx.preprocess import Preprocess
from featx.run.notices import say_of_pictures
from featx.run.sync import describe_rows, untouched_content
from featx.sources.picked import pick

if TYPE_CHECKING:
    from featx.cache.fingerprint import ExtractSpec
    from featx.cache.known import KnownRows
    from featx.run.prepared import Run

_MOST = 256  # images without a row that are looked at once more


def unchanged(run: Run, old: ExtractSpec | None) -> Outcome | None:
    """Find that the cache in place is complete; None where there may be work.

    Parameters
    ----------
    run
        With its images listed.
    old
        The spec of the cache in place.
    """
    if old is None or run.options.force or parts_folder(run.cache).exists():
        return None
    try:
        return _nothing_to_do(run, old) if run.recall(old) else None
    finally:
        run.record = None


def _nothing_to_do(run: Run, old: ExtractSpec) -> Outcome | None:
    spec = run.spec(run.planned_precision)
    if spec.fingerprint != old.fingerprint:
        return None
    known = run.known(spec, in_place=True)
    if known.damaged:
        return None
    outcome = Outcome(untouched_content(run.manifest, known))
    pending = np.flatnonzero(outcome.content == b"")
    if len(pending) > _MOST or not _fail_again(run, pending.tolist(), outcome, known, spec):
        return None
    rows = np.flatnonzero(outcome.content != b"")
    if not len(rows):
        return None
    described = describe_rows(run.manifest, rows, run.failures(outcome))
    if not describes(described, run.cache) or not run.dealt_alike():
        return None
    outcome.reused = len(rows)
    say_of_pictures(run.manifest, pending, run.decode)
    run.check_labels(described, pick(outcome.content, rows))
    return outcome


def _fail_again(
    run: Run, pending: list[int], outcome: Outcome, known: KnownRows, spec: ExtractSpec
) -> bool:
    """Read what is not known by its name; True if all of it has a row, or fails again."""
    need = min(Preprocess.from_dict(spec.preprocess).resize_size)
    for item in pending:
        page = run.manifest.page(item)
        try:
            data, _ = run.manifest.read(item)
            key = keys_of([digest_bytes(data, page)])
            if not known.has(key)[0]:
                decode(data, run.decode, need, page)
                return False
            outcome.content[item] = key[0]
        except ImageError as error:
            outcome.failed[item] = str(error)
    n_failed, limit = len(outcome.failed), run.options.max_failed
    stops = run.options.on_error == "fail" or (limit is not None and n_failed > limit)
    return not (n_failed and stops)
